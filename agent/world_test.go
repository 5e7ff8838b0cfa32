package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// world is one JobManager, one etcd that can be treated badly, and whatever agents a test runs between them.
type world struct {
	t      testing.TB
	jm     *flinktest.JobManager
	etcd   *etcdproc.Process
	client *clientv3.Client // the test's own
	who    evidence.Agent
	log    *logged
}

const testSite = "test"

func newWorld(t testing.TB, quota int64) *world {
	t.Helper()
	w := &world{
		t: t, jm: flinktest.New(t), etcd: etcdproc.Start(t, quota), log: &logged{},
		who: evidence.Agent{Namespace: "team", Cluster: "orders", PodUID: "uid-1"},
	}
	w.client = w.etcd.Client()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the agents' log:\n%s", w.log.String())
		}
	})
	return w
}

// options are quick ones.
func (w *world) options() Options {
	w.t.Helper()
	f, err := flink.Dial(w.jm.URL(), flink.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(f.Close)
	return Options{
		Site: testSite, Agent: w.who, Pod: "orders-7d", Version: "test", Flink: f, Etcd: w.etcd.Client(),
		Poll: 100 * time.Millisecond, Burst: 20 * time.Millisecond, Lease: 2 * time.Second, Repair: 500 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// run runs an agent. stop ends it in order and waits for it.
func (w *world) run(change ...func(*Agent)) (a *Agent, stop func()) {
	w.t.Helper()
	a, err := New(w.options())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range change {
		c(a)
	}
	return a, w.start(a)
}

func (w *world) start(a *Agent) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var ran sync.WaitGroup
	ran.Go(func() {
		if err := a.Run(ctx); err != nil {
			w.t.Errorf("Run ended with %v", err)
		}
	})
	stop = func() {
		cancel()
		ran.Wait()
	}
	w.t.Cleanup(stop)
	return stop
}

// addJob gives the JobManager a job.
func (w *world) addJob(name string, state job.State) string {
	id := flinktest.NewID()
	w.jm.SetJob(flinktest.Job{ID: id, Name: name, State: state})
	return id
}

// pair reads a key of etcd. Without an answer there is none.
func (w *world) pair(key string) (etcd.Pair, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	p, found, err := etcd.Read(ctx, w.client, key)
	return p, err == nil && found
}

func (w *world) report(id string) (evidence.Report, bool) {
	p, ok := w.pair(record.ReportKey(testSite, w.who, id))
	if !ok {
		return evidence.Report{}, false
	}
	r, err := record.DecodeReport(w.who, id, p.Value)
	if err != nil {
		return evidence.Report{}, false
	}
	return r, true
}

func (w *world) beat() (evidence.Beat, bool) {
	p, ok := w.pair(record.BeatKey(testSite, w.who))
	if !ok {
		return evidence.Beat{}, false
	}
	b, err := record.DecodeBeat(w.who, p.Value)
	if err != nil {
		w.t.Errorf("the beat does not read: %v", err)
		return evidence.Beat{}, false
	}
	if p.Lease == 0 && !b.Goodbye {
		w.t.Error("the beat hangs on no lease")
	}
	return b, true
}

// put writes into etcd as somebody else.
func (w *world) put(key string, value []byte) int64 {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	answer, err := w.client.Put(ctx, key, string(value))
	if err != nil {
		w.t.Fatal(err)
	}
	return answer.Header.Revision
}

func (w *world) delete(key string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := w.client.Delete(ctx, key); err != nil {
		w.t.Fatal(err)
	}
}

// wantReport waits until a job's report is as it should be, and gives it.
func (w *world) wantReport(id, what string, ok func(evidence.Report) bool) (found evidence.Report) {
	w.t.Helper()
	w.eventually(what, func() bool {
		r, there := w.report(id)
		found = r
		return there && ok(r)
	})
	return found
}

func (w *world) wantState(id string, state job.State) evidence.Report {
	w.t.Helper()
	return w.wantReport(id, "a report of "+state.String(), func(r evidence.Report) bool { return r.State == state })
}

func (w *world) wantBeat(what string, ok func(evidence.Beat) bool) (found evidence.Beat) {
	w.t.Helper()
	w.eventually(what, func() bool {
		b, there := w.beat()
		found = b
		return there && ok(b)
	})
	return found
}

func anyBeat(evidence.Beat) bool { return true }

// eventually waits, for as long as a busy machine may need.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	w.t.Fatalf("waited in vain for %s", what)
}

// looks waits for n more lists of jobs to be asked for.
func (w *world) looks(n int) {
	w.t.Helper()
	before := w.jm.Requests()["/jobs/overview"]
	w.eventually(fmt.Sprintf("%d more looks", n), func() bool { return w.jm.Requests()["/jobs/overview"] >= before+n })
}

// events gives all that happened below the agent's prefix since a revision, in order, as long as etcd still has it.
func (w *world) events(since int64) (all []etcd.Pair) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	prefix := record.AgentPrefix(testSite, w.who)
	head, err := w.client.Get(ctx, "\x00")
	if err != nil {
		w.t.Fatal(err)
	}
	if since > head.Header.Revision {
		return nil
	}
	for answer := range w.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(since), clientv3.WithProgressNotify()) {
		if answer.Err() != nil {
			w.t.Fatal(answer.Err())
		}
		for _, e := range answer.Events {
			all = append(all, etcd.Pair{
				Key: string(e.Kv.Key), Value: e.Kv.Value, ModRevision: e.Kv.ModRevision, Version: e.Kv.Version, Lease: e.Kv.Lease,
				Deleted: e.Type == clientv3.EventTypeDelete,
			})
		}
		if answer.Header.Revision >= head.Header.Revision {
			return all
		}
		if err := w.client.RequestProgress(ctx); err != nil {
			w.t.Fatal(err)
		}
	}
	w.t.Fatal(errors.New("the watch ended"))
	return nil
}

func (w *world) isBeat(p etcd.Pair) bool { return strings.HasSuffix(p.Key, "/beat") }

// logged is a log that tests can read.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// count is how often the log has a text.
func (l *logged) count(text string) int { return strings.Count(l.String(), text) }
