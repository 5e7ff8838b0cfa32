package flink_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const someID = "5d2f6c6a8f4f4b7e9d1c0a3b2e4f6a80"

// patience is for answers that come: a busy machine is no finding.
const patience = time.Minute

// dial makes a client that is patient unless told otherwise.
func dial(t testing.TB, url string, o flink.Options) *flink.Client {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = patience
	}
	c, err := flink.Dial(url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// questions are all that only ask.
var questions = map[string]func(context.Context, *flink.Client) (any, error){
	"jobs":       func(ctx context.Context, c *flink.Client) (any, error) { return c.Jobs(ctx) },
	"status":     func(ctx context.Context, c *flink.Client) (any, error) { return c.Status(ctx, someID) },
	"detail":     func(ctx context.Context, c *flink.Client) (any, error) { return c.Detail(ctx, someID) },
	"cause":      func(ctx context.Context, c *flink.Client) (any, error) { return c.Cause(ctx, someID) },
	"config":     func(ctx context.Context, c *flink.Client) (any, error) { return c.Config(ctx) },
	"jobmanager": func(ctx context.Context, c *flink.Client) (any, error) { return c.JobManager(ctx) },
}

var nothing = map[string]any{
	"jobs": flink.Overview{}, "status": job.Unknown, "detail": flink.Job{}, "cause": "", "config": flink.Config{},
	"jobmanager": flink.JobManager{},
}

// Each way of not answering has its own name, says nothing about any job, and is never taken for a No.
func TestEachSilenceHasItsName(t *testing.T) {
	tests := map[string]struct {
		behaviour flinktest.Behaviour
		want      job.Reach
	}{
		"fine":         {flinktest.Fine, job.Fine},
		"refused":      {flinktest.Refuse, job.Refused},
		"no leader":    {flinktest.NoLeader, job.NoLeader},
		"hangs":        {flinktest.Hang, job.TimedOut},
		"closed":       {flinktest.CloseWithoutAnswer, job.Closed},
		"reset":        {flinktest.Reset, job.Closed},
		"error":        {flinktest.Error500, job.Erred},
		"malformed":    {flinktest.Malformed, job.Malformed},
		"cut JSON":     {flinktest.CutJSON, job.Malformed},
		"truncated":    {flinktest.Truncated, job.Closed},
		"huge":         {flinktest.Huge, job.Malformed},
		"endless":      {flinktest.Endless, job.Malformed},
		"trickle":      {flinktest.Trickle, job.TimedOut},
		"html":         {flinktest.HTML, job.Malformed},
		"redirect":     {flinktest.Redirect301, job.Malformed},
		"another port": {flinktest.Garbage, job.Malformed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			jm := flinktest.New(t)
			jm.SetJob(flinktest.Job{ID: someID, Name: "orders", State: job.Running})
			timeout := patience
			if test.want == job.TimedOut {
				timeout = 300 * time.Millisecond
			}
			c := dial(t, jm.URL(), flink.Options{Timeout: timeout, MaxBody: 512 << 10})
			jm.Behave("", test.behaviour)
			for question, ask := range questions {
				began := time.Now()
				got, err := ask(t.Context(), c)
				if reach := flink.ReachOf(err); reach != test.want {
					t.Errorf("%s: reach is %s, want %s: %v", question, reach, test.want, err)
				}
				if took := time.Since(began); took > timeout+10*time.Second {
					t.Errorf("%s: took %s", question, took)
				}
				if test.want == job.Fine {
					continue
				}
				if errors.Is(err, flink.ErrNotFound) {
					t.Errorf("%s: taken for a No: %v", question, err)
				}
				if diff := cmp.Diff(nothing[question], got); diff != "" {
					t.Errorf("%s: an answer beside the error:\n%s", question, diff)
				}
				if len(err.Error()) > 2000 {
					t.Errorf("%s: an error of %d bytes", question, len(err.Error()))
				}
			}
			jm.Behave("", flinktest.Fine)
			c = dial(t, jm.URL(), flink.Options{})
			if state, err := c.Status(t.Context(), someID); state != job.Running || err != nil {
				t.Errorf("after that: %s, %v", state, err)
			}
		})
	}
}

