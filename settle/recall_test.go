package settle

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// recalled is the state that the core takes for stored of a job; "" for nothing.
func recalled(t *testing.T, c *Core, key job.Key) (state string, own bool) {
	t.Helper()
	is, own := c.Recall(key)
	switch is := is.(type) {
	case Stored:
		if is.Account.Key != key || is.Revision == 0 {
			t.Errorf("recalled %+v at %d for %s", is.Account.Key, is.Revision, key)
		}
		return is.Account.Verdict.State.String(), own
	case UnreadableVerdict:
		return "unreadable", own
	}
	return "", own
}

// What is found in the store counts, whatever the core remembers. A write under way stays the only one; and what the core is told of late is
// taken as if it had been told in time.
func TestFoundCounts(t *testing.T) {
	key := job.Key{Namespace: "n", Cluster: "c", ID: "j"}
	account := func(state job.State, sequence int64) job.Account {
		over := job.No
		if state.Terminal() {
			over = job.Yes
		}
		return job.Account{Key: key, Verdict: job.Verdict{
			State: state, Over: over, Certainty: job.Witnessed, Since: "S", LastSeen: "S", Attempt: job.Attempt{Number: 1, StartTime: "T"}, Via: job.ViaREST,
		}, Books: job.Books{Sequence: sequence}}
	}
	for name, c := range map[string]struct {
		told, found Input
		// want is remembered then, and writes says whether the core wants something else in the store.
		want   string
		writes bool
	}{
		"the same revision":       {Stored{account(job.Failed, 3), 7}, Stored{account(job.Running, 3), 7}, "RUNNING", false},
		"with more in the memory": {Stored{account(job.Failed, 9), 7}, Stored{account(job.Running, 3), 7}, "RUNNING", false},
		"a change not told of":    {Stored{account(job.Created, 2), 6}, Stored{account(job.Running, 3), 7}, "RUNNING", false},
		"a write is under way":    {Stored{account(job.Created, 3), 7}, Stored{account(job.Restarting, 3), 7}, "RESTARTING", false},
		"a verdict not told of":   {Erased{key}, Stored{account(job.Running, 3), 7}, "RUNNING", false},
		"it can be read":          {UnreadableVerdict{key}, Stored{account(job.Running, 3), 7}, "RUNNING", false},
		"it cannot be read":       {Stored{account(job.Running, 3), 7}, UnreadableVerdict{key}, "unreadable", false},
		"an end not told of":      {Stored{account(job.Running, 3), 7}, Erased{key}, "", true},
		"the store is set back":   {Stored{account(job.Running, 3), 7}, Stored{account(job.Created, 2), 6}, "RUNNING", true},
	} {
		t.Run(name, func(t *testing.T) {
			o := healthy(t, 1)
			r := &evidence.Report{
				Agent: o.who(0), JobID: "j", Session: "s", Sequence: 1, Reach: job.Fine, StartTime: "T", State: job.Running, Via: job.ViaREST, Known: job.Yes,
				Transitions: []evidence.Transition{{Number: 1, State: job.Running, StartTime: "T", At: "S", Via: job.ViaREST}},
			}
			o.step(Beat{evidence.Beat{Agent: o.who(0), Session: "s", Reach: job.Fine}})
			o.step(c.told)
			var writes int
			for _, in := range []Input{Reported{r, 5}, Found{c.found}, Tick{}} {
				o.now++
				for _, effect := range o.core.Step(Event{At: o.now, Input: in}) {
					if w, is := effect.(Write); is && w.Account.Verdict.State == job.Running {
						writes++
					}
				}
			}
			if state, _ := recalled(t, o.core, key); state != c.want {
				t.Errorf("remembered is %q, want %q", state, c.want)
			}
			if !c.writes && writes > 1 {
				t.Errorf("%d writes at once", writes)
			}
			if c.writes && writes == 0 {
				t.Error("what the store has lost is not said again")
			}
		})
	}
}

// What the store has lost, and the core says again, is its own; what was not asked for is told.
func TestRecallIsWhatWasStored(t *testing.T) {
	o := healthy(t, 0)
	var want []job.Key
	for _, id := range []string{"a", "b", "c"} {
		key := job.Key{Namespace: "n", Cluster: "c", ID: id}
		want = append(want, key)
		o.step(Stored{job.Account{Key: key, Verdict: job.Verdict{State: job.Finished, Over: job.Yes, Certainty: job.Witnessed, Attempt: job.Attempt{Number: 1}},
			Books: job.Books{Sequence: 5}}, 7})
	}
	o.step(StoredCluster{job.Cluster{Key: want[0].ClusterKey(), Condition: job.ClusterReady, Sequence: 1}, 8})
	o.core.BeginRecall(Verdicts)
	o.core.BeginRecall(Clusters)
	if state, own := recalled(t, o.core, want[1]); state != "FINISHED" || own {
		t.Errorf("remembered is %s, the core's own: %v", state, own)
	}
	left := slices.Collect(o.core.Unrecalled(Verdicts))
	slices.SortFunc(left, compareKeys)
	if diff := cmp.Diff([]job.Key{want[0], want[2]}, left); diff != "" {
		t.Errorf("not asked for (-want +got):\n%s", diff)
	}
	whole := job.Key{Namespace: "n", Cluster: "c"}
	if left := slices.Collect(o.core.Unrecalled(Clusters)); !slices.Equal(left, []job.Key{whole}) {
		t.Errorf("not asked for: %v", left)
	}
	if is, own := o.core.Recall(whole); own || is.(StoredCluster).Revision != 8 || len(slices.Collect(o.core.Unrecalled(Clusters))) != 0 {
		t.Errorf("remembered is %+v, %v", is, own)
	}
	// The store is set back: two entries are missing.
	o.step(Stored{job.Account{Key: want[1], Verdict: job.Verdict{State: job.Running, Over: job.No, Certainty: job.Witnessed, Attempt: job.Attempt{Number: 1}},
		Books: job.Books{Sequence: 3}}, 6})
	if state, own := recalled(t, o.core, want[1]); state != "FINISHED" || !own {
		t.Errorf("remembered is %s, the core's own: %v", state, own)
	}
	o.step(Found{Stored{job.Account{Key: job.Key{Namespace: "n", Cluster: "d", ID: "x"}, Verdict: job.Verdict{State: job.Running, Attempt: job.Attempt{Number: 1}},
		Books: job.Books{Sequence: 1}}, 9}})
	if state, _ := recalled(t, o.core, job.Key{Namespace: "n", Cluster: "d", ID: "x"}); state != "RUNNING" {
		t.Errorf("remembered is %q", state)
	}
	o.step(Found{StoredCluster{job.Cluster{Key: want[0].ClusterKey(), Condition: job.ClusterDown, Sequence: 1}, 8}})
	if is, _ := o.core.Recall(whole); is.(StoredCluster).Cluster.Condition != job.ClusterDown {
		t.Errorf("remembered is %+v", is)
	}
}
