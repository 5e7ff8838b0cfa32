package aggregator

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
	"github.com/holdfast-dev/holdfast/settle"
)

// writer carries out the settler's effects, each in one transaction that compares the leader's key: a deposed leader's writes are
// refused by etcd, however late they come. It never repeats a write; the settler proposes again.
type writer struct {
	site    string
	client  *clientv3.Client
	term    etcd.Term
	log     *slog.Logger
	metrics *metrics
	// done is told how each write ended. It may block the worker, never the settler.
	done func(outcome)

	mu     sync.Mutex
	closed bool
	queue  []settle.Effect
	queued sync.Cond
	// condition is the newest that is not in etcd yet.
	condition *record.SiteCondition
	changed   sync.Cond

	// failing is why etcd takes no writes at present; nil while it does. It is logged when it begins and when it ends.
	failing *atomic.Pointer[string]
}

// outcome is how the write that was to find a revision ended: err is nil if it is in the store, and is says what lies there then.
type outcome struct {
	key      job.Key
	revision int64
	is       settle.Input
	err      error
}

const (
	// writers bounds the transactions under way. etcd batches what comes together into one disk write, so that many at once cost
	// hardly more than one.
	writers = 32
	// writeTimeout bounds one transaction; a paused etcd does not answer at all.
	writeTimeout = 5 * time.Second
	// writeRetry is how long a writer rests after a write that failed.
	writeRetry = time.Second
)

func newWriter(site string, client *clientv3.Client, term etcd.Term, log *slog.Logger, m *metrics, done func(outcome)) *writer {
	w := &writer{site: site, client: client, term: term, log: log, metrics: m, done: done, failing: new(atomic.Pointer[string])}
	w.queued.L, w.changed.L = &w.mu, &w.mu
	return w
}

// run works until ctx ends.
func (w *writer) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		w.closed = true
		w.mu.Unlock()
		w.queued.Broadcast()
		w.changed.Broadcast()
	})
	defer stop()
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for effect := w.next(); effect != nil; effect = w.next() {
				w.carryOut(ctx, effect)
			}
		})
	}
	all.Go(func() { w.conditions(ctx) })
	all.Wait()
}

// add takes an effect over. It never blocks: the settler has at most one write a job under way, which bounds the queue.
func (w *writer) add(effect settle.Effect) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, is := effect.(settle.Condition); is {
		w.condition = &record.SiteCondition{
			Frozen: c.Frozen, Source: c.Source, Why: c.Why, Since: c.Since, Expected: c.Expected, Beating: c.Beating,
		}
		w.changed.Signal()
		return
	}
	w.queue = append(w.queue, effect)
	w.queued.Signal()
}

// next waits for an effect, and gives nil when there will be none.
func (w *writer) next() settle.Effect {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) == 0 && !w.closed {
		w.queued.Wait()
	}
	if w.closed {
		return nil
	}
	effect := w.queue[0]
	w.queue[0] = nil
	w.queue = w.queue[1:]
	if len(w.queue) == 0 {
		w.queue = nil // lets go of what a burst needed
	}
	return effect
}

func (w *writer) carryOut(reign context.Context, effect settle.Effect) {
	ctx, cancel := context.WithTimeout(reign, writeTimeout)
	defer cancel()
	begin := time.Now()
	var o outcome
	told := true // who proposed it waits for its end
	switch e := effect.(type) {
	case settle.Sweep:
		o.key, told = wholeCluster(e.Agent.ClusterKey()), false
		o.err = w.sweep(ctx, e)
	case settle.Write:
		o.key, o.revision = e.Account.Key, e.IfRevision
		o.is, o.err = w.write(ctx, e)
	case settle.Forget:
		o.key, o.revision, o.is = e.Key, e.IfRevision, settle.Erased{Key: e.Key}
		o.err = w.forget(ctx, e)
	case settle.WriteCluster:
		o.key, o.revision = wholeCluster(e.Cluster.Key), e.IfRevision
		o.is, o.err = w.writeCluster(ctx, e)
	case settle.ForgetCluster:
		o.key, o.revision, o.is = wholeCluster(e.Key), e.IfRevision, settle.Erased{Key: wholeCluster(e.Key)}
		_, o.err = w.ifUnchanged(ctx, e.IfRevision, etcd.Op{Key: record.ClusterKey(w.site, e.Key), Delete: true})
	}
	err := o.err
	w.metrics.wrote(err, time.Since(begin))
	switch {
	case err == nil:
		if w.failing.Swap(nil) != nil {
			w.log.Info("verdicts are written again")
		}
	case errors.Is(err, etcd.ErrRefused), reign.Err() != nil:
	default:
		why := err.Error()
		if w.failing.Swap(&why) == nil {
			w.log.Warn("a verdict could not be written; it and the next ones are tried again", "job", o.key.String(), "error", err)
		}
		// The settler proposes again with its next tick. An etcd that is sick is not asked more often than this by each writer.
		select {
		case <-reign.Done():
		case <-time.After(writeRetry):
		}
	}
	if told {
		w.done(o)
	}
}