// The only No is Flink's own text, about this very job, in Flink's error body, with a status that Flink gives it.
func TestOnlyFlinksOwnWordsAreANo(t *testing.T) {
	const other = "00000000000000000000000000000001"
	tests := map[string]struct {
		status int
		body   string
		want   job.Reach
		no     bool
	}{
		"status":              {500, `{"errors":["Internal server error.","<Exception on server side:\nFlinkJobNotFoundException: Could not find Flink job (` + someID + `)\n\tat x"]}`, job.Fine, true},
		"details":             {404, `{"errors":["NotFoundException: Job ` + someID + ` not found\n\tat x"]}`, job.Fine, true},
		"cancel":              {404, `{"errors":["RestHandlerException: Job could not be found.\nCaused by: Could not find Flink job (` + someID + `)"]}`, job.Fine, true},
		"another job":         {500, `{"errors":["Could not find Flink job (` + other + `)"]}`, job.Erred, false},
		"another job, 404":    {404, `{"errors":["Job ` + other + ` not found"]}`, job.Erred, false},
		"a missing page":      {404, `{"errors":["Not found: /jobs/` + someID + `/status"]}`, job.Erred, false},
		"busy":                {500, `{"errors":["Internal server error.","Unable to get JobMasterGateway for initializing job."]}`, job.Erred, false},
		"a proxy's 404":       {404, `<html>404 page not found: Job ` + someID + ` not found</html>`, job.Erred, false},
		"bare 404":            {404, ``, job.Erred, false},
		"empty errors":        {404, `{"errors":[]}`, job.Erred, false},
		"no errors":           {404, `{}`, job.Erred, false},
		"errors of numbers":   {404, `{"errors":[404]}`, job.Erred, false},
		"in a 503":            {503, `{"errors":["Could not find Flink job (` + someID + `)"]}`, job.Erred, false},
		"in a 200":            {200, `{"errors":["Could not find Flink job (` + someID + `)"]}`, job.Malformed, false},
		"in a 502":            {502, `{"errors":["Could not find Flink job (` + someID + `)"]}`, job.Erred, false},
		"cut":                 {500, `{"errors":["Could not find Flink job (` + someID + `)"`, job.Erred, false},
		"something after":     {500, `{"errors":["Could not find Flink job (` + someID + `)"]} <html>`, job.Erred, false},
		"election":            {503, `{"errors":["Service temporarily unavailable due to an ongoing leader election. Please refresh."]}`, job.NoLeader, false},
		"endpoint not up":     {503, `{"errors":["The rpc endpoint is not started yet."]}`, job.Erred, false},
		"a proxy's 503":       {503, `no leader`, job.Erred, false},
		"unauthorized":        {401, `{"errors":["who are you"]}`, job.Erred, false},
		"very long error":     {500, `{"errors":["` + strings.Repeat("x", 600<<10) + `"]}`, job.Erred, false},
		"error without end":   {500, `{"errors":["` + strings.Repeat("x", 3<<20), job.Erred, false},
		"redirect":            {302, ``, job.Malformed, false},
		"nothing":             {204, ``, job.Malformed, false},
		"empty":               {200, ``, job.Malformed, false},
		"unknown state":       {200, `{"status":"SINGING"}`, job.Malformed, false},
		"our own word":        {200, `{"status":"UNKNOWN"}`, job.Malformed, false},
		"no state":            {200, `{}`, job.Malformed, false},
		"state of a number":   {200, `{"status":3}`, job.Malformed, false},
		"null":                {200, `null`, job.Malformed, false},
		"two answers":         {200, `{"status":"RUNNING"}{"status":"FAILED"}`, job.Malformed, false},
		"deeper than a plan":  {200, `{"x":` + strings.Repeat("[", 1<<20), job.Malformed, false},
		"more than is needed": {200, `{"new":{"a":[1,{"b":1e999}]},"status":"RUNNING","later":null}`, job.Fine, false},
	}
	jm := flinktest.New(t)
	c := dial(t, jm.URL(), flink.Options{})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			jm.Answer("/jobs/", test.status, test.body)
			asks := map[string]func() error{
				"status": func() error { _, err := c.Status(t.Context(), someID); return err },
				"detail": func() error { _, err := c.Detail(t.Context(), someID); return err },
				"cause":  func() error { _, err := c.Cause(t.Context(), someID); return err },
				"cancel": func() error { return c.Cancel(t.Context(), someID) },
			}
			for question, ask := range asks {
				if question != "status" && test.status < 300 {
					continue
				}
				err := ask()
				if got := errors.Is(err, flink.ErrNotFound); got != test.no {
					t.Errorf("%s: a No: %v, want %v: %v", question, got, test.no, err)
				}
				if got := flink.ReachOf(err); got != test.want {
					t.Errorf("%s: reach is %s, want %s: %v", question, got, test.want, err)
				}
				if n := len(fmt.Sprint(err)); n > 2000 {
					t.Errorf("%s: an error of %d bytes", question, n)
				}
			}
		})
	}
	if _, err := c.Jobs(t.Context()); errors.Is(err, flink.ErrNotFound) {
		t.Errorf("a list cannot say No: %v", err)
	}
}

