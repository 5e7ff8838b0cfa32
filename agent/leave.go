package agent

import (
	"context"
	"time"

	"github.com/holdfast-dev/holdfast/agent/look"
	"github.com/holdfast-dev/holdfast/etcd"
)

const (
	// flushBound bounds the last writes, and goodbyeBound what follows: an etcd that is well takes milliseconds for them. Whoever deletes the pod
	// waits that long for one that was lost a moment ago.
	flushBound   = 3 * time.Second
	goodbyeBound = time.Second
	// outBound bounds them where etcd has been out of reach for longer.
	outBound = time.Second
	// arrival is how long after its start an agent without a lease may still be on its way to its first.
	arrival = 10 * time.Second
)

// leave says all that there is to say, and then goodbye. Its time is its own, since the context of Run has ended: with the last look at Flink,
// which is refused at once where Flink has ended, 7 s at most.
func (a *Agent) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), look.Bound+flushBound+goodbyeBound)
	defer cancel()
	a.tell(a.view.See(a.look(ctx)))
	bound, away := flushBound, a.post.outOfReach()
	if away {
		bound = outBound
	}
	if left := a.post.flush(ctx, bound); left > 0 {
		// The beat is left to its lease: a goodbye would say that nothing was left unsaid.
		a.log.Warn("agent leaves without a goodbye: not all reports could be written", "reports", left)
		return
	}
	if away {
		a.log.Warn("agent leaves without a goodbye: it has no beat to take away")
		return
	}
	if err := a.goodbye(ctx); err != nil {
		a.log.Warn("agent leaves, and its goodbye could not be written", "error", err)
		return
	}
	a.log.Info("agent has left", "session", a.session)
}

// outOfReach says that there is no lease, and that it is not the first one that is still on its way: etcd has not been there for longer than
// a lease lasts, or never was.
func (p *post) outOfReach() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lease == 0 && p.since() > arrival
}

// flush writes what waits, without holding anything back, and gives the number of reports that are left.
func (p *post) flush(ctx context.Context, bound time.Duration) (left int) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	p.mu.Lock()
	p.hurry = true
	close(p.hurried)
	p.kick()
	p.mu.Unlock()
	p.await(ctx.Done(), func() bool {
		left = len(p.queue)
		return left == 0
	})
	return left
}

// goodbye marks the beat, where there is one, and then takes it away.
func (a *Agent) goodbye(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, goodbyeBound)
	defer cancel()
	if err := a.post.farewell(ctx); err != nil {
		return err
	}
	if a.lease == nil {
		return nil
	}
	return a.lease.Release(ctx)
}

// farewell writes the beat for the last time.
func (p *post) farewell(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	lease, beat := p.lease, p.beat.beat
	p.lease, p.beat.queued = 0, false
	p.mu.Unlock()
	if lease == 0 || beat == nil {
		return nil
	}
	last := *beat
	last.Goodbye, last.At = true, stamp(time.Now())
	_, err := p.store.commit(ctx, nil, []etcd.Op{content{beat: &last, lease: lease}.op(p)})
	return err
}
