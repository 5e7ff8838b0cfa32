package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/record"
)

const (
	// writeBound bounds one write: a paused etcd does not answer at all.
	writeBound = 3 * time.Second
	// batchLimit and batchBytes bound one transaction: etcd takes 128 operations, as many comparisons, and 1.5 MiB.
	batchLimit = 100
	batchBytes = 512 << 10
	minRetry   = 250 * time.Millisecond
	maxRetry   = 5 * time.Second
)

// run writes what is due until ctx ends. Nothing else writes reports.
func (p *post) run(ctx context.Context) {
	retry := minRetry
	for ctx.Err() == nil {
		wait, err := p.write(ctx)
		p.note(err)
		switch {
		case err != nil:
			// Random, because what fails for one fails for all, and all would come back together.
			wait = retry/2 + rand.N(retry/2)
			retry = min(2*retry, p.longestRetry())
			p.pauseFor(ctx, wait, nil)
		case wait > 0:
			retry = minRetry
			p.pauseFor(ctx, wait, p.kicked)
		default:
			retry = minRetry
		}
	}
}

// longestRetry is how long a failed write may wait. An agent that is leaving has a few seconds.
func (p *post) longestRetry() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hurry {
		return minRetry
	}
	return maxRetry
}

// pauseFor waits for d, a note in wake, the time to hurry, or ctx.
func (p *post) pauseFor(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	hurried := p.hurried
	p.mu.Lock()
	if p.hurry {
		hurried = nil
	}
	p.mu.Unlock()
	select {
	case <-timer.C:
	case <-wake:
	case <-hurried:
	case <-ctx.Done():
	}
}

// content is what one write takes of a letter. The letter may get newer content meanwhile.
type content struct {
	letter *letter
	report *evidence.Report
	beat   *evidence.Beat
	lease  clientv3.LeaseID
}

// op is the content as a put.
func (c content) op(p *post) etcd.Op {
	if c.beat != nil {
		return etcd.Op{Key: p.beatIn, Value: record.EncodeBeat(*c.beat), Lease: c.lease}
	}
	return etcd.Op{Key: record.ReportKey(p.site, p.agent, c.report.JobID), Value: record.EncodeReport(*c.report)}
}

// write writes one batch of what is due: reports first, and the beat when none is left. It gives the time until
// something is due, or 0 if that may be now.
func (p *post) write(ctx context.Context) (time.Duration, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return 0, nil
	}
	batch, floor, wait := p.due()
	if len(batch) == 0 {
		return wait, nil
	}
	var ops []etcd.Op
	for size := 0; len(ops) < len(batch) && size < batchBytes; {
		op := batch[len(ops)].op(p)
		size += len(op.Value)
		ops = append(ops, op)
	}
	ctx, cancel := context.WithTimeout(ctx, writeBound)
	defer cancel()
	revision, err := p.store.commit(ctx, nil, ops)
	if err != nil {
		if lease := ops[0].Lease; lease != 0 && errors.Is(err, rpctypes.ErrLeaseNotFound) {
			p.unhang(lease) // its holder will notice, and put the beat under the next one
			return 0, nil
		}
		return 0, err
	}
	p.done(batch[:len(ops)], revision, floor)
	return 0, nil
}

// due takes what may be written now, with the highest revision seen, or gives the time until something may.
func (p *post) due() (batch []content, floor int64, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, wait := p.since(), time.Hour
	if !p.open {
		return nil, 0, wait
	}
	held := func(l *letter) bool {
		left := l.due - now
		if left <= 0 || p.hurry {
			return false
		}
		wait = min(wait, left)
		return true
	}
	for _, l := range p.queue {
		if held(l) {
			continue
		}
		if batch = append(batch, content{letter: l, report: l.report}); len(batch) == batchLimit {
			return batch, p.highest, 0
		}
	}
	if b := &p.beat; len(batch) == 0 && b.queued && !held(b) {
		batch = append(batch, content{letter: b, beat: b.beat, lease: p.lease})
	}
	return batch, p.highest, wait
}

// done notes that a batch has arrived.
func (p *post) done(batch []content, revision, floor int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reached(revision, floor)
	now := p.since()
	for _, c := range batch {
		p.arrived(c, revision, now)
	}
	kept := p.queue[:0]
	for _, l := range p.queue {
		if l.queued {
			kept = append(kept, l)
		}
	}
	clear(p.queue[len(kept):])
	p.queue = kept
	if cap(p.queue) > 1024 && len(p.queue) == 0 {
		p.queue = nil // ten thousand jobs queue up once, at the start
	}
	p.step()
}

// note logs when writing begins to fail, and when it works again.
func (p *post) note(err error) {
	p.mu.Lock()
	before := p.failing
	p.failing = err
	queued := len(p.queue)
	p.mu.Unlock()
	switch {
	case err != nil && before == nil:
		p.log.Warn("cannot write to etcd: trying again", "error", err, "reports", queued)
	case err == nil && before != nil:
		p.log.Info("etcd takes writes again", "reports", queued)
	}
}

// errSetBack says that what the beat vouches for may be gone.
var errSetBack = errors.New("etcd was set back: the reports come first")

// proofs hold only in an etcd in which the reports lie where they were written: of the oldest, the newest, and of others as many as one
// transaction takes. The caller holds mu.
func (p *post) proofs() []etcd.Guard {
	var all []etcd.Guard
	oldest, newest := 0, 0
	for id, l := range p.letters {
		if l.queued || l.foreign || l.revision == 0 {
			continue
		}
		all = append(all, etcd.Guard{Key: record.ReportKey(p.site, p.agent, id), ModRevision: l.revision})
		if i := len(all) - 1; l.revision < all[oldest].ModRevision {
			oldest = i
		} else if l.revision > all[newest].ModRevision {
			newest = i
		}
	}
	if len(all) <= batchLimit {
		return all
	}
	return append(all[:batchLimit-2:batchLimit-2], all[oldest], all[newest])
}

// hang puts the beat under a new lease. Between the last reading and now etcd may have been emptied, and have grown beyond what it was.
func (p *post) hang(ctx context.Context, id clientv3.LeaseID) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	b, floor, proofs := p.beat.beat, p.highest, p.proofs()
	p.mu.Unlock()
	if b == nil {
		return errors.New("no look at Flink has ended yet")
	}
	ctx, cancel := context.WithTimeout(ctx, writeBound)
	defer cancel()
	c := content{letter: &p.beat, beat: b, lease: id}
	revision, err := p.store.commit(ctx, proofs, []etcd.Op{c.op(p)})
	if errors.Is(err, etcd.ErrRefused) {
		p.doubt()
		return errSetBack
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reached(revision, floor); p.setBack {
		return errSetBack
	}
	p.lease = id
	p.arrived(c, revision, p.since())
	if p.beat.beat != b {
		p.enqueueBeat(p.since())
		p.kick()
	}
	return nil
}

// unhang notes that a lease is lost, and with it the beat.
func (p *post) unhang(id clientv3.LeaseID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lease == id {
		p.lease, p.beat.queued = 0, false
	}
}
