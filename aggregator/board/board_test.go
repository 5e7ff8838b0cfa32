package board

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const hold = 30 * time.Second

var orders = job.Key{Namespace: "team-a", Cluster: "orders", ID: "a1"}

func running() job.Verdict {
	return job.Verdict{
		Name: "orders", State: job.Running, Over: job.No, Certainty: job.Witnessed, Since: "2026-01-02T15:04:05.000Z",
		LastSeen: "2026-01-02T15:04:05.000Z", Attempt: job.Attempt{Number: 1, StartTime: "2026-01-02T15:04:00.000Z"}, Via: job.ViaREST,
	}
}

func verdict(key job.Key, revision int64, v job.Verdict) etcd.Pair {
	value := record.EncodeAccount(job.Account{Key: key, Verdict: v, Books: job.Books{Sequence: 1}})
	return etcd.Pair{Key: record.VerdictKey("default", key), Value: value, ModRevision: revision}
}

func gone(key job.Key, revision int64) etcd.Pair {
	return etcd.Pair{Key: record.VerdictKey("default", key), ModRevision: revision, Deleted: true}
}

func listed(revision int64, pairs ...etcd.Pair) etcd.Update {
	return etcd.Update{Kind: etcd.Listed, Epoch: 1, Revision: revision, Pairs: pairs}
}

func changed(pairs ...etcd.Pair) etcd.Update {
	return etcd.Update{Kind: etcd.Changed, Epoch: 1, Revision: pairs[len(pairs)-1].ModRevision, Pairs: pairs}
}

func progressed(revision int64) etcd.Update {
	return etcd.Update{Kind: etcd.Progressed, Epoch: 1, Revision: revision}
}

func identity(epoch int64) etcd.Pair {
	return etcd.Pair{Key: record.IdentityKey("default"), Value: record.EncodeIdentity(record.SiteIdentity{UID: "u", Epoch: epoch}), ModRevision: 1}
}

func leader() etcd.Pair {
	return etcd.Pair{Key: record.LeaderKey("default"), Value: record.EncodeLeader(record.SiteLeader{Name: "one"}), ModRevision: 2}
}

// newBoard makes a board on which every feed was listed, at revision 10 of epoch 1, with a leader.
func newBoard(t testing.TB, o Options) *Board {
	t.Helper()
	o.Site = "default"
	if o.Hold == 0 {
		o.Hold = hold
	}
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	b.Apply(Identity, listed(10, identity(1)))
	b.Apply(Leader, listed(10, leader()))
	b.Apply(Condition, listed(10))
	b.Apply(Verdicts, listed(10))
	b.Apply(Clusters, listed(10))
	return b
}

