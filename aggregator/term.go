package aggregator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/aggregator/api"
	"github.com/holdfast-dev/holdfast/aggregator/intake"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/settle"
)

// settler is the driver of the core: it brings events in, lets time pass, and hands effects to the writer. It lives as long as
// the process; it works only while this replica leads.
type settler struct {
	site    string
	cfg     settle.Config
	client  *clientv3.Client
	log     *slog.Logger
	metrics *metrics
	// core is of one reign. Where etcd has lost its past since, and nobody else reigned, the next reign keeps it: this memory is all there is.
	core *settle.Core
	// outdated says that somebody else reigned, and knows better.
	outdated atomic.Bool
	// bereft says that the store has lost its past, and may not have been given all of it back yet; lives are the epochs that were listed last.
	bereft bool
	lives  [len(stores)]int64
	// epoch is the newest of the site that was seen, begun the one that this replica tried to begin last, and setBack says that an older one than
	// epoch was seen after it.
	epoch, begun atomic.Int64
	setBack      atomic.Bool
	begin        time.Time
	// condition is the one told last: a store that was emptied is to have it again.
	condition *settle.Condition
	// writing are the writes under way. A key without an ID is that of a cluster as a whole.
	writing map[job.Key]write

	reigning atomic.Bool
	ticked   atomic.Int64 // when the core last took a Tick, in nanoseconds since begin
	// told says of which stores the core was told all, and whole that it was of all when it last took a Tick.
	told  [len(stores)]bool
	whole atomic.Bool
	// wholeAt is when that was so first in this reign, in nanoseconds since begin; 0 if it never was.
	wholeAt atomic.Int64
	// owed are the jobs whose last write failed, until it is known whether the core still wants it: what is served of them may be old. behind
	// says that there are some.
	owed    map[job.Key]struct{}
	behind  atomic.Bool
	sources [settle.Pods + 1]sourceState

	// unwritten is why etcd takes no verdicts, and unshown why it does not take the leader's sign of life; nil while it does.
	unwritten, unshown atomic.Pointer[string]

	// checked is what the loop knows for the check, whose questions it answers.
	checked     checked
	questions   chan question
	checkPeriod time.Duration

	kubernetes Kubernetes // nil where there is none
	version    string
	outside    *outside // of this reign
}

// write is one under way: the revision that it is to find, and, once etcd has carried it out, what lies there.
type write struct {
	revision int64
	is       settle.Input
}

// sourceState is how far a source was followed.
type sourceState struct {
	heard atomic.Int64 // nanoseconds since begin
	place atomic.Pointer[place]
	sick  atomic.Pointer[string]
	// last is the newest position of the last reign, and epochs counts the stores over all reigns: two follows of one source do
	// not know of each other whether etcd was set back in between.
	last   etcd.Update
	epochs int64
}

// place is where a source stood when it was heard last, and how often it was listed.
type place struct {
	etcd.Position
	heard time.Time
	lists int
}

// stores are the sources that lie in etcd.
var stores = [...]settle.Source{settle.Agents, settle.Verdicts, settle.Clusters}

// inboxSize bounds the batches of events that wait for the core. A full inbox makes etcd wait.
const inboxSize = 64

func newSettler(site string, cfg settle.Config, client *clientv3.Client, log *slog.Logger, m *metrics) *settler {
	return &settler{site: site, cfg: cfg, client: client, log: log, metrics: m, begin: time.Now(), writing: map[job.Key]write{}, owed: map[job.Key]struct{}{},
		questions: make(chan question)}
}

// reign settles until ctx ends.
func (s *settler) reign(ctx context.Context, term etcd.Term) error {
	lost, err := s.storeLostItsPast(ctx)
	if err != nil {
		return err
	}
	if lost {
		for _, source := range stores {
			s.sources[source].last = etcd.Update{} // what is followed now is another store, even where its numbers go on from there
		}
	}
	if s.outdated.Swap(false) || s.core == nil || !lost {
		s.writing, s.condition = map[job.Key]write{}, nil
		core, err := settle.New(s.cfg)
		if err != nil {
			return err
		}
		s.core = core
	}
	now := s.since()
	s.ticked.Store(now)
	s.sources[settle.Pods].sick.Store(nil)
	for i := range s.sources {
		s.sources[i].heard.Store(now)
	}
	s.told, s.checked = [len(stores)]bool{}, checked{}
	s.whole.Store(false)
	s.wholeAt.Store(0)
	s.reigning.Store(true)
	defer s.reigning.Store(false)

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	inbox := make(chan []settle.Input, inboxSize)
	outcomes := make(chan outcome, writers)
	w := newWriter(s.site, s.client, term, s.log, s.metrics, func(o outcome) {
		select {
		case outcomes <- o: // also at the end of the reign, while there is room
		default:
			select {
			case outcomes <- o:
			case <-ctx.Done():
			}
		}
	})
	w.failing = &s.unwritten
	s.unwritten.Store(nil)
	s.unshown.Store(nil)
	if s.condition != nil {
		w.add(*s.condition)
	}
	var all sync.WaitGroup
	all.Go(func() { w.run(ctx) })
	for _, source := range stores {
		all.Go(func() { s.follow(ctx, source, inbox) })
	}
	if s.kubernetes != nil {
		s.outside = newOutside(s, func(inputs []settle.Input) {
			select {
			case inbox <- inputs:
			case <-ctx.Done():
			}
		})
		all.Go(func() { s.outside.run(ctx) })
	}
	all.Go(func() { s.checker(w).run(ctx) })
	s.loop(ctx, inbox, outcomes, w)
	all.Wait()
	s.outside = nil
	for _, source := range stores {
		// The reign may end with the store: that another life of it was listed is true, though the core has not heard of it any more.
		s.bereft = s.bereft || s.lives[source] > 0 && s.sources[source].epochs > s.lives[source]
	}
	s.rest(outcomes)
	return ctx.Err()
}

