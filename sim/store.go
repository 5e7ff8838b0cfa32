package sim

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
)

// store is etcd: one member, as its clients can tell it from outside.
type store struct {
	w        *world
	chance   chance
	revision int64
	term     uint64
	id       uint64
	pairs    map[string]etcd.Pair
	leases   map[clientv3.LeaseID]*lease
	granted  clientv3.LeaseID
	// down answers nothing. What arrives meanwhile waits in the queue.
	down  int
	up    time.Duration // since when it answers again
	queue []func()
	// full is the alarm NOSPACE: what is written is refused, except deletions.
	full bool
	// late is how long what is being carried out has waited for that.
	late      time.Duration
	followers []*follower
	past      *store // the newest snapshot
}

type lease struct {
	ttl, deadline time.Duration
	keys          map[string]bool
}

var (
	errUnanswered = errors.New("no answer came in time")
	errRefused    = errors.New("a guard did not hold")
	errNoSpace    = errors.New("etcdserver: mvcc: database space exceeded")
	errNoLease    = errors.New("etcdserver: requested lease not found")
)

func newStore(w *world) *store {
	return &store{
		w: w, chance: w.chance("etcd"), revision: 1, term: 2, id: 7, pairs: map[string]etcd.Pair{},
		leases: map[clientv3.LeaseID]*lease{},
	}
}

// client is one program's connection to etcd. While it is cut, nothing passes.
type client struct {
	w    *world
	name string
	cut  int
	// late is how much longer than usual everything takes.
	late time.Duration
	// gone says that the program has ended: it hears no answer any more.
	gone func() bool
}

// call sends a request, which is served when it arrives, and answered when the answer arrives; or not at all, of which the caller learns
// after the bound. A request that was served although its caller has given up is what "unknown outcome" means.
func (c *client) call(bound time.Duration, serve func() error, done func(error)) {
	s := c.w.etcd
	over := false
	end := func(err error) {
		if over {
			return
		}
		over = true
		if c.gone == nil || !c.gone() {
			done(err)
		}
	}
	c.w.after(bound, func() { end(errUnanswered) })
	if c.cut > 0 {
		return
	}
	arrive := func() {
		// The server gives up what its caller has given up, unless it has begun.
		if over && s.chance.one(2) {
			return
		}
		err := serve()
		c.w.after(c.latency(), func() {
			if c.cut == 0 {
				end(err)
			}
		})
	}
	c.w.after(c.latency(), func() {
		switch {
		case c.cut > 0:
		case s.down > 0:
			s.queue = append(s.queue, arrive)
		default:
			arrive()
		}
	})
}

func (c *client) latency() time.Duration {
	return c.late + c.w.etcd.chance.between(500*time.Microsecond, 8*time.Millisecond)
}

// position is where the store stands.
func (s *store) position() etcd.Position {
	return etcd.Position{ClusterID: s.id, Revision: s.revision, Term: s.term}
}

// commit carries out one transaction, if its guards hold.
func (s *store) commit(guards []etcd.Guard, ops []etcd.Op) (int64, error) {
	for _, g := range guards {
		pair, there := s.pairs[g.Key]
		switch {
		case g.CreateRevision != 0:
			if !there || pair.CreateRevision != g.CreateRevision || g.Lease != 0 && leaseOf(pair) != g.Lease {
				return 0, errRefused
			}
		case pair.ModRevision != g.ModRevision:
			return 0, errRefused
		}
	}
	for _, op := range ops {
		if s.full && !op.Delete {
			return 0, errNoSpace
		}
		if _, there := s.leases[op.Lease]; op.Lease != 0 && !there {
			return 0, errNoLease
		}
	}
	s.apply(ops)
	return s.revision, nil
}

// apply makes one revision of the operations, and tells all who follow.
func (s *store) apply(ops []etcd.Op) {
	revision := s.revision + 1
	var changed []etcd.Pair
	for _, op := range ops {
		switch {
		case op.Delete && op.Prefix:
			for _, key := range s.below(op.Key) {
				changed = append(changed, s.remove(key, revision))
			}
		case op.Delete:
			if _, there := s.pairs[op.Key]; there {
				changed = append(changed, s.remove(op.Key, revision))
			}
		default:
			pair := etcd.Pair{Key: op.Key, Value: op.Value, CreateRevision: revision, ModRevision: revision, Lease: int64(op.Lease)}
			if was, there := s.pairs[op.Key]; there {
				pair.CreateRevision = was.CreateRevision
				if l := s.leases[clientv3.LeaseID(was.Lease)]; l != nil {
					delete(l.keys, op.Key)
				}
			}
			if op.Lease != 0 {
				s.leases[op.Lease].keys[op.Key] = true
			}
			s.pairs[op.Key] = pair
			changed = append(changed, pair)
		}
	}
	if len(changed) == 0 {
		return
	}
	s.revision = revision
	for _, pair := range changed {
		s.w.committed(pair)
	}
	for _, f := range s.followers {
		f.changed(changed)
	}
}

