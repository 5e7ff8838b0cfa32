package aggregator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/settle"
)

// fakeKubernetes is an API server of which a test says what it tells and answers.
type fakeKubernetes struct {
	updates, names chan []settle.Input

	mu        sync.Mutex
	workload  func(ctx context.Context) (evidence.Workload, error)
	record    func(ctx context.Context) (evidence.HARecord, error)
	following int // how often Follow was called
	left      int // and how often it returned
	questions int
}

func newFakeKubernetes() *fakeKubernetes {
	return &fakeKubernetes{
		updates: make(chan []settle.Input), names: make(chan []settle.Input),
		workload: func(context.Context) (evidence.Workload, error) {
			return evidence.Workload{}, errors.New("not asked for")
		},
		record: func(context.Context) (evidence.HARecord, error) {
			return evidence.HARecord{}, errors.New("not asked for")
		},
	}
}

func (k *fakeKubernetes) Follow(ctx context.Context, tell func([]settle.Input)) {
	k.count(&k.following)
	defer k.count(&k.left)
	for {
		select {
		case inputs := <-k.updates:
			tell(inputs)
		case <-ctx.Done():
			return
		}
	}
}

// FollowNames tells what FlinkSessionJobs call their jobs.
func (k *fakeKubernetes) FollowNames(ctx context.Context, tell func([]settle.Input)) {
	for {
		select {
		case inputs := <-k.names:
			tell(inputs)
		case <-ctx.Done():
			return
		}
	}
}

func (k *fakeKubernetes) count(n *int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	*n++
}

func (k *fakeKubernetes) counted(n *int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return *n
}

func (k *fakeKubernetes) Workload(ctx context.Context, cluster job.ClusterKey, w job.Workload) (evidence.Workload, error) {
	k.count(&k.questions)
	answer, err := k.workload(ctx)
	answer.Cluster, answer.Workload = cluster, w
	return answer, err
}

func (k *fakeKubernetes) HARecord(ctx context.Context, cluster job.ClusterKey) (evidence.HARecord, error) {
	answer, err := k.record(ctx)
	answer.Cluster = cluster
	return answer, err
}

// whole is all that the API server tells at first.
func whole(pods ...evidence.Pod) []settle.Input {
	inputs := []settle.Input{settle.Listing{Source: settle.Pods, Epoch: 1}}
	for _, p := range pods {
		inputs = append(inputs, settle.Pod{Pod: p})
	}
	return append(inputs, settle.Synced{Source: settle.Pods}, settle.Progress{Source: settle.Pods})
}

var deployment = job.Workload{Kind: "Deployment", Name: "orders", UID: "uid-orders"}

// podOf is the pod of a JobManager that runs, and has no agent.
func podOf(uid string, jm *flinktest.JobManager) evidence.Pod {
	p := evidence.Pod{
		Agent: evidence.Agent{Namespace: "default", Cluster: "orders", PodUID: uid}, Name: "orders-" + uid, Running: true,
		Application: job.Yes, Workload: deployment,
	}
	if jm != nil {
		p.Address, p.Port = jm.HostPort()
	}
	return p
}

// outsideOf makes what is tested of a settler that has nothing else, and gives all that it tells.
func outsideOf(k Kubernetes, log *slog.Logger) (*outside, chan []settle.Input) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := newSettler(site, impatient(), nil, log, nil)
	s.kubernetes = k
	told := make(chan []settle.Input, 1000)
	return newOutside(s, func(inputs []settle.Input) { told <- inputs }), told
}

// run starts what is tested. The end waits until it has returned.
func (o *outside) begin() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { o.run(ctx); close(done) }()
	return func() { cancel(); <-done }
}