// rest lets the core wait for the next reign, where it goes on, perhaps: what was under way is told no more then, even if etcd has carried it out;
// and nothing is judged before the sources have told all anew (S11).
func (s *settler) rest(outcomes <-chan outcome) {
	for len(outcomes) > 0 {
		s.ended(<-outcomes, nil)
	}
	for key, write := range s.writing {
		s.step(settle.NotWritten{Key: key, Lost: write.is}, nil)
	}
	for _, source := range stores {
		s.step(settle.Lost{Source: source, Why: "the reign ended"}, nil)
		s.sources[source].sick.Store(nil)
	}
	for _, source := range []settle.Source{settle.Pods, settle.Probes} {
		s.step(settle.Lost{Source: source, Why: "the reign ended"}, nil)
	}
}

// storeLostItsPast says whether etcd was replaced, or set back, since the last reign. Whatever this replica remembers beyond what lies there is
// of use then only: otherwise another may have reigned unseen, and forgotten what this one would bring back.
func (s *settler) storeLostItsPast(ctx context.Context) (bool, error) {
	for ctx.Err() == nil {
		bounded, cancel := context.WithTimeout(ctx, writeTimeout)
		epoch, err := epochOf(bounded, s.client, s.site)
		var now etcd.Position
		if err == nil {
			now, err = etcd.Where(bounded, s.client)
		}
		cancel()
		if err == nil {
			s.noteEpoch(epoch)
			lost := s.setBack.Swap(false) || s.bereft || epoch < s.epoch.Load()
			for _, i := range stores {
				last := s.sources[i].last
				lost = lost || now.Before(etcd.Position{ClusterID: last.ClusterID, Revision: last.Revision, Term: last.Term})
			}
			return lost, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(writeRetry):
		}
	}
	return false, ctx.Err()
}

// noteEpoch notes that somebody else has begun an epoch: who did so has reigned since the store lost its past, perhaps unheard of.
func (s *settler) noteEpoch(is int64) {
	if known := s.epoch.Load(); known > 0 && is > known && is != s.begun.Load() {
		s.outdated.Store(true)
	}
}

// loop is the only place where the core is touched during a reign. It waits for nothing but events.
func (s *settler) loop(ctx context.Context, inbox <-chan []settle.Input, outcomes <-chan outcome, w *writer) {
	tick := time.NewTicker(s.cfg.Tick)
	defer tick.Stop()
	var asked []question
	for {
		asked = slices.DeleteFunc(asked, question.settled)
		select {
		case <-ctx.Done():
			return
		case q := <-s.questions:
			asked = append(asked, q)
		case <-tick.C:
			s.step(settle.Tick{}, w)
			s.ticked.Store(s.since())
			s.settleDebts()
			whole := !slices.Contains(s.told[:], false)
			if whole && s.wholeAt.Load() == 0 {
				s.wholeAt.Store(s.since())
			}
			s.whole.Store(whole)
			if whole && len(s.owed)+len(s.writing) == 0 {
				s.bereft = false
			}
		case batch := <-inbox:
			for _, input := range batch {
				s.step(input, w)
			}
		case o := <-outcomes:
			s.ended(o, w)
		}
	}
}

// ended takes the outcome of a write. What was carried out counts when the watch tells of it, which may have been before this.
func (s *settler) ended(o outcome, w *writer) {
	switch under, is := s.writing[o.key]; {
	case !is || under.revision != o.revision:
	case o.err != nil:
		s.step(settle.NotWritten{Key: o.key}, w)
	default:
		s.writing[o.key] = write{o.revision, o.is}
	}
}

