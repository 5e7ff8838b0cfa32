package aggregator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
	"github.com/holdfast-dev/holdfast/settle"
	"github.com/holdfast-dev/holdfast/test/metric"
)

func TestMain(m *testing.M) {
	etcdproc.Main()
	replicaMain()
	os.Exit(m.Run())
}

const site = "test"

// impatient keeps tests short. The lease is the shortest that etcd grants.
func impatient() settle.Config {
	c := settle.DefaultConfig()
	c.Hold, c.Lease, c.Grace, c.Tick, c.Silence = 4*time.Second, 2*time.Second, time.Second, 50*time.Millisecond, 1500*time.Millisecond
	return c
}

// replica is a running aggregator.
type replica struct {
	*Aggregator
	t    *testing.T
	stop func()
	// planted is how many differences from etcd the test has planted.
	planted int
}

// differences is how many the checks of a memory have found, and checks how many went through.
func (r *replica) differences(memory string) int {
	r.t.Helper()
	return r.metric(fmt.Sprintf(`holdfast_check_differences_total{memory=%q`, memory))
}

func (r *replica) checks(memory string) int {
	r.t.Helper()
	return r.metric(fmt.Sprintf(`holdfast_checks_total{memory=%q,outcome=%q`, memory, checkDone))
}

// metric is the sum of the series that begin with a prefix.
func (r *replica) metric(prefix string) int {
	r.t.Helper()
	sum, err := metric.Sum(context.Background(), "http://"+r.Address(), prefix)
	if err != nil {
		r.t.Fatal(err)
	}
	return int(sum)
}

func start(t *testing.T, client *clientv3.Client, name string) *replica {
	t.Helper()
	return startWith(t, Options{Site: site, UID: "uid-1", Name: name, Etcd: client, Settle: impatient()})
}

func startWith(t *testing.T, o Options) *replica {
	t.Helper()
	o.Listen, o.LeaderLease = "127.0.0.1:0", 2*time.Second
	if o.CheckPeriod == 0 {
		o.CheckPeriod = 250 * time.Millisecond
	}
	if testing.Verbose() && o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil)).With("replica", o.Name)
	}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	r := &replica{Aggregator: a, t: t}
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		if found := r.differences(boardMemory) + r.differences(settlerMemory); found != r.planted {
			t.Errorf("%s: %d records were remembered otherwise than they lay in etcd, want %d", o.Name, found, r.planted)
		}
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s ended with %v", o.Name, err)
			}
		case <-time.After(15 * time.Second):
			t.Errorf("%s does not stop", o.Name)
		}
	}
	t.Cleanup(r.stop)
	return r
}

// answer is what the API says of a job, as far as the tests look.
type answer struct {
	State, Certainty, Over, Reason, Message, Version string
	Attempt                                          struct{ Number int }
	Since                                            string
}

func (a answer) String() string {
	return fmt.Sprintf("%s %s over=%s #%d %s", a.State, a.Certainty, a.Over, a.Attempt.Number, a.Reason)
}

func (r *replica) get(path string, into any) int {
	r.t.Helper()
	response, err := http.Get("http://" + r.Address() + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if into != nil && response.StatusCode == http.StatusOK {
		if err := json.Unmarshal(body, into); err != nil {
			r.t.Fatalf("%s: %v in %s", path, err, body)
		}
	}
	return response.StatusCode
}

func (r *replica) job(id string) answer {
	r.t.Helper()
	var a answer
	if code := r.get("/api/v1/jobs/"+r.o.Site+"/default/orders/"+id, &a); code != http.StatusOK {
		a.State = fmt.Sprintf("HTTP %d", code)
	}
	return a
}

// until waits for what a job is to become, and fails if it was ever what must not be.
func (r *replica) until(id, want string, never ...string) answer {
	r.t.Helper()
	var last answer
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		last = r.job(id)
		for _, word := range never {
			if strings.Contains(last.String(), word) {
				r.t.Fatalf("%s is %s on the way to %q", id, last, want)
			}
		}
		if strings.HasPrefix(last.String(), want) {
			return last
		}
	}
	r.t.Fatalf("%s is %s, want %q", id, last, want)
	return last
}