// shown renders what the board serves of a job now: certainty and reason.
func shown(b *Board, key job.Key) string {
	view := b.Snapshot().At(b.Now())
	j := view.Get(key.String())
	if j == nil {
		return "none"
	}
	return fmt.Sprint(j.State(), " ", view.Certainty(j), " ", view.Reason(j))
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"no site":       {Hold: hold},
		"a bad site":    {Site: `a"b`, Hold: hold},
		"no hold time":  {Site: "default"},
		"negative hold": {Site: "default", Hold: -1},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestVerdictsComeChangeAndGo(t *testing.T) {
	b := newBoard(t, Options{})
	before := b.Snapshot()
	b.Apply(Verdicts, changed(verdict(orders, 11, running())))
	if got := shown(b, orders); got != "RUNNING Witnessed FlinkSaid" {
		t.Errorf("after it came: %s", got)
	}
	select {
	case <-before.Changed():
	default:
		t.Error("the snapshot before does not tell that there is a newer one")
	}
	if before.Len() != 0 || before.Version().Revision != 10 {
		t.Error("the snapshot before has changed")
	}
	failed := running()
	failed.State, failed.Over = job.Failed, job.Yes
	b.Apply(Verdicts, changed(verdict(orders, 12, failed)))
	if got := shown(b, orders); got != "FAILED Witnessed FlinkSaid" {
		t.Errorf("after it failed: %s", got)
	}
	b.Apply(Verdicts, changed(gone(orders, 13)))
	if got := shown(b, orders); got != "none" {
		t.Errorf("after it went: %s", got)
	}
	if got := b.Snapshot().Version().String(); got != "1.13" {
		t.Errorf("version %s, want 1.13", got)
	}
	b.Apply(Verdicts, progressed(20))
	if s := b.Snapshot(); s.Version().Revision != 20 || s.LastChange() != 13 {
		t.Errorf("after a progress: version %s, last change %d, want 1.20 and 13", s.Version(), s.LastChange())
	}
}

func TestAListReplacesWhatWasKnown(t *testing.T) {
	b := newBoard(t, Options{})
	payments := job.Key{Namespace: "team-b", Cluster: "payments", ID: "b1"}
	stays := verdict(payments, 12, running())
	b.Apply(Verdicts, changed(verdict(orders, 11, running()), stays))
	kept := b.Snapshot().Get(payments.String())
	from := b.Snapshot().Position()
	b.Apply(Verdicts, etcd.Update{Kind: etcd.Lost, Epoch: 1, Revision: 12, Err: errors.New("cut off")})
	b.Apply(Verdicts, listed(30, stays))
	s := b.Snapshot()
	if s.Len() != 1 || s.Get(payments.String()) != kept {
		t.Errorf("%d jobs; the one that did not change must not be read again", s.Len())
	}
	var changes [8]Change
	n, err := b.Changes(from, s.Position(), changes[:])
	if err != nil || n != 1 || changes[0].Old.Key() != orders || changes[0].New != nil || changes[0].Revision != 30 || !changes[0].Last {
		t.Errorf("changes %+v, %v: want the one job that went, at the revision of the list", changes[:n], err)
	}
}

// A record that cannot be read is no news of its job and no harm to its neighbours.
func TestUnreadableRecords(t *testing.T) {
	healthy := job.Key{Namespace: "team-a", Cluster: "orders", ID: "a2"}
	corrupt := etcd.Pair{Key: record.VerdictKey("default", orders), Value: []byte(`{"v":1,"state":"RUN`), ModRevision: 12}
	newer := etcd.Pair{Key: record.VerdictKey("default", orders), Value: []byte(`{"v":2,"state":{"new":"form"}}`), ModRevision: 12}
	good := verdict(orders, 11, running())
	for name, c := range map[string]struct {
		before, update []etcd.Pair
		want           string
		count          Unreadable
		message        string
	}{
		"corrupt, known before":    {[]etcd.Pair{good}, []etcd.Pair{corrupt}, "RUNNING Held StoreUnreachable", Corrupt, "damaged"},
		"newer, known before":      {[]etcd.Pair{good}, []etcd.Pair{newer}, "RUNNING Held StoreUnreachable", Newer, "upgrade it; Flink said RUNNING before that"},
		"corrupt, never known":     {nil, []etcd.Pair{corrupt}, "UNKNOWN Held StoreUnreachable", Corrupt, "the state was not known before that"},
		"newer, never known":       {nil, []etcd.Pair{newer}, "UNKNOWN Held StoreUnreachable", Newer, "too old"},
		"known in the same update": {nil, []etcd.Pair{good, corrupt}, "RUNNING Held StoreUnreachable", Corrupt, "damaged"},
		"gone, then corrupt":       {[]etcd.Pair{good}, []etcd.Pair{gone(orders, 11), corrupt}, "UNKNOWN Held StoreUnreachable", Corrupt, "damaged"},
		"readable again":           {[]etcd.Pair{corrupt}, []etcd.Pair{verdict(orders, 13, running())}, "RUNNING Witnessed FlinkSaid", Corrupt, "Flink says RUNNING"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			b := newBoard(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			if c.before != nil {
				b.Apply(Verdicts, changed(c.before...))
			}
			b.Apply(Verdicts, changed(append(c.update, verdict(healthy, 14, running()))...))
			if got := shown(b, orders); got != c.want {
				t.Errorf("shown as %s, want %s", got, c.want)
			}
			if got := shown(b, healthy); got != "RUNNING Witnessed FlinkSaid" {
				t.Errorf("its neighbour is shown as %s", got)
			}
			if got := b.Unreadable()[c.count]; got != 1 {
				t.Errorf("%d records counted as %s, want 1", got, c.count)
			}
			view := b.Snapshot().At(b.Now())
			if text := string(view.AppendJob(nil, view.Get(orders.String()), false)); !strings.Contains(text, c.message) {
				t.Errorf("the message of %s does not say %q", text, c.message)
			}
			if n := strings.Count(log.String(), "\n"); n != 1 {
				t.Errorf("logged %d lines, want 1:\n%s", n, &log)
			}
		})
	}
}

func TestForeignKeysAreCountedAndLeftOut(t *testing.T) {
	b := newBoard(t, Options{})
	value := verdict(orders, 11, running()).Value
	for _, key := range []string{
		"/holdfast/v1/default/verdicts/team-a/orders", "/holdfast/v1/default/verdicts/team-a/orders/a1/b",
		"/holdfast/v1/other/verdicts/team-a/orders/a1", "/holdfast/v1/default/verdicts/team-a/or\"ders/a1",
		"/holdfast/v1/default/verdicts/team-a/" + strings.Repeat("x", 300) + "/a1", "/holdfast/v1/default/leader",
	} {
		b.Apply(Verdicts, changed(etcd.Pair{Key: key, Value: value, ModRevision: 11}))
	}
	if n := b.Snapshot().Len(); n != 0 {
		t.Errorf("%d jobs were made of foreign keys", n)
	}
	if got := b.Unreadable()[Foreign]; got != 6 {
		t.Errorf("%d foreign records counted, want 6", got)
	}
}

func TestUnreadableKeysAreLoggedOnceAndNotWithoutBound(t *testing.T) {
	var log bytes.Buffer
	b := newBoard(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	for round := range 2 {
		for i := range badKeysLimit + 100 {
			key := job.Key{Namespace: "a", Cluster: "b", ID: fmt.Sprint(i)}
			b.Apply(Verdicts, changed(etcd.Pair{Key: record.VerdictKey("default", key), Value: []byte("?"), ModRevision: int64(100 + round)}))
		}
	}
	if n := strings.Count(log.String(), "\n"); n != badKeysLimit+1 {
		t.Errorf("%d lines logged, want %d and one that says that it is enough", n, badKeysLimit)
	}
	if got := b.Unreadable()[Corrupt]; got != 2*(badKeysLimit+100) {
		t.Errorf("%d records counted", got)
	}
}

func TestSingleRecordsThatCannotBeReadKeepWhatWasKnown(t *testing.T) {
	b := newBoard(t, Options{})
	frozen := record.SiteCondition{Frozen: true, Source: "etcd", Why: "leader changed", Expected: 5, Beating: 3}
	b.Apply(Condition, changed(etcd.Pair{Key: record.ConditionKey("default"), Value: record.EncodeCondition(frozen), ModRevision: 20}))
	for f, key := range map[Feed]string{
		Condition: record.ConditionKey("default"), Identity: record.IdentityKey("default"), Leader: record.LeaderKey("default"),
	} {
		b.Apply(f, changed(etcd.Pair{Key: key, Value: []byte("{"), ModRevision: 21}))
	}
	s := b.Snapshot()
	if got, at := s.Condition(); got != frozen || at != 20 {
		t.Errorf("condition %+v at %d", got, at)
	}
	if s.Identity().Epoch != 1 {
		t.Errorf("identity %+v", s.Identity())
	}
	if _, leads := s.Leader(); !leads {
		t.Error("a leader whose record cannot be read leads all the same")
	}
	b.Apply(Condition, changed(etcd.Pair{Key: record.ConditionKey("default"), ModRevision: 22, Deleted: true}))
	if got, _ := b.Snapshot().Condition(); got.Frozen {
		t.Error("the condition is gone, and still frozen")
	}
}

func TestResume(t *testing.T) {
	b := newBoard(t, Options{Ring: 4})
	for i := range int64(6) {
		b.Apply(Verdicts, changed(verdict(orders, 11+i, running()))) // 11 to 16; 13 to 16 are kept
	}
	for _, c := range []struct {
		version string
		want    error
		left    int
	}{
		{"1.16", nil, 0}, {"1.15", nil, 1}, {"1.12", nil, 4}, {"1.11", ErrTooOld, 0}, {"1.0", ErrTooOld, 0},
		{"1.17", ErrFuture, 0}, {"2.16", ErrEpoch, 0}, {"0.16", ErrEpoch, 0}, {"1.14.held", nil, 2},
	} {
		v, err := ParseVersion(c.version)
		if err != nil {
			t.Fatal(err)
		}
		position, err := b.Resume(v)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.version, err, c.want)
			continue
		}
		if left := int(b.Snapshot().Position() - position); err == nil && left != c.left {
			t.Errorf("%s: %d changes are left, want %d", c.version, left, c.left)
		}
	}
	if _, err := b.Changes(1, 100, make([]Change, 1)); !errors.Is(err, ErrTooOld) {
		t.Errorf("a reader that fell behind gets %v", err)
	}
}

