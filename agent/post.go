package agent

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/agent/view"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/record"
)

// post is what should lie in etcd, and how much of it does. It holds one letter a job, and one for the beat: a newer one takes the
// place of the older, so its memory is that of the jobs whatever etcd does. Setting a letter never waits for etcd.
//
// A write whose outcome is not known is written again: a letter is the same however often it arrives.
type post struct {
	site   string
	agent  evidence.Agent
	store  store
	log    *slog.Logger
	born   time.Time
	beatIn string        // the beat's key
	turn   chan struct{} // holds a token while something is being written: one write at a time
	kicked chan struct{} // something may be due
	reread chan struct{} // the prefix is to be read again

	mu       sync.Mutex
	letters  map[string]*letter
	queue    []*letter // the longest waiting first
	beat     letter
	lease    clientv3.LeaseID // what the beat hangs on; 0 while there is none
	highest  int64            // revision seen
	setBack  bool             // a write arrived below it: what was written before may be gone
	open     bool             // the prefix has been read once: before that nothing is written, and nothing overwritten
	read     bool             // since the last doubt it has been read, and what differs is queued
	owed     int              // letters queued that must have arrived before the reports count as asserted
	isStep   bool             // they have, since the last doubt
	doubts   int
	life     int64         // of the store, in which all was compared last
	kept     etcd.Position // where the store stood, or must have, when it answered the last keepalive
	hurry    bool          // it is time to leave: no letter is held back
	hurried  chan struct{} // closed then
	changed  chan struct{} // closed, and made anew, whenever a letter has arrived or asserted changes
	repaired int           // letters that did not lie in etcd as they should
	failing  error         // why the last write failed; nil if it did not
}

// letter is one key's newest content.
type letter struct {
	id       string           // of the job; "" for the beat
	report   *evidence.Report // nil for the beat
	beat     *evidence.Beat   // nil for a report
	revision int64            // at which it arrived; 0 if it never has, as far as is known
	queued   bool
	due      time.Duration // when it may be written, since born
	owed     bool
	last     bool // the job is forgotten: so is the letter, once it has arrived
	foreign  bool // what lies there is of a newer Holdfast and is left alone
	tokens   float32
	counted  time.Duration // when tokens were counted
}

const (
	// A key may be written tokenLimit times in a row, and once per tokenEvery in the long run. The transitions in between lie in
	// the next report, which holds 32 of them. A job that flaps each second for a day so costs 17 000 writes, not 86 000.
	tokenLimit = 10
	tokenEvery = 5 * time.Second
)

func newPost(o Options, keep store, born time.Time) *post {
	return &post{
		site: o.Site, agent: o.Agent, store: keep, log: o.Log, born: born, beatIn: record.BeatKey(o.Site, o.Agent),
		turn: make(chan struct{}, 1), kicked: make(chan struct{}, 1), reread: make(chan struct{}, 1),
		letters: map[string]*letter{}, beat: letter{tokens: tokenLimit},
		hurried: make(chan struct{}), changed: make(chan struct{}),
	}
}

func (p *post) since() time.Duration { return time.Since(p.born) }

// set takes what a look changed.
func (p *post) set(c view.Changes) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.since()
	for _, r := range c.Reports {
		l := p.letters[r.JobID]
		if l == nil {
			l = &letter{id: r.JobID, tokens: tokenLimit, counted: now}
			p.letters[r.JobID] = l
		}
		l.report, l.last = r, false
		p.enqueue(l, now, l.revision == 0)
	}
	for _, id := range c.Forgotten {
		if l := p.letters[id]; l != nil {
			l.last = true
			p.bury(l)
		}
	}
	if c.Beat != nil {
		p.beat.beat = c.Beat
		p.enqueueBeat(now)
	}
	p.kick()
}

// enqueue makes a letter wait for the writer. The caller holds mu.
func (p *post) enqueue(l *letter, now time.Duration, owed bool) {
	if l.foreign {
		return
	}
	due := now
	if !l.report.State.Terminal() { // an end is never held back
		due += l.pause(now)
	}
	if !l.queued {
		l.queued, l.due = true, due
		p.queue = append(p.queue, l)
	}
	l.due = min(l.due, due)
	if owed && !l.owed {
		l.owed = true
		p.owed++
	}
}