// history reads a job's history and checks that it has no hole and ends in what is shown.
func (r *replica) history(id string) []string {
	r.t.Helper()
	var list struct {
		Items []struct {
			Sequence  int64
			Kind      string
			State     string
			Certainty string
			Attempt   struct{ Number int }
		}
	}
	if code := r.get("/api/v1/jobs/"+r.o.Site+"/default/orders/"+id+"/history", &list); code != http.StatusOK {
		r.t.Fatalf("history: HTTP %d", code)
	}
	var words []string
	for i, item := range list.Items {
		if i > 0 && item.Sequence != list.Items[i-1].Sequence+1 {
			r.t.Errorf("history of %s: %d comes after %d", id, item.Sequence, list.Items[i-1].Sequence)
		}
		words = append(words, item.State+" "+item.Certainty)
	}
	return words
}

// witness writes what an agent would write.
type witness struct {
	t      *testing.T
	client *clientv3.Client
	site   string
	agent  evidence.Agent
	lease  clientv3.LeaseID
	n      int64
	seen   map[string][]evidence.Transition
	stop   context.CancelFunc
	// application is what the beat says of the cluster.
	application job.Answer
}

func newWitness(t *testing.T, client *clientv3.Client, uid string) *witness {
	return &witness{
		t: t, client: client, site: site, agent: evidence.Agent{Namespace: "default", Cluster: "orders", PodUID: uid},
		seen: map[string][]evidence.Transition{},
	}
}

func (w *witness) beat() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w.t.Cleanup(cancel)
	w.stop = cancel
	granted, err := w.client.Grant(ctx, 2)
	if err != nil {
		w.t.Fatal(err)
	}
	w.lease = granted.ID
	alive, err := w.client.KeepAlive(ctx, w.lease)
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		for range alive {
		}
	}()
	b := evidence.Beat{
		Agent: w.agent, Session: "s-" + w.agent.PodUID, Incarnation: "i-1", Reach: job.Fine, HighAvailability: job.No, At: "now",
		Application: w.application,
	}
	w.put(record.BeatKey(w.site, w.agent), record.EncodeBeat(b), clientv3.WithLease(w.lease))
}

// leave is the last word of an agent that ends in order.
func (w *witness) leave() {
	w.t.Helper()
	goodbye := evidence.Beat{Agent: w.agent, Session: "s-" + w.agent.PodUID, Goodbye: true, At: "now"}
	w.put(record.BeatKey(w.site, w.agent), record.EncodeBeat(goodbye), clientv3.WithLease(w.lease))
}

func (w *witness) report(id string, start job.Stamp, states ...job.State) {
	w.t.Helper()
	for _, s := range states {
		w.n++
		all := w.seen[id]
		w.seen[id] = append(all, evidence.Transition{
			Number: int64(len(all) + 1), State: s, StartTime: start, At: job.StampOf(time.Now().UnixMilli()), Via: job.ViaREST,
			CauseAsked: job.Yes,
		})
	}
	all := w.seen[id]
	newest := all[len(all)-1]
	w.put(record.ReportKey(w.site, w.agent, id), record.EncodeReport(evidence.Report{
		Agent: w.agent, JobID: id, Session: "s-" + w.agent.PodUID, Sequence: w.n, Incarnation: "i-1", Name: "orders", Reach: job.Fine,
		StartTime: newest.StartTime, State: newest.State, Via: job.ViaREST, Known: job.Yes, LastAnswer: newest.At, Transitions: all,
	}))
}

func (w *witness) put(key string, value []byte, o ...clientv3.OpOption) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := w.client.Put(ctx, key, string(value), o...); err != nil {
		w.t.Fatal(err)
	}
}

