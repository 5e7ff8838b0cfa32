package agent

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/agent/view"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/record"
)

// readBound bounds one reading of the agent's own prefix, which is some megabytes for ten thousand jobs.
const readBound = 15 * time.Second

// reading is what lay below the agent's prefix at one revision.
type reading struct {
	pairs    []etcd.Pair
	revision int64
	life     int64 // of the store, asked afterwards
	floor    int64 // the highest revision seen before it began
	doubts   int   // how often the post had doubted before it began
}

// reports are the pairs that are reports, by job id.
func (r reading) reports(o Options) map[string]etcd.Pair {
	all := make(map[string]etcd.Pair, len(r.pairs))
	for _, pair := range r.pairs {
		place, err := record.ParseKey(o.Site, pair.Key)
		if err == nil && place.Kind == record.Report && isJobID(place.Job.ID) {
			all[place.Job.ID] = pair
		}
	}
	return all
}

// read reads the agent's prefix at once, then at each repair interval and whenever the post is in doubt, and hands it to Run.
func (a *Agent) read(ctx context.Context) {
	prefix := record.AgentPrefix(a.o.Site, a.o.Agent)
	retry, failing := minRetry, false
	for ctx.Err() == nil {
		r, err := a.post.reading(ctx, prefix)
		if err != nil {
			if !failing && ctx.Err() == nil {
				a.log.Warn("cannot read from etcd: trying again", "error", err)
			}
			failing = true
			a.post.pauseFor(ctx, retry/2+rand.N(retry/2), nil)
			retry = min(2*retry, maxRetry)
			continue
		}
		retry, failing = minRetry, false
		select {
		case a.readings <- r:
		case <-ctx.Done():
			return
		}
		a.post.pauseFor(ctx, a.o.Repair-a.o.Repair/20+rand.N(a.o.Repair/10), a.post.reread)
	}
}

// reading reads what lies below prefix.
func (p *post) reading(ctx context.Context, prefix string) (reading, error) {
	p.mu.Lock()
	r := reading{floor: p.highest, doubts: p.doubts}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, readBound)
	defer cancel()
	var err error
	if r.pairs, r.revision, err = p.store.readAll(ctx, prefix); err == nil {
		r.life, err = p.store.life(ctx)
	}
	return r, err
}

// repair puts right what differs from the memory: it is written again, or taken over if the memory has none of it.
func (a *Agent) repair(r reading) {
	stored := r.reports(a.o)
	found := a.post.compare(r, stored)
	for _, id := range found.retired {
		if a.view.Retire(id) {
			a.post.retire(id)
		}
	}
	for _, id := range slices.Concat(found.unknown, found.newer) {
		if report, ok := a.readable(id, stored[id]); ok {
			a.view.Adopt(report)
		}
	}
	if found.different > 0 {
		a.log.Warn("etcd did not hold what was written: writing it again", "keys", found.different, "revision", r.revision)
	}
}

// findings are what a comparison found. What differs is queued already.
type findings struct {
	different int
	unknown   []string // job ids that only etcd knows
	newer     []string // job ids of reports that a newer Holdfast has written
	retired   []string // job ids of reports that were taken away, as is done when a job is long over
}

// compare compares a reading to the letters. A letter that waits, or that arrived after the reading, is not compared.
func (p *post) compare(r reading, stored map[string]etcd.Pair) (found findings) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.since()
	anew := r.revision < r.floor || p.setBack && r.doubts == p.doubts // etcd was set back: what was written since is gone
	if anew {
		p.highest, p.setBack = r.revision, false
	}
	p.highest = max(p.highest, r.revision)
	beat, beats := r.find(p.beatIn)
	hangs := beats && p.lease != 0 && beat.Lease == int64(p.lease)
	same := !anew && (hangs || p.holds(stored) || r.life != 0 && r.life == p.life)
	p.life = r.life
	for id, l := range p.letters {
		pair, there := stored[id]
		switch {
		case l.foreign:
			p.resume(l, pair, there, now)
		case anew:
			l.revision = 0
			found.different++
			p.enqueue(l, now, true)
		case l.queued:
			p.enqueue(l, now, !p.isStep)
		case l.revision > r.revision || there && pair.ModRevision == l.revision:
		case there && bytes.Equal(pair.Value, record.EncodeReport(*l.report)):
			l.revision = pair.ModRevision
		case !there && same && view.Retirable(l.report):
			found.retired = append(found.retired, id)
		case there && isNewer(p.agent, id, pair):
			found.newer = append(found.newer, id)
		default:
			found.different++
			p.enqueue(l, now, true)
		}
	}
	for id := range stored {
		// A letter that arrived since the reading, and was the job's last, is in none of the two.
		if p.letters[id] == nil && r.revision >= p.highest {
			found.unknown = append(found.unknown, id)
		}
	}
	if p.lease != 0 && !p.beat.queued && (anew || p.beat.revision <= r.revision) &&
		!(hangs && bytes.Equal(beat.Value, record.EncodeBeat(*p.beat.beat))) {
		found.different++
		p.enqueueBeat(now)
	}
	p.repaired += found.different
	p.kick()
	return found
}

// holds says whether some report lies where it was written, so that the store is the one that it was. The caller holds mu.
func (p *post) holds(stored map[string]etcd.Pair) bool {
	for id, pair := range stored {
		if l := p.letters[id]; l != nil && l.revision > 0 && l.revision == pair.ModRevision {
			return true
		}
	}
	return false
}

// isNewer says whether a newer Holdfast has written a report.
func isNewer(agent evidence.Agent, id string, pair etcd.Pair) bool {
	_, err := record.DecodeReport(agent, id, pair.Value)
	return errors.Is(err, record.ErrNewer)
}

// resume goes on with a letter whose key was left to a newer Holdfast, once there is nothing newer. The caller holds mu.
func (p *post) resume(l *letter, pair etcd.Pair, there bool, now time.Duration) {
	if there && isNewer(p.agent, l.id, pair) {
		return
	}
	l.foreign = false
	if l.report == nil {
		delete(p.letters, l.id)
		return
	}
	p.enqueue(l, now, true)
}

// find gives the pair of a key.
func (r reading) find(key string) (etcd.Pair, bool) {
	for _, pair := range r.pairs {
		if pair.Key == key {
			return pair, true
		}
	}
	return etcd.Pair{}, false
}
