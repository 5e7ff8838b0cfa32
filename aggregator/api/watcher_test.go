package api

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// watcher is a client that keeps a copy of a list by a watch.
type watcher struct {
	w        *world
	query    string
	jobs     map[string]Job
	version  string
	response *http.Response
	cancel   context.CancelFunc
	lines    *bufio.Scanner
	// log are the types and names of the events, without bookmarks.
	log []string
}

// watch opens a watch, from a version if it is not "".
func (w *world) watch(query, version string) *watcher {
	w.t.Helper()
	c := &watcher{w: w, query: query, version: version, jobs: map[string]Job{}}
	c.connect()
	w.t.Cleanup(c.disconnect)
	return c
}

func (c *watcher) connect() {
	c.w.t.Helper()
	query := c.query
	if c.version != "" {
		query += "&version=" + c.version
	} else {
		c.jobs = map[string]Job{}
	}
	path := "/api/v1/jobs?"
	if strings.HasPrefix(query, "/") {
		path = ""
	}
	// A stream that does not bring what the test waits for must fail the test, not hang it.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	c.cancel = cancel
	request, err := http.NewRequestWithContext(ctx, "GET", "http://"+c.w.address+path+query+"&watch=true", nil)
	if err != nil {
		c.w.t.Fatal(err)
	}
	response, err := c.w.client.Do(request)
	if err != nil {
		c.w.t.Fatal(err)
	}
	c.response, c.lines = response, bufio.NewScanner(response.Body)
	c.lines.Buffer(nil, 1<<20)
}

func (c *watcher) disconnect() {
	_ = c.response.Body.Close()
	c.cancel()
}

// next reads one event and applies it; ok is false at the end of the stream.
func (c *watcher) next() (e Event, ok bool) {
	c.w.t.Helper()
	if !c.lines.Scan() {
		return Event{}, false
	}
	strict(c.w.t, c.lines.Bytes(), &e)
	switch {
	case e.Type == "put" && e.Object != nil:
		c.jobs[e.Object.name()] = *e.Object
	case e.Type == "delete" && e.Object != nil:
		delete(c.jobs, e.Object.name())
	case e.Type == "bookmark" && e.Version != "" && e.Object == nil:
	case e.Type == "gone" && e.Problem != nil:
	default:
		c.w.t.Errorf("what is this event? %s", c.lines.Bytes())
	}
	if e.Type != "bookmark" {
		entry := e.Type
		if e.Object != nil {
			entry += " " + e.Object.name() + " " + e.Object.Certainty.String()
		}
		c.log = append(c.log, entry)
	}
	if e.Version != "" {
		c.version = e.Version
	}
	return e, true
}

// until reads events up to a bookmark of at least the given version's revision, as it stands in full.
func (c *watcher) until(version string) {
	c.w.t.Helper()
	for {
		e, ok := c.next()
		if !ok {
			c.w.t.Fatalf("the stream ended before version %s: %v", version, c.lines.Err())
		}
		if e.Type == "bookmark" && e.Version == version {
			return
		}
	}
}

// same compares the copy with the list, but for ages.
func (c *watcher) same() {
	c.w.t.Helper()
	list := map[string]Job{}
	for _, j := range c.w.list(c.query).Items {
		list[j.name()] = j
	}
	ignoreAges := cmp.FilterPath(func(p cmp.Path) bool {
		name := p.Last().String()
		return name == ".Message" || name == ".LastSeen"
	}, cmp.Ignore())
	if diff := cmp.Diff(list, c.jobs, ignoreAges); diff != "" {
		c.w.t.Errorf("the copy is not the list (-list +copy):\n%s", diff)
	}
}

func (c *watcher) expect(log ...string) {
	c.w.t.Helper()
	if diff := cmp.Diff(log, c.log); diff != "" {
		c.w.t.Errorf("events (-want +got):\n%s", diff)
	}
	c.log = nil
}

// events splits a stream of server-sent events, as it came over the wire, into its events.
func events(t *testing.T, response *http.Response, n int) (out []map[string]string) {
	t.Helper()
	lines := bufio.NewScanner(response.Body)
	event := map[string]string{}
	timeout := time.AfterFunc(10*time.Second, func() { _ = response.Body.Close() })
	defer timeout.Stop()
	for len(out) < n && lines.Scan() {
		if lines.Text() == "" {
			out, event = append(out, event), map[string]string{}
			continue
		}
		name, value, found := strings.Cut(lines.Text(), ": ")
		if !found {
			t.Errorf("no field of an event: %q", lines.Text())
		}
		event[name] = value
	}
	return out
}