// die stops the keepalives: the lease runs out by itself.
func (w *witness) die() { w.stop() }

const orders = "a1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4"

func TestAReportBecomesAVerdictAndSilenceHoldsIt(t *testing.T) {
	t.Parallel()
	client := etcdproc.Start(t, 0).Client()
	r := start(t, client, "one")
	w := newWitness(t, client, "pod-1")
	w.report(orders, "T1", job.Created, job.Running)
	w.beat()
	r.until(orders, "RUNNING Witnessed over=no #1 FlinkSaid")

	w.die()
	r.until(orders, "RUNNING Held over=no #1 AgentSilent", "FAILED", "UNKNOWN")

	w.beat()
	w.report(orders, "T1", job.Finished)
	r.until(orders, "FINISHED Witnessed over=yes #1", "FAILED", "UNKNOWN")

	w.report(orders, "T2", job.Running)
	r.until(orders, "RUNNING Witnessed over=no #2", "FAILED", "UNKNOWN")

	want := []string{"CREATED Witnessed", "RUNNING Witnessed", "RUNNING Held"}
	got := r.history(orders)
	if len(got) < 5 || strings.Join(got[:3], ", ") != strings.Join(want, ", ") || got[len(got)-1] != "RUNNING Witnessed" {
		t.Errorf("history: %v", got)
	}
}

func TestARestartFindsWhatWasServed(t *testing.T) {
	t.Parallel()
	client := etcdproc.Start(t, 0).Client()
	r := start(t, client, "one")
	w := newWitness(t, client, "pod-1")
	w.beat()
	w.report(orders, "T1", job.Running, job.Failed)
	w.report("b1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4", "T1", job.Running)
	before := r.until(orders, "FAILED Witnessed over=yes #1")
	r.until("b1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4", "RUNNING Witnessed")
	r.stop()

	r = start(t, client, "two")
	if after := r.until(orders, "FAILED Witnessed over=yes #1", "RUNNING"); after.Since != before.Since {
		t.Errorf("since %s became %s", before.Since, after.Since)
	}
	r.until("b1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4", "RUNNING Witnessed", "FAILED", "UNKNOWN")
	if got := r.history(orders); len(got) != 2 {
		t.Errorf("the restart changed the history: %v", got)
	}
	// S4: what is terminal is watched like everything else.
	w.report(orders, "T2", job.Running)
	r.until(orders, "RUNNING Witnessed over=no #2")
}

func TestASecondReplicaTakesOverAndAnswersThroughout(t *testing.T) {
	t.Parallel()
	proc := etcdproc.Start(t, 0)
	one, two := start(t, proc.Client(), "one"), start(t, proc.Client(), "two")
	w := newWitness(t, proc.Client(), "pod-1")
	w.beat()
	w.report(orders, "T1", job.Running)
	one.until(orders, "RUNNING Witnessed")
	two.until(orders, "RUNNING Witnessed")

	leader, other := one, two
	if !one.settler.reigning.Load() {
		leader, other = two, one
	}
	leader.stop()
	w.report(orders, "T1", job.Restarting, job.Running, job.Finished)
	other.until(orders, "FINISHED Witnessed over=yes #1", "FAILED", "UNKNOWN", "HTTP")
	if got := strings.Join(other.history(orders), ", "); got != "RUNNING Witnessed, RESTARTING Witnessed, RUNNING Witnessed, FINISHED Witnessed" {
		t.Errorf("history: %s", got)
	}
}

