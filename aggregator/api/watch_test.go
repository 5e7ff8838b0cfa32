package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

func failed(v *job.Verdict) { v.State, v.Over = job.Failed, job.Yes }

func TestWatchBeginsWithTheListAndGoesOn(t *testing.T) {
	w := newWorld(t)
	w.put("orders")
	w.put("payments")
	c := w.watch("", "")
	c.until("1.12")
	c.expect("put team-a/orders Witnessed", "put team-a/payments Witnessed")
	w.put("orders", failed)
	w.remove("payments")
	w.put("new")
	c.until("1.15")
	c.expect("put team-a/orders Witnessed", "delete team-a/payments Witnessed", "put team-a/new Witnessed")
	c.same()
	if c.jobs["team-a/orders"].State != job.Failed {
		t.Errorf("%+v", c.jobs["team-a/orders"])
	}
	w.mu.Lock()
	w.revision = 99
	w.mu.Unlock()
	w.heard()
	c.until("1.99")
	c.expect()
}

// One transaction changes two jobs: a client that lost its connection between the two must get the second.
func TestARevisionIsAPlaceToGoOnFromOnlyWhenItIsWhole(t *testing.T) {
	w := newWorld(t)
	c := w.watch("", "")
	c.until("1.10")
	w.both("a", "b")
	var versions []string
	for len(versions) < 2 {
		if e, ok := c.next(); !ok {
			t.Fatal("the stream ended")
		} else if e.Type == "put" {
			versions = append(versions, e.Version)
		}
	}
	if versions[0] != "" || versions[1] != "1.11" {
		t.Errorf("the events have the versions %q", versions)
	}
}

func TestAJobThatLeavesTheFilterIsDeleted(t *testing.T) {
	w := newWorld(t)
	w.put("orders")
	w.put("other", failed)
	c := w.watch("state=RUNNING", "")
	c.until("1.12")
	w.put("orders", failed)
	c.until("1.13")
	w.put("orders", failed) // not in the filter before, not in it now
	w.put("other")
	w.remove("orders")
	c.until("1.16")
	c.expect("put team-a/orders Witnessed", "delete team-a/orders Witnessed", "put team-a/other Witnessed")
	c.same()
}

func TestWatchOneJob(t *testing.T) {
	w := newWorld(t)
	w.put("orders")
	w.put("payments")
	w.wrong(w.get("/api/v1/jobs/default/team-a/nothing/a1?watch=true"), 404)
	c := w.watch(ordersPath+"?", "")
	c.until("1.12")
	w.put("payments")
	w.put("orders", failed)
	w.remove("orders")
	c.until("1.15")
	c.expect("put team-a/orders Witnessed", "put team-a/orders Witnessed", "delete team-a/orders Witnessed")
	again := w.watch(ordersPath+"?", "1.12")
	again.until("1.15")
	again.expect("put team-a/orders Witnessed", "delete team-a/orders Witnessed")
}

// The version of a job that has not changed for ages is older than anything that is kept; nothing is missed all the same.
func TestWatchOneJobFromItsOwnVersion(t *testing.T) {
	w := newWorld(t)
	w.put("orders")
	for range 600 { // more than the ring has room for
		w.put("payments")
	}
	w.wrong(w.get("/api/v1/jobs?watch=true&version=1.11"), 410)
	c := w.watch(ordersPath+"?", "1.11")
	w.put("orders")
	c.until("1.612")
	c.expect("put team-a/orders Witnessed")
	for range 600 {
		w.put("payments")
	}
	w.wrong(w.get(ordersPath+"?watch=true&version=1.11"), 410)
}

func TestVersionsThatAreGone(t *testing.T) {
	w := newWorld(t)
	w.put("orders")
	for path, says := range map[string]string{
		"/api/v1/jobs?watch=true&version=1.9":  "kept from revision 10",
		"/api/v1/jobs?watch=true&version=2.11": "epoch",
		"/api/v1/jobs?watch=true&version=1.12": "revision 11",
		ordersPath + "?watch=true&version=1.5": "kept from revision 10",
	} {
		w.wrong(w.get(path), 410, says, "begin again without version")
	}
	if a := w.do("HEAD", "/api/v1/jobs?watch=true&version=1.11"); a.status != 200 || a.header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("HEAD of a watch: %d %v", a.status, a.header)
	}
}