// An answer about another job, as a proxy that mixes answers up would give it, is no answer.
func TestDetailOfAnotherJob(t *testing.T) {
	jm := flinktest.New(t)
	c := dial(t, jm.URL(), flink.Options{})
	jm.Answer("/jobs/", 200, `{"jid":"00000000000000000000000000000001","state":"RUNNING","start-time":1}`)
	if j, err := c.Detail(t.Context(), someID); flink.ReachOf(err) != job.Malformed || j != (flink.Job{}) {
		t.Errorf("%+v, %v", j, err)
	}
}

// What an error quotes may come from anybody, so it is bounded.
func TestErrorsAreBounded(t *testing.T) {
	jm := flinktest.New(t)
	c := dial(t, jm.URL(), flink.Options{})
	jm.Answer("/jobs/", 200, `{"jid":"`+someID+`","start-time":1`+strings.Repeat("0", 600<<10)+`}`)
	if _, err := c.Detail(t.Context(), someID); flink.ReachOf(err) != job.Malformed || len(err.Error()) > 2000 {
		t.Errorf("an error of %d bytes (%s)", len(fmt.Sprint(err)), flink.ReachOf(err))
	}
}

// An id that is none is never asked about, and never denied.
func TestBadIDsAreNotAsked(t *testing.T) {
	jm := flinktest.New(t)
	c := dial(t, jm.URL(), flink.Options{})
	for _, id := range []string{"", "x", strings.ToUpper(someID), someID + "0", "../../../../../jobmanager/config", someID[:31] + "/", someID[:31] + "\x00"} {
		_, status := c.Status(t.Context(), id)
		_, detail := c.Detail(t.Context(), id)
		_, cause := c.Cause(t.Context(), id)
		for _, err := range []error{status, detail, cause, c.Cancel(t.Context(), id)} {
			if err == nil || errors.Is(err, flink.ErrNotFound) || flink.ReachOf(err) != job.NotAsked {
				t.Errorf("id %q: %v (%s)", id, err, flink.ReachOf(err))
			}
		}
	}
	if n := len(jm.Requests()); n != 0 {
		t.Errorf("%d paths were asked", n)
	}
}