// enqueueBeat does so for the beat, which needs a lease to hang on: a new one gets it in hang. The caller holds mu.
func (p *post) enqueueBeat(now time.Duration) {
	if p.lease != 0 && !p.beat.queued {
		p.beat.queued, p.beat.due = true, now+p.beat.pause(now)
	}
}

// pause is how long the letter has to wait for its next token.
func (l *letter) pause(now time.Duration) time.Duration {
	l.tokens = min(tokenLimit, l.tokens+float32(now-l.counted)/float32(tokenEvery))
	l.counted = now
	if l.tokens >= 1 {
		return 0
	}
	return time.Duration((1 - l.tokens) * float32(tokenEvery))
}

// reached notes that a write that began at floor, the highest revision seen, arrived at revision. Where that is lower, etcd was set back, and not even
// a reading may show that: it may have grown beyond the floor by then. The caller holds mu.
func (p *post) reached(revision, floor int64) {
	if revision >= floor {
		p.highest = max(p.highest, revision)
		return
	}
	p.highest, p.setBack = revision, true
	p.doubts++
	p.read, p.isStep = false, false
	wake(p.reread)
}

// heard notes where the store stood when it answered a keepalive. One that was set back may hold the lease and an old beat, and not what was
// reported since. Or a member lags behind: the reading that follows tells.
func (p *post) heard(at etcd.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept.ClusterID != 0 && at.Before(p.kept) {
		wake(p.reread)
	}
	p.kept = etcd.Position{ClusterID: at.ClusterID, Revision: max(at.Revision, p.highest), Term: at.Term}
}

// arrived notes that content lies in etcd since revision. If its letter has newer content by now, that goes on waiting. The
// caller holds mu.
func (p *post) arrived(c content, revision int64, now time.Duration) {
	l := c.letter
	l.revision = revision
	l.pause(now)
	l.tokens = max(0, l.tokens-1)
	if l.report != c.report || l.beat != c.beat {
		l.due = now
		if l.report == nil || !l.report.State.Terminal() {
			l.due += l.pause(now)
		}
		return
	}
	l.queued = false
	if l.owed {
		l.owed = false
		p.owed--
	}
	p.bury(l)
}

// bury drops the letter of a forgotten job that has nothing to wait for. The caller holds mu.
func (p *post) bury(l *letter) {
	if l.last && !l.queued && p.letters[l.id] == l {
		delete(p.letters, l.id)
	}
}

// retire drops the letter of a job that the view has forgotten because somebody else took the report away.
func (p *post) retire(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.letters[id]; l != nil {
		l.last = true
		p.bury(l)
	}
}

// yield leaves the key of a job alone, because a newer Holdfast wrote it.
func (p *post) yield(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.letters[id]
	if l == nil {
		l = &letter{id: id}
		p.letters[id] = l
	}
	l.foreign, l.queued = true, false
	p.queue = slices.DeleteFunc(p.queue, func(other *letter) bool { return other == l })
	if l.owed {
		l.owed = false
		p.owed--
	}
}

// inStep notes that what differed from etcd is queued, if nothing has been doubted since doubts were counted.
func (p *post) inStep(doubts int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = true
	p.read = p.read || p.doubts == doubts
	p.step()
	p.kick()
}

// doubt notes that etcd may have lost what lay in it: nothing counts as asserted until it has been read and repaired.
func (p *post) doubt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doubts++
	p.read, p.isStep = false, false
	wake(p.reread)
}

// step notes when all that was owed has arrived. The caller holds mu.
func (p *post) step() {
	if !p.isStep && p.open && p.read && p.owed == 0 {
		p.isStep = true
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// asserted says whether every report lay in etcd, under this session, at some moment since the last doubt.
func (p *post) asserted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.isStep
}

// await waits until what, asked under mu, is true, or ctx ends.
func (p *post) await(done <-chan struct{}, what func() bool) bool {
	for {
		p.mu.Lock()
		ok, changed := what(), p.changed
		p.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-done:
			return false
		}
	}
}

// overdue is for how long the longest waiting letter could have been written and was not.
func (p *post) overdue() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, longest := p.since(), time.Duration(0)
	if !p.open {
		return 0
	}
	for _, l := range p.queue {
		if l.queued {
			longest = max(longest, now-l.due)
		}
	}
	if p.lease != 0 && p.beat.queued {
		longest = max(longest, now-p.beat.due)
	}
	return longest
}

func (p *post) kick() { wake(p.kicked) }

// wake leaves a note for a goroutine, if there is none yet.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
