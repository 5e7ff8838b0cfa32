package board

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// S13: what cannot be proven to be fresh is shown as Held, by the passing of time alone.
func TestS13(t *testing.T) {
	lost := etcd.Update{Kind: etcd.Lost, Epoch: 1, Err: errors.New("cut off")}
	every := func(b *Board, feeds ...Feed) {
		for range 20 {
			time.Sleep(hold / 6)
			for _, f := range feeds {
				b.Apply(f, progressed(50))
			}
		}
	}
	for name, c := range map[string]struct {
		happens func(b *Board)
		want    string
	}{
		"all feeds live":            {func(b *Board) { every(b, Verdicts, Leader) }, "RUNNING Witnessed FlinkSaid"},
		"up to the hold time":       {func(b *Board) { time.Sleep(hold) }, "RUNNING Witnessed FlinkSaid"},
		"longer than the hold time": {func(b *Board) { time.Sleep(hold + 1) }, "RUNNING Held StoreUnreachable"},
		"a loss, for a moment":      {func(b *Board) { b.Apply(Verdicts, lost) }, "RUNNING Witnessed FlinkSaid"},
		"losses do not prove life":  {func(b *Board) { time.Sleep(hold); b.Apply(Verdicts, lost); time.Sleep(time.Nanosecond) }, "RUNNING Held StoreUnreachable"},
		"losses are no news": {func(b *Board) {
			for range 20 {
				time.Sleep(hold / 6)
				b.Apply(Verdicts, lost)
				b.Apply(Leader, progressed(50))
			}
		}, "RUNNING Held StoreUnreachable"},
		"the verdicts' feed is dead": {func(b *Board) { every(b, Leader) }, "RUNNING Held StoreUnreachable"},
		"the leader's feed is dead":  {func(b *Board) { every(b, Verdicts) }, "RUNNING Held StoreUnreachable"},
		"nobody leads": {func(b *Board) {
			b.Apply(Leader, changed(etcd.Pair{Key: record.LeaderKey("default"), ModRevision: 12, Deleted: true}))
			every(b, Verdicts, Leader)
		}, "RUNNING Held NoSettler"},
		"nobody leads, after a new list": {func(b *Board) {
			b.Apply(Leader, listed(12))
			every(b, Verdicts, Leader)
		}, "RUNNING Held NoSettler"},
		"somebody leads again": {func(b *Board) {
			b.Apply(Leader, listed(12))
			every(b, Verdicts, Leader)
			b.Apply(Leader, changed(leader()))
		}, "RUNNING Witnessed FlinkSaid"},
		"heard again": {func(b *Board) {
			time.Sleep(time.Hour)
			b.Apply(Verdicts, progressed(50))
			b.Apply(Leader, progressed(50))
		}, "RUNNING Witnessed FlinkSaid"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBoard(t, Options{})
				b.Apply(Verdicts, changed(verdict(orders, 11, running())))
				c.happens(b)
				if got := shown(b, orders); got != c.want {
					t.Errorf("shown as %s, want %s", got, c.want)
				}
			})
		})
	}
}

// A board that begins has not seen for how long nobody has judged: leaders of which none has watched for long enough are trusted until one of them
// can have, though all replicas were killed at once and the dead leader's lease was waited for.
func TestS13WaitsForALeaderThatHasWatched(t *testing.T) {
	for name, c := range map[string]struct {
		ticks int // of a fresh leader, each half a hold time after the one before
		want  string
	}{
		"while one can have": {5, "RUNNING Witnessed FlinkSaid"},
		"and no longer":      {7, "RUNNING Held NoSettler"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, err := New(Options{Site: "default", Hold: hold})
				if err != nil {
					t.Fatal(err)
				}
				b.Apply(Identity, listed(10, identity(1)))
				for _, f := range []Feed{Condition, Clusters, Leader} {
					b.Apply(f, listed(10))
				}
				b.Apply(Verdicts, listed(10, verdict(orders, 9, running())))
				for i := range c.ticks {
					leader := record.SiteLeader{Name: "one", Since: "2026-01-02T15:00:00.000Z", Ticked: job.Stamp(fmt.Sprintf("2026-01-02T15:01:%02d.000Z", i)), Fresh: true}
					b.Apply(Leader, changed(etcd.Pair{Key: record.LeaderKey("default"), ModRevision: 20, Value: record.EncodeLeader(leader)}))
					time.Sleep(hold / 2)
					b.Apply(Verdicts, progressed(50))
					b.Apply(Leader, progressed(50))
				}
				if got := shown(b, orders); got != c.want {
					t.Errorf("shown as %s, want %s", got, c.want)
				}
			})
		})
	}
}

