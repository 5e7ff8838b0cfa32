package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// fasthttp keeps one goroutine that renders the date for all servers of the process, and one a server that looks
		// each 10 s whether to end.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"),
	)
}

const (
	testHold = 30 * time.Second
	at       = job.Stamp("2026-01-02T15:04:05.000Z")
)

// world is a server on loopback, the board that it shows, and the hand that feeds the board.
type world struct {
	t        testing.TB
	board    *board.Board
	server   *Server
	history  *fakeHistory
	registry *prometheus.Registry
	address  string
	log      *buffer
	client   *http.Client

	mu       sync.Mutex
	revision int64
	// late is how far the board's clock is ahead of the real one.
	late atomic.Int64
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// fakeHistory is a History in memory.
type fakeHistory struct {
	page HistoryPage
	err  error
	wait bool
	key  job.Key
}

func (h *fakeHistory) History(ctx context.Context, key job.Key, limit int) (HistoryPage, error) {
	h.key = key
	if h.wait {
		<-ctx.Done()
		return HistoryPage{}, ctx.Err()
	}
	page := h.page
	if extra := len(page.Transitions) - limit; extra > 0 {
		page.Transitions = page.Transitions[extra:]
	}
	return page, h.err
}

// newWorld starts a server whose board has seen everything up to revision 10 of epoch 1, and no job.
func newWorld(t testing.TB, adapt ...func(*Options)) *world {
	t.Helper()
	w := emptyWorld(t, adapt...)
	w.apply(board.Identity, etcd.Listed, 10, etcd.Pair{Key: record.IdentityKey("default"), Value: record.EncodeIdentity(record.SiteIdentity{UID: "u", Epoch: 1}), ModRevision: 1})
	w.lead()
	w.apply(board.Condition, etcd.Listed, 10)
	w.apply(board.Verdicts, etcd.Listed, 10)
	w.apply(board.Clusters, etcd.Listed, 10)
	w.revision = 10
	return w
}

// emptyWorld starts a server whose board has seen nothing.
func emptyWorld(t testing.TB, adapt ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, history: &fakeHistory{}, registry: prometheus.NewRegistry(), log: &buffer{}}
	var err error
	w.board, err = board.New(board.Options{
		Site: "default", Hold: testHold, Ring: 512,
		Now: func() time.Time { return time.Now().Add(time.Duration(w.late.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Board: w.board, History: w.history, Registry: w.registry, Version: "1.2.3", Bookmark: 50 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, change := range adapt {
		change(&o)
	}
	if w.server, err = New(o); err != nil {
		t.Fatal(err)
	}
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = ln.Addr().String()
	w.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		w.client.CloseIdleConnections()
		if err := w.server.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return w
}

func (w *world) apply(f board.Feed, kind etcd.UpdateKind, revision int64, pairs ...etcd.Pair) {
	u := etcd.Update{Kind: kind, Epoch: 1, Revision: revision, Pairs: pairs}
	if kind == etcd.Lost {
		u.Err = errors.New("no answer")
	}
	w.board.Apply(f, u)
}

func (w *world) lead() {
	leader := record.SiteLeader{Name: "aggregator-0", Address: "10.0.0.7:7070", Since: at}
	w.apply(board.Leader, etcd.Listed, 10, etcd.Pair{Key: record.LeaderKey("default"), Value: record.EncodeLeader(leader), ModRevision: 2})
}

func (w *world) freeze(c record.SiteCondition) {
	w.apply(board.Condition, etcd.Changed, w.next(), etcd.Pair{Key: record.ConditionKey("default"), Value: record.EncodeCondition(c), ModRevision: w.revision})
}

func (w *world) next() int64 {
	w.revision++
	return w.revision
}

// later moves the board's clock.
func (w *world) later(d time.Duration) { w.late.Add(int64(d)) }

// heard proves all feeds to be alive.
func (w *world) heard() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range board.Feeds() {
		w.apply(f, etcd.Progressed, w.revision)
	}
}

// keyOf makes a job's key of "cluster", "namespace/cluster" or "namespace/cluster/id".
func keyOf(path string) job.Key {
	parts := strings.Split(path, "/")
	switch len(parts) {
	case 1:
		return job.Key{Namespace: "team-a", Cluster: path, ID: "a1"}
	case 2:
		return job.Key{Namespace: parts[0], Cluster: parts[1], ID: "a1"}
	}
	return job.Key{Namespace: parts[0], Cluster: parts[1], ID: parts[2]}
}

func running() job.Verdict {
	return job.Verdict{
		Name: "Orders", Pipeline: "orders", State: job.Running, Over: job.No, Certainty: job.Witnessed, Since: at, LastSeen: at,
		Attempt: job.Attempt{Number: 2, StartTime: at}, Tasks: job.Tasks{Total: 4, Running: 4}, Via: job.ViaREST,
		Evidence: []job.Statement{{Source: "agent", Subject: "pod/orders-7d", Says: "RUNNING", At: at}},
	}
}

// put writes a job's verdict, changed as told, at the next revision.
func (w *world) put(path string, change ...func(*job.Verdict)) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := running()
	for _, c := range change {
		c(&v)
	}
	revision := w.next()
	w.apply(board.Verdicts, etcd.Changed, revision, pairOf(keyOf(path), v, revision))
	return revision
}

// both writes two verdicts in one transaction.
func (w *world) both(first, second string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	revision := w.next()
	w.apply(board.Verdicts, etcd.Changed, revision, pairOf(keyOf(first), running(), revision), pairOf(keyOf(second), running(), revision))
}

func pairOf(key job.Key, v job.Verdict, revision int64) etcd.Pair {
	value := record.EncodeAccount(job.Account{Key: key, Verdict: v, Books: job.Books{Sequence: 1}})
	return etcd.Pair{Key: record.VerdictKey("default", key), Value: value, ModRevision: revision}
}

// putCluster writes what is said of a cluster of team-a, or of "namespace/cluster".
func (w *world) putCluster(path string, c job.Cluster) {
	w.mu.Lock()
	defer w.mu.Unlock()
	revision := w.next()
	c.Sequence = revision
	pair := etcd.Pair{Key: record.ClusterKey("default", keyOf(path).ClusterKey()), Value: record.EncodeCluster(c), ModRevision: revision}
	w.apply(board.Clusters, etcd.Changed, revision, pair)
}

func (w *world) remove(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	revision := w.next()
	w.apply(board.Verdicts, etcd.Changed, revision, etcd.Pair{Key: record.VerdictKey("default", keyOf(path)), ModRevision: revision, Deleted: true})
}

// answer is a response that was read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request; headers are "Name: value".
func (w *world) do(method, path string, headers ...string) answer {
	w.t.Helper()
	request, err := http.NewRequest(method, "http://"+w.address+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Set(name, value)
	}
	response, err := w.client.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, body}
}

func (w *world) get(path string, headers ...string) answer {
	w.t.Helper()
	return w.do("GET", path, headers...)
}

// into reads a good answer as a T, strictly.
func into[T any](t testing.TB, a answer) (out T) {
	t.Helper()
	if a.status != 200 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	strict(t, a.body, &out)
	return out
}

func strict(t testing.TB, data []byte, out any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(out); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
}

// list gets all pages of a list of jobs.
func (w *world) list(query string) JobList {
	w.t.Helper()
	return into[JobList](w.t, w.get("/api/v1/jobs?"+query))
}

// names gives the jobs of a list as namespace/cluster, or namespace/cluster/id where the id is not the usual one.
func names(list []Job) (out []string) {
	for _, j := range list {
		out = append(out, j.name())
	}
	return out
}

func (j *Job) name() string {
	if j.JobID == "a1" {
		return j.Namespace + "/" + j.Cluster
	}
	return j.Namespace + "/" + j.Cluster + "/" + j.JobID
}

// wrong reads an answer as the problem that it must be.
func (w *world) wrong(a answer, status int, says ...string) Problem {
	w.t.Helper()
	if a.status != status || a.header.Get("Content-Type") != problemType {
		w.t.Errorf("status %d, %s, want %d as a problem: %s", a.status, a.header.Get("Content-Type"), status, a.body)
	}
	var p Problem
	strict(w.t, a.body, &p)
	if p.Status != status || p.Type == "" || p.Title == "" || p.Detail == "" {
		w.t.Errorf("an incomplete problem: %s", a.body)
	}
	for _, text := range says {
		if !strings.Contains(p.Detail, text) {
			w.t.Errorf("the problem does not say %q: %s", text, p.Detail)
		}
	}
	return p
}

// raw sends bytes over a connection of its own and returns what comes back until the server closes it.
func (w *world) raw(send string) string {
	w.t.Helper()
	conn := w.dial()
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, send); err != nil {
		w.t.Fatal(err)
	}
	// The server closes the connection, maybe before it has read everything: what it said before that counts.
	got, _ := io.ReadAll(conn)
	return string(got)
}

func (w *world) dial() net.Conn {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// eventually waits for a condition that other goroutines bring about.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 10 s still not: %s", what)
		}
	}
}

// fill puts n jobs at once.
func (w *world) fill(n int) {
	pairs := make([]etcd.Pair, n)
	for i := range pairs {
		key := job.Key{Namespace: "team-a", Cluster: fmt.Sprintf("orders-%06d", i), ID: fmt.Sprintf("%032x", i)}
		pairs[i] = pairOf(key, running(), int64(i+11))
	}
	w.revision = int64(n + 11)
	w.apply(board.Verdicts, etcd.Listed, w.revision, pairs...)
}