func TestAnEpochEndsTheWatch(t *testing.T) {
	w := newWorld(t)
	c := w.watch("", "")
	c.until("1.10")
	w.apply(board.Identity, etcd.Changed, 11, etcd.Pair{Key: record.IdentityKey("default"), Value: record.EncodeIdentity(record.SiteIdentity{UID: "u", Epoch: 2}), ModRevision: 11})
	for {
		e, ok := c.next()
		if !ok {
			t.Fatal("the stream ended without a word")
		}
		if e.Type == "gone" {
			if e.Problem.Status != 410 || !strings.Contains(e.Problem.Detail, "begin again without version") {
				t.Errorf("%+v", e.Problem)
			}
			break
		}
	}
	if _, ok := c.next(); ok {
		t.Error("something comes after gone")
	}
	w.wrong(w.get("/api/v1/jobs?watch=true&version=1.10"), 410, "epoch 2")
}

func TestWeaknessIsShownToWatchers(t *testing.T) {
	w := newWorld(t)
	w.put("held", func(v *job.Verdict) { v.Certainty, v.Reason = job.Held, job.AgentSilent })
	w.put("over", failed)
	w.put("runs")
	all, witnessed, held := w.watch("", ""), w.watch("certainty=Witnessed", ""), w.watch("certainty=Held", "")
	for _, c := range []*watcher{all, witnessed, held} {
		c.until("1.13")
		c.log = nil
	}
	w.later(testHold + time.Second)
	for _, c := range []*watcher{all, witnessed, held} {
		c.until("1.13.held") // maybe the one before
		c.until("1.13.held")
		c.same()
	}
	all.expect("put team-a/over Held", "put team-a/runs Held")
	witnessed.expect("delete team-a/over Held", "delete team-a/runs Held")
	held.expect("put team-a/over Held", "put team-a/runs Held")
	// What changes meanwhile is shown as lowered too.
	w.apply(board.Leader, etcd.Listed, 13)
	w.put("runs")
	w.put("comes")
	for _, c := range []*watcher{all, witnessed, held} {
		c.until("1.15.held")
		c.until("1.15.held")
		c.same()
		c.log = nil
	}
	w.lead()
	for _, c := range []*watcher{all, witnessed, held} {
		c.until("1.15")
		c.same()
	}
	all.expect("put team-a/comes Witnessed", "put team-a/over Witnessed", "put team-a/runs Witnessed")
	witnessed.expect("put team-a/comes Witnessed", "put team-a/over Witnessed", "put team-a/runs Witnessed")
	held.expect("delete team-a/comes Witnessed", "delete team-a/over Witnessed", "delete team-a/runs Witnessed")
}

// Weakness comes by time alone: no update, no bookmark wakes the watcher.
func TestWeaknessComesOnTime(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Bookmark = time.Hour })
	w.put("runs")
	c := w.watch("", "")
	c.until("1.11")
	w.later(testHold - 300*time.Millisecond)
	w.apply(board.Condition, etcd.Progressed, 11) // the clock was moved: let the watcher look at it
	c.until("1.11.held")
	c.until("1.11.held")
	c.same()
}

// A watch that goes on from a version that was given out under a weakness, or goes on under one, must end with the
// truth, whether or not that is still so and whatever the client had been shown.
func TestResumingAcrossAWeakness(t *testing.T) {
	for _, query := range []string{"", "certainty=Witnessed", "certainty=Held", "reason=StoreUnreachable"} {
		w := newWorld(t)
		w.put("a")
		w.put("b", func(v *job.Verdict) { v.Certainty, v.Reason = job.Held, job.AgentSilent })
		w.put("goes")
		c := w.watch(query, "")
		c.until("1.13")
		c.disconnect()
		w.put("c")
		w.remove("goes")
		w.later(testHold + time.Second) // it weakens while nobody watches
		c.connect()
		c.until("1.15.held")
		c.until("1.15.held")
		c.same()
		c.disconnect()
		w.remove("a")
		w.put("d")
		w.lead()
		w.heard() // and gets well while nobody watches
		c.connect()
		c.until("1.17")
		c.same()
		c.disconnect()
	}
}

