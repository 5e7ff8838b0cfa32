package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
)

// A mirror is what one can know of a prefix from its updates. It checks the promises of Follow as they come.
type mirror struct {
	t *testing.T

	mu       sync.Mutex
	state    map[string]string
	history  map[int64][]etcd.Pair // the events of each revision
	last     etcd.Update
	synced   bool
	listings int
	losses   []error
	progress int
}

// follow mirrors a prefix until the test ends. hook, which may be nil, sees each update after the mirror, and may block.
func follow(t *testing.T, c *clientv3.Client, o etcd.FollowOptions, hook func(etcd.Update)) *mirror {
	t.Helper()
	m := &mirror{t: t, state: map[string]string{}, history: map[int64][]etcd.Pair{}}
	if o.Progress == 0 {
		o.Progress, o.Silence = 200*time.Millisecond, time.Second
	}
	background(t, func(ctx context.Context) {
		err := etcd.Follow(ctx, c, o, func(u etcd.Update) {
			m.apply(u)
			if hook != nil {
				hook(u)
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Follow returned %v", err)
		}
	})
	return m
}

func (m *mirror) apply(u etcd.Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if u.Epoch < m.last.Epoch || u.Epoch == m.last.Epoch && u.Revision < m.last.Revision {
		m.t.Errorf("%v at %d.%d came after %v at %d.%d",
			u.Kind, u.Epoch, u.Revision, m.last.Kind, m.last.Epoch, m.last.Revision)
	}
	if (u.Err != nil) != (u.Kind == etcd.Lost) {
		m.t.Errorf("%v with error %v", u.Kind, u.Err)
	}
	if !m.synced && u.Kind != etcd.Listed && u.Kind != etcd.Lost {
		m.t.Errorf("%v before a Listed", u.Kind)
	}
	switch u.Kind {
	case etcd.Listed:
		m.synced = true
		m.listings++
		m.state = map[string]string{}
		if !slices.IsSortedFunc(u.Pairs, func(a, b etcd.Pair) int {
			if a.Key < b.Key {
				return -1
			}
			return 1
		}) {
			m.t.Error("a list is not sorted")
		}
		for _, pair := range u.Pairs {
			m.state[pair.Key] = string(pair.Value)
		}
	case etcd.Changed:
		at := m.last.Revision
		for i, pair := range u.Pairs {
			if pair.ModRevision < at || i == 0 && pair.ModRevision == at {
				m.t.Errorf("event at %d came after %d", pair.ModRevision, at)
			}
			at = pair.ModRevision
			m.history[at] = append(m.history[at], pair)
			if pair.Deleted {
				delete(m.state, pair.Key)
			} else {
				m.state[pair.Key] = string(pair.Value)
			}
		}
		if at != u.Revision || len(u.Pairs) == 0 {
			m.t.Errorf("Changed to revision %d with %d events up to %d", u.Revision, len(u.Pairs), at)
		}
	case etcd.Progressed:
		m.progress++
	case etcd.Lost:
		m.synced = false
		m.losses = append(m.losses, u.Err)
	}
	m.last = u
}

func (m *mirror) latest() etcd.Update {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

func (m *mirror) see(f func() bool) func() bool {
	return func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return f()
	}
}

func (m *mirror) waitFor(bound time.Duration, what string, f func() bool) {
	m.t.Helper()
	eventually(m.t, bound, what, m.see(f))
}

// caughtUp waits until the mirror shows what is in etcd. Nobody may write meanwhile.
func (m *mirror) caughtUp(c *clientv3.Client, prefix string) {
	m.t.Helper()
	pairs, revision, err := etcd.ReadAll(m.t.Context(), c, prefix, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	truth := map[string]string{}
	for _, pair := range pairs {
		truth[pair.Key] = string(pair.Value)
	}
	m.waitFor(20*time.Second, fmt.Sprintf("up to revision %d", revision), func() bool {
		return m.synced && m.last.Revision >= revision
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	if !maps.Equal(m.state, truth) {
		m.t.Errorf("the mirror shows %v, etcd has %v", m.state, truth)
	}
}

// gate lets a test hold up Follow at an update: deliver blocks in hook until open.
type gate struct {
	reached, opened chan struct{}
	once            sync.Once
}

func newGate() *gate { return &gate{reached: make(chan struct{}), opened: make(chan struct{})} }

func (g *gate) hold() {
	g.once.Do(func() {
		close(g.reached)
		<-g.opened
	})
}

// Every change of a random history arrives, once, in order, and no transaction is torn.
func TestFollowSeesEveryChange(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	put(t, c, "a/before", "0")
	put(t, c, "other", "0")
	m := follow(t, c, etcd.FollowOptions{Prefix: "a/", PageSize: 7}, nil)
	m.waitFor(10*time.Second, "a list", func() bool { return m.synced })

	var mu sync.Mutex
	written := map[int64][]etcd.Op{} // below the prefix
	var writers sync.WaitGroup
	for w := range 4 {
		random := rand.New(rand.NewPCG(uint64(w), 1))
		writers.Go(func() {
			for i := range 150 {
				var ops []etcd.Op
				for _, k := range random.Perm(30)[:1+random.IntN(20)] {
					prefix := "a/"
					if random.IntN(5) == 0 {
						prefix = "b/" // outside
					}
					ops = append(ops, etcd.Op{Key: fmt.Sprintf("%s%02d", prefix, k), Delete: random.IntN(3) == 0,
						Value: fmt.Appendf(nil, "%d.%d", w, i)})
				}
				revision, err := etcd.Commit(t.Context(), c, nil, ops)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				written[revision] = append(written[revision], ops...)
				mu.Unlock()
			}
		})
	}
	writers.Wait()
	m.caughtUp(c, "a/")

	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.losses) != 0 || m.listings != 1 {
		t.Errorf("%d lists, losses %v", m.listings, m.losses)
	}
	exists := map[string]bool{"a/before": true}
	for _, revision := range slices.Sorted(maps.Keys(written)) {
		want := map[string]string{}
		for _, op := range written[revision] {
			if op.Key[0] != 'a' || op.Delete && !exists[op.Key] {
				continue // a delete of nothing is no event; and then the revision may be shared
			}
			want[op.Key] = string(op.Value)
			if op.Delete {
				want[op.Key] = "deleted"
			}
			exists[op.Key] = !op.Delete
		}
		got := map[string]string{}
		for _, pair := range m.history[revision] {
			got[pair.Key] = string(pair.Value)
			if pair.Deleted {
				got[pair.Key] = "deleted"
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("revision %d: seen %v, written %v", revision, got, want)
		}
	}
}

// A store in which nothing happens gives proof of life all the same, and stays synced.
func TestFollowIdle(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	put(t, c, "k", "0")
	m := follow(t, c, etcd.FollowOptions{}, nil) // all keys
	m.waitFor(15*time.Second, "progress, for longer than the silence allowed", func() bool { return m.progress > 12 })
	m.mu.Lock()
	if m.listings != 1 || len(m.losses) != 0 || m.state["k"] != "0" {
		t.Errorf("%d lists, losses %v, state %v", m.listings, m.losses, m.state)
	}
	m.mu.Unlock()
	m.caughtUp(c, "")
}

// While the follower was away a key was deleted, and the delete compacted: the new list says so.
func TestFollowMakesUpForMissedDeletes(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	put(t, c, "gone", "0")
	put(t, c, "stays", "0")
	away := newGate()
	m := follow(t, c, etcd.FollowOptions{}, func(u etcd.Update) {
		if u.Kind == etcd.Lost {
			away.hold()
		}
	})
	m.waitFor(10*time.Second, "both keys", func() bool { return len(m.state) == 2 })
	p.Restart()
	<-away.reached
	deleted := commit(t, c, nil, etcd.Op{Key: "gone", Delete: true})
	if _, err := c.Compact(t.Context(), deleted); err != nil {
		t.Fatal(err)
	}
	close(away.opened)
	m.caughtUp(c, "")
	if epoch := m.latest().Epoch; epoch != 1 {
		t.Errorf("epoch %d after a restart", epoch)
	}
}

// What the watch would begin with is compacted before it begins.
func TestFollowAfterCompaction(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	put(t, c, "k", "0")
	slow := newGate()
	m := follow(t, c, etcd.FollowOptions{}, func(u etcd.Update) {
		if u.Kind == etcd.Listed {
			slow.hold()
		}
	})
	<-slow.reached
	put(t, c, "k", "1")
	commit(t, c, nil, etcd.Op{Key: "k", Delete: true})
	if _, err := c.Compact(t.Context(), put(t, c, "l", "2")); err != nil {
		t.Fatal(err)
	}
	close(slow.opened)
	m.waitFor(15*time.Second, "another list", func() bool { return m.listings == 2 })
	m.caughtUp(c, "")
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.losses) != 1 || !errors.Is(m.losses[0], rpctypes.ErrCompacted) {
		t.Errorf("losses %v", m.losses)
	}
}

// A paused etcd keeps its connections open. Only the missing proof of life tells.
func TestFollowPause(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	put(t, c, "k", "0")
	m := follow(t, c, etcd.FollowOptions{}, nil)
	m.waitFor(10*time.Second, "progress", func() bool { return m.progress > 0 })
	p.Pause()
	m.waitFor(4*time.Second, "the loss", func() bool { return !m.synced })
	m.waitFor(15*time.Second, "a list that is not answered either", func() bool { return len(m.losses) > 1 })
	p.Resume()
	m.waitFor(15*time.Second, "another list", func() bool { return m.synced })
	put(t, c, "k", "1")
	m.caughtUp(c, "")
	if epoch := m.latest().Epoch; epoch != 1 {
		t.Errorf("epoch %d after a pause", epoch)
	}
}

// Killed and started again: the same history, under a new raft term.
func TestFollowRestart(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	put(t, c, "k", "0")
	m := follow(t, c, etcd.FollowOptions{}, nil)
	m.waitFor(10*time.Second, "a list", func() bool { return m.synced })
	before := m.latest()
	p.Kill()
	m.waitFor(5*time.Second, "the loss", func() bool { return !m.synced })
	p.Restart()
	put(t, c, "k", "1")
	m.caughtUp(c, "")
	after := m.latest()
	if after.Epoch != before.Epoch || after.ClusterID != before.ClusterID || after.Term <= before.Term {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// The data is set back to an older copy, which has the same cluster id: the revision tells.
func TestFollowRestoredCopy(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	put(t, c, "k", "old")
	saved := p.Save()
	p.Restart()
	put(t, c, "k", "new")
	put(t, c, "l", "new")
	m := follow(t, c, etcd.FollowOptions{}, nil)
	m.waitFor(10*time.Second, "the new state", func() bool { return m.state["l"] == "new" })
	p.Restore(saved)
	p.Restart()
	m.waitFor(20*time.Second, "the old state, in a new epoch", func() bool {
		return m.synced && m.last.Epoch == 2 && m.state["k"] == "old" && len(m.state) == 1
	})
	put(t, c, "k", "after")
	m.caughtUp(c, "")
}

// As before, but so much was written since that the revision is higher than ever: the raft term tells.
func TestFollowRestoredCopyThatOvertook(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	put(t, c, "k", "old")
	saved := p.Save()
	p.Restart()
	p.Restart() // each start is a new term
	put(t, c, "l", "lost")
	away := newGate()
	m := follow(t, c, etcd.FollowOptions{}, func(u etcd.Update) {
		if u.Kind == etcd.Lost {
			away.hold()
		}
	})
	m.waitFor(10*time.Second, "the state", func() bool { return m.state["l"] == "lost" })
	p.Restore(saved)
	p.Restart()
	<-away.reached
	for i := range 10 {
		put(t, c, "m", fmt.Sprint(i))
	}
	close(away.opened)
	m.caughtUp(c, "")
	if epoch := m.latest().Epoch; epoch != 2 {
		t.Errorf("epoch %d", epoch)
	}
}

// An etcd that began anew is set back to a copy that has come further: neither revision nor term tell of it, the pairs do.
func TestFollowEmptiedStoreSetBackToACopyThatHasComeFurther(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]func(t *testing.T, c *clientv3.Client){
		"the same key at the same revision": func(t *testing.T, c *clientv3.Client) { put(t, c, "a/k", "new") },
		"a key that was not there":          func(t *testing.T, c *clientv3.Client) { put(t, c, "b", ""); put(t, c, "b", ""); put(t, c, "b", "") },
		"a key that was deleted": func(t *testing.T, c *clientv3.Client) {
			put(t, c, "a/k", "new")
			take(t, c, "a/k")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := etcdproc.Start(t, 0)
			c := p.Client()
			put(t, c, "a/k", "old") // revision 2
			for i := range 10 {
				put(t, c, "b", fmt.Sprint(i))
			}
			p.Restart() // its term is higher than that of an empty one
			saved := p.Save()
			p.Empty()
			p.Restart()
			m := follow(t, c, etcd.FollowOptions{Prefix: "a/", Progress: 100 * time.Millisecond}, nil)
			after(t, c)
			m.caughtUp(c, "a/")
			p.Restore(saved)
			p.Restart()
			m.waitFor(20*time.Second, "the old state, in a new epoch", func() bool {
				return m.synced && m.last.Epoch == 2 && m.state["a/k"] == "old"
			})
		})
	}
}

// What an etcd that merely restarts forgets is nothing: the history goes on, whatever was changed or deleted meanwhile.
func TestFollowGoesOnInItsEpoch(t *testing.T) {
	t.Parallel()
	for name, meanwhile := range map[string]func(t *testing.T, c *clientv3.Client){
		"nothing":          func(t *testing.T, c *clientv3.Client) {},
		"newest changed":   func(t *testing.T, c *clientv3.Client) { put(t, c, "a/k", "new") },
		"other changed":    func(t *testing.T, c *clientv3.Client) { put(t, c, "a/j", "new") },
		"newest deleted":   func(t *testing.T, c *clientv3.Client) { take(t, c, "a/k") },
		"newest come back": func(t *testing.T, c *clientv3.Client) { take(t, c, "a/k"); put(t, c, "a/k", "old") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := etcdproc.Start(t, 0)
			c := p.Client()
			put(t, c, "a/j", "old")
			away := newGate()
			m := follow(t, c, etcd.FollowOptions{Prefix: "a/"}, func(u etcd.Update) {
				if u.Kind == etcd.Lost {
					away.hold()
				}
			})
			put(t, c, "a/k", "old")
			m.caughtUp(c, "a/")
			p.Restart()
			<-away.reached
			meanwhile(t, c)
			close(away.opened)
			m.caughtUp(c, "a/")
			if epoch := m.latest().Epoch; epoch != 1 {
				t.Errorf("epoch %d", epoch)
			}
		})
	}
}

func TestFollowEmptiedStore(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	put(t, c, "k", "0")
	put(t, c, "k", "1")
	m := follow(t, c, etcd.FollowOptions{}, nil)
	m.waitFor(10*time.Second, "a list", func() bool { return m.synced })
	p.Empty()
	p.Restart()
	m.waitFor(20*time.Second, "an empty list in a new epoch", func() bool {
		return m.synced && m.last.Epoch == 2 && len(m.state) == 0
	})
	put(t, c, "k", "2")
	m.caughtUp(c, "")
}

// 10 000 keys come in pages, at one revision, while pairs of them, far apart, are changed together.
func TestReadAllIsOneMoment(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	key := func(i int) string { return fmt.Sprintf("k/%05d", i) }
	const keys = 10_000
	for from := 0; from < keys; from += etcd.MaxOps {
		var ops []etcd.Op
		for i := from; i < min(keys, from+etcd.MaxOps); i++ {
			ops = append(ops, etcd.Op{Key: key(i), Value: []byte("0")})
		}
		commit(t, c, nil, ops...)
	}
	put(t, c, "k0", "not below the prefix")
	stop := background(t, func(ctx context.Context) {
		for i := 1; ctx.Err() == nil; i++ {
			v := fmt.Append(nil, i)
			etcd.Commit(ctx, c, nil, []etcd.Op{{Key: key(0), Value: v}, {Key: key(keys / 2), Value: v}, {Key: key(keys - 1), Value: v}})
		}
	})
	var last int64
	seen := map[string]bool{}
	for range 20 {
		pairs, revision, err := etcd.ReadAll(t.Context(), c, "k/", 500)
		if err != nil {
			t.Fatal(err)
		}
		if len(pairs) != keys || pairs[keys-1].Key != key(keys-1) || revision < last {
			t.Fatalf("%d keys at revision %d after %d", len(pairs), revision, last)
		}
		first, middle, end := string(pairs[0].Value), string(pairs[keys/2].Value), string(pairs[keys-1].Value)
		if first != middle || middle != end {
			t.Fatalf("three keys of one transaction: %s, %s, %s", first, middle, end)
		}
		seen[first], last = true, revision
	}
	stop()
	if len(seen) < 2 {
		t.Error("nothing was written meanwhile")
	}
}

// A page begins right after the last key of the one before, with the very next key that there can be.
func TestPagesLeaveNothingOut(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	want := []string{"p/", "p/a", "p/a\x00", "p/a\x00\x00", "p/a\x01", "p/b"}
	for _, key := range want {
		put(t, c, key, "")
	}
	for size := range int64(4) {
		pairs, _, err := etcd.ReadAll(t.Context(), c, "p/", size)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, pair := range pairs {
			got = append(got, pair.Key)
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %q", size, got)
		}
		got, at := nil, "p/"
		err = etcd.ReadPages(t.Context(), c, "p/", size, time.Minute, func(page etcd.Page) error {
			if page.From != at {
				t.Errorf("in pages of %d: one begins at %q after one that ended at %q", size, page.From, at)
			}
			for _, pair := range page.Pairs {
				if got = append(got, pair.Key); pair.Key < page.From || page.To != "" && pair.Key >= page.To {
					t.Errorf("in pages of %d: %q is not from %q to %q", size, pair.Key, page.From, page.To)
				}
			}
			at = page.To
			return nil
		})
		if err != nil || !slices.Equal(got, want) || at != "" {
			t.Errorf("page by page, in pages of %d: %q, the last ends at %q: %v", size, got, at, err)
		}
	}
}