func TestANewEpochEndsOldVersions(t *testing.T) {
	b := newBoard(t, Options{})
	b.Apply(Verdicts, changed(verdict(orders, 11, running())))
	at := b.Snapshot().Position()
	b.Apply(Identity, changed(identity(2)))
	if _, err := b.Resume(Version{Epoch: 1, Revision: 11}); !errors.Is(err, ErrEpoch) {
		t.Errorf("resuming from epoch 1: %v", err)
	}
	if _, err := b.Resume(Version{Epoch: 2, Revision: 11}); err != nil {
		t.Errorf("resuming from epoch 2: %v", err)
	}
	if _, err := b.Changes(at, b.Snapshot().Position(), make([]Change, 1)); !errors.Is(err, ErrTooOld) {
		t.Errorf("a reader that had read everything is not told: %v", err)
	}
}

// The store is replaced by an older copy of itself, and writes begin again from there. Until the site's identity has a
// new epoch, versions of the two lives look alike.
func TestAReplacedStoreEndsOldVersionsAtOnce(t *testing.T) {
	replaced := func(b *Board) {
		b.Apply(Verdicts, etcd.Update{Kind: etcd.Listed, Epoch: 2, Revision: 12, Pairs: []etcd.Pair{verdict(orders, 12, running())}})
		b.Apply(Verdicts, etcd.Update{Kind: etcd.Changed, Epoch: 2, Revision: 14, Pairs: []etcd.Pair{verdict(orders, 14, running())}})
	}
	b := newBoard(t, Options{})
	b.Apply(Verdicts, changed(verdict(orders, 11, running()), verdict(orders, 13, running())))
	old := b.Snapshot().Get(orders.String())
	replaced(b)
	if _, err := b.Resume(Version{Epoch: 1, Revision: 13}); !errors.Is(err, ErrEpoch) {
		t.Errorf("resuming over a replaced store: %v", err)
	}
	if b.Snapshot().Get(orders.String()) == old {
		t.Error("a job of the life before is still shown")
	}
	b.Apply(Identity, changed(identity(2)))
	if _, err := b.Resume(Version{Epoch: 2, Revision: 14}); err != nil {
		t.Errorf("resuming in the new epoch: %v", err)
	}

	faster := newBoard(t, Options{})
	faster.Apply(Verdicts, changed(verdict(orders, 11, running()), verdict(orders, 13, running())))
	faster.Apply(Identity, changed(identity(2)))
	replaced(faster)
	if _, err := faster.Resume(Version{Epoch: 2, Revision: 12}); err != nil {
		t.Errorf("the leader was faster than this board, resuming in the new epoch: %v", err)
	}
}

