package aggregator

import (
	"log/slog"
	"testing"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/settle"
)

// What etcd had carried out, and lost before any watch told of it, may have been served: it is written again, whatever the list shows in its place.
func TestWriteThatWasLostUntold(t *testing.T) {
	t.Parallel()
	key := job.Key{Namespace: "default", Cluster: "orders", ID: orders}
	verdict := func(state job.State, over job.Answer, sequence int64) job.Account {
		v := job.Verdict{Name: "orders", Attempt: job.Attempt{Number: 1, StartTime: "T1"}, State: state, Over: over, Certainty: job.Witnessed}
		return job.Account{Key: key, Verdict: v, Books: job.Books{Sequence: sequence}}
	}
	running, finished := verdict(job.Running, job.No, 1), verdict(job.Finished, job.Yes, 2)
	finished.Books.OverAt = 1
	lists := func(s *settler, w *writer, epoch int64, verdicts ...settle.Input) {
		for _, source := range stores {
			s.step(settle.Listing{Source: source, Epoch: epoch}, w)
			if source == settle.Verdicts {
				for _, stored := range verdicts {
					s.step(stored, w)
				}
			}
			s.step(settle.Synced{Source: source, Revision: 5}, w)
		}
		s.step(settle.Tick{}, w)
	}
	carriedOut := outcome{key: key, revision: 5, is: settle.Stored{Account: finished, Revision: 7}}
	failed := outcome{key: key, revision: 5, err: etcd.ErrUnknown}
	for name, c := range map[string]struct {
		outcome outcome
		then    func(s *settler, w *writer)
		want    job.State // of the write that follows; Unknown if none does
	}{
		"the store was emptied":  {carriedOut, func(s *settler, w *writer) { lists(s, w, 2) }, job.Finished},
		"the store was set back": {carriedOut, func(s *settler, w *writer) { lists(s, w, 2, settle.Stored{Account: running, Revision: 5}) }, job.Finished},
		"the reign ended with the store": {carriedOut, func(s *settler, w *writer) {
			outcomes := make(chan outcome, 1)
			outcomes <- carriedOut
			s.writing[key] = write{revision: 5}
			s.rest(outcomes)
			lists(s, w, 2)
		}, job.Finished},
		"the watch tells of it": {carriedOut, func(s *settler, w *writer) { s.step(carriedOut.is, w) }, job.Unknown},
		"the list tells of it":  {carriedOut, func(s *settler, w *writer) { lists(s, w, 1, carriedOut.is) }, job.Unknown},
		"a list comes before the outcome": {outcome{}, func(s *settler, w *writer) {
			lists(s, w, 1, settle.Stored{Account: running, Revision: 5})
			s.ended(failed, w)
			if _, owed := s.owed[key]; !owed {
				t.Error("the core does not hear that its write has failed")
			}
			lists(s, w, 2)
		}, job.Running},
		"the outcome is an earlier one's": {outcome{key: key, revision: 4, is: carriedOut.is}, func(s *settler, w *writer) { lists(s, w, 2) }, job.Running},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := newMetrics(noRegistry{})
			if err != nil {
				t.Fatal(err)
			}
			s := newSettler(site, impatient(), nil, slog.New(slog.DiscardHandler), m)
			if s.core, err = settle.New(s.cfg); err != nil {
				t.Fatal(err)
			}
			w := newWriter(site, nil, etcd.Term{}, slog.New(slog.DiscardHandler), m, nil)
			lists(s, w, 1, settle.Stored{Account: running, Revision: 5})
			w.queue = nil
			s.writing[key] = write{revision: 5}
			s.ended(c.outcome, w)
			c.then(s, w)
			is := job.Unknown
			for _, effect := range w.queue {
				if e, wrote := effect.(settle.Write); wrote {
					is = e.Account.Verdict.State
				}
			}
			if is != c.want {
				t.Errorf("%s is written, want %s", is, c.want)
			}
		})
	}
}
