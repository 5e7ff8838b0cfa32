package aggregator

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/aggregator/probe"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/settle"
)

// Kubernetes is what the API server is asked for while this replica leads. An error means that it could not be asked.
type Kubernetes interface {
	// Follow tells of the JobManagers' pods until ctx ends, in the settler's words: Listing, Pod, Synced, PodGone, Progress, and Lost of Pods.
	Follow(ctx context.Context, tell func([]settle.Input))
	// FollowNames tells what the Flink operator's objects call their jobs, until ctx ends. Whether it can is of no weight.
	FollowNames(ctx context.Context, tell func([]settle.Input))
	Workload(ctx context.Context, cluster job.ClusterKey, w job.Workload) (evidence.Workload, error)
	HARecord(ctx context.Context, cluster job.ClusterKey) (evidence.HARecord, error)
}

// outside brings in, for one reign, what does not lie in etcd: pods, answers of the API server, and looks at JobManagers from outside.
type outside struct {
	s      *settler
	tell   func([]settle.Input)
	prober *probe.Prober
	asks   *queue[evidence.Agent, settle.Ask]
	checks *queue[job.ClusterKey, settle.Check]
	// forbidden are the questions of which it was said that they may not be asked.
	forbidden sync.Map
}

const (
	// checkers is how many questions are put to the API server at a time.
	checkers = 8
	// checkTimeout bounds one question.
	checkTimeout = 10 * time.Second
)

func newOutside(s *settler, tell func([]settle.Input)) *outside {
	o := &outside{s: s, tell: tell, asks: newQueue[evidence.Agent, settle.Ask](), checks: newQueue[job.ClusterKey, settle.Check]()}
	o.prober = probe.New(probe.Options{Tell: o.seen, Version: s.version, Patience: s.cfg.Hold, Log: s.log})
	return o
}

// run works until ctx ends. Nothing is told after it has returned.
func (o *outside) run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { o.s.kubernetes.Follow(ctx, o.pods) })
	all.Go(func() { o.s.kubernetes.FollowNames(ctx, o.tell) })
	all.Go(func() { o.asks.each(ctx, o.ask) })
	for range checkers {
		all.Go(func() { o.checks.each(ctx, func(c settle.Check) { o.check(ctx, c) }) })
	}
	all.Wait()
	o.prober.Close()
}

// pods hands on what the API server tells, and notes how it is.
func (o *outside) pods(inputs []settle.Input) {
	state := &o.s.sources[settle.Pods]
	for _, input := range inputs {
		if lost, is := input.(settle.Lost); is {
			if was := state.sick.Swap(&lost.Why); was == nil || *was != lost.Why {
				o.s.log.Warn("a source is lost; nothing is concluded from it until it is back", "source", lost.Source.String(), "error", lost.Why)
			}
			break
		}
		if state.sick.Swap(nil) != nil {
			o.s.log.Info("the source is back", "source", settle.Pods.String())
		}
		state.heard.Store(o.s.since())
	}
	o.tell(inputs)
}

func (o *outside) ask(a settle.Ask) {
	if a.Stop {
		o.prober.Stop(a.Agent)
		return
	}
	o.prober.Ask(probe.Target{Agent: a.Agent, Pod: a.Pod, Address: a.Address, Port: a.Port, FlinkID: a.FlinkID})
}

// seen hands on what a look saw: the reports first, since the beat says that they are told.
func (o *outside) seen(t probe.Told) {
	inputs := make([]settle.Input, 0, len(t.Reports)+2)
	for _, r := range t.Reports {
		inputs = append(inputs, settle.Reported{Report: r})
	}
	if t.Beat != nil {
		inputs = append(inputs, settle.Beat{Beat: *t.Beat})
	}
	if t.Silent {
		inputs = append(inputs, settle.Silent{Agent: t.Agent})
	}
	o.tell(inputs)
}

// check puts the two questions, each with its own time: one that is not answered must not take the other's.
func (o *outside) check(ctx context.Context, c settle.Check) {
	var inputs []settle.Input
	if c.Workload != (job.Workload{}) {
		bounded, cancel := context.WithTimeout(ctx, checkTimeout)
		w, err := o.s.kubernetes.Workload(bounded, c.Cluster, c.Workload)
		cancel()
		if err != nil {
			o.s.log.Debug("a workload could not be asked for", "cluster", c.Cluster.String(), "workload", c.Workload.Name, "error", err)
		} else {
			o.noteForbidden(w.Forbidden, c.Workload.Kind+"s", "whether a cluster whose JobManager is gone is gone for good stays open")
			inputs = append(inputs, settle.Workload{Workload: w})
		}
	}
	bounded, cancel := context.WithTimeout(ctx, checkTimeout)
	r, err := o.s.kubernetes.HARecord(bounded, c.Cluster)
	cancel()
	if err != nil {
		o.s.log.Debug("a high-availability record could not be asked for", "cluster", c.Cluster.String(), "error", err)
	} else {
		o.noteForbidden(r.Forbidden, "ConfigMaps", "a cluster whose workload is gone counts as gone for good")
		inputs = append(inputs, settle.HARecord{HARecord: r})
	}
	if len(inputs) > 0 {
		o.tell(inputs)
	}
}

// noteForbidden reports, once in a reign, what the API server does not let this aggregator ask.
func (o *outside) noteForbidden(is bool, what, consequence string) {
	if !is {
		return
	}
	if _, told := o.forbidden.LoadOrStore(what, true); !told {
		o.s.log.Warn("the API server forbids a question that is asked in doubt: give the aggregator's role get of it (rbac and endings.readConfigMaps of the chart)",
			"resource", what, "consequence", consequence)
	}
}

// queue holds what waits to be done, the newest for each key: what was wanted before of the same is wanted no more, so that no queue grows
// without bound where answers are slow. Putting never waits: the settler waits for nobody.
type queue[K comparable, T any] struct {
	mu    sync.Mutex
	order []K
	items map[K]T
	more  chan struct{}
}

func newQueue[K comparable, T any]() *queue[K, T] {
	return &queue[K, T]{items: map[K]T{}, more: make(chan struct{}, 1)}
}

func (q *queue[K, T]) put(key K, item T) {
	q.mu.Lock()
	if _, waits := q.items[key]; !waits {
		q.order = append(q.order, key)
	}
	q.items[key] = item
	q.mu.Unlock()
	q.wake()
}

func (q *queue[K, T]) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// take gives what waits for the longest. left says whether more is waiting.
func (q *queue[K, T]) take() (item T, ok, left bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return item, false, false
	}
	key := q.order[0]
	q.order = q.order[1:]
	item = q.items[key]
	delete(q.items, key)
	return item, true, len(q.order) > 0
}

// each does one item after another, until ctx ends. Several may work on one queue.
func (q *queue[K, T]) each(ctx context.Context, do func(T)) {
	for ctx.Err() == nil {
		item, ok, left := q.take()
		if left {
			q.wake() // whoever else works on it
		}
		if ok {
			do(item)
			continue
		}
		select {
		case <-q.more:
		case <-ctx.Done():
		}
	}
}