// What the API server tells arrives as it was told; how the source is, shows in its state, and is said once for each change.
func TestWhatTheAPIServerTells(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var log strings.Builder
	k := newFakeKubernetes()
	o, told := outsideOf(k, slog.New(slog.NewTextHandler(&log, nil)))
	end := o.begin()
	lost := settle.Lost{Source: settle.Pods, Why: "may not list pods of all namespaces"}
	for i, batch := range [][]settle.Input{
		whole(podOf("a", nil)), {lost}, {lost}, whole(), {settle.PodGone{Agent: podOf("a", nil).Agent}}, {lost},
	} {
		k.updates <- batch
		if got := <-told; fmt.Sprint(got) != fmt.Sprint(batch) {
			t.Errorf("batch %d: told %v, and the settler hears %v", i, batch, got)
		}
		sick := o.s.sources[settle.Pods].sick.Load()
		if _, is := batch[0].(settle.Lost); is != (sick != nil) || is && *sick != lost.Why {
			t.Errorf("batch %d: the source is shown as sick because of %v", i, sick)
		}
	}
	end()
	if n := strings.Count(log.String(), lost.Why); n != 2 {
		t.Errorf("the loss of a source is logged %d times, and it was lost twice:\n%s", n, log.String())
	}
	if n := strings.Count(log.String(), "the source is back"); n != 1 {
		t.Errorf("the return of a source is logged %d times, and it was back once:\n%s", n, log.String())
	}
}

// The two questions of a Check do not wait for one another's answer beyond their time, and what could not be asked is not answered.
func TestChecks(t *testing.T) {
	silent := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	gone := settle.Workload{Workload: evidence.Workload{Cluster: ordersKey, Workload: deployment, There: job.No}}
	forbiddenWorkload := settle.Workload{Workload: evidence.Workload{Cluster: ordersKey, Workload: deployment, Forbidden: true}}
	none := settle.HARecord{HARecord: evidence.HARecord{Cluster: ordersKey, There: job.No}}
	forbidden := settle.HARecord{HARecord: evidence.HARecord{Cluster: ordersKey, Forbidden: true}}
	for _, c := range []struct {
		name     string
		asks     job.Workload
		workload func(context.Context) (evidence.Workload, error)
		record   func(context.Context) (evidence.HARecord, error)
		want     []settle.Input
		logs     []string
	}{
		{"both answered", deployment, say(evidence.Workload{There: job.No}), say(evidence.HARecord{There: job.No}), []settle.Input{gone, none}, nil},
		{"no workload is known", job.Workload{}, fails[evidence.Workload](silent), say(evidence.HARecord{There: job.No}), []settle.Input{none}, nil},
		{"the first is not answered", deployment, fails[evidence.Workload](silent), say(evidence.HARecord{There: job.No}), []settle.Input{none}, nil},
		{"the second is not answered", deployment, say(evidence.Workload{There: job.No}), fails[evidence.HARecord](silent), []settle.Input{gone}, nil},
		{"neither is answered", deployment, fails[evidence.Workload](silent), fails[evidence.HARecord](silent), nil, nil},
		{
			"both forbidden", deployment, say(evidence.Workload{Forbidden: true}), say(evidence.HARecord{Forbidden: true}),
			[]settle.Input{forbiddenWorkload, forbidden}, []string{"resource=Deployments", "resource=ConfigMaps"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				k := newFakeKubernetes()
				k.workload, k.record = c.workload, c.record
				o, told := outsideOf(k, slog.New(slog.NewTextHandler(&log, nil)))
				end := o.begin()
				for range 2 {
					o.checks.put(ordersKey, settle.Check{Cluster: ordersKey, Workload: c.asks})
					time.Sleep(2*checkTimeout + time.Second)
				}
				end()
				close(told)
				var got []settle.Input
				for batch := range told {
					got = append(got, batch...)
				}
				if want := slices.Concat(c.want, c.want); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("the settler hears %v, want %v", got, want)
				}
				for _, line := range c.logs {
					if n := strings.Count(log.String(), line); n != 1 {
						t.Errorf("%s is logged %d times, want once for two questions:\n%s", line, n, log.String())
					}
				}
				if c.logs == nil && strings.Contains(log.String(), "forbids") {
					t.Errorf("nothing is forbidden, and logged is\n%s", log.String())
				}
			})
		})
	}
}

var ordersKey = job.ClusterKey{Namespace: "default", Cluster: "orders"}

func say[T any](answer T) func(context.Context) (T, error) {
	return func(ctx context.Context) (T, error) { return answer, ctx.Err() }
}

func fails[T any](how func(context.Context) error) func(context.Context) (T, error) {
	return func(ctx context.Context) (none T, err error) { return none, how(ctx) }
}