// Two sites share an etcd, and run the same namespace, cluster and job id: what is so of one says nothing of the other.
func TestTwoSitesShareAnEtcd(t *testing.T) {
	t.Parallel()
	client := etcdproc.Start(t, 0).Client()
	east := startWith(t, Options{Site: "east", UID: "uid-1", Name: "one", Etcd: client, Settle: impatient()})
	west := startWith(t, Options{Site: "west", UID: "uid-2", Name: "two", Etcd: client, Settle: impatient()})
	var witnesses []*witness
	for _, r := range []*replica{east, west} {
		w := newWitness(t, client, "pod-1")
		w.site = r.o.Site
		w.beat()
		w.report(orders, "T1", job.Running)
		r.until(orders, "RUNNING Witnessed over=no #1")
		witnesses = append(witnesses, w)
	}
	witnesses[0].report(orders, "T1", job.Failed)
	east.until(orders, "FAILED Witnessed over=yes #1")
	witnesses[1].report(orders, "T1", job.Restarting)
	west.until(orders, "RESTARTING Witnessed over=no #1", "FAILED", "UNKNOWN")
	witnesses[0].die()
	east.until(orders, "FAILED Witnessed over=yes #1", "Held")
	west.until(orders, "RESTARTING Witnessed over=no #1", "FAILED", "UNKNOWN", "Held")
	var list struct{ Items []struct{ Site string } }
	if west.get("/api/v1/jobs", &list); len(list.Items) != 1 || list.Items[0].Site != "west" {
		t.Errorf("the west shows %v", list.Items)
	}
}

// A leader that cannot write what it judges holds its lease all the same, since keepalives go on: it is not believed for longer than the hold time.
func TestALeaderThatCannotWriteIsNotBelieved(t *testing.T) {
	t.Parallel()
	proc := etcdproc.Start(t, 16<<20)
	client := proc.Client()
	one, two := start(t, client, "one"), start(t, client, "two")
	w := newWitness(t, client, "pod-1")
	w.beat()
	w.report(orders, "T1", job.Running)
	for _, r := range []*replica{one, two} {
		r.until(orders, "RUNNING Witnessed")
	}
	ticks := map[job.Stamp]bool{}
	for deadline := time.Now().Add(2 * impatient().Hold); len(ticks) < 3 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if leader, leads := two.board.Snapshot().Leader(); leads {
			ticks[leader.Ticked] = true
		}
	}
	if len(ticks) < 3 {
		t.Fatalf("in two hold times the leader showed life at %v", ticks)
	}
	block := strings.Repeat("x", 1<<20)
	for i := 0; ; i++ {
		if _, err := client.Put(t.Context(), fmt.Sprintf("block/%d", i), block); errors.Is(err, rpctypes.ErrNoSpace) {
			break
		} else if err != nil || i > 64 {
			t.Fatalf("block %d: %v", i, err)
		}
	}
	for _, r := range []*replica{one, two} {
		r.until(orders, "RUNNING Held over=no #1 NoSettler", "FAILED", "UNKNOWN", "HTTP")
	}
	leader := one
	if !one.settler.reigning.Load() {
		leader = two
	}
	var status struct{ Sources []struct{ Name, Why string } }
	leader.get("/api/v1/status", &status)
	if last := status.Sources[len(status.Sources)-1]; last.Name != "settler: writes" || !strings.Contains(last.Why, "etcd is out of space") {
		t.Errorf("the leader's status says %+v", status.Sources)
	}
}

func TestADeposedLeaderIsRefused(t *testing.T) {
	t.Parallel()
	client := etcdproc.Start(t, 0).Client()
	ctx := t.Context()
	if _, err := client.Put(ctx, record.LeaderKey(site), "somebody else"); err != nil {
		t.Fatal(err)
	}
	m, err := newMetrics(noRegistry{})
	if err != nil {
		t.Fatal(err)
	}
	deposed := etcd.Term{Key: record.LeaderKey(site), CreateRevision: 1}
	outcomes := make(chan outcome, 1)
	w := newWriter(site, client, deposed, slog.New(slog.DiscardHandler), m, func(o outcome) { outcomes <- o })
	go w.run(ctx)
	key := job.Key{Namespace: "default", Cluster: "orders", ID: orders}
	w.add(settle.Write{Account: job.Account{Key: key, Books: job.Books{Sequence: 1}}, Entries: []job.Transition{{Sequence: 1}}})
	if o := <-outcomes; !errors.Is(o.err, etcd.ErrRefused) {
		t.Errorf("the write of a deposed leader ended with %v", o.err)
	}
	if pairs, _, err := etcd.ReadAll(ctx, client, record.SitePrefix(site), 0); err != nil || len(pairs) != 1 {
		t.Errorf("etcd holds %d keys, %v; want the leader's alone", len(pairs), err)
	}
}

