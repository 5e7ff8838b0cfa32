package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
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

func TestTheLongestWatchEndsInOrder(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxWatch, o.Bookmark = 100*time.Millisecond, time.Hour })
	c := w.watch("", "")
	bookmarks := 0
	for {
		e, ok := c.next()
		if !ok {
			break
		}
		if e.Type == "bookmark" {
			bookmarks++
		}
	}
	if c.lines.Err() != nil || bookmarks != 2 {
		t.Errorf("%d bookmarks, error %v; want one after the list and one at the end", bookmarks, c.lines.Err())
	}
}

func TestTooManyWatchers(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxWatchers = 2 })
	first, _ := w.watch("", ""), w.watch("", "")
	a := w.get("/api/v1/jobs?watch=true")
	w.wrong(a, 503, "2 watchers")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if a := w.get("/api/v1/jobs"); a.status != 200 {
		t.Errorf("a plain list is answered with %d", a.status)
	}
	first.disconnect()
	eventually(t, "the place of a client that went is free", func() bool { return w.server.watchers.count() == 1 })
	w.watch("", "").until("1.10")
}

// A client that goes is noticed at once, not by the next bookmark.
func TestAGoneClientIsNoticed(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Bookmark = time.Hour })
	c := w.watch("", "")
	c.until("1.10")
	c.disconnect()
	eventually(t, "the watch has ended", func() bool { return w.server.watchers.count() == 0 })
}

func TestCloseEndsWatchesInOrder(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Bookmark = time.Hour })
	c := w.watch("", "")
	c.until("1.10")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := w.server.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if e, ok := c.next(); !ok || e.Type != "bookmark" || e.Version != "1.10" {
		t.Errorf("the last event is %+v", e)
	}
	if _, ok := c.next(); ok || c.lines.Err() != nil {
		t.Errorf("the stream did not end in order: %v", c.lines.Err())
	}
}

// silent opens a watch and reads nothing of it, over a connection whose buffers are small.
func (w *world) silent() net.Conn {
	conn := w.dial()
	if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /api/v1/jobs?watch=true HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

func TestASilentClientIsCutOffAndCostsLittle(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.WriteTimeout = 3 * time.Second })
	w.fill(12_000) // a list of about 7 MB: more than the kernel takes for anybody
	const clients = 20
	runtime.GC()
	var before, during runtime.MemStats
	runtime.ReadMemStats(&before)
	for range clients {
		defer func(c net.Conn) { _ = c.Close() }(w.silent())
	}
	eventually(t, "all watch, and wait with little memory", func() bool {
		if w.server.watchers.count() != clients {
			return false
		}
		runtime.GC()
		runtime.ReadMemStats(&during)
		return int64(during.HeapAlloc)-int64(before.HeapAlloc) < clients*150<<10
	})
	if n := w.server.watchers.count(); n != clients {
		t.Errorf("only %d of %d were still there when the memory was measured", n, clients)
	}
	eventually(t, "all are cut off", func() bool { return w.server.watchers.count() == 0 })
	if !strings.Contains(w.log.String(), "cut off") {
		t.Error("the log does not tell of it")
	}
}

// A client that reads just enough for each write to succeed must not keep its snapshot for ever.
func TestATricklingClientEndsWithTheLongestWatch(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxWatch, o.WriteTimeout = 100*time.Millisecond, 2*time.Second })
	w.fill(60_000)
	conn := w.dial()
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /api/v1/jobs?watch=true HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it watches", func() bool { return w.server.watchers.count() == 1 })
	begin, buffer := time.Now(), make([]byte, 64<<10)
	for w.server.watchers.count() == 1 {
		if _, err := conn.Read(buffer); err != nil {
			break
		}
		time.Sleep(20 * time.Millisecond) // so that all of it would take some 12 s
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it was served for %s", took)
	}
}

func TestCloseCutsOffWhoDoesNotRead(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.WriteTimeout = time.Minute })
	w.fill(12_000)
	conn := w.silent()
	defer func() { _ = conn.Close() }()
	eventually(t, "it watches", func() bool { return w.server.watchers.count() == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := w.server.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if n := w.server.watchers.count(); n != 0 {
		t.Errorf("%d are still there", n)
	}
}

// A thousand watchers see the same changes, and cost no more than a thousand small stacks.
func TestAThousandWatchers(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Bookmark = time.Hour })
	w.put("orders")
	runtime.GC()
	var before, during runtime.MemStats
	runtime.ReadMemStats(&before)
	const clients = 1000
	conns := make([]net.Conn, clients)
	for i := range conns {
		conns[i] = w.dial()
		defer func(c net.Conn) { _ = c.Close() }(conns[i])
		if _, err := io.WriteString(conns[i], "GET /api/v1/jobs?watch=true HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all watch", func() bool { return w.server.watchers.count() == clients })
	for i := range 20 {
		w.put(fmt.Sprintf("orders-%d", i))
	}
	for _, conn := range conns {
		got, buffer := "", make([]byte, 64<<10)
		for !strings.Contains(got, `"version":"1.31"`) {
			n, err := conn.Read(buffer)
			if err != nil {
				t.Fatalf("after %d bytes: %v", len(got), err)
			}
			got += string(buffer[:n])
		}
		if n := strings.Count(got, `"type":"put"`); n != 21 {
			t.Fatalf("%d puts in %s", n, got)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&during)
	each := (int64(during.HeapAlloc+during.StackInuse) - int64(before.HeapAlloc+before.StackInuse)) / clients
	t.Logf("%d KiB a watcher", each>>10)
	if each > 48<<10 {
		t.Errorf("a watcher costs %d KiB", each>>10)
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
