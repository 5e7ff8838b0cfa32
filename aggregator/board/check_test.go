package board

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// pageOf is all that a feed has at a revision.
func pageOf(f Feed, revision int64, pairs ...etcd.Pair) etcd.Page {
	return etcd.Page{From: f.Prefix("default"), Pairs: pairs, At: etcd.Position{Revision: revision}}
}

// keys are those of differences.
func keys(found []Difference) []string {
	var list []string
	for _, d := range found {
		list = append(list, d.Key)
	}
	return list
}

// What a page of etcd has otherwise is a difference only if the board did not change it while it was read.
func TestWhatChangesMeanwhileIsNoDifference(t *testing.T) {
	other := job.Key{Namespace: "team-b", Cluster: "billing", ID: "b2"}
	old, is := verdict(orders, 11, running()), verdict(orders, 12, running())
	for name, c := range map[string]struct {
		have []etcd.Pair
		page []etcd.Pair // as of revision 15
		// events come between the read, and what it is compared with
		events []etcd.Pair
		want   []string
	}{
		"nothing differs":            {have: []etcd.Pair{is}, page: []etcd.Pair{is}},
		"a lost change":              {have: []etcd.Pair{old}, page: []etcd.Pair{is}, want: []string{is.Key}},
		"a change comes late":        {have: []etcd.Pair{old}, page: []etcd.Pair{is}, events: []etcd.Pair{is}},
		"a newer one comes":          {have: []etcd.Pair{is}, page: []etcd.Pair{is}, events: []etcd.Pair{verdict(orders, 16, running())}},
		"it goes":                    {have: []etcd.Pair{is}, page: []etcd.Pair{is}, events: []etcd.Pair{gone(orders, 16)}},
		"it comes late":              {page: []etcd.Pair{is}, events: []etcd.Pair{is}},
		"it comes late, and goes":    {page: []etcd.Pair{is}, events: []etcd.Pair{is, gone(orders, 16)}},
		"it goes, and comes":         {have: []etcd.Pair{is}, events: []etcd.Pair{gone(orders, 14), verdict(orders, 16, running())}},
		"it comes after the read":    {events: []etcd.Pair{verdict(orders, 16, running())}},
		"a lost end":                 {have: []etcd.Pair{is}, want: []string{is.Key}},
		"a lost begin":               {page: []etcd.Pair{is}, want: []string{is.Key}},
		"another one changes":        {have: []etcd.Pair{old}, page: []etcd.Pair{is}, events: []etcd.Pair{verdict(other, 16, running())}, want: []string{is.Key}},
		"what is none of ours":       {page: []etcd.Pair{{Key: Verdicts.Prefix("default") + "x", Value: []byte("x"), ModRevision: 12}}},
		"what nobody can read":       {have: []etcd.Pair{{Key: is.Key, Value: []byte("?"), ModRevision: 12}}, page: []etcd.Pair{{Key: is.Key, Value: []byte("?"), ModRevision: 12}}},
		"what nobody can read, lost": {have: []etcd.Pair{old}, page: []etcd.Pair{{Key: is.Key, Value: []byte("?"), ModRevision: 12}}, want: []string{is.Key}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBoard(t, Options{})
			for _, pair := range c.have {
				b.Apply(Verdicts, changed(pair))
			}
			before, read := b.Snapshot(), b.Now()
			page := pageOf(Verdicts, 15, c.page...)
			if is, err := before.TakesIn(Verdicts, page, before, read); is || err != nil {
				t.Fatalf("it takes in what it was not told of: %v, %v", is, err)
			}
			if _, err := b.Mend(Verdicts, page, before, read); !errors.Is(err, ErrIncomparable) {
				t.Fatalf("mended before it was told: %v", err)
			}
			for _, pair := range c.events {
				b.Apply(Verdicts, changed(pair))
			}
			b.Apply(Verdicts, progressed(16))
			after := b.Snapshot()
			if is, err := after.TakesIn(Verdicts, page, before, read); !is || err != nil {
				t.Fatalf("it takes in what it was told of: %v, %v", is, err)
			}
			mended, err := b.Mend(Verdicts, page, before, read)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, keys(mended)); diff != "" {
				t.Errorf("mended (-want +got):\n%s", diff)
			}
			// One that came and went is doubted, and not mended.
			if diff := cmp.Diff(c.want, keys(b.Compare(Verdicts, page, before, after))); diff != "" && name != "it comes late, and goes" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
			if c.want == nil {
				return
			}
			// Whoever watches is told, and nothing is left.
			changes := make([]Change, 8)
			if n, err := b.Changes(after.Position(), b.Snapshot().Position(), changes); n != 1 || err != nil || !changes[0].Last {
				t.Errorf("%d changes, %v: %+v", n, err, changes[0])
			}
			before = b.Snapshot()
			b.Apply(Verdicts, progressed(17))
			if left := b.Compare(Verdicts, page, before, b.Snapshot()); name != "another one changes" && len(left) > 0 {
				t.Errorf("still different: %+v", left)
			}
		})
	}
}