// A cluster that cannot be asked for delays few others, is asked for once however often the settler wants it, and is let go of at once
// when the reign ends, with all that waits.
func TestChecksThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKubernetes()
		k.workload = func(ctx context.Context) (evidence.Workload, error) {
			<-ctx.Done()
			return evidence.Workload{}, ctx.Err()
		}
		k.record = say(evidence.HARecord{There: job.No})
		o, told := outsideOf(k, nil)
		end := o.begin()
		const clusters = 100
		for range 20 {
			for i := range clusters {
				key := job.ClusterKey{Namespace: "default", Cluster: fmt.Sprint(i)}
				o.checks.put(key, settle.Check{Cluster: key, Workload: deployment})
			}
			time.Sleep(checkTimeout / 10)
		}
		if n := o.checks.waiting(); n > clusters {
			t.Errorf("%d questions wait, of %d clusters", n, clusters)
		}
		time.Sleep(checkTimeout / 20)
		synctest.Wait()
		begin, before := time.Now(), k.counted(&k.questions)
		end()
		if took := time.Since(begin); took > 0 {
			t.Errorf("the end takes %s", took)
		}
		if n := k.counted(&k.questions) - before; n > 0 {
			t.Errorf("%d questions were begun when the reign had ended", n)
		}
		// One turn of all checkers was over in the 20 s. What waited was answered in half, nothing twice.
		seen := map[string]int{}
		for len(told) > 0 {
			for _, input := range <-told {
				if r, is := input.(settle.HARecord); is {
					seen[r.Cluster.Cluster]++
				}
			}
		}
		if len(seen) < checkers {
			t.Errorf("of %d clusters %d have an answer to the question that is answered", clusters, len(seen))
		}
	})
}

// waiting is how many keys wait.
func (q *queue[K, T]) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.order)
}

// A look's reports are told before the beat that says that they are: by a beat alone the settler would believe what it heard before.
func TestLooksAreToldReportsFirst(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	jm := flinktest.New(t)
	defer jm.Close()
	id := flinktest.NewID()
	jm.SetJob(flinktest.Job{ID: id, Name: "orders", State: job.Running})
	o, told := outsideOf(newFakeKubernetes(), nil)
	end := o.begin()
	pod := podOf("a", jm)
	who := pod.Agent
	who.Probe = true
	o.asks.put(who, settle.Ask{Agent: who, Pod: pod.Name, Address: pod.Address, Port: pod.Port})
	reported := false
	for beat := false; !beat; {
		for _, input := range <-told {
			switch in := input.(type) {
			case settle.Reported:
				reported = true
				if in.Report.Agent != who || in.Report.JobID != id || in.Report.State != job.Running {
					t.Errorf("reported is %+v", in.Report)
				}
			case settle.Beat:
				beat = in.Reach == job.Fine
				if in.Agent != who {
					t.Errorf("%v beats", in.Agent)
				}
				if beat && !reported {
					t.Error("the beat came before the report")
				}
			}
		}
	}
	targets := func(want int) {
		t.Helper()
		for begin := time.Now(); o.prober.Targets() != want; time.Sleep(time.Millisecond) {
			if time.Since(begin) > 10*time.Second {
				t.Fatalf("%d JobManagers are looked at, want %d", o.prober.Targets(), want)
			}
		}
	}
	o.asks.put(who, settle.Ask{Agent: who, Pod: pod.Name, Stop: true})
	targets(0)
	o.asks.put(who, settle.Ask{Agent: who, Pod: pod.Name, Address: pod.Address, Port: pod.Port})
	targets(1)
	end() // and this look ends with the reign
}