func TestHiddenJobIsStillAnswered(t *testing.T) {
	jm := flinktest.New(t)
	c := dial(t, jm.URL(), flink.Options{})
	jm.SetJob(flinktest.Job{ID: someID, State: job.Running})
	jm.Hide(someID)
	if o, err := c.Jobs(t.Context()); err != nil || len(o.Jobs) != 0 {
		t.Fatalf("overview: %v, %v", o, err)
	}
	if s, err := c.Status(t.Context(), someID); err != nil || s != job.Running {
		t.Errorf("status: %s, %v", s, err)
	}
	if err := c.Cancel(t.Context(), someID); err != nil {
		t.Errorf("cancel: %v", err)
	}
	if s, err := c.Status(t.Context(), someID); err != nil || s != job.Canceled {
		t.Errorf("status after it: %s, %v", s, err)
	}
	jm.Remove(someID)
	if _, err := c.Status(t.Context(), someID); !errors.Is(err, flink.ErrNotFound) {
		t.Errorf("status of a job that is gone: %v", err)
	}
}

// A standby answers about itself, and about the leader's jobs.
func TestStandby(t *testing.T) {
	leader, standby := flinktest.New(t), flinktest.New(t)
	leader.SetJob(flinktest.Job{ID: someID, State: job.Running})
	standby.SetStandby(leader)
	c := dial(t, standby.URL(), flink.Options{})
	if s, err := c.Status(t.Context(), someID); err != nil || s != job.Running {
		t.Errorf("status: %s, %v", s, err)
	}
	if jm, err := c.JobManager(t.Context()); err != nil || jm.Incarnation != standby.Incarnation() {
		t.Errorf("incarnation: %s, %v; want the standby's own %s", jm.Incarnation, err, standby.Incarnation())
	}
	standby.SetStandby(nil)
	if _, err := c.Config(t.Context()); flink.ReachOf(err) != job.NoLeader {
		t.Errorf("without a leader: %v", err)
	}
}