func (s *store) remove(key string, revision int64) etcd.Pair {
	if l := s.leases[clientv3.LeaseID(s.pairs[key].Lease)]; l != nil {
		delete(l.keys, key)
	}
	delete(s.pairs, key)
	return etcd.Pair{Key: key, ModRevision: revision, Deleted: true}
}

// below are the keys below a prefix, in order.
func (s *store) below(prefix string) []string {
	var keys []string
	for key := range s.pairs {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (s *store) list(prefix string) []etcd.Pair {
	var pairs []etcd.Pair
	for _, key := range s.below(prefix) {
		pairs = append(pairs, s.pairs[key])
	}
	return pairs
}

func (s *store) grant(ttl time.Duration) (clientv3.LeaseID, error) {
	if s.full {
		return 0, errNoSpace
	}
	s.granted++
	id := s.granted
	s.leases[id] = &lease{ttl: ttl, deadline: s.w.now + ttl, keys: map[string]bool{}}
	s.expireLater(id)
	return id, nil
}

func (s *store) keepAlive(id clientv3.LeaseID) error {
	l := s.leases[id]
	if l == nil {
		return errNoLease
	}
	l.deadline = s.w.now + l.ttl
	return nil
}

func (s *store) revoke(id clientv3.LeaseID) {
	l := s.leases[id]
	if l == nil {
		return
	}
	delete(s.leases, id)
	var ops []etcd.Op
	for _, key := range slices.Sorted(maps.Keys(l.keys)) {
		ops = append(ops, etcd.Op{Key: key, Delete: true})
	}
	s.apply(ops)
}

// expireLater lets a lease run out. While etcd is down nothing expires; what was due meanwhile goes as soon as it is back.
func (s *store) expireLater(id clientv3.LeaseID) {
	l := s.leases[id]
	s.w.after(l.deadline-s.w.now+s.chance.between(0, 600*time.Millisecond), func() {
		switch {
		case s.leases[id] != l:
		case s.down > 0 || s.w.now < l.deadline:
			if s.down > 0 {
				s.w.after(100*time.Millisecond, func() { // asked again until it is up
					if s.leases[id] == l {
						s.expireLater(id)
					}
				})
				return
			}
			s.expireLater(id)
		default:
			s.revoke(id)
		}
	})
}

// pause stops etcd for a time. One that was restarted gives every lease its whole time anew; one that was only stopped does not.
func (s *store) pause(d time.Duration, restart bool) {
	s.down++
	s.w.after(d, func() {
		s.down--
		if s.down > 0 {
			return
		}
		s.up = s.w.now
		if restart {
			s.term++
			for _, l := range s.leases {
				l.deadline = s.w.now + l.ttl
			}
			s.breakWatches("etcd was restarted")
		}
		queue := s.queue
		s.queue = nil
		for _, arrive := range queue {
			if !restart {
				arrive()
			}
		}
	})
}

// snapshot remembers the data as it is, and restore sets etcd back to that, or empties it.
func (s *store) snapshot() {
	s.past = &store{revision: s.revision, pairs: maps.Clone(s.pairs)}
}

func (s *store) restore(empty bool) {
	was := &store{revision: 1, pairs: map[string]etcd.Pair{}}
	if !empty && s.past != nil {
		was = s.past
	}
	s.revision, s.pairs = was.revision, maps.Clone(was.pairs)
	s.id += 2
	s.term = 2
	s.past, s.up = nil, s.w.now
	// Leases that the snapshot knew come back with their whole time; keys of others go.
	leases := map[clientv3.LeaseID]*lease{}
	for key, pair := range s.pairs {
		id := clientv3.LeaseID(pair.Lease)
		if id == 0 {
			continue
		}
		if leases[id] == nil {
			leases[id] = &lease{ttl: leaseTime, deadline: s.w.now + leaseTime, keys: map[string]bool{}}
		}
		leases[id].keys[key] = true
	}
	s.leases = leases
	for _, id := range slices.Sorted(maps.Keys(leases)) {
		s.expireLater(id)
	}
	s.breakWatches("etcd was restored")
	s.w.restored()
}

func (s *store) breakWatches(why string) {
	for _, f := range s.followers {
		f.lose(errors.New(why))
	}
}

// follower is an etcd.Follow: a list, then what changes, and a list again after every loss.
type follower struct {
	client  *client
	prefix  string
	deliver func(etcd.Update)
	silence time.Duration
	stopped bool

	watching bool
	listing  bool // what was committed since comes after the list
	round    int
	pending  []etcd.Pair
	flushing bool
	heard    time.Duration
	epoch    int64
	past     etcd.Past
	backoff  time.Duration
}

func (c *client) follow(prefix string, progress, silence time.Duration, deliver func(etcd.Update)) *follower {
	f := &follower{client: c, prefix: prefix, deliver: deliver, silence: silence, backoff: 250 * time.Millisecond}
	c.w.etcd.followers = append(c.w.etcd.followers, f)
	f.list()
	c.w.every(progress, progress, func() bool {
		f.progress()
		return !f.stopped
	})
	return f
}

func (f *follower) stop() {
	f.stopped = true
	s := f.client.w.etcd
	s.followers = slices.DeleteFunc(s.followers, func(other *follower) bool { return other == f })
}

func (f *follower) list() {
	f.round++
	f.listing = true
	round, w := f.round, f.client.w
	var pairs []etcd.Pair
	var revision int64
	var term, id uint64
	f.client.call(f.silence, func() error {
		pairs, revision, term, id = w.etcd.list(f.prefix), w.etcd.revision, w.etcd.term, w.etcd.id
		f.watching, f.pending = f.round == round && !f.stopped, nil
		return nil
	}, func(err error) {
		if f.stopped || f.round != round {
			return
		}
		if err != nil {
			f.lose(err)
			return
		}
		if follows := f.past.List(etcd.Position{ClusterID: id, Revision: revision, Term: term}, pairs); f.epoch == 0 || !follows {
			f.epoch++
		}
		f.heard, f.listing = w.now, false
		f.tell(etcd.Listed, pairs, nil)
		f.flush()
	})
}

// changed takes what was committed, which arrives some time later, in order.
func (f *follower) changed(pairs []etcd.Pair) {
	if !f.watching {
		return
	}
	for _, pair := range pairs {
		if strings.HasPrefix(pair.Key, f.prefix) {
			f.pending = append(f.pending, pair)
		}
	}
	f.later()
}

func (f *follower) later() {
	if len(f.pending) == 0 || f.flushing {
		return
	}
	f.flushing = true
	f.client.w.after(f.client.latency(), func() {
		f.flushing = false
		f.flush()
	})
}

// flush delivers what has come. On a connection that is cut it waits; TCP brings it later, or never.
func (f *follower) flush() {
	if f.stopped || !f.watching || f.listing || f.client.cut > 0 || len(f.pending) == 0 {
		return
	}
	pairs := f.pending
	f.pending = nil
	newest := pairs[len(pairs)-1]
	f.past.Revision, f.past.Newest, f.heard = newest.ModRevision, newest, f.client.w.now
	f.backoff = 250 * time.Millisecond
	f.tell(etcd.Changed, pairs, nil)
}

// progress asks for a proof of life, and notices when none has come for too long.
func (f *follower) progress() {
	if f.stopped || !f.watching || f.listing {
		return
	}
	w := f.client.w
	if w.now-f.heard > f.silence {
		f.lose(fmt.Errorf("no proof of life for %s", w.now-f.heard))
		return
	}
	round, revision, term := f.round, int64(0), uint64(0)
	f.client.call(f.silence, func() error { revision, term = w.etcd.revision, w.etcd.term; return nil }, func(err error) {
		if err != nil || f.stopped || f.round != round || !f.watching {
			return
		}
		f.flush()
		if revision < f.past.Revision || len(f.pending) > 0 {
			return
		}
		f.past.Revision, f.past.Term, f.heard = revision, max(f.past.Term, term), w.now
		f.tell(etcd.Progressed, nil, nil)
	})
}

func (f *follower) lose(err error) {
	if f.stopped {
		return
	}
	f.watching, f.pending = false, nil
	f.round++
	round, w := f.round, f.client.w
	f.tell(etcd.Lost, nil, err)
	w.after(w.etcd.chance.between(f.backoff/2, f.backoff), func() {
		if !f.stopped && f.round == round {
			f.list()
		}
	})
	f.backoff = min(2*f.backoff, 10*time.Second)
}

func (f *follower) tell(kind etcd.UpdateKind, pairs []etcd.Pair, err error) {
	f.deliver(etcd.Update{Kind: kind, Epoch: f.epoch, Revision: f.past.Revision, Term: f.past.Term, ClusterID: f.past.ClusterID, Pairs: pairs, Err: err})
}

func leaseOf(pair etcd.Pair) clientv3.LeaseID { return clientv3.LeaseID(pair.Lease) }