// The whole road, in an aggregator: a pod without an agent is looked at, its job is shown as its JobManager says; the JobManager goes,
// with its Deployment, and the job is over, as nobody saw.
func TestAClusterWithoutAgents(t *testing.T) {
	t.Parallel()
	k, jm := newFakeKubernetes(), flinktest.New(t)
	jm.SetJob(flinktest.Job{ID: orders, Name: "orders", State: job.Running})
	k.workload, k.record = say(evidence.Workload{There: job.No}), say(evidence.HARecord{There: job.No})
	r := startWith(t, Options{Site: site, UID: "uid-1", Name: "one", Etcd: etcdproc.Start(t, 0).Client(), Settle: impatient(), Kubernetes: k})
	pod := podOf("a", jm)
	k.updates <- whole(pod)
	r.until(orders, "RUNNING Witnessed over=no #1 FlinkSaid", "FAILED", "UNKNOWN")
	var shown struct{ Via string }
	if r.get("/api/v1/jobs/test/default/orders/"+orders, &shown); shown.Via != "Probe" {
		t.Errorf("via %q", shown.Via)
	}
	k.names <- []settle.Input{settle.SessionJob{SessionJob: evidence.SessionJob{
		Key: job.Key{Namespace: "default", Cluster: "orders", ID: orders}, Name: "etl",
	}}}
	for shown := (struct{ Items []any }{}); len(shown.Items) == 0; time.Sleep(20 * time.Millisecond) {
		r.get("/api/v1/jobs?pipeline=etl", &shown)
	}
	k.keepAlive(t)
	k.updates <- []settle.Input{settle.PodGone{Agent: pod.Agent}}
	jm.Close()
	r.until(orders, "UNKNOWN Inferred over=yes #1 Vanished", "FAILED")
	if got := r.history(orders); got[len(got)-1] != "UNKNOWN Inferred" {
		t.Errorf("history: %v", got)
	}
	r.stop()
	if following, left := k.counted(&k.following), k.counted(&k.left); following == 0 || left != following {
		t.Errorf("the pods were followed %d times, and left alone %d times", following, left)
	}
}

// keepAlive lets the API server prove that it lives, until the test ends.
func (k *fakeKubernetes) keepAlive(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() {
		for {
			select {
			case k.updates <- []settle.Input{settle.Progress{Source: settle.Pods}}:
				time.Sleep(100 * time.Millisecond)
			case <-ctx.Done():
				return
			}
		}
	}()
}

// Pods may not be seen, for ever: that is shown, holds nobody up, and what agents say is settled as ever.
func TestPodsMayNotBeSeen(t *testing.T) {
	t.Parallel()
	client, k := etcdproc.Start(t, 0).Client(), newFakeKubernetes()
	r := startWith(t, Options{Site: site, UID: "uid-1", Name: "one", Etcd: client, Settle: impatient(), Kubernetes: k})
	const why = "may not list pods of all namespaces"
	k.updates <- []settle.Input{settle.Lost{Source: settle.Pods, Why: why}}
	w := newWitness(t, client, "pod-1")
	w.report(orders, "T1", job.Running)
	w.beat()
	r.until(orders, "RUNNING Witnessed over=no #1")
	// For longer than a settler may be deaf to what lies in etcd.
	for begin := time.Now(); time.Since(begin) < r.o.Settle.Hold+2*r.o.Settle.Silence; time.Sleep(50 * time.Millisecond) {
		if is := r.job(orders).String(); !strings.HasPrefix(is, "RUNNING Witnessed over=no #1") {
			t.Fatalf("an agent lives, and its job is %s", is)
		}
	}
	if n := k.counted(&k.following); n != 1 {
		t.Errorf("%d reigns have followed the pods, want one", n)
	}
	var status struct {
		Sources []struct {
			Name    string
			Healthy bool
			Why     string
		}
	}
	if code := r.get("/api/v1/status", &status); code != 200 {
		t.Fatalf("status: HTTP %d", code)
	}
	i := slices.IndexFunc(status.Sources, func(s struct {
		Name    string
		Healthy bool
		Why     string
	}) bool {
		return s.Name == "settler: pods"
	})
	if i < 0 || status.Sources[i].Healthy || status.Sources[i].Why != why {
		t.Errorf("the sources are shown as %+v", status.Sources)
	}
	w.die()
	r.until(orders, "RUNNING Held over=no #1 AgentSilent", "FAILED", "UNKNOWN", "SUSPENDED")
	w.beat()
	w.report(orders, "T1", job.Finished)
	r.until(orders, "FINISHED Witnessed over=yes #1", "FAILED", "UNKNOWN", "SUSPENDED")
}