// Loopback refuses, the pod's IP answers; the one that answered is asked first from then on.
func TestHostsInTheirOrder(t *testing.T) {
	jm, err := flinktest.Start("127.0.0.2:0")
	if err != nil {
		t.Skipf("no second loopback address here: %v", err)
	}
	t.Cleanup(jm.Close)
	jm.SetJob(flinktest.Job{ID: someID, State: job.Running})
	_, port := jm.HostPort()
	c, err := flink.New(flink.Options{Hosts: []string{"127.0.0.1", "127.0.0.2"}, Port: port, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if want := fmt.Sprintf("http://127.0.0.1:%d", port); c.Address() != want {
		t.Errorf("address before any answer is %s, want %s", c.Address(), want)
	}
	if _, err := c.Status(t.Context(), someID); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("http://127.0.0.2:%d", port); c.Address() != want {
		t.Errorf("address is %s, want %s", c.Address(), want)
	}
	// Somebody else on the loopback port must not be asked while the one that answered does.
	stranger := rawServer(t, fmt.Sprintf("127.0.0.1:%d", port), func(conn net.Conn) { _, _ = conn.Write([]byte("hello\r\n")) })
	if _, err := c.Status(t.Context(), someID); err != nil || stranger.count() != 0 {
		t.Errorf("the remembered host was not asked first: %v, %d connections to the other", err, stranger.count())
	}
	stranger.close()
	jm.Close()
	_, err = c.Status(t.Context(), someID)
	if flink.ReachOf(err) != job.Refused || !strings.Contains(fmt.Sprint(err), "127.0.0.1:") || !strings.Contains(fmt.Sprint(err), "127.0.0.2:") {
		t.Errorf("all refused: %v", err)
	}
	back, err := flinktest.Start(fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(back.Close)
	if _, err := c.Status(t.Context(), someID); !errors.Is(err, flink.ErrNotFound) || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("the first host came back: %v", err)
	}
}

func TestTLS(t *testing.T) {
	jm := flinktest.New(t)
	jm.SetJob(flinktest.Job{ID: someID, State: job.Running})
	host, port := jm.HostPort()
	client := func(o flink.Options) *flink.Client {
		t.Helper()
		if o.Port, o.Timeout = port, patience; o.Hosts == nil {
			o.Hosts = []string{host}
		}
		c, err := flink.New(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	ask := func(c *flink.Client) error { _, err := c.Status(t.Context(), someID); return err }

	found := client(flink.Options{})
	if err := ask(found); err != nil {
		t.Fatalf("plain: %v", err)
	}
	roots, err := jm.EnableTLS(nil)
	if err != nil {
		t.Fatal(err)
	}
	// The redirect names a host that does not exist: an answer proves that it was not followed.
	if err := ask(found); err != nil || !strings.HasPrefix(found.Address(), "https://127.0.0.1:") {
		t.Errorf("TLS found out: %v, address %s", err, found.Address())
	}
	before := jm.Requests()["/jobs/"+someID+"/status"]
	if err := ask(found); err != nil || jm.Requests()["/jobs/"+someID+"/status"] != before+1 {
		t.Errorf("the scheme was found out twice: %v", err)
	}
	if err := found.Cancel(t.Context(), someID); err != nil {
		t.Errorf("cancel over TLS: %v", err)
	}
	trusting := &tls.Config{RootCAs: roots, ServerName: flinktest.CertificateName}
	if err := ask(client(flink.Options{Scheme: "https", TLS: trusting})); err != nil {
		t.Errorf("with roots and name: %v", err)
	}
	refused := map[string]*flink.Client{
		"plain only":                     client(flink.Options{Scheme: "http"}),
		"wrong name":                     client(flink.Options{TLS: &tls.Config{RootCAs: roots}}),
		"wrong roots":                    client(flink.Options{TLS: &tls.Config{RootCAs: x509.NewCertPool(), ServerName: flinktest.CertificateName}}),
		"a name, verified":               client(flink.Options{Hosts: []string{"localhost"}}),
		"a name makes the pair verified": client(flink.Options{Hosts: []string{host, "localhost"}}),
	}
	for name, c := range refused {
		if err := ask(c); flink.ReachOf(err) != job.Malformed {
			t.Errorf("%s: %v (%s)", name, err, flink.ReachOf(err))
		}
	}
	jm.DisableTLS()
	_ = ask(found) // may fail once: TLS was what it knew
	if err := ask(found); err != nil || !strings.HasPrefix(found.Address(), "http://") {
		t.Errorf("TLS turned off: %v, address %s", err, found.Address())
	}
	if err := ask(client(flink.Options{Scheme: "https"})); flink.ReachOf(err) != job.Malformed {
		t.Errorf("TLS wanted, plain spoken: %v", err)
	}

	if _, err := jm.EnableTLS(x509.NewCertPool()); err != nil {
		t.Fatal(err)
	}
	if err := ask(client(flink.Options{})); flink.ReachOf(err) != job.Malformed {
		t.Errorf("a client certificate is wanted: %v (%s)", err, flink.ReachOf(err))
	}
}

// What listens may be anything.
func TestStrangersOnThePort(t *testing.T) {
	read := func(conn net.Conn) { _, _ = conn.Read(make([]byte, 4096)) }
	tests := map[string]struct {
		serve func(net.Conn)
		want  job.Reach
	}{
		"a banner at once": {func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-OpenSSH_9.6\r\n")); read(c); read(c) }, job.Malformed},
		"silence":          {func(c net.Conn) { read(c); read(c) }, job.TimedOut},
		"switched protocol": {func(c net.Conn) {
			read(c)
			_, _ = c.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"))
			read(c)
		}, job.Malformed},
		"headers without end": {func(c net.Conn) {
			read(c)
			_, err := c.Write([]byte("HTTP/1.1 200 OK\r\n"))
			for err == nil {
				_, err = c.Write([]byte("X-More: " + strings.Repeat("x", 1000) + "\r\n"))
			}
		}, job.Malformed},
		"one header without end": {func(c net.Conn) {
			read(c)
			_, err := c.Write([]byte("HTTP/1.1 200 OK\r\nX: "))
			for err == nil {
				_, err = c.Write([]byte(strings.Repeat("x", 1000)))
			}
		}, job.Malformed},
		"nonsense chunks": {func(c net.Conn) {
			read(c)
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"))
			read(c)
		}, job.Malformed},
		"control characters": {func(c net.Conn) {
			read(c)
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n\x1b[31m\x00\x07\x1b]0;"))
			read(c)
		}, job.Malformed},
		"compressed": {func(c net.Conn) {
			read(c)
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"))
			read(c)
		}, job.Malformed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := rawServer(t, "127.0.0.1:0", test.serve)
			timeout := patience
			if test.want == job.TimedOut {
				timeout = 200 * time.Millisecond
			}
			c := dial(t, "http://"+s.address(), flink.Options{Timeout: timeout})
			for question, ask := range questions {
				_, err := ask(t.Context(), c)
				if got := flink.ReachOf(err); got != test.want {
					t.Errorf("%s: reach is %s, want %s: %v", question, got, test.want, err)
				}
				if strings.ContainsAny(fmt.Sprint(err), "\x1b\x00\x07\n") {
					t.Errorf("%s: the error passes control characters on: %q", question, err)
				}
			}
		})
	}
}

// Config proves that this is Flink.
func TestConfigKnowsStrangers(t *testing.T) {
	jm := flinktest.New(t)
	c := dial(t, jm.URL(), flink.Options{})
	for status, body := range map[int]string{
		200: `{"status":"success","data":{"yaml":"global: {}"}}`, // Prometheus has a /config too
		404: `<html>not here</html>`, 401: `who are you`, 500: `oops`,
	} {
		jm.Answer("/config", status, body)
		_, err := c.Config(t.Context())
		if flink.ReachOf(err) != job.Malformed || !strings.Contains(fmt.Sprint(err), "is this Flink's REST port?") {
			t.Errorf("status %d: %v (%s)", status, err, flink.ReachOf(err))
		}
	}
	jm.Answer("/config", 500, `{"errors":["Internal server error."]}`)
	if _, err := c.Config(t.Context()); flink.ReachOf(err) != job.Erred {
		t.Errorf("an error of Flink's own: %v", err)
	}
}

// In steady state there is one connection, whatever is asked and answered, errors and Nos included.
func TestOneConnection(t *testing.T) {
	jm := flinktest.New(t)
	jm.SetJob(flinktest.Job{ID: someID, State: job.Running, Stack: "java.lang.Error: x\n\tat y"})
	c := dial(t, jm.URL(), flink.Options{})
	for range 10 {
		for question, ask := range questions {
			if _, err := ask(t.Context(), c); err != nil {
				t.Fatalf("%s: %v", question, err)
			}
		}
		if _, err := c.Status(t.Context(), flinktest.NewID()); !errors.Is(err, flink.ErrNotFound) {
			t.Fatal(err)
		}
	}
	if n := jm.Connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// A connection that breaks before an answer is tried again as often as asked for; a cancellation never is.
func TestRetries(t *testing.T) {
	for _, test := range []struct {
		retries, broken int
		want            job.Reach
	}{{0, 1, job.Closed}, {2, 2, job.Fine}, {2, 3, job.Closed}} {
		var served atomic.Int32
		s := rawServer(t, "127.0.0.1:0", func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 4096))
			if int(served.Add(1)) > test.broken {
				_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 20\r\n\r\n{\"status\":\"RUNNING\"}"))
			}
		})
		c := dial(t, "http://"+s.address(), flink.Options{Retries: test.retries})
		if _, err := c.Status(t.Context(), someID); flink.ReachOf(err) != test.want {
			t.Errorf("%d retries, %d broken: %s, want %s: %v", test.retries, test.broken, flink.ReachOf(err), test.want, err)
		}
		if want := min(test.retries, test.broken) + 1; s.count() != want {
			t.Errorf("%d retries, %d broken: %d connections, want %d", test.retries, test.broken, s.count(), want)
		}
	}
	s := rawServer(t, "127.0.0.1:0", func(conn net.Conn) { _, _ = conn.Read(make([]byte, 4096)) })
	c := dial(t, "http://"+s.address(), flink.Options{Retries: 5})
	if err := c.Cancel(t.Context(), someID); flink.ReachOf(err) != job.Closed || s.count() != 1 {
		t.Errorf("cancel: %v, asked %d times", err, s.count())
	}
	jm := flinktest.New(t)
	jm.Behave("", flinktest.Error500)
	c = dial(t, jm.URL(), flink.Options{Retries: 5})
	if _, err := c.Jobs(t.Context()); flink.ReachOf(err) != job.Erred || jm.Requests()["/jobs/overview"] != 1 {
		t.Errorf("an answer is an answer: %v, asked %d times", err, jm.Requests()["/jobs/overview"])
	}
}

func TestCallerGivesUp(t *testing.T) {
	jm := flinktest.New(t)
	jm.Behave("", flinktest.Hang)
	c := dial(t, jm.URL(), flink.Options{Timeout: time.Minute, Retries: 3})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := c.Jobs(ctx)
	if !errors.Is(err, context.Canceled) || flink.ReachOf(err) != job.NotAsked {
		t.Errorf("%v (%s)", err, flink.ReachOf(err))
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Jobs(ctx); flink.ReachOf(err) != job.TimedOut {
		t.Errorf("the caller's deadline: %v (%s)", err, flink.ReachOf(err))
	}
}

// Many callers at once, while the JobManager comes and goes: for the race detector, and for answers that get mixed up.
func TestManyCallers(t *testing.T) {
	jm := flinktest.New(t)
	ids := make([]string, 8)
	for i := range ids {
		ids[i] = flinktest.NewID()
		jm.SetJob(flinktest.Job{ID: ids[i], State: job.AllStates.List()[i]})
	}
	c := dial(t, jm.URL(), flink.Options{})
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			for range 30 {
				state, err := c.Status(t.Context(), id)
				if err == nil && state != job.AllStates.List()[i] {
					t.Errorf("the state of another job: %s", state)
				}
				_ = c.Address()
			}
		})
	}
	for range 5 {
		jm.Behave("", flinktest.Refuse)
		jm.Behave("", flinktest.Fine)
	}
	wg.Wait()
}

