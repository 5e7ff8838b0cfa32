// Package board is what one site's verdicts look like right now: an immutable picture that any number of readers share,
// and the newest changes for those who watch. Five followed prefixes of etcd feed it; it never writes, and it
// decides nothing but rule S13: what it cannot prove to be fresh, it shows as Held.
package board

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/record"
)

// Feed names one of the followed prefixes.
type Feed uint8

const (
	Verdicts Feed = iota
	Condition
	Identity
	Leader
	Clusters

	numFeeds
)

// Feeds are all of them: a board is complete when each was listed.
func Feeds() []Feed { return []Feed{Verdicts, Condition, Identity, Leader, Clusters} }

func (f Feed) String() string {
	switch f {
	case Verdicts:
		return "verdicts"
	case Condition:
		return "condition"
	case Identity:
		return "identity"
	case Leader:
		return "leader"
	case Clusters:
		return "clusters"
	}
	return fmt.Sprintf("Feed(%d)", uint8(f))
}

// Prefix is what to follow for the feed.
func (f Feed) Prefix(site string) string {
	switch f {
	case Condition:
		return record.ConditionKey(site)
	case Identity:
		return record.IdentityKey(site)
	case Leader:
		return record.LeaderKey(site)
	}
	return record.SitePrefix(site) + f.String() + "/"
}

// kind is what lies below the feed's prefix.
func (f Feed) kind() record.Kind {
	return [numFeeds]record.Kind{record.Verdict, record.Condition, record.Identity, record.Leader, record.Cluster}[f]
}

// Options say what a board shows.
type Options struct {
	// Site names the site. Required.
	Site string
	// Hold is how old a proof of life may be before everything is shown as Held. Required; at least a few times the
	// interval at which the feeds prove themselves.
	Hold time.Duration
	// Ring is how many changes are kept for watchers that resume. Default 16 384.
	Ring int
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Log tells of records that cannot be read. Default: nowhere.
	Log *slog.Logger
}

const defaultRing = 16384

// Board holds the newest snapshot. Its methods may be called from any goroutine.
type Board struct {
	o Options

	// verdicts serializes the updates of the verdicts' feed, whose decoding takes long enough that the other feeds must
	// not wait for it.
	verdicts sync.Mutex
	// publishing serializes the making of a snapshot out of the one before.
	publishing sync.Mutex
	snapshot   atomic.Pointer[Snapshot]
	ring       *ring
	bad        badRecords
	// lives is the epoch of the verdicts' feed: a change means that the store was replaced. Guarded by verdicts.
	lives int64
	// clusterLife is that of the clusters' feed. Guarded by publishing.
	clusterLife int64
}

