package flink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/holdfast-dev/holdfast/job"
)

// ErrNotFound is Flink's No: a JobManager answered that it does not know the job. It says this for a moment too while
// a new leader has not recovered its jobs, so one No is not an end.
var ErrNotFound = errors.New("flink does not know this job")

var (
	errWantsTLS = errors.New("the port speaks TLS")
	errTooLong  = errors.New("the answer is too long")
	errForeign  = errors.New("the port answers, but not as Flink's REST API does")
)

// failure is a question that was not answered.
type failure struct {
	reach     job.Reach
	question  string // "GET http://127.0.0.1:8081/jobs/overview"
	unreached bool   // no connection came about, so another host may be tried
	err       error
}

// Error is bounded: what it quotes may come from anybody.
func (f *failure) Error() string {
	text := clean(f.err.Error(), 1000)
	if f.question == "" {
		return text
	}
	return f.question + ": " + text
}

func (f *failure) Unwrap() error { return f.err }

func neverReached(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.unreached
}

// ReachOf says how the question ended that returned err. nil and ErrNotFound are Fine, since Flink answered. NotAsked
// is a question that its caller gave up or that could not be put (a malformed job id). Refused is every connection that did
// not come about, for whatever reason but time. Erred is also what nothing else describes.
func ReachOf(err error) job.Reach {
	if err == nil || errors.Is(err, ErrNotFound) {
		return job.Fine
	}
	var f *failure
	if errors.As(err, &f) {
		return f.reach
	}
	return classify(err)
}

// classify sorts the errors of net, crypto/tls and net/http.
func classify(err error) job.Reach {
	var (
		timeout  net.Error
		op       *net.OpError
		record   tls.RecordHeaderError
		unproven *tls.CertificateVerificationError
		unnamed  x509.HostnameError
	)
	switch {
	case errors.Is(err, context.Canceled):
		return job.NotAsked
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return job.TimedOut
	case dialed(err):
		return job.Refused
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"): // an alert of TLS
		return job.Malformed
	case errors.As(err, &record), errors.As(err, &unproven), errors.As(err, &unnamed),
		errors.Is(err, http.ErrSchemeMismatch), strayAnswer(err):
		return job.Malformed
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNABORTED),
		idleClosed(err):
		return job.Closed
	}
	return job.Erred
}

// strayAnswer recognises bytes that are not HTTP, for which net/http has texts and no types.
func strayAnswer(err error) bool {
	text := err.Error()
	for _, part := range []string{"malformed HTTP", "malformed MIME", "malformed chunked", "invalid byte in chunk length",
		"headers exceeded", "bad Content-Length", "unsupported transfer encoding", "too many 1xx",
		"readLoopPeekFailLocked: %!w(<nil>)", // bytes came before the question was sent
	} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// idleClosed recognises a kept connection that the server closed just when it was to be used.
func idleClosed(err error) bool {
	return strings.Contains(err.Error(), "server closed idle connection")
}

// saysNotFound finds the two texts in which Flink denies a job: FlinkJobNotFoundException's, which /jobs/ID/status gives
// inside a 500 (JobStatusHandler.java maps it to nothing better), and the 404 of AbstractExecutionGraphHandler.java.
// Both name the job; a text about another job, or about a missing page, is no No.
func saysNotFound(texts []string, id string) bool {
	for _, text := range texts {
		if strings.Contains(text, "Could not find Flink job ("+id+")") || strings.Contains(text, "Job "+id+" not found") {
			return true
		}
	}
	return false
}

// saysNoLeader finds the text of LeaderRetrievalHandler.java.
func saysNoLeader(texts []string) bool {
	for _, text := range texts {
		if strings.Contains(text, "leader") {
			return true
		}
	}
	return false
}

// gist is the first line of the first text that says more than that something went wrong. Texts are stack traces.
func gist(texts []string) string {
	best := ""
	for _, text := range texts {
		text = strings.TrimPrefix(text, "<Exception on server side:")
		line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
		if best == "" || strings.HasPrefix(best, "Internal server error") {
			if line = clean(strings.TrimSpace(line), 300); line != "" {
				best = line
			}
		}
	}
	if best == "" {
		return "Flink gave no reason"
	}
	return best
}