// 10 000 jobs in one answer.
func TestTenThousandJobs(t *testing.T) {
	jm := flinktest.New(t)
	want := map[string]bool{}
	for range 10_000 {
		id := flinktest.NewID()
		want[id] = true
		jm.SetJob(flinktest.Job{ID: id, Name: "one of many", State: job.Running})
	}
	c := dial(t, jm.URL(), flink.Options{})
	o, err := c.Jobs(t.Context())
	if err != nil || len(o.Skipped) != 0 {
		t.Fatalf("%v, %d skipped", err, len(o.Skipped))
	}
	for _, j := range o.Jobs {
		delete(want, j.ID)
	}
	if len(want) != 0 || len(o.Jobs) != 10_000 {
		t.Errorf("%d jobs, %d missing", len(o.Jobs), len(want))
	}
}

// The agent links this package and must stay small.
func TestLinksLittle(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").CombinedOutput()
	if err != nil {
		t.Skipf("no go command here: %v", err)
	}
	want := []string{
		"github.com/hashicorp/go-cleanhttp", "github.com/hashicorp/go-retryablehttp",
		"github.com/holdfast-dev/holdfast/job", "github.com/holdfast-dev/holdfast/flink",
	}
	if diff := cmp.Diff(want, strings.Fields(string(out))); diff != "" {
		t.Errorf("dependencies:\n%s", diff)
	}
}

// raw is a TCP server that is no JobManager.
type raw struct {
	listener net.Listener
	wg       sync.WaitGroup
	accepted atomic.Int32
	mu       sync.Mutex
	conns    []net.Conn
	closed   bool
}

func rawServer(t testing.TB, address string, serve func(net.Conn)) *raw {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &raw{listener: listener}
	s.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			s.mu.Lock()
			if s.closed {
				_ = conn.Close()
			}
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			s.wg.Go(func() { defer conn.Close(); serve(conn) })
		}
	})
	t.Cleanup(s.close)
	return s
}

func (s *raw) address() string { return s.listener.Addr().String() }

func (s *raw) count() int { return int(s.accepted.Load()) }

func (s *raw) close() {
	_ = s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}
