package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/aggregator/api"
	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
)

// patience bounds every wait for something that must come to pass. Nothing is asserted by it.
const patience = 30 * time.Second

// running is a Local that runs, and what to ask of it.
type running struct {
	t    *testing.T
	l    *Local
	log  *lockedBuffer
	stop context.CancelFunc
	done chan error
}

// quick are options with short times, for JobManagers by their names.
func quick(dir string, flinks map[string]*flinktest.JobManager) Options {
	o := fine(dir)
	o.Hold, o.Grace, o.Lease, o.Poll = 3*time.Second, 3*time.Second, 2*time.Second, 100*time.Millisecond
	o.Flinks = nil
	for name, jm := range flinks {
		o.Flinks = append(o.Flinks, Flink{name, jm.URL()})
	}
	return o
}

func start(t *testing.T, o Options) *running {
	t.Helper()
	r := &running{t: t, log: &lockedBuffer{}, done: make(chan error, 1)}
	o.Log = slog.New(slog.NewTextHandler(r.log, nil))
	var err error
	if r.l, err = New(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() {
		r.done <- r.l.Run(ctx)
		close(r.done)
	}()
	t.Cleanup(func() {
		stop()
		<-r.done
		if t.Failed() {
			t.Logf("the log:\n%s", r.log)
		}
	})
	return r
}

// end stops it in order, and makes sure that this takes seconds, not minutes.
func (r *running) end() {
	r.t.Helper()
	began := time.Now()
	r.stop()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		r.t.Fatal("it does not stop")
	}
	if took := time.Since(began); took > 4*time.Second {
		r.t.Errorf("it took %s to stop", took)
	}
}

// ask asks the API.
func (r *running) ask(path string, answer any) error {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + r.l.Address() + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d, %v: %s", path, resp.StatusCode, err, body)
	}
	return json.Unmarshal(body, answer)
}

// sees waits until the API shows a job so, and gives it.
func (r *running) sees(what, cluster, id string, is func(api.Job) bool) api.Job {
	r.t.Helper()
	var j api.Job
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		j = api.Job{}
		if err = r.ask("/api/v1/jobs/local/default/"+cluster+"/"+id, &j); err == nil && is(j) {
			return j
		}
	}
	r.t.Fatalf("never seen: %s; the last answer was %v, %+v", what, err, j)
	return j
}

// until waits until something is so.
func (r *running) until(what string, is func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("never came: %s; the log:\n%s", what, r.log.String())
		}
	}
}

func (r *running) history(cluster, id string) []api.Transition {
	r.t.Helper()
	var list api.TransitionList
	if err := r.ask("/api/v1/jobs/local/default/"+cluster+"/"+id+"/history", &list); err != nil {
		r.t.Fatal(err)
	}
	return list.Items
}

func so(state job.State, certainty job.Certainty) func(api.Job) bool {
	return func(j api.Job) bool { return j.State == state && j.Certainty == certainty }
}

// leavesNothing finds goroutines that were left behind, when the function that it gives is called.
func leavesNothing(t *testing.T) func() {
	before := goleak.IgnoreCurrent()
	return func() {
		goleak.VerifyNone(t, before,
			// One for the whole process, which keeps the time for headers.
			goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
			// A closed server's, which sleeps for 10 s before it looks whether it shall end.
			goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
	}
}

func TestLocal(t *testing.T) {
	defer leavesNothing(t)()
	orders, billing := flinktest.New(t), flinktest.New(t)
	defer orders.Close()
	defer billing.Close()
	runs, fails := flinktest.NewID(), flinktest.NewID()
	orders.SetJob(flinktest.Job{ID: runs, Name: "orders", State: job.Running})
	billing.SetJob(flinktest.Job{ID: fails, Name: "invoices", State: job.Running})
	o := quick(filepath.Join(t.TempDir(), "data"), map[string]*flinktest.JobManager{"orders": orders, "billing": billing})

	r := start(t, o)
	r.sees("the first job runs", "orders", runs, so(job.Running, job.Witnessed))
	r.sees("the second job runs", "billing", fails, so(job.Running, job.Witnessed))

	orders.Behave("", flinktest.Hang)
	held := r.sees("held while its JobManager hangs", "orders", runs, so(job.Running, job.Held))
	if held.Over != job.No || held.Reason != job.JobManagerUnreachable {
		t.Errorf("held: over %s, reason %s; want no, JobManagerUnreachable", held.Over, held.Reason)
	}
	r.sees("the other is not held", "billing", fails, so(job.Running, job.Witnessed))
	orders.Behave("", flinktest.Fine)
	r.sees("witnessed again", "orders", runs, so(job.Running, job.Witnessed))

	billing.SetState(fails, job.Failed)
	r.sees("failed", "billing", fails, so(job.Failed, job.Witnessed))
	before := map[string][]api.Transition{"orders": r.history("orders", runs), "billing": r.history("billing", fails)}
	r.end()

	// The same data folder goes on with what was known.
	r = start(t, o)
	again := r.sees("witnessed after a restart", "orders", runs, so(job.Running, job.Witnessed))
	if again.Attempt.Number != 1 {
		t.Errorf("attempt %d after a restart, want 1", again.Attempt.Number)
	}
	r.sees("still failed", "billing", fails, so(job.Failed, job.Witnessed))
	after := map[string][]api.Transition{"orders": r.history("orders", runs), "billing": r.history("billing", fails)}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the history changed by a restart: -before +after\n%s", diff)
	}

	orders.SetState(runs, job.Canceled)
	canceled := r.sees("canceled", "orders", runs, so(job.Canceled, job.Witnessed))
	if canceled.Over != job.Yes {
		t.Errorf("canceled, and over is %s", canceled.Over)
	}
	r.end()
}

