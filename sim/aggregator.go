package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
	"github.com/holdfast-dev/holdfast/settle"
)

// replica is one aggregator: the real board, and the real core behind the real intake. Its driver (aggregator/term.go, writer.go) is played.
type replica struct {
	w      *world
	chance chance
	name   string
	skew   time.Duration
	// client reaches etcd; apiCut and flinkCut are the other networks.
	client           *client
	apiCut, flinkCut int
	// stopped is SIGSTOP: what comes waits in the inbox.
	stopped int
	inbox   []func()
	waking  bool // it is taking in what waited
	woke    time.Duration
	life    *aggregator
	lives   int
}

// aggregator is one life of a replica's process.
type aggregator struct {
	r      *replica
	number int
	dead   bool
	born   time.Duration
	board  *board.Board
	feeds  []*follower

	reign    *reign
	core     *settle.Core
	outdated bool
	writing  map[job.Key]write
	owed     map[job.Key]bool
	// what was followed in earlier reigns, by source
	last     [len(stores)]etcd.Update
	epochs   [len(stores)]int64
	replaced bool
	epoch    int64             // the newest of the site that was seen
	begun    int64             // the one that it tried to begin last
	setBack  bool              // an older one was seen after it
	told     *settle.Condition // the core's last
	bereft   bool              // the store has lost its past, and may not have been given all of it back
	stores   [len(stores)]int64
	listed   time.Duration // when it last found, rather than heard, who leads
	met      time.Duration // when it first heard of a leader
	feedSeen map[board.Feed]int64
	healthy  map[board.Feed]int64
}

// stores are the sources that lie in etcd.
var stores = [...]settle.Source{settle.Agents, settle.Verdicts, settle.Clusters}

const (
	leaderLease = 10 * time.Second
	uid         = "the-site"
)

var discard = slog.New(slog.DiscardHandler)

func newReplica(w *world, name string) *replica {
	r := &replica{w: w, name: name, chance: w.chance("aggregator " + name)}
	r.skew = w.skew(r.chance)
	r.client = &client{w: w, name: name}
	r.start()
	return r
}

// moment is the replica's wall clock as time.Time, for its board.
func (r *replica) moment() time.Time { return time.UnixMilli(epochMillis).Add(r.w.now) }

func (r *replica) start() {
	r.lives++
	a := &aggregator{
		r: r, number: r.lives, born: r.w.now, feedSeen: map[board.Feed]int64{}, healthy: map[board.Feed]int64{}, writing: map[job.Key]write{},
		owed: map[job.Key]bool{},
	}
	b, err := board.New(board.Options{Site: site, Hold: r.w.cfg.Hold, Ring: 64, Now: r.moment})
	if err != nil {
		panic(err)
	}
	a.board, r.life = b, a
	r.w.say("aggregator %s starts", r.name)
	a.claim()
	for _, feed := range board.Feeds() {
		a.feeds = append(a.feeds, r.client.follow(feed.Prefix(site), 5*time.Second, 15*time.Second, func(u etcd.Update) {
			a.do(func() { a.apply(feed, u) })
		}))
	}
	a.again(r.chance.between(500*time.Millisecond, 2*time.Second), a.campaign)
}

// kill ends the process, and start begins another.
func (r *replica) kill(back time.Duration) {
	a := r.life
	if a == nil {
		return
	}
	r.w.say("aggregator %s is killed", r.name)
	a.end()
	r.life = nil
	r.inbox = nil
	r.w.after(back, func() {
		if r.life == nil {
			r.start()
		}
	})
}

func (a *aggregator) end() {
	a.dead = true
	for _, f := range a.feeds {
		f.stop()
	}
	if a.reign != nil {
		a.reign.stop()
	}
}

// stop is SIGSTOP for a time.
func (r *replica) stop(d time.Duration) {
	r.stopped++
	r.w.after(d, func() {
		r.stopped--
		if r.stopped > 0 {
			return
		}
		inbox := r.inbox
		r.inbox, r.waking, r.woke = nil, true, r.w.now
		for _, do := range inbox {
			do()
		}
		r.waking = false
	})
}

// do does something in the process, once it may.
func (a *aggregator) do(what func()) {
	switch {
	case a.dead:
	case a.r.stopped > 0:
		a.r.inbox = append(a.r.inbox, func() { a.do(what) })
	default:
		what()
	}
}

