package flinktest

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Behaviour is a way to answer.
type Behaviour uint8

const (
	// Fine answers as Flink does.
	Fine Behaviour = iota
	// Refuse closes the port, for all paths; any other behaviour opens the same port again.
	Refuse
	// NoLeader is Flink's 503 during an election.
	NoLeader
	// Hang takes the request and says nothing until the client goes away.
	Hang
	// CloseWithoutAnswer ends the connection in order, as Flink's handlers do while it shuts down.
	CloseWithoutAnswer
	// Reset breaks the connection.
	Reset
	// Error500 is Flink's answer to an exception inside itself.
	Error500
	// Malformed is a whole answer that is not JSON.
	Malformed
	// CutJSON is a whole answer whose JSON ends half way.
	CutJSON
	// Truncated breaks the connection half way through the answer.
	Truncated
	// Huge is an overview of 100 MB with jobs that are all well formed.
	Huge
	// Endless is one string that never ends.
	Endless
	// Trickle is the right answer, a byte every 100 ms.
	Trickle
	// HTML is somebody's web page.
	HTML
	// Redirect301 is what Flink's TLS port says to plain HTTP, on a port where nobody speaks TLS.
	Redirect301
	// Garbage is not HTTP.
	Garbage

	canned // set by Answer
)

// HugeSize is the size of a Huge answer, in bytes.
const HugeSize = 100 << 20

type rule struct {
	prefix    string
	behaviour Behaviour
	status    int
	body      string
}

// Behave sets how requests whose path begins with prefix are answered from now on, connections that are open included;
// "" is all of them. The longest prefix that fits counts. Behave("", Fine) ends all misbehaviour.
func (jm *JobManager) Behave(prefix string, b Behaviour) {
	jm.behave(rule{prefix: prefix, behaviour: b})
}

// Answer sets a fixed answer for requests whose path begins with prefix, until Behave or Answer with the same prefix.
func (jm *JobManager) Answer(prefix string, status int, body string) {
	jm.behave(rule{prefix: prefix, behaviour: canned, status: status, body: body})
}

func (jm *JobManager) behave(r rule) {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	if r.prefix == "" && r.behaviour == Fine {
		jm.rules = nil
	} else {
		others := jm.rules[:0:0]
		for _, old := range jm.rules {
			if old.prefix != r.prefix {
				others = append(others, old)
			}
		}
		jm.rules = append(others, r)
	}
	select {
	case <-jm.closed:
		return
	default:
	}
	for _, r := range jm.rules {
		if r.behaviour == Refuse {
			jm.shut()
			return
		}
	}
	_ = jm.open()
}

// rule gives the rule for a path. The caller holds mu.
func (jm *JobManager) rule(path string) (best rule) {
	found := false
	for _, r := range jm.rules {
		if strings.HasPrefix(path, r.prefix) && (!found || len(r.prefix) > len(best.prefix)) {
			best, found = r, true
		}
	}
	return best
}

// misbehave answers as r says. right is the right answer, for those that begin with it.
func (jm *JobManager) misbehave(w http.ResponseWriter, q *http.Request, r rule, right reply) {
	switch r.behaviour {
	case canned:
		reply{r.status, []byte(r.body)}.write(w)
	case NoLeader:
		noLeader().write(w)
	case Error500:
		internalError("java.lang.IllegalStateException: something is wrong inside Flink").write(w)
	case Malformed:
		reply{200, []byte(`{"jobs": [nonsense], }`)}.write(w)
	case CutJSON:
		reply{200, right.body[:len(right.body)/2]}.write(w)
	case HTML:
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<!DOCTYPE html><html><head><title>Welcome</title></head><body>It works!</body></html>\n"))
	case Redirect301:
		redirect(w, q, jm.port())
	case Hang:
		select {
		case <-q.Context().Done():
		case <-jm.closed:
		}
	case CloseWithoutAnswer, Reset, Garbage:
		hangUp(w, r.behaviour)
	case Truncated:
		w.Header().Set("Content-Type", jsonType)
		w.Header().Set("Content-Length", strconv.Itoa(len(right.body)))
		_, _ = w.Write(right.body[:len(right.body)/2])
		_ = http.NewResponseController(w).Flush()
		hangUp(w, CloseWithoutAnswer)
	case Huge:
		huge(w)
	case Endless:
		endless(w)
	case Trickle:
		jm.trickle(w, q, right)
	}
}

func hangUp(w http.ResponseWriter, b Behaviour) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if b == Garbage {
		_, _ = conn.Write([]byte("SSH-2.0-OpenSSH_9.6\r\n"))
	}
	if c, ok := conn.(*sniffed); ok && b == Reset {
		if tcp, ok := c.Conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	}
	_ = conn.Close()
}

func huge(w http.ResponseWriter) {
	const head, tail = `{"jobs":[`, `]}`
	w.Header().Set("Content-Type", jsonType)
	w.Header().Set("Content-Length", strconv.Itoa(HugeSize))
	left := HugeSize - len(head) - len(tail)
	_, _ = w.Write([]byte(head))
	for n := 0; left > 1000; n++ {
		e := entry{Job: Job{ID: fmt.Sprintf("%032x", n), Name: "one of very many"}}
		item := append(e.overviewJSON(nil, version{minor: 20, major: 1}, time.Time{}), ',')
		if left -= len(item); left <= 1000 {
			item = append(item[:len(item)-1], bytes.Repeat([]byte{' '}, left+1)...)
		}
		if _, err := w.Write(item); err != nil {
			return
		}
	}
	_, _ = w.Write([]byte(tail))
}

func endless(w http.ResponseWriter) {
	w.Header().Set("Content-Type", jsonType)
	_, err := w.Write([]byte(`{"jobs":[{"name":"`))
	for filler := bytes.Repeat([]byte{'a'}, 32<<10); err == nil; {
		_, err = w.Write(filler)
	}
}

func (jm *JobManager) trickle(w http.ResponseWriter, q *http.Request, right reply) {
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(right.status)
	beat := time.NewTicker(100 * time.Millisecond)
	defer beat.Stop()
	for i := range right.body {
		_, _ = w.Write(right.body[i : i+1])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-beat.C:
		case <-q.Context().Done():
			return
		case <-jm.closed:
			return
		}
	}
}