// What was known is shown after a restart although no JobManager answers any more.
func TestLocalRemembers(t *testing.T) {
	defer leavesNothing(t)()
	jm := flinktest.New(t)
	id := flinktest.NewID()
	jm.SetJob(flinktest.Job{ID: id, Name: "orders", State: job.Running})
	o := quick(t.TempDir(), map[string]*flinktest.JobManager{"orders": jm})
	r := start(t, o)
	r.sees("the job runs", "orders", id, so(job.Running, job.Witnessed))
	r.end()
	jm.Close()

	r = start(t, o)
	r.sees("held after a restart", "orders", id, so(job.Running, job.Held))
	r.end()
}

// An agent takes over what it reported in an earlier run, although its pod is only a name: so it can say what became of a job
// that was there then.
func TestLocalTakesItsReportsOver(t *testing.T) {
	jm := flinktest.New(t)
	id := flinktest.NewID()
	jm.SetJob(flinktest.Job{ID: id, Name: "orders", State: job.Running})
	o := quick(t.TempDir(), map[string]*flinktest.JobManager{"orders": jm})
	r := start(t, o)
	r.sees("the job runs", "orders", id, so(job.Running, job.Witnessed))
	r.end()
	jm.Restart() // without the job
	r = start(t, o)
	r.sees("its JobManager does not know it", "orders", id, func(j api.Job) bool {
		return j.State == job.Running && j.Certainty == job.Held && j.Reason == job.JobMissing
	})
	r.end()
}

// What an earlier run that crashed held ended with it.
func TestLocalEndsOldLeases(t *testing.T) {
	o := fine(t.TempDir())
	o.Log = slog.New(slog.DiscardHandler)
	l, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.client.Grant(t.Context(), 3600); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if l, err = New(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	leases, err := l.client.Leases(t.Context())
	if err != nil || len(leases.Leases) != 0 {
		t.Errorf("%d leases are left, %v", len(leases.Leases), err)
	}
}

// An etcd that dies takes the rest with it, with a word.
func TestLocalEndsWithItsStore(t *testing.T) {
	defer leavesNothing(t)()
	jm := flinktest.New(t)
	defer jm.Close()
	r := start(t, quick(t.TempDir(), map[string]*flinktest.JobManager{"orders": jm}))
	r.until("it leads", func() bool { return strings.Contains(r.log.String(), "leading") })
	r.l.store.Close()
	select {
	case err := <-r.done:
		if !errors.Is(err, errStore) {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it runs on without a store")
	}
}

// Nobody reads a log that repeats itself.
func TestLocalIsQuiet(t *testing.T) {
	jm, away := flinktest.New(t), flinktest.New(t)
	id := flinktest.NewID()
	jm.SetJob(flinktest.Job{ID: id, Name: "orders", State: job.Running})
	away.Behave("", flinktest.Refuse)
	r := start(t, quick(t.TempDir(), map[string]*flinktest.JobManager{"orders": jm, "away": away}))
	r.sees("the job runs", "orders", id, so(job.Running, job.Witnessed))
	// By then all is said that there is to say of the one that cannot be reached, and each has been asked dozens of times.
	r.until("it says so of the one that is away", func() bool {
		return strings.Contains(r.log.String(), "cluster=default/away condition=Unknown")
	})
	asked := func() int { return jm.Requests()["/jobs/overview"] }
	r.until("40 questions", func() bool { return asked() >= 40 })
	early := r.log.String()
	more := asked() + 40
	r.until("40 more", func() bool { return asked() >= more })
	if late := strings.TrimPrefix(r.log.String(), early); late != "" {
		t.Errorf("an idle run logs:\n%s", late)
	}
	if lines := strings.Count(early, "\n"); lines > 17 {
		t.Errorf("the start logs %d lines:\n%s", lines, early)
	}
	r.end()
}

func TestLocalRefusesAnAddressInUse(t *testing.T) {
	defer leavesNothing(t)()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	o := fine(t.TempDir())
	o.Listen, o.Log = taken.Addr().String(), slog.New(slog.DiscardHandler)
	_, err = New(t.Context(), o)
	if want := "another program already listens on " + o.Listen + ": stop it, or choose another address with --listen"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	// What was begun was given back.
	o.Listen = "127.0.0.1:0"
	l, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestLocalRefusesAFolderInUse(t *testing.T) {
	jm := flinktest.New(t)
	o := quick(t.TempDir(), map[string]*flinktest.JobManager{"orders": jm})
	r := start(t, o)
	o.Log = slog.New(slog.DiscardHandler)
	if _, err := New(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is in use by another 'holdfast local'") {
		t.Errorf("%v", err)
	}
	r.end()
}

// The data of another life of the folder is not taken for ours.
func TestLocalRefusesForeignData(t *testing.T) {
	jm := flinktest.New(t)
	o := quick(t.TempDir(), map[string]*flinktest.JobManager{"orders": jm})
	r := start(t, o)
	id := flinktest.NewID()
	jm.SetJob(flinktest.Job{ID: id, Name: "orders", State: job.Running})
	r.sees("the job runs", "orders", id, so(job.Running, job.Witnessed))
	r.end()
	if err := os.WriteFile(filepath.Join(o.Data, identityFile), []byte(`{"v":1,"uid":"another"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r = start(t, o)
	select {
	case err := <-r.done:
		if err == nil || !strings.Contains(err.Error(), "belongs to another cluster") {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it runs on another's data")
	}
}

type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