func (a *aggregator) again(d time.Duration, what func()) { a.r.w.after(d, func() { a.do(what) }) }

func (a *aggregator) call(bound time.Duration, serve func() error, done func(error)) {
	a.r.client.call(bound, serve, func(err error) { a.do(func() { done(err) }) })
}

// claim writes whose site it is, where nobody has.
func (a *aggregator) claim() {
	a.call(5*time.Second, func() error {
		key := record.IdentityKey(site)
		_, err := a.r.w.etcd.commit([]etcd.Guard{{Key: key}},
			[]etcd.Op{{Key: key, Value: record.EncodeIdentity(record.SiteIdentity{UID: uid, Epoch: 1})}})
		return err
	}, func(err error) {
		if err != nil && !errors.Is(err, errRefused) {
			a.again(time.Second, a.claim)
		}
	})
}

// apply brings an update to the board, and notes what it says of the store and of the leader (aggregator.follow).
func (a *aggregator) apply(feed board.Feed, u etcd.Update) {
	known := a.board.Snapshot().Identity().Epoch
	if a.feedSeen[feed] == 0 {
		a.feedSeen[feed] = 1
	}
	if u.Epoch > a.feedSeen[feed] {
		a.feedSeen[feed] = u.Epoch
		if known == a.healthy[feed] {
			a.replaced = true
		}
	}
	if u.Kind != etcd.Lost {
		a.healthy[feed] = known
	}
	switch n := len(u.Pairs); feed {
	case board.Leader:
		for _, pair := range u.Pairs {
			if leader, err := record.DecodeLeader(pair.Value); !pair.Deleted && (err != nil || leader.Name != a.name()) {
				a.outdated = true
			}
		}
	case board.Identity:
		if n > 0 && u.Pairs[n-1].Deleted || n == 0 && u.Kind == etcd.Listed {
			a.replaced = true
		}
	}
	if feed == board.Leader && u.Kind == etcd.Listed {
		a.listed = a.r.w.now
	}
	if feed == board.Leader && len(u.Pairs) > 0 && a.met == 0 {
		a.met = a.r.w.now
	}
	a.board.Apply(feed, u)
	if feed == board.Identity {
		is := a.board.Snapshot().Identity().Epoch
		a.noteEpoch(is)
		switch {
		case is < a.epoch:
			a.setBack, a.replaced = true, true
		case is > a.epoch:
			a.epoch = is
			a.replaced = a.replaced && known == 0
		}
	}
	a.r.w.served(a)
}

// noteEpoch notes that somebody else has begun an epoch (settler.noteEpoch).
func (a *aggregator) noteEpoch(is int64) {
	if a.epoch > 0 && is > a.epoch && is != a.begun {
		a.outdated = true
	}
}

// name is what the leader's key says: a replica that was restarted is another.
func (a *aggregator) name() string { return fmt.Sprintf("%s-%d", a.r.name, a.number) }

// campaign tries to lead, again and again.
func (a *aggregator) campaign() {
	if a.reign != nil {
		return
	}
	w := a.r.w
	retry := func() { a.again(a.r.chance.between(500*time.Millisecond, 3*time.Second), a.campaign) }
	if !a.board.Snapshot().Feed(board.Verdicts).Listed {
		retry()
		return
	}
	asked := w.now
	var id clientv3.LeaseID
	var created int64
	leader := record.SiteLeader{Name: a.name(), Address: a.r.name, Since: w.stamp(a.r.skew), Ticked: w.stamp(a.r.skew), Fresh: true}
	a.call(leaderLease/2, func() (err error) {
		key := record.LeaderKey(site)
		if _, there := w.etcd.pairs[key]; there {
			return errRefused
		}
		if id, err = w.etcd.grant(leaderLease); err != nil {
			return err
		}
		created, err = w.etcd.commit([]etcd.Guard{{Key: key}}, []etcd.Op{{Key: key, Value: record.EncodeLeader(leader), Lease: id}})
		return err
	}, func(err error) {
		if err != nil || w.now > asked+leaderLease {
			retry()
			return
		}
		a.lead(&reign{a: a, lease: id, created: created, kept: asked + leaderLease, leader: leader, shown: -time.Hour})
	})
}