// The same revision, with another value, in another life of the store is another record.
func TestAReplacedStoreIsReadAnew(t *testing.T) {
	b := newBoard(t, Options{})
	b.Apply(Verdicts, changed(verdict(orders, 11, running())))
	failed := running()
	failed.State = job.Failed
	b.Apply(Verdicts, etcd.Update{Kind: etcd.Listed, Epoch: 2, Revision: 11, Pairs: []etcd.Pair{verdict(orders, 11, failed)}})
	if got := b.Snapshot().Get(orders.String()).State(); got != job.Failed {
		t.Errorf("shown as %s", got)
	}
}

// One transaction changes two jobs: only after both may a reader go on from its revision.
func TestARevisionIsSeenWhole(t *testing.T) {
	b := newBoard(t, Options{})
	other := job.Key{Namespace: "z", Cluster: "z", ID: "z"}
	from := b.Snapshot().Position()
	b.Apply(Verdicts, changed(verdict(orders, 11, running()), verdict(other, 11, running()), verdict(orders, 12, running())))
	changes := make([]Change, 8)
	n, _ := b.Changes(from, b.Snapshot().Position(), changes)
	var last []bool
	for _, c := range changes[:n] {
		last = append(last, c.Last)
	}
	if diff := cmp.Diff([]bool{false, true, true}, last); diff != "" {
		t.Errorf("which changes are the last of their revision (-want +got):\n%s", diff)
	}
}