func TestTheLongestHistoryIsPrunedInTheSameTransaction(t *testing.T) {
	t.Parallel()
	client := etcdproc.Start(t, 0).Client()
	ctx := t.Context()
	put, err := client.Put(ctx, record.LeaderKey(site), "us")
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMetrics(noRegistry{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWriter(site, client, etcd.Term{Key: record.LeaderKey(site), CreateRevision: put.Header.Revision}, slog.New(slog.DiscardHandler), m, nil)
	key := job.Key{Namespace: "default", Cluster: "orders", ID: orders}
	var revision int64
	for sequence := int64(1); sequence <= job.HistoryLimit+50; sequence += 10 {
		e := settle.Write{Account: job.Account{Key: key, Books: job.Books{Sequence: sequence + 9}}, IfRevision: revision}
		for i := range int64(10) {
			e.Entries = append(e.Entries, job.Transition{Sequence: sequence + i, State: job.Running})
		}
		if _, err := w.write(ctx, e); err != nil {
			t.Fatal(err)
		}
		got, err := client.Get(ctx, record.VerdictKey(site, key))
		if err != nil {
			t.Fatal(err)
		}
		revision = got.Kvs[0].ModRevision
	}
	pairs, _, err := etcd.ReadAll(ctx, client, record.HistoryPrefix(site, key), 0)
	if err != nil || len(pairs) != job.HistoryLimit {
		t.Fatalf("%d entries, %v; want %d", len(pairs), err, job.HistoryLimit)
	}
	if want := record.HistoryKey(site, key, 51); pairs[0].Key != want {
		t.Errorf("the oldest is %s, want %s", pairs[0].Key, want)
	}

	if err := w.forget(ctx, settle.Forget{Key: key, IfRevision: revision}); err != nil {
		t.Fatal(err)
	}
	if pairs, _, err := etcd.ReadAll(ctx, client, record.SitePrefix(site), 0); err != nil || len(pairs) != 1 {
		t.Errorf("%d keys are left, %v; want the leader's alone", len(pairs), err)
	}
}

// Reports of an agent go together, and none of them while the agent beats, or where one was written again.
func TestReportsOfADepartedAgentAreSwept(t *testing.T) {
	t.Parallel()
	client := etcdproc.Start(t, 0).Client()
	ctx := t.Context()
	put := func(key string) int64 {
		t.Helper()
		put, err := client.Put(ctx, key, "something")
		if err != nil {
			t.Fatal(err)
		}
		return put.Header.Revision
	}
	m, err := newMetrics(noRegistry{})
	if err != nil {
		t.Fatal(err)
	}
	term := etcd.Term{Key: record.LeaderKey(site), CreateRevision: put(record.LeaderKey(site))}
	w := newWriter(site, client, term, slog.New(slog.DiscardHandler), m, nil)
	agent := evidence.Agent{Namespace: "default", Cluster: "orders", PodUID: "gone"}
	other := record.ReportKey(site, evidence.Agent{Namespace: "default", Cluster: "orders", PodUID: "gone2"}, orders)
	put(other)
	sweep := func() error {
		e := settle.Sweep{Agent: agent}
		for i := range 100 {
			id := fmt.Sprintf("%032x", i)
			got, err := client.Get(ctx, record.ReportKey(site, agent, id))
			if err != nil || len(got.Kvs) != 1 {
				t.Fatalf("report %s: %v, %v", id, got, err)
			}
			e.Reports = append(e.Reports, settle.SweptReport{JobID: id, IfRevision: got.Kvs[0].ModRevision})
		}
		return w.sweep(ctx, e)
	}
	for i := range 100 {
		put(record.ReportKey(site, agent, fmt.Sprintf("%032x", i)))
	}
	put(record.BeatKey(site, agent))
	if err := sweep(); !errors.Is(err, etcd.ErrRefused) {
		t.Fatalf("while the agent beats: %v, want a refusal", err)
	}
	if _, err := client.Delete(ctx, record.BeatKey(site, agent)); err != nil {
		t.Fatal(err)
	}
	stale := settle.Sweep{Agent: agent, Reports: []settle.SweptReport{{JobID: fmt.Sprintf("%032x", 1), IfRevision: 1}}}
	if err := w.sweep(ctx, stale); !errors.Is(err, etcd.ErrRefused) {
		t.Fatalf("a report that is another by now: %v, want a refusal", err)
	}
	if err := sweep(); err != nil {
		t.Fatal(err)
	}
	pairs, _, err := etcd.ReadAll(ctx, client, record.SitePrefix(site), 0)
	if err != nil || len(pairs) != 2 {
		t.Errorf("%d keys are left, %v; want the leader's and another agent's report", len(pairs), err)
	}
}

func TestAnEmptiedStoreIsFilledAgain(t *testing.T) {
	t.Parallel()
	proc := etcdproc.Start(t, 0)
	client := proc.Client()
	r := start(t, client, "one")
	w := newWitness(t, client, "pod-1")
	w.beat()
	w.report(orders, "T1", job.Running, job.Finished)
	old := r.until(orders, "FINISHED Witnessed over=yes #1")
	// What is served may be a moment ahead of what the settler was told.
	if err := r.settler.ask(t.Context(), func() bool { return len(r.settler.writing) == 0 }); err != nil {
		t.Fatal(err)
	}

	proc.Empty()
	proc.Restart()
	// Nobody who could tell is left; what was known is kept, and goes into the store again.
	r.until(orders, "FINISHED", "RUNNING", "FAILED", "UNKNOWN", "HTTP")
	key := record.VerdictKey(site, job.Key{Namespace: "default", Cluster: "orders", ID: orders})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, found, err := etcd.Read(t.Context(), client, key); err == nil && found {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the verdict is not in the store again")
		}
	}
	r.until(orders, "FINISHED Witnessed over=yes #1")
	if _, found, err := etcd.Read(t.Context(), client, record.ConditionKey(site)); err != nil || !found {
		t.Errorf("the site's condition is in the store again: %v, %v", found, err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		code := r.get("/api/v1/jobs?watch=true&version="+old.Version, nil)
		if code == http.StatusGone {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a version of the old epoch gets HTTP %d, want 410", code)
		}
	}
}

func TestAnIdentityThatWasTakenAwayIsGivenBack(t *testing.T) {
	t.Parallel()
	client := etcdproc.Start(t, 0).Client()
	r := start(t, client, "one")
	w := newWitness(t, client, "pod-1")
	w.beat()
	w.report(orders, "T1", job.Running)
	old := r.until(orders, "RUNNING Witnessed")
	if _, err := client.Delete(t.Context(), record.IdentityKey(site)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		pair, found, err := etcd.Read(t.Context(), client, record.IdentityKey(site))
		if err == nil && found {
			if id, err := record.DecodeIdentity(pair.Value); err != nil || id.UID != "uid-1" || id.Epoch != 2 {
				t.Errorf("the identity is %+v, %v", id, err)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the site has no identity")
		}
	}
	if now := r.until(orders, "RUNNING Witnessed"); now.Version == old.Version {
		t.Errorf("version %s is one of two epochs", now.Version)
	}
}

func TestASiteOfAnotherClusterIsRefused(t *testing.T) {
	t.Parallel()
	client := etcdproc.Start(t, 0).Client()
	r := start(t, client, "one")
	r.until(orders, "HTTP 404")
	a, err := New(Options{Site: site, UID: "uid-2", Listen: "127.0.0.1:0", Etcd: client})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := a.Run(ctx); !errors.Is(err, ErrForeignSite) || !strings.Contains(err.Error(), "uid-1") {
		t.Errorf("a stranger's site: %v", err)
	}
}

func TestUnreadableRecordsHarmNobody(t *testing.T) {
	t.Parallel()
	client := etcdproc.Start(t, 0).Client()
	w := newWitness(t, client, "pod-1")
	newer := "c1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4"
	newerKey := record.VerdictKey(site, job.Key{Namespace: "default", Cluster: "orders", ID: newer})
	bad := map[string]string{
		newerKey: `{"v":2,"state":"MELTED"}`,
		record.VerdictKey(site, job.Key{Namespace: "default", Cluster: "orders", ID: "corrupt"}): `{"v":1,"sta`,
		record.SitePrefix(site) + "verdicts/what/is/this/here":                                   `hello`,
		record.SitePrefix(site) + "agents/x":                                                     `hello`,
		record.ReportKey(site, w.agent, "d1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4"):                      "\xff\xfe",
		record.BeatKey(site, evidence.Agent{Namespace: "a", Cluster: "b", PodUID: "c"}):          `[]`,
	}
	for key, value := range bad {
		w.put(key, []byte(value))
	}
	r := start(t, client, "one")
	w.beat()
	w.report(orders, "T1", job.Running)
	w.report(newer, "T1", job.Running)
	r.until(orders, "RUNNING Witnessed")
	time.Sleep(3 * impatient().Tick) // time to do the wrong thing
	for key, value := range bad {
		pair, found, err := etcd.Read(t.Context(), client, key)
		if err != nil || !found || string(pair.Value) != value {
			t.Errorf("%s became %q, found %v, %v", key, pair.Value, found, err)
		}
	}
	// Once it is out of the way, the job is settled like any other.
	if _, err := client.Delete(t.Context(), newerKey); err != nil {
		t.Fatal(err)
	}
	r.until(newer, "RUNNING Witnessed")
}

func TestAReplicaThatIsCutOffSaysSo(t *testing.T) {
	t.Parallel()
	proc := etcdproc.Start(t, 0)
	client := proc.Client()
	r := start(t, client, "one")
	w := newWitness(t, client, "pod-1")
	w.beat()
	w.report(orders, "T1", job.Running)
	w.report("b1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4", "T1", job.Running, job.Finished)
	r.until(orders, "RUNNING Witnessed")
	r.until("b1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4", "FINISHED Witnessed")

	proc.Pause()
	r.until(orders, "RUNNING Held over=no #1 StoreUnreachable", "FAILED", "UNKNOWN", "HTTP")
	r.until("b1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4", "FINISHED Held over=yes", "FAILED", "UNKNOWN", "HTTP")
	proc.Resume()
	w.beat()
	r.until(orders, "RUNNING Witnessed", "FAILED", "UNKNOWN", "HTTP")
	r.until("b1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4", "FINISHED Witnessed")
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	client, err := etcd.Dial(t.Context(), etcd.Options{Endpoints: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	good := Options{Site: site, UID: "u", Etcd: client, Listen: "127.0.0.1:0"}
	for name, spoil := range map[string]func(*Options){
		"site's name": func(o *Options) { o.Site = "a/b" },
		"uid":         func(o *Options) { o.UID = "" },
		"etcd":        func(o *Options) { o.Etcd = nil },
		"hold":        func(o *Options) { o.Settle = impatient(); o.Settle.Hold = -1 },
		"lease":       func(o *Options) { o.LeaderLease = time.Second },
		"check":       func(o *Options) { o.CheckPeriod = -time.Second },
	} {
		o := good
		spoil(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a bad %s: %v", name, err)
		}
	}
	a, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	defer a.ln.Close()
	good.Listen = a.Address()
	if _, err := New(good); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("an address that is taken: %v", err)
	}
}