// step lets the core take one event, and hands over its effects.
func (s *settler) step(input settle.Input, w *writer) {
	s.checked.note(input)
	switch in := input.(type) {
	case settle.Stored, settle.StoredCluster, settle.Erased, settle.UnreadableVerdict:
		key, revision, _ := recordOf(in)
		s.endWrite(key, revision, w)
	case settle.NotWritten:
		delete(s.writing, in.Key)
		s.owed[in.Key] = struct{}{}
		s.behind.Store(true)
	case settle.Listing:
		s.noteLife(in)
	case settle.Synced:
		// The list is newer than any write that etcd carried out before it. What it does not show was lost with the store's past.
		for key, write := range s.writing {
			if write.is != nil && (in.Source == settle.Verdicts && key.ID != "" || in.Source == settle.Clusters && key.ID == "") {
				s.endWrite(key, 0, w)
			}
		}
		s.tell(in.Source, true)
	case settle.Lost:
		s.tell(in.Source, false)
	}
	now := time.Now()
	effects := s.core.Step(settle.Event{At: now.Sub(s.begin), Wall: now.UnixMilli(), Input: input})
	for _, effect := range effects {
		switch e := effect.(type) {
		case settle.Write:
			s.writing[e.Account.Key] = write{revision: e.IfRevision}
			s.logWrite(e)
		case settle.Forget:
			s.writing[e.Key] = write{revision: e.IfRevision}
		case settle.WriteCluster:
			s.writing[wholeCluster(e.Cluster.Key)] = write{revision: e.IfRevision}
			s.logCluster(e)
		case settle.ForgetCluster:
			s.writing[wholeCluster(e.Key)] = write{revision: e.IfRevision}
		case settle.Condition:
			s.condition = &e
			s.logCondition(e)
		case settle.Ask:
			if s.outside != nil {
				s.outside.asks.put(e.Agent, e)
			}
			continue
		case settle.Check:
			if s.outside != nil {
				s.outside.checks.put(e.Cluster, e)
			}
			continue
		}
		if w != nil {
			w.add(effect)
		}
	}
}

// endWrite ends the write of a record that is told of at a revision, 0 if it is not there. Where etcd had carried the write out, and this is not its
// revision, the store has lost it: nobody else has written since, and what was written may have been served.
func (s *settler) endWrite(key job.Key, revision int64, w *writer) {
	switch write, under := s.writing[key]; {
	case under && write.is == nil && write.revision == revision:
		return // it is told once more what the write is to find, which goes on
	case write.is != nil:
		if _, written, _ := recordOf(write.is); written != revision {
			s.step(settle.NotWritten{Key: key, Lost: write.is}, w)
		}
	}
	delete(s.writing, key)
	delete(s.owed, key)
}

// follow brings one source in.
func (s *settler) follow(ctx context.Context, source settle.Source, inbox chan<- []settle.Input) {
	in := &intake.Intake{
		Site: s.site, Source: source, Unreadable: func(kind string) { s.metrics.unreadable.WithLabelValues(kind).Inc() }, Log: s.log,
	}
	state := &s.sources[source]
	var base int64
	lists := 0
	o := etcd.FollowOptions{Prefix: in.Prefix(), Progress: s.cfg.Silence / 3, Silence: s.cfg.Silence}
	_ = etcd.Follow(ctx, s.client, o, func(u etcd.Update) {
		if u.Kind == etcd.Lost {
			why := u.Err.Error()
			state.sick.Store(&why)
			s.log.Warn("a source is lost; nothing negative is concluded until it is back", "source", source.String(), "error", u.Err)
		} else {
			if state.sick.Swap(nil) != nil {
				s.log.Info("the source is back", "source", source.String(), "revision", u.Revision)
			}
			state.heard.Store(s.since())
			if base == 0 {
				if u.ClusterID != state.last.ClusterID || u.Revision < state.last.Revision || u.Term < state.last.Term {
					state.epochs++
				}
				base = state.epochs
			}
			if u.Kind == etcd.Listed {
				lists++
			}
			state.place.Store(&place{etcd.Position{ClusterID: u.ClusterID, Revision: u.Revision, Term: u.Term}, time.Now(), lists})
			state.last = etcd.Update{ClusterID: u.ClusterID, Revision: u.Revision, Term: u.Term}
			u.Epoch += base - 1
			state.epochs = u.Epoch
		}
		select {
		case inbox <- in.Events(u):
		case <-ctx.Done():
		}
	})
}