func TestServerSentEvents(t *testing.T) {
	w := newWorld(t)
	w.put("orders")
	get := func(path string, headers ...string) *http.Response {
		request, err := http.NewRequest("GET", "http://"+w.address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", "text/event-stream")
		for _, id := range headers {
			request.Header.Set("Last-Event-ID", id)
		}
		response, err := w.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = response.Body.Close() })
		return response
	}
	response := get("/api/v1/jobs?watch=true")
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %s", got)
	}
	got := events(t, response, 2)
	if len(got) != 2 || got[0]["event"] != "put" || got[0]["id"] != "" || got[1]["event"] != "bookmark" || got[1]["id"] != "1.11" {
		t.Fatalf("events %v", got)
	}
	var e Event
	strict(t, []byte(got[0]["data"]), &e)
	if e.Object.name() != "team-a/orders" || e.Type != "put" {
		t.Errorf("%+v", e)
	}
	w.put("orders", failed)
	// A browser comes back with the address that it began with; where it was says the header.
	got = events(t, get("/api/v1/jobs?watch=true&version=1.1", "1.11"), 1)
	if len(got) != 1 || got[0]["event"] != "put" || got[0]["id"] != "1.12" {
		t.Errorf("events %v", got)
	}
	if gone := get("/api/v1/jobs?watch=true", "7.1"); gone.StatusCode != 410 {
		t.Errorf("status %d", gone.StatusCode)
	}
}

func TestAnHTTP10ClientGetsNoChunks(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxWatch = 100 * time.Millisecond })
	w.put("orders")
	got := w.raw("GET /api/v1/jobs?watch=true HTTP/1.0\r\n\r\n")
	head, body, _ := strings.Cut(got, "\r\n\r\n")
	if strings.Contains(head, "chunked") || !strings.HasPrefix(body, `{"type":"put"`) || !strings.HasSuffix(body, `"1.11"}`+"\n") {
		t.Errorf("%s", got)
	}
}

// Whatever is put and removed, and however often the client loses its connection at any event: its copy ends as the
// list, and no event with a version comes twice.
func TestWatchersNeverMissAnything(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Bookmark = time.Millisecond })
	rapid.Check(t, func(r *rapid.T) {
		query := rapid.SampledFrom([]string{"", "state=RUNNING", "namespace=n1", "certainty=Witnessed", "certainty=Held", "reason=StoreUnreachable,NoSettler"}).Draw(r, "query")
		c := w.watch(query, "")
		defer c.disconnect()
		seen := map[string]bool{}
		read := func() bool {
			had := c.version
			e, ok := c.next()
			if !ok {
				r.Fatalf("the stream ended: %v", c.lines.Err())
			}
			if e.Type == "gone" {
				r.Fatalf("gone: %s", e.Problem.Detail)
			}
			if e.Version != "" && e.Type != "bookmark" {
				if seen[e.Version] {
					r.Fatalf("version %s came twice, %s after %s", e.Version, e.Type, had)
				}
				seen[e.Version] = true
			}
			return e.Type == "bookmark"
		}
		// A version is a place to go on from only after a whole list was seen.
		for !read() {
		}
		for range rapid.IntRange(1, 25).Draw(r, "steps") {
			name := rapid.SampledFrom([]string{"n1/a", "n1/b", "n2/a", "n2/b"}).Draw(r, "name")
			switch rapid.IntRange(0, 10).Draw(r, "step") {
			case 10:
				w.both(name, "n1/c")
			case 0, 1:
				w.put(name)
			case 2:
				w.put(name, failed)
			case 3:
				w.put(name, func(v *job.Verdict) { v.Certainty, v.Reason = job.Held, job.AgentSilent })
			case 4:
				w.remove(name)
			case 5:
				w.later(testHold + time.Second)
			case 6:
				w.lead()
				w.heard()
			case 7:
				c.disconnect()
				c.connect()
			default:
				for range rapid.IntRange(1, 5).Draw(r, "reads") {
					read()
				}
			}
		}
		// The first bookmark of a version may be the one before what a weakness changes.
		last := w.list(query).Version
		for bookmarks := 0; bookmarks < 2; {
			if read() && c.version == last {
				bookmarks++
			}
		}
		c.same()
	})
}
