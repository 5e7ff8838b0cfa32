package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connection is what a scripted server does with one connection of a watch.
type connection func(w http.ResponseWriter, q *http.Request)

// watched runs a watch against a server that does one thing after another, until the last one is done, and gives what it
// was told.
func watched(t *testing.T, o WatchOptions, connections ...connection) (told, asked []string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, fmt.Sprintf(format, args...))
	}
	served := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		asked = append(asked, q.URL.RequestURI())
		n := served
		served++
		mu.Unlock()
		if n >= len(connections) {
			cancel()
			return
		}
		connections[n](w, q)
	}))
	defer server.Close()
	c, err := New(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	onEvent := o.OnEvent
	o.OnEvent = func(e Event) error {
		id := "-"
		if e.Object != nil {
			id = e.Object.JobID
		}
		say("%s %s %s", e.Type, id, e.Version)
		if onEvent != nil {
			return onEvent(e)
		}
		return nil
	}
	o.OnLost = func(err error) { say("lost") }
	o.OnFound = func() { say("found") }
	if o.Connect == 0 {
		o.Connect = 5 * time.Second
	}
	o.Wait = 2 * time.Millisecond
	err = c.Watch(ctx, o)
	mu.Lock()
	defer mu.Unlock()
	return told, asked, err
}

// lines answers with events, and then ends as an end says: nil ends the answer in order.
func lines(end func(w http.ResponseWriter, q *http.Request), events ...string) connection {
	return func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		_, _ = w.Write([]byte(strings.Join(events, "\n") + "\n"))
		_ = http.NewResponseController(w).Flush()
		if end != nil {
			end(w, q)
		}
	}
}

func breaks(w http.ResponseWriter, _ *http.Request) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = conn.Close()
	}
}

func hangs(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }

func refuses(status int) connection {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(Problem{Status: status, Detail: fmt.Sprintf("refused with %d", status)})
	}
}

func put(id, version string) string  { return event(Put, id, version) }
func bookmark(version string) string { return fmt.Sprintf(`{"type":"bookmark","version":%q}`, version) }

func event(kind, id, version string) string {
	text := fmt.Sprintf(`{"type":%q,"object":{"namespace":"n","cluster":"c","jobID":%q}`, kind, id)
	if version != "" {
		text += fmt.Sprintf(`,"version":%q`, version)
	}
	return text + "}"
}

func check(t *testing.T, what string, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: -want +got\n%s", what, diff)
	}
}

const plain = "/api/v1/jobs?watch=true"

func TestWatchGoesOnFromTheLastVersion(t *testing.T) {
	told, asked, err := watched(t, WatchOptions{Filter: url.Values{"state": {"RUNNING"}}},
		lines(breaks, put("a", ""), put("b", ""), bookmark("1.5"), put("a", "1.6"), event(Delete, "b", "")),
		lines(nil, put("c", "1.9")), // an orderly end is no loss
	)
	if err != nil {
		t.Error(err)
	}
	check(t, "told", []string{"put a ", "put b ", "bookmark - 1.5", "put a 1.6", "delete b ", "lost", "found", "put c 1.9"}, told)
	check(t, "asked", []string{
		"/api/v1/jobs?state=RUNNING&watch=true",
		"/api/v1/jobs?state=RUNNING&version=1.6&watch=true",
		"/api/v1/jobs?state=RUNNING&version=1.9&watch=true",
	}, asked)
}

// When the server cannot go on, what is not in the new list is told as deleted.
func TestWatchBeginsAnew(t *testing.T) {
	for name, refusal := range map[string]connection{
		"410":  refuses(410),
		"gone": lines(nil, `{"type":"gone","problem":{"status":410,"detail":"too old"}}`),
	} {
		told, asked, err := watched(t, WatchOptions{},
			lines(nil, put("a", ""), put("b", ""), bookmark("1.5")),
			refusal,
			lines(nil, put("b", ""), put("c", ""), bookmark("2.1")),
		)
		if err != nil {
			t.Error(err)
		}
		check(t, name+" told", []string{"put a ", "put b ", "bookmark - 1.5", "put b ", "put c ", "delete a ", "bookmark - 2.1"}, told)
		check(t, name+" asked", []string{plain, plain[:13] + "version=1.5&watch=true", plain, plain[:13] + "version=2.1&watch=true"}, asked)
	}
}