// alive is the leader's proof of life: whoever ticks late, or hears nothing, lets somebody else lead.
func (s *settler) alive() error {
	if !s.reigning.Load() {
		return nil
	}
	now := s.since()
	if late := time.Duration(now - s.ticked.Load()); late > s.cfg.Lease {
		return fmt.Errorf("the settler has not ticked for %s", late.Round(time.Second))
	}
	// Without the API server there is work enough: it is no cause to let another lead.
	for _, i := range stores {
		if silent := time.Duration(now - s.sources[i].heard.Load()); silent > s.cfg.Hold+s.cfg.Silence {
			err := errors.New("no reason known")
			if sick := s.sources[i].sick.Load(); sick != nil {
				err = errors.New(*sick)
			}
			return fmt.Errorf("%s have not been heard for %s: %w", i, silent.Round(time.Second), err)
		}
	}
	return nil
}

// noteLife notes in which of its lives a store is listed.
func (s *settler) noteLife(in settle.Listing) {
	if int(in.Source) < len(s.lives) {
		s.bereft = s.bereft || s.lives[in.Source] > 0 && in.Epoch > s.lives[in.Source]
		s.lives[in.Source] = in.Epoch
	}
}

// tell notes whether the core was told all of a source, and has been told every change since.
func (s *settler) tell(source settle.Source, all bool) {
	if int(source) < len(s.told) {
		s.told[source] = all
	}
	if !all {
		s.whole.Store(false)
	}
}

// settleDebts forgets the failed writes that the core has not asked for again with the Tick that came since.
func (s *settler) settleDebts() {
	for key := range s.owed {
		if _, asked := s.writing[key]; !asked {
			delete(s.owed, key)
		}
	}
	s.behind.Store(len(s.owed) > 0)
}

// fresh says whether it is too short a time since the settler first heard all for it to know who is silent. A watch that is lost later takes nothing
// away from what it knows.
func (s *settler) fresh() bool {
	at := s.wholeAt.Load()
	return at == 0 || time.Duration(s.since()-at) < s.cfg.Hold
}

// judges says whether the settler hears all that lies in etcd, and judges by it, now, and what it judged could be written.
func (s *settler) judges() bool {
	now := s.since()
	if !s.reigning.Load() || !s.whole.Load() || s.behind.Load() || time.Duration(now-s.ticked.Load()) > s.cfg.Tick+s.cfg.Late {
		return false
	}
	for _, i := range stores {
		if time.Duration(now-s.sources[i].heard.Load()) > s.cfg.Silence {
			return false
		}
	}
	return true
}

// health tells how the settler's sources are, while this replica leads.
func (s *settler) health() []api.Source {
	if !s.reigning.Load() {
		return nil
	}
	sources := make([]api.Source, 0, len(s.sources))
	for i := range s.sources {
		if settle.Source(i) == settle.Pods && s.kubernetes == nil {
			continue
		}
		state := &s.sources[i]
		source := api.Source{
			Name: "settler: " + settle.Source(i).String(), Healthy: true,
			Age: time.Duration(s.since() - state.heard.Load()).Round(time.Millisecond).Seconds(),
		}
		if sick := state.sick.Load(); sick != nil {
			source.Healthy, source.Why = false, *sick
		}
		sources = append(sources, source)
	}
	writes := api.Source{Name: "settler: writes", Healthy: true}
	for _, why := range []*string{s.unshown.Load(), s.unwritten.Load()} {
		if why != nil {
			writes.Healthy, writes.Why = false, *why
		}
	}
	return append(sources, writes)
}

func (s *settler) since() int64 { return int64(time.Since(s.begin)) }

// logWrite says what was decided, once, where it is decided.
func (s *settler) logWrite(e settle.Write) {
	for _, t := range e.Entries {
		s.log.Info("settled", "job", e.Account.Key.String(), "name", e.Account.Verdict.Name, "attempt", t.Attempt.Number,
			"kind", t.Kind.String(), "state", t.State.String(), "over", t.Over.String(), "certainty", t.Certainty.String(),
			"reason", t.Reason.String(), "sequence", t.Sequence)
	}
}

// logCluster says what was decided of a cluster.
func (s *settler) logCluster(e settle.WriteCluster) {
	is := e.Cluster
	s.log.Info("settled a cluster", "cluster", is.Key.String(), "condition", is.Condition.String(), "over", is.Over.String(),
		"certainty", is.Certainty.String(), "reason", is.Reason.String(), "sequence", is.Sequence)
}

// wholeCluster is the key of a cluster as a whole among those of jobs.
func wholeCluster(key job.ClusterKey) job.Key {
	return job.Key{Namespace: key.Namespace, Cluster: key.Cluster}
}

func (s *settler) logCondition(e settle.Condition) {
	if e.Frozen {
		s.log.Warn("conclusions are frozen", "source", e.Source, "why", e.Why, "expected", e.Expected, "beating", e.Beating)
		return
	}
	s.log.Info("agents", "expected", e.Expected, "beating", e.Beating)
}
