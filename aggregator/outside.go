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
	Workload(ctx context.Context, cluster job.ClusterKey, w job.Workload) (evidence.Workload, error)
	HARecord(ctx context.Context, cluster job.ClusterKey) (evidence.HARecord, error)
}

// outside brings in, for one reign, what does not lie in etcd: pods, answers of the API server, and looks at JobManagers from outside.
type outside struct {
	s      *settler
	tell   func([]settle.Input)
	prober *probe.Prober
	asks   queue[settle.Ask]
	checks queue[settle.Check]
}

// checkers is how many questions are put to the API server at a time.
const checkers = 8

func newOutside(s *settler, tell func([]settle.Input)) *outside {
	o := &outside{s: s, tell: tell, asks: newQueue[settle.Ask](), checks: newQueue[settle.Check]()}
	o.prober = probe.New(probe.Options{Tell: o.seen, Version: s.version, Patience: s.cfg.Hold, Log: s.log})
	return o
}

// run works until ctx ends. Nothing is told after it has returned.
func (o *outside) run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { o.s.kubernetes.Follow(ctx, o.pods) })
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

func (o *outside) check(ctx context.Context, c settle.Check) {
	bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var inputs []settle.Input
	if c.Workload != (job.Workload{}) {
		if w, err := o.s.kubernetes.Workload(bounded, c.Cluster, c.Workload); err == nil {
			inputs = append(inputs, settle.Workload{Workload: w})
		} else {
			o.s.log.Debug("a workload could not be asked for", "cluster", c.Cluster.String(), "workload", c.Workload.Name, "error", err)
		}
	}
	if r, err := o.s.kubernetes.HARecord(bounded, c.Cluster); err == nil {
		inputs = append(inputs, settle.HARecord{HARecord: r})
	} else {
		o.s.log.Debug("a high-availability record could not be asked for", "cluster", c.Cluster.String(), "error", err)
	}
	o.tell(inputs)
}

// queue holds what waits to be done. Putting never waits: the settler waits for nobody.
type queue[T any] struct {
	mu    *sync.Mutex
	items *[]T
	more  chan struct{}
}

func newQueue[T any]() queue[T] {
	return queue[T]{mu: new(sync.Mutex), items: new([]T), more: make(chan struct{}, 1)}
}

func (q queue[T]) put(item T) {
	q.mu.Lock()
	*q.items = append(*q.items, item)
	q.mu.Unlock()
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// each does one item after another, until ctx ends.
func (q queue[T]) each(ctx context.Context, do func(T)) {
	for {
		q.mu.Lock()
		items := *q.items
		var item T
		if len(items) > 0 {
			item = items[0]
			*q.items = items[1:]
		}
		q.mu.Unlock()
		if len(items) > 1 {
			select {
			case q.more <- struct{}{}: // for whoever else works on it
			default:
			}
		}
		if len(items) > 0 {
			do(item)
			continue
		}
		select {
		case <-q.more:
		case <-ctx.Done():
			return
		}
	}
}