// New makes an empty board. The error says which option is wrong.
func New(o Options) (*Board, error) {
	if err := record.CheckSegment("site", o.Site); err != nil {
		return nil, err
	}
	if o.Hold <= 0 {
		return nil, errors.New("the board's hold time must be positive")
	}
	if o.Ring <= 0 {
		o.Ring = defaultRing
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b := &Board{o: o, ring: newRing(o.Ring), bad: badRecords{log: o.Log}}
	b.snapshot.Store(&Snapshot{
		site: o.Site, hold: o.Hold, start: o.Now(), jobs: new(btree.Map[string, *Job]), clusters: new(btree.Map[string, *Cluster]), position: b.ring.next,
		prefix: `{"site":"` + o.Site + `","namespace":"`, next: make(chan struct{}),
	})
	return b, nil
}

// Snapshot gives the newest snapshot. It costs nothing.
func (b *Board) Snapshot() *Snapshot { return b.snapshot.Load() }

// Now is the board's clock, by which its proofs of life are to be judged.
func (b *Board) Now() time.Time { return b.o.Now() }

// Unreadable counts the records that could not be read since the start, by what was wrong with them.
func (b *Board) Unreadable() map[Unreadable]uint64 { return b.bad.counts() }

// Apply takes one update of a feed. All of it becomes visible at once. Each feed's updates are to come in their order.
func (b *Board) Apply(f Feed, u etcd.Update) {
	switch f {
	case Verdicts:
		b.applyVerdicts(u)
		return
	case Clusters:
		b.applyClusters(u)
		return
	}
	b.publish(func(s *Snapshot) {
		s.prove(f, u, b.o.Now())
		if u.Kind == etcd.Listed && len(u.Pairs) == 0 {
			b.erase(s, f, u.Revision)
		}
		for _, pair := range u.Pairs {
			switch place, err := record.ParseKey(b.o.Site, pair.Key); {
			case err != nil || place.Kind != f.kind():
				b.bad.report(pair.Key, Foreign, err)
			case pair.Deleted:
				b.erase(s, f, pair.ModRevision)
			default:
				b.read(s, f, pair)
			}
		}
		if f == Leader && s.leads && u.Kind != etcd.Lost {
			s.noteLeader(u.Kind == etcd.Listed)
		}
	})
}

// read takes over one of the site's own records. One that cannot be read leaves what was known. That the leader's key
// is there proves a leader even so: it may be a newer one than this program.
func (b *Board) read(s *Snapshot, f Feed, pair etcd.Pair) {
	var err error
	switch f {
	case Condition:
		var c record.SiteCondition
		if c, err = record.DecodeCondition(pair.Value); err == nil {
			s.condition, s.conditionRevision = c, pair.ModRevision
		}
	case Identity:
		var i record.SiteIdentity
		if i, err = record.DecodeIdentity(pair.Value); err == nil {
			b.identify(s, i)
		}
	case Leader:
		s.leads = true
		s.leader, err = record.DecodeLeader(pair.Value)
	}
	if err != nil {
		b.bad.report(pair.Key, classify(err), err)
		return
	}
	b.bad.forget(pair.Key)
}

// noteLeader notes the leader's sign of life, where there is a new one. One that was listed may be old, so that it is trusted for half as
// long; how old, only its own clock could say (S12).
func (s *Snapshot) noteLeader(listed bool) {
	now := s.feeds[Leader].Proven
	if s.leader.Ticked == "" {
		s.led, s.judged = now, now // it never gives one; that its key is there is all there is
		return
	}
	if s.leader == s.heard {
		return
	}
	s.heard = s.leader
	switch {
	case listed:
		if trusted := now.Add(-s.hold / 2); trusted.After(s.led) {
			s.led = trusted
		}
	case s.leader.Ticked != s.leader.Since:
		s.led = now
	default:
		return
	}
	switch {
	case s.judged.IsZero():
		s.judged = s.led.Add((3 - credit) * s.hold) // how it was before, nobody here has seen: a change of leader is waited for
	case !s.leader.Fresh && !listed:
		s.judged = s.led
	}
}

func (b *Board) erase(s *Snapshot, f Feed, revision int64) {
	switch f {
	case Condition:
		s.condition, s.conditionRevision = record.SiteCondition{}, revision
	case Leader:
		s.leader, s.leads = record.SiteLeader{}, false
	}
	// An identity that is gone is written again by the next leader; until then the last known one holds.
}

// identify takes over the site's identity. Versions of another epoch do not compare, so nobody can resume over the
// change.
func (b *Board) identify(s *Snapshot, i record.SiteIdentity) {
	if s.identity.Epoch == 0 {
		s.lifeEpoch = i.Epoch
	}
	if i.Epoch != s.identity.Epoch {
		s.version.Epoch = i.Epoch
		s.position = b.ring.reset(s.version.Revision)
		s.unnamed = false
	}
	s.identity = i
}

// begin notes that the store was replaced: what was listed now has another history. Its versions have no epoch of their
// own until the leader has noticed too, unless it was the faster.
func (s *Snapshot) begin(first bool) {
	s.unnamed = !first && s.identity.Epoch == s.lifeEpoch
	s.lifeEpoch = s.identity.Epoch
}

// publish makes the next snapshot out of the newest and wakes whoever waits for it.
func (b *Board) publish(change func(*Snapshot)) {
	b.publishing.Lock()
	defer b.publishing.Unlock()
	old := b.snapshot.Load()
	s := *old
	s.next = make(chan struct{})
	change(&s)
	s.stamp()
	b.snapshot.Store(&s)
	close(old.next)
}

// prove notes what an update says of its feed.
func (s *Snapshot) prove(f Feed, u etcd.Update, now time.Time) {
	health := &s.feeds[f]
	if u.Kind == etcd.Lost {
		health.Alive, health.Err = false, u.Err
		return
	}
	health.Alive, health.Err, health.Proven = true, nil, now
	health.Listed = health.Listed || u.Kind == etcd.Listed
	health.at = etcd.Position{ClusterID: u.ClusterID, Revision: u.Revision, Term: u.Term}
	if u.Kind == etcd.Listed {
		health.lists++
	}
	if u.Kind == etcd.Listed || len(u.Pairs) > 0 {
		health.changes++
	}
}

// stamp fills in what follows from the rest. Witnessed verdicts are vouched for up to lastSeen: a verdict is as fresh as
// the feed that brought it and the settler that would have changed it.
func (s *Snapshot) stamp() {
	s.complete = s.identity.Epoch > 0
	for _, health := range s.feeds {
		s.complete = s.complete && health.Listed
	}
	seen := s.feeds[Verdicts].Proven
	if s.led.Before(seen) {
		seen = s.led
	}
	s.lastSeen = ""
	if !seen.IsZero() {
		s.lastSeen = seen.UTC().Format("2006-01-02T15:04:05.000Z")
	}
}

// Resume gives the position from which to read the changes after a version. The error wraps ErrEpoch, ErrTooOld or
// ErrFuture.
func (b *Board) Resume(v Version) (position uint64, err error) {
	switch s := b.Snapshot(); {
	case v.Epoch != s.version.Epoch:
		return 0, fmt.Errorf("it is of epoch %d, now it is epoch %d: %w", v.Epoch, s.version.Epoch, ErrEpoch)
	case s.unnamed:
		return 0, fmt.Errorf("the store was replaced, and its new epoch is not known yet: %w", ErrEpoch)
	case v.Revision > s.version.Revision:
		return 0, fmt.Errorf("it is at revision %d: %w", s.version.Revision, ErrFuture)
	}
	return b.ring.after(v.Revision)
}

// Changes copies the changes from a position on, but none from the position end on, into a slice, and returns how many.
// The error is ErrTooOld for a reader that has fallen behind, or that was there before the store was replaced.
func (b *Board) Changes(from, end uint64, into []Change) (int, error) {
	return b.ring.read(from, end, into)
}
