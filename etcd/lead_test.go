package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
)

// A contender leads whenever it can, and says so.
type contender struct {
	name   string
	client *clientv3.Client
	lost   losses
	alive  atomic.Bool
	// reigning is how many of its reigns have not returned: 0 or 1.
	reigning atomic.Int32

	mu    sync.Mutex
	terms []etcd.Term
	stop  func()
}

func (c *contender) term() (etcd.Term, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reigning.Load() == 0 || len(c.terms) == 0 {
		return etcd.Term{}, false
	}
	return c.terms[len(c.terms)-1], true
}

// contend starts a contender. during, which may be nil, runs within each reign.
func contend(t *testing.T, p *etcdproc.Process, name string, ttl time.Duration, during func(context.Context, etcd.Term)) *contender {
	t.Helper()
	c := &contender{name: name, client: p.Client()}
	c.alive.Store(true)
	o := etcd.LeadOptions{Key: "leader", Value: []byte(name), TTL: ttl, OnLoss: c.lost.add, Alive: func() error {
		if c.alive.Load() {
			return nil
		}
		return errors.New("its tick is late")
	}}
	c.stop = background(t, func(ctx context.Context) {
		err := etcd.Lead(ctx, c.client, o, func(ctx context.Context, term etcd.Term) {
			c.mu.Lock()
			c.terms = append(c.terms, term)
			c.reigning.Add(1)
			c.mu.Unlock()
			defer c.reigning.Add(-1)
			if during != nil {
				during(ctx, term)
			}
			<-ctx.Done()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Lead returned %v", err)
		}
	})
	return c
}

func (c *contender) elected(t *testing.T, bound time.Duration) etcd.Term {
	t.Helper()
	var term etcd.Term
	eventually(t, bound, c.name+" leads", func() (ok bool) { term, ok = c.term(); return ok })
	return term
}

// A leader that leaves in order hands over at once; its key is gone with it.
func TestLeadHandsOver(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	first := contend(t, p, "first", 30*time.Second, nil)
	term := first.elected(t, 10*time.Second)
	if pair, found := get(t, first.client, "leader"); !found || string(pair.Value) != "first" || pair.CreateRevision != term.CreateRevision {
		t.Errorf("key %+v in term %+v", pair, term)
	}
	second := contend(t, p, "second", 30*time.Second, nil)
	eventually(t, 10*time.Second, "the second waits, without a lease", func() bool { return leases(t, second.client) == 1 })

	begin := time.Now()
	first.stop()
	next := second.elected(t, 10*time.Second)
	if took := time.Since(begin); took > time.Second {
		t.Errorf("the hand-over took %v", took)
	}
	if next.CreateRevision <= term.CreateRevision {
		t.Errorf("term %+v after %+v", next, term)
	}
	second.stop()
	if _, found := get(t, first.client, "leader"); found || leases(t, first.client) != 0 {
		t.Errorf("after both left: key %v, %d leases", found, leases(t, first.client))
	}
	if l := append(first.lost.all(), second.lost.all()...); len(l) != 0 {
		t.Errorf("losses %v", l)
	}
}

// In an etcd that was set back a reign begins at the revision of an earlier one. Whoever reigned then is refused all the same.
func TestLeaderOfAnotherLifeIsRefused(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	saved := p.Save()
	p.Restart()
	old := contend(t, p, "old", 30*time.Second, nil)
	term := old.elected(t, 10*time.Second)
	old.stop()
	p.Restore(saved)
	p.Restart()
	rival := contend(t, p, "new", 30*time.Second, nil)
	if next := rival.elected(t, 20*time.Second); next.CreateRevision != term.CreateRevision {
		t.Fatalf("the reigns began at the revisions %d and %d, so that nothing is tried", term.CreateRevision, next.CreateRevision)
	}
	if _, err := etcd.Commit(t.Context(), rival.client, []etcd.Guard{term.Guard()}, []etcd.Op{{Key: "verdict"}}); !errors.Is(err, etcd.ErrRefused) {
		t.Errorf("a write of the earlier reign: %v", err)
	}
}

// The lease of a leader is revoked behind its back. Whatever it still writes under the old term is refused.
func TestDeposedLeaderIsRefused(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	old := contend(t, p, "old", 30*time.Second, nil)
	term := old.elected(t, 10*time.Second)
	commit(t, old.client, []etcd.Guard{term.Guard()}, etcd.Op{Key: "verdict", Value: []byte("old")})

	rival := contend(t, p, "new", 30*time.Second, nil)
	pair, _ := get(t, old.client, "leader")
	if _, err := old.client.Revoke(t.Context(), clientv3.LeaseID(pair.Lease)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "another term", func() bool {
		pair, found := get(t, old.client, "leader")
		return found && pair.CreateRevision != term.CreateRevision
	})
	_, err := etcd.Commit(t.Context(), old.client, []etcd.Guard{term.Guard()}, []etcd.Op{{Key: "verdict", Value: []byte("late")}})
	if !errors.Is(err, etcd.ErrRefused) {
		t.Errorf("a write of the old term: %v", err)
	}
	var next etcd.Term
	eventually(t, 10*time.Second, "a leader", func() bool {
		for _, c := range []*contender{old, rival} {
			if got, ok := c.term(); ok && got.CreateRevision > term.CreateRevision {
				next = got
				return true
			}
		}
		return false
	})
	commit(t, old.client, []etcd.Guard{next.Guard()}, etcd.Op{Key: "verdict", Value: []byte("new")})
}

// Somebody deletes the key and leaves the lease: the reign ends all the same.
func TestLeaderNoticesThatItsKeyIsGone(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := contend(t, p, "c", 30*time.Second, nil)
	term := c.elected(t, 10*time.Second)
	commit(t, c.client, nil, etcd.Op{Key: "leader", Delete: true})
	eventually(t, 5*time.Second, "another term", func() bool {
		next, ok := c.term()
		return ok && next.CreateRevision > term.CreateRevision
	})
	if loss, ok := c.lost.find(etcd.Expired); !ok || loss.Err == nil {
		t.Errorf("losses %v", c.lost.all())
	}
	if n := leases(t, c.client); n != 1 {
		t.Errorf("%d leases", n)
	}
}

func TestLeaderThatIsNotAliveYields(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	sick := contend(t, p, "sick", 2*time.Second, nil)
	sick.elected(t, 10*time.Second)
	other := contend(t, p, "other", 2*time.Second, nil)
	sick.alive.Store(false)
	other.elected(t, 10*time.Second)
	if _, ok := sick.lost.find(etcd.NotAlive); !ok {
		t.Errorf("losses %v", sick.lost.all())
	}
	if _, leads := sick.term(); leads {
		t.Error("both lead")
	}
}

// A reign ends when its lease is no longer certain, before etcd can have given the key to another.
func TestReignEndsInTime(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	ended := make(chan time.Time, 1)
	c := contend(t, p, "c", 2*time.Second, func(ctx context.Context, term etcd.Term) {
		<-ctx.Done()
		select {
		case ended <- time.Now():
		default:
		}
	})
	c.elected(t, 10*time.Second)
	p.Pause()
	paused := time.Now()
	if at := <-ended; at.Sub(paused) > 2*time.Second+500*time.Millisecond {
		t.Errorf("reigned for %v after etcd was paused, with a lease of 2 s", at.Sub(paused))
	}
	p.Resume()
	c.elected(t, 15*time.Second)
}

// An outage longer than the lease time ends the reign, and the restart that ends the outage prolongs its lease in full. A
// leader recognises the key as its own, and does not wait for that lease to end.
func TestLeaderTakesItsOwnKeyBack(t *testing.T) {
	t.Parallel()
	const ttl = 8 * time.Second
	p := etcdproc.Start(t, 0)
	c := contend(t, p, "c", ttl, nil)
	term := c.elected(t, 10*time.Second)
	p.Kill()
	eventually(t, ttl+5*time.Second, "the loss", func() bool { _, ok := c.lost.find(etcd.Unanswered); return ok })
	p.Restart()
	next := c.elected(t, ttl-time.Second)
	if next.CreateRevision <= term.CreateRevision {
		t.Errorf("term %+v after %+v", next, term)
	}
}

// While a reign that was told to end has not returned, the key stays its own, for longer than the lease time.
func TestKeyIsKeptUntilReignReturns(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	told, finished := make(chan struct{}), make(chan struct{})
	finish := sync.OnceFunc(func() { close(finished) })
	defer finish()
	slow := contend(t, p, "slow", 2*time.Second, func(ctx context.Context, _ etcd.Term) {
		<-ctx.Done()
		close(told)
		<-finished
	})
	term := slow.elected(t, 10*time.Second)
	other := contend(t, p, "other", 2*time.Second, nil)
	go slow.stop()
	<-told
	for begin := time.Now(); time.Since(begin) < 4*time.Second; time.Sleep(50 * time.Millisecond) {
		if pair, found := get(t, other.client, "leader"); !found || pair.CreateRevision != term.CreateRevision {
			t.Fatalf("the key became %+v after %v", pair, time.Since(begin))
		}
	}
	finish()
	other.elected(t, 5*time.Second)
}

// A leader that is no longer alive keeps its key until its reign has returned, as long as the lease lasts.
func TestKeyIsNotLetGoUnderTheReign(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	told, finished := make(chan struct{}), make(chan struct{})
	finish := sync.OnceFunc(func() { close(finished) })
	defer finish()
	slow := contend(t, p, "slow", 30*time.Second, func(ctx context.Context, _ etcd.Term) {
		<-ctx.Done()
		close(told)
		<-finished
	})
	slow.elected(t, 10*time.Second)
	slow.alive.Store(false)
	<-told
	for begin := time.Now(); time.Since(begin) < time.Second; time.Sleep(20 * time.Millisecond) {
		if _, found := get(t, slow.client, "leader"); !found {
			t.Fatalf("let go after %v", time.Since(begin))
		}
	}
	finish()
	eventually(t, 5*time.Second, "the key given back", func() bool { _, found := get(t, slow.client, "leader"); return !found })
}

// A reign that returns by itself gives the key up, and is called again.
func TestReignThatReturns(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	var reigns atomic.Int32
	background(t, func(ctx context.Context) {
		etcd.Lead(ctx, c, etcd.LeadOptions{Key: "leader", TTL: 30 * time.Second}, func(context.Context, etcd.Term) { reigns.Add(1) })
	})
	eventually(t, 10*time.Second, "three reigns", func() bool { return reigns.Load() >= 3 })
}

// Two contenders, and an etcd that is paused and killed at random: never two reigns at a time, no term twice, and at
// the end there is a leader.
func TestOneLeaderAtATime(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	var reigning atomic.Int32
	var contenders []*contender
	for i := range 2 {
		contenders = append(contenders, contend(t, p, fmt.Sprint("c", i), 2*time.Second, func(ctx context.Context, term etcd.Term) {
			if n := reigning.Add(1); n != 1 {
				t.Errorf("%d reign at a time", n)
			}
			<-ctx.Done()
			reigning.Add(-1)
		}))
	}
	led := func() bool { return reigning.Load() == 1 }
	eventually(t, 15*time.Second, "a leader", led)
	for round := range 4 {
		pause := time.Duration(1000+rand.IntN(2500)) * time.Millisecond
		if round%2 == 0 {
			p.Pause()
			time.Sleep(pause) // the fault
			p.Resume()
		} else {
			p.Kill()
			time.Sleep(pause / 2) // the fault
			p.Restart()
		}
		eventually(t, 20*time.Second, "a leader after the fault", led)
	}
	seen := map[int64]string{}
	for _, c := range contenders {
		c.stop()
		for _, term := range c.terms {
			if other, twice := seen[term.CreateRevision]; twice {
				t.Errorf("term %d of %s and of %s", term.CreateRevision, other, c.name)
			}
			seen[term.CreateRevision] = c.name
		}
	}
	t.Logf("%d terms", len(seen))
}