// A list that broke off half way says nothing about the jobs that it did not come to.
func TestWatchDeletesNothingAfterHalfAList(t *testing.T) {
	told, _, _ := watched(t, WatchOptions{},
		lines(nil, put("a", ""), put("b", ""), bookmark("1.5")),
		refuses(410),
		lines(breaks, put("a", "")),
		lines(nil, put("a", ""), put("b", ""), bookmark("2.1")),
	)
	check(t, "told", []string{"put a ", "put b ", "bookmark - 1.5", "put a ", "lost", "found", "put a ", "put b ", "bookmark - 2.1"}, told)
}

func TestWatchTellsALossOnce(t *testing.T) {
	told, _, _ := watched(t, WatchOptions{}, lines(breaks, bookmark("1.5")), breaks, refuses(503), breaks, lines(nil, bookmark("1.6")))
	check(t, "told", []string{"bookmark - 1.5", "lost", "found", "bookmark - 1.6"}, told)
}

func TestWatchNoticesSilence(t *testing.T) {
	told, _, _ := watched(t, WatchOptions{Silence: 50 * time.Millisecond}, lines(hangs, bookmark("1.5")), lines(nil, bookmark("1.6")))
	check(t, "told", []string{"bookmark - 1.5", "lost", "found", "bookmark - 1.6"}, told)
}

func TestWatchOfOneJob(t *testing.T) {
	_, asked, _ := watched(t, WatchOptions{Job: &Job{Site: "s", Namespace: "n", Cluster: "c", JobID: "a"}}, lines(nil, bookmark("1.5")))
	check(t, "asked", []string{"/api/v1/jobs/s/n/c/a?watch=true", "/api/v1/jobs/s/n/c/a?version=1.5&watch=true"}, asked)
}

func TestWatchEnds(t *testing.T) {
	enough := errors.New("enough")
	for _, c := range []struct {
		name        string
		o           WatchOptions
		connections []connection
		want        func(error) bool
	}{
		{"with the first refusal", WatchOptions{}, []connection{refuses(400)}, func(err error) bool {
			var p *Problem
			return errors.As(err, &p) && p.Error() == "refused with 400"
		}},
		{"with a later refusal", WatchOptions{}, []connection{lines(nil, bookmark("1.5")), refuses(404)}, func(err error) bool {
			var p *Problem
			return errors.As(err, &p) && p.NotFound()
		}},
		{"with the first broken connection", WatchOptions{}, []connection{breaks}, func(err error) bool { return err != nil }},
		{"with a first answer that does not come", WatchOptions{Connect: 50 * time.Millisecond}, []connection{hangs}, func(err error) bool {
			return errors.Is(err, ErrUnreachable)
		}},
		{"when the caller has enough", WatchOptions{OnEvent: func(Event) error { return enough }}, []connection{lines(hangs, put("a", "1.5"))}, func(err error) bool {
			return errors.Is(err, enough)
		}},
		{"with a server of another kind", WatchOptions{}, []connection{func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
		}}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "not as Holdfast's API does") }},
	} {
		if _, _, err := watched(t, c.o, c.connections...); !c.want(err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestWatchWaitsForAServerThatStarts(t *testing.T) {
	told, _, err := watched(t, WatchOptions{}, refuses(503), refuses(429), lines(nil, bookmark("1.5")))
	if err != nil {
		t.Error(err)
	}
	if len(told) == 0 || told[len(told)-1] != "bookmark - 1.5" {
		t.Errorf("told %v", told)
	}
}

func TestServerAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"http://127.0.0.1:7070": "http://127.0.0.1:7070", "localhost:7070": "http://localhost:7070", "https://h/prefix/": "https://h/prefix",
		"http://[::1]:7070": "http://[::1]:7070", "h": "http://h",
		"": "", "http://": "", "ftp://h": "", "http://h/?a=b": "", "http://u:p@h": "", "http://h:x": "", ":7070": "",
	} {
		c, err := New(in)
		switch {
		case want == "" && err == nil:
			t.Errorf("%q: taken as %s, want an error", in, c.Server())
		case want != "" && (err != nil || c.Server() != want):
			t.Errorf("%q: %v, want %s", in, err, want)
		}
	}
}