// Whatever happens, the ring's changes turn an older snapshot into the newer one.
func TestChangesLeadFromSnapshotToSnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, err := New(Options{Site: "default", Hold: hold, Ring: 1 << 10})
		if err != nil {
			t.Fatal(err)
		}
		b.Apply(Identity, listed(10, identity(1)))
		b.Apply(Verdicts, listed(10))
		copied, position := map[string]*Job{}, b.Snapshot().Position()
		stored, revision := map[job.Key]etcd.Pair{}, int64(10)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			var pairs []etcd.Pair
			for range rapid.IntRange(0, 4).Draw(t, "pairs") {
				key := job.Key{Namespace: rapid.SampledFrom([]string{"a", "a-b"}).Draw(t, "namespace"), Cluster: "c", ID: rapid.StringMatching("[1-4]").Draw(t, "id")}
				revision += int64(rapid.IntRange(0, 1).Draw(t, "next"))
				pair := verdict(key, revision, running())
				if rapid.Bool().Draw(t, "delete") {
					pair = gone(key, revision)
					delete(stored, key)
				} else {
					stored[key] = pair
				}
				pairs = append(pairs, pair)
			}
			revision++
			switch {
			case rapid.IntRange(0, 4).Draw(t, "list") == 0:
				pairs = pairs[:0]
				for _, pair := range stored {
					pairs = append(pairs, pair)
				}
				b.Apply(Verdicts, listed(revision, pairs...))
			case len(pairs) > 0:
				b.Apply(Verdicts, changed(pairs...))
			}
			if rapid.Bool().Draw(t, "read") {
				continue
			}
			s := b.Snapshot()
			changes := make([]Change, 256)
			n, err := b.Changes(position, s.Position(), changes)
			if err != nil {
				t.Fatal(err)
			}
			position += uint64(n)
			for _, c := range changes[:n] {
				if c.New != nil {
					copied[c.New.Path()] = c.New
				} else {
					delete(copied, c.Old.Path())
				}
			}
			now := map[string]*Job{}
			s.Ascend("", func(j *Job) bool { now[j.Path()] = j; return true })
			if len(now) != len(stored) {
				t.Fatalf("the board has %d jobs, the store %d", len(now), len(stored))
			}
			if diff := cmp.Diff(now, copied, cmp.Comparer(func(a, b *Job) bool { return a == b })); diff != "" {
				t.Fatalf("the changes lead elsewhere (-board +copy):\n%s", diff)
			}
		}
	})
}