// write puts a verdict and its new history, and prunes what falls out of the history, in one transaction.
func (w *writer) write(ctx context.Context, e settle.Write) (settle.Stored, error) {
	verdict := record.VerdictKey(w.site, e.Account.Key)
	guards := []etcd.Guard{w.term.Guard(), {Key: verdict, ModRevision: e.IfRevision}}
	ops := make([]etcd.Op, 0, 1+2*len(e.Entries))
	ops = append(ops, etcd.Op{Key: verdict, Value: record.EncodeAccount(e.Account)})
	for _, entry := range e.Entries {
		ops = append(ops, etcd.Op{
			Key:   record.HistoryKey(w.site, e.Account.Key, entry.Sequence),
			Value: record.EncodeTransition(entry),
		})
		if old := entry.Sequence - job.HistoryLimit; old > 0 {
			ops = append(ops, etcd.Op{Key: record.HistoryKey(w.site, e.Account.Key, old), Delete: true})
		}
	}
	revision, err := etcd.Commit(ctx, w.client, guards, ops)
	return settle.Stored{Account: e.Account, Revision: revision}, err
}

// writeCluster puts what is said of a cluster.
func (w *writer) writeCluster(ctx context.Context, e settle.WriteCluster) (settle.StoredCluster, error) {
	op := etcd.Op{Key: record.ClusterKey(w.site, e.Cluster.Key), Value: record.EncodeCluster(e.Cluster)}
	revision, err := w.ifUnchanged(ctx, e.IfRevision, op)
	return settle.StoredCluster{Cluster: e.Cluster, Revision: revision}, err
}

// forget removes the reports first, then the verdict with its history: what is interrupted in between is begun again, while a
// report that outlived its verdict would bring the job back.
func (w *writer) forget(ctx context.Context, e settle.Forget) error {
	for _, agent := range e.Reports {
		ops := []etcd.Op{{Key: record.ReportKey(w.site, agent, e.Key.ID), Delete: true}}
		if _, err := etcd.Commit(ctx, w.client, []etcd.Guard{w.term.Guard()}, ops); err != nil {
			return err
		}
	}
	verdict := record.VerdictKey(w.site, e.Key)
	guards := []etcd.Guard{w.term.Guard(), {Key: verdict, ModRevision: e.IfRevision}}
	_, err := etcd.Commit(ctx, w.client, guards, []etcd.Op{
		{Key: verdict, Delete: true},
		{Key: record.HistoryPrefix(w.site, e.Key), Delete: true, Prefix: true},
	})
	return err
}

// ifUnchanged does one operation on a key whose revision is still the one that the settler knew.
func (w *writer) ifUnchanged(ctx context.Context, revision int64, op etcd.Op) (int64, error) {
	return etcd.Commit(ctx, w.client, []etcd.Guard{w.term.Guard(), {Key: op.Key, ModRevision: revision}}, []etcd.Op{op})
}

// sweep removes reports of an agent, unless it beats, or any of them is another by now.
func (w *writer) sweep(ctx context.Context, e settle.Sweep) error {
	guards := []etcd.Guard{w.term.Guard(), {Key: record.BeatKey(w.site, e.Agent)}}
	ops := make([]etcd.Op, 0, len(e.Reports))
	for _, report := range e.Reports {
		key := record.ReportKey(w.site, e.Agent, report.JobID)
		guards = append(guards, etcd.Guard{Key: key, ModRevision: report.IfRevision})
		ops = append(ops, etcd.Op{Key: key, Delete: true})
	}
	_, err := etcd.Commit(ctx, w.client, guards, ops)
	return err
}

// conditions writes the newest condition until it is in etcd. What is not written is replaced by what is newer.
func (w *writer) conditions(ctx context.Context) {
	for {
		w.mu.Lock()
		for w.condition == nil && !w.closed {
			w.changed.Wait()
		}
		c := w.condition
		closed := w.closed
		w.mu.Unlock()
		if closed {
			return
		}
		bounded, cancel := context.WithTimeout(ctx, writeTimeout)
		_, err := etcd.Commit(bounded, w.client, []etcd.Guard{w.term.Guard()},
			[]etcd.Op{{Key: record.ConditionKey(w.site), Value: record.EncodeCondition(*c)}})
		cancel()
		if err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(writeRetry):
			}
			continue
		}
		w.mu.Lock()
		if w.condition == c {
			w.condition = nil
		}
		w.mu.Unlock()
	}
}