// That somebody holds the leader's lease proves nothing: a settler that hears nothing any more holds it, too, for a while.
func TestS13WantsTheLeadersSignOfLife(t *testing.T) {
	ticked := func(at string) etcd.Pair {
		return etcd.Pair{Key: record.LeaderKey("default"), ModRevision: 20, Value: record.EncodeLeader(record.SiteLeader{
			Name: "aggregator-0", Since: "2026-01-02T15:00:00.000Z", Ticked: job.Stamp(at),
		})}
	}
	fresh := func(at string) etcd.Pair {
		p := ticked(at)
		leader, err := record.DecodeLeader(p.Value)
		if err != nil {
			t.Fatal(err)
		}
		leader.Fresh = true
		p.Value = record.EncodeLeader(leader)
		return p
	}
	pass := func(b *Board, d time.Duration) {
		for range 6 {
			time.Sleep(d / 6)
			b.Apply(Verdicts, progressed(50))
			b.Apply(Leader, progressed(50))
		}
	}
	// flap is one leader after another, each of which lives, and none for long enough to know who is silent.
	flap := func(b *Board, times int) {
		for i := range times {
			b.Apply(Leader, changed(fresh(fmt.Sprintf("2026-01-02T15:01:%02d.000Z", i))))
			pass(b, hold/2)
		}
	}
	const elected, first, second = "2026-01-02T15:00:00.000Z", "2026-01-02T15:00:01.000Z", "2026-01-02T15:00:11.000Z"
	for name, c := range map[string]struct {
		happens func(b *Board)
		want    string
	}{
		"it goes on": {func(b *Board) {
			b.Apply(Leader, changed(ticked(first)))
			pass(b, hold*3/4)
			b.Apply(Leader, changed(ticked(second)))
			pass(b, hold*3/4)
		}, "RUNNING Witnessed FlinkSaid"},
		"it stops": {func(b *Board) {
			b.Apply(Leader, changed(ticked(first)))
			pass(b, hold+time.Second)
		}, "RUNNING Held NoSettler"},
		"the same one comes again": {func(b *Board) {
			b.Apply(Leader, changed(ticked(first)))
			pass(b, hold*3/4)
			b.Apply(Leader, changed(ticked(first)))
			pass(b, hold*3/4)
		}, "RUNNING Held NoSettler"},
		"one that was elected has given none": {func(b *Board) {
			b.Apply(Leader, changed(ticked(first)))
			pass(b, hold*3/4)
			b.Apply(Leader, changed(ticked(elected)))
			pass(b, hold*3/4)
		}, "RUNNING Held NoSettler"},
		"a listed one is trusted": {func(b *Board) {
			pass(b, 2*hold)
			b.Apply(Leader, changed(etcd.Pair{Key: record.LeaderKey("default"), ModRevision: 12, Deleted: true}))
			pass(b, 2*hold)
			b.Apply(Leader, listed(50, ticked(first)))
			pass(b, hold/3)
		}, "RUNNING Witnessed FlinkSaid"},
		"and not for long": {func(b *Board) {
			b.Apply(Leader, changed(etcd.Pair{Key: record.LeaderKey("default"), ModRevision: 12, Deleted: true}))
			pass(b, 2*hold)
			b.Apply(Leader, listed(50, ticked(first)))
			pass(b, hold*2/3)
		}, "RUNNING Held NoSettler"},
		"leaders change": {func(b *Board) {
			b.Apply(Leader, changed(ticked(first)))
			flap(b, 2*credit-1)
		}, "RUNNING Witnessed FlinkSaid"},
		"leaders change for ever": {func(b *Board) {
			b.Apply(Leader, changed(ticked(first)))
			flap(b, 2*credit+1)
		}, "RUNNING Held NoSettler"},
		"leaders change, and one stays": {func(b *Board) {
			b.Apply(Leader, changed(ticked(first)))
			flap(b, 2*credit-1)
			b.Apply(Leader, changed(ticked(second)))
			flap(b, 2*credit-1)
		}, "RUNNING Witnessed FlinkSaid"},
		"listed again, it is no newer": {func(b *Board) {
			b.Apply(Leader, changed(ticked(first)))
			pass(b, hold*3/4)
			b.Apply(Leader, listed(50, ticked(first)))
			pass(b, hold*3/4)
		}, "RUNNING Held NoSettler"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBoard(t, Options{})
				b.Apply(Verdicts, changed(verdict(orders, 11, running())))
				c.happens(b)
				if got := shown(b, orders); got != c.want {
					t.Errorf("shown as %s, want %s", got, c.want)
				}
			})
		})
	}
}

func TestS13LowersEndingsAndLeavesWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, Options{})
		finished, silent, inferred := running(), running(), running()
		finished.State, finished.Over = job.Finished, job.Yes
		silent.Certainty, silent.Reason = job.Held, job.AgentSilent
		inferred.State, inferred.Certainty, inferred.Via = job.Suspended, job.Inferred, job.ViaWorkload
		key := func(id string) job.Key { return job.Key{Namespace: "n", Cluster: "c", ID: id} }
		b.Apply(Verdicts, changed(verdict(key("f"), 11, finished), verdict(key("s"), 12, silent), verdict(key("i"), 13, inferred)))
		since := time.Now()
		time.Sleep(hold + time.Minute)
		for id, want := range map[string]string{
			"f": "FINISHED Held StoreUnreachable", "s": "RUNNING Held AgentSilent", "i": "SUSPENDED Held StoreUnreachable",
		} {
			if got := shown(b, key(id)); got != want {
				t.Errorf("shown as %s, want %s", got, want)
			}
		}
		view := b.Snapshot().At(b.Now())
		if w := view.Weakness(); !w.Since.Equal(since) {
			t.Errorf("weak since %s, want the last proof of life, %s", w.Since, since)
		}
		for id, want := range map[string]string{"f": "1.11.held", "s": "1.12", "i": "1.13.held"} {
			if got := view.JobVersion(view.Get(key(id).String())).String(); got != want {
				t.Errorf("version %s, want %s", got, want)
			}
		}
	})
}

func TestWeakensAtIsWhenItWeakens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, Options{})
		start := time.Now()
		time.Sleep(time.Second)
		b.Apply(Leader, progressed(20))
		s := b.Snapshot()
		at := s.WeakensAt(time.Now())
		if want := start.Add(hold + 1); !at.Equal(want) {
			t.Fatalf("weakens at %s, want %s", at, want)
		}
		if s.Weaken(at.Add(-1)).Holds() || !s.Weaken(at).Holds() {
			t.Errorf("it does not weaken then, but before or later")
		}
		later := s.WeakensAt(at)
		if want := at.Add(time.Second); !later.Equal(want) {
			t.Errorf("the leader's proof is too old at %s, want %s", later, want)
		}
		if never := s.WeakensAt(later); !never.IsZero() {
			t.Errorf("weakens once more, at %s", never)
		}
	})
}

func TestLastSeenIsTheBoardsOwnProofOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, Options{})
		finished := running()
		finished.State, finished.Over = job.Finished, job.Yes
		done := job.Key{Namespace: "n", Cluster: "c", ID: "d"}
		b.Apply(Verdicts, changed(verdict(orders, 11, running()), verdict(done, 12, finished)))
		lastSeen := func(key job.Key) string {
			view := b.Snapshot().At(b.Now())
			text := string(view.AppendJob(nil, view.Get(key.String()), false))
			_, rest, _ := strings.Cut(text, `"lastSeen":"`)
			seen, _, _ := strings.Cut(rest, `"`)
			return seen
		}
		stamp := func(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000Z") }
		time.Sleep(10 * time.Second)
		b.Apply(Leader, progressed(20))
		b.Apply(Verdicts, progressed(20))
		proven := stamp(time.Now())
		time.Sleep(time.Hour)
		if got := lastSeen(orders); got != proven {
			t.Errorf("a running job was last seen %s, want %s", got, proven)
		}
		if got := lastSeen(done); got != "2026-01-02T15:04:05.000Z" {
			t.Errorf("a job that is over was last seen %s, want what its verdict says", got)
		}
		// A verdict is no fresher than the settler that would have changed it.
		b.Apply(Verdicts, progressed(21))
		if got := lastSeen(orders); got != proven {
			t.Errorf("without a leader, a running job was last seen %s, want %s", got, proven)
		}
	})
}