// A board that was told all anew, or of another store, or has not heard of the store since the read, cannot be compared.
func TestWhatCannotBeCompared(t *testing.T) {
	now := time.Unix(1000, 0)
	b := newBoard(t, Options{Now: func() time.Time { return now }})
	before, read := b.Snapshot(), now
	page := pageOf(Verdicts, 9)
	page.At.Revision = 10
	if is, err := b.Snapshot().TakesIn(Verdicts, page, before, read); is || err != nil {
		t.Errorf("nothing was heard since the read: %v, %v", is, err)
	}
	now = now.Add(time.Second)
	b.Apply(Verdicts, progressed(10))
	if is, err := b.Snapshot().TakesIn(Verdicts, page, before, read); !is || err != nil {
		t.Errorf("all was heard since the read: %v, %v", is, err)
	}
	for name, at := range map[string]etcd.Position{
		"an older store": {Revision: 9}, "another cluster": {ClusterID: 1, Revision: 10},
	} {
		page.At = at
		if is, err := b.Snapshot().TakesIn(Verdicts, page, before, read); is || !errors.Is(err, ErrIncomparable) {
			t.Errorf("%s: %v, %v", name, is, err)
		}
	}
	page.At = etcd.Position{Revision: 10}
	b.Apply(Verdicts, etcd.Update{Kind: etcd.Lost, Err: errors.New("test")})
	if is, err := b.Snapshot().TakesIn(Verdicts, page, before, read); is || !errors.Is(err, ErrIncomparable) {
		t.Errorf("a feed that is lost: %v, %v", is, err)
	}
	b.Apply(Verdicts, listed(11))
	if is, err := b.Snapshot().TakesIn(Verdicts, page, before, read); is || !errors.Is(err, ErrIncomparable) {
		t.Errorf("a feed that was listed anew: %v, %v", is, err)
	}
}

// The site's own records are held against etcd, too.
func TestSingleRecordsAreMended(t *testing.T) {
	frozen := etcd.Pair{Key: record.ConditionKey("default"), Value: record.EncodeCondition(record.SiteCondition{Frozen: true}), ModRevision: 12}
	second := etcd.Pair{Key: record.LeaderKey("default"), Value: record.EncodeLeader(record.SiteLeader{Name: "two"}), ModRevision: 12}
	for name, c := range map[string]struct {
		feed   Feed
		page   []etcd.Pair
		events []etcd.Pair
		want   int
		shows  func(*Snapshot) bool
	}{
		"the leader is the one":      {Leader, []etcd.Pair{leader()}, nil, 0, func(s *Snapshot) bool { return s.leads && s.leader.Name == "one" }},
		"another leads":              {Leader, []etcd.Pair{second}, nil, 1, func(s *Snapshot) bool { return s.leads && s.leader.Name == "two" }},
		"another leads, told late":   {Leader, []etcd.Pair{second}, []etcd.Pair{second}, 0, func(s *Snapshot) bool { return s.leader.Name == "two" }},
		"another leads since":        {Leader, []etcd.Pair{leader()}, []etcd.Pair{{Key: second.Key, Value: second.Value, ModRevision: 16}}, 0, func(s *Snapshot) bool { return s.leader.Name == "two" }},
		"nobody leads":               {Leader, nil, nil, 1, func(s *Snapshot) bool { return !s.leads }},
		"a leader who is newer":      {Leader, []etcd.Pair{{Key: second.Key, Value: []byte(`{"v":9}`), ModRevision: 12}}, nil, 0, func(s *Snapshot) bool { return s.leads }},
		"nothing is frozen":          {Condition, nil, nil, 0, func(s *Snapshot) bool { return !s.condition.Frozen }},
		"all is frozen":              {Condition, []etcd.Pair{frozen}, nil, 1, func(s *Snapshot) bool { return s.condition.Frozen && s.conditionRevision == 12 }},
		"another epoch":              {Identity, []etcd.Pair{identity(2)}, nil, 1, func(s *Snapshot) bool { return s.identity.Epoch == 2 }},
		"an identity that was taken": {Identity, nil, nil, 0, func(s *Snapshot) bool { return s.identity.Epoch == 1 }},
		"a key beside":               {Condition, []etcd.Pair{{Key: frozen.Key + "x", Value: frozen.Value, ModRevision: 12}}, nil, 0, func(s *Snapshot) bool { return !s.condition.Frozen }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBoard(t, Options{})
			before, read := b.Snapshot(), b.Now()
			if c.events != nil {
				b.Apply(c.feed, changed(c.events...))
			}
			b.Apply(c.feed, progressed(16))
			page := pageOf(c.feed, 15, c.page...)
			if found := b.Compare(c.feed, page, before, b.Snapshot()); len(found) != c.want {
				t.Errorf("found %+v, want %d", found, c.want)
			}
			mended, err := b.Mend(c.feed, page, before, read)
			if err != nil || len(mended) != c.want || !c.shows(b.Snapshot()) {
				t.Errorf("mended %+v, %v, want %d; leader %+v, condition %+v", mended, err, c.want, b.Snapshot().leader, b.Snapshot().condition)
			}
		})
	}
}
