package board

import (
	"errors"
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
