//go:build kubernetes

package product

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
)

// Jobs of one session cluster end in three ways, one after another: what becomes of one is never shown of another, and what has ended
// stays as it is.
func TestSession(t *testing.T) {
	t.Parallel()
	dist := cluster.Flinks[len(cluster.Flinks)-1]
	ns := namespace(t, "session", nil)
	flink, err := cluster.StartSession(limit(t), flinkpod.Options{
		Dist: dist, Namespace: ns, ID: "session", Config: map[string]string{"taskmanager.numberOfTaskSlots": "3"},
	})
	check(t, err)
	r := session(t, flink)
	canceled, _ := r.submit(t, dist, "canceled")
	failed, failedControl := r.submit(t, dist, "failed")
	finished, finishedControl := r.submit(t, dist, "finished")
	ends := []*ending{
		{id: canceled, via: "CANCELLING", state: "CANCELED", bring: func() error { return r.flink.Cancel(limit(t), canceled) }},
		{id: failed, via: "FAILING", state: "FAILED", bring: failedControl.Boom},
		{id: finished, state: "FINISHED", bring: finishedControl.Finish},
	}
	for _, end := range ends {
		if v := r.shown(t, end.id, "RUNNING Witnessed over=no attempt=1"); v.Name != strings.ToLower(end.state) {
			t.Errorf("the job %s is shown by the name %q", strings.ToLower(end.state), v.Name)
		}
	}
	record := holdfast.record(t, r.jobs())
	for _, end := range ends {
		end.at = time.Since(record.begin)
		check(t, end.bring())
		r.shown(t, end.id, end.state+" Witnessed over=yes attempt=1")
		r.checkHistory(t, end.id, "INITIALIZING", "CREATED", "RUNNING", end.via, end.state)
		time.Sleep(3 * time.Second) // the agent asks once a second, and those that run on must be seen to
	}
	over := map[string]bool{} // by replica and job
	for _, s := range record.seen(t) {
		end := ends[slices.IndexFunc(ends, func(end *ending) bool { return end.id == s.job })]
		may := []string{"RUNNING Witnessed over=no attempt=1"}
		switch {
		case over[s.replica+s.job]:
			may = nil
		case s.at > end.at:
			may = append(may, end.via+" Witnessed over=no attempt=1", end.state+" Witnessed over=yes attempt=1")
		}
		if !slices.ContainsFunc(may, func(prefix string) bool { return strings.HasPrefix(s.is, prefix) }) {
			t.Errorf("after %s %s shows the job %s as %s, and only %q may be", s.at, s.replica, strings.ToLower(end.state), s.is, may)
		}
		over[s.replica+s.job] = strings.HasPrefix(s.is, end.state)
	}
}

// ending is how a test ends a job, and what it is shown as then.
type ending struct {
	id, via, state string // via is the state that may be seen on the way
	bring          func() error
	at             time.Duration // since the recorder's begin
}

// session waits until a session cluster answers.
func session(t *testing.T, flink *flinkpod.Cluster) *running {
	t.Helper()
	r := &running{Cluster: flink}
	r.removeAfter(t)
	var err error
	r.flink, err = r.AwaitREST(limit(t))
	check(t, err)
	return r
}

// submit gives a session cluster a job that does not restart, and waits until Flink says that it runs.
func (r *running) submit(t *testing.T, dist *flinkproc.Dist, name string) (id string, steer *flinkproc.Control) {
	t.Helper()
	steer = control(t)
	id, err := r.flink.Submit(limit(t), dist, flinkproc.Job{Name: name, Sources: []string{steer.Addr()}})
	check(t, err)
	check(t, r.flink.WaitRunning(limit(t), id))
	return id, steer
}

// shown waits until one of several jobs is shown as wanted.
func (r *running) shown(t *testing.T, id, want string) (is verdict) {
	t.Helper()
	holdfast.whole.RLock()
	defer holdfast.whole.RUnlock()
	eventually(t, prompt, fmt.Sprintf("job %s is shown as %s", id, want), func(ctx context.Context) error {
		all, err := holdfast.jobs(ctx, r.jobs())
		if err != nil {
			return err
		}
		at := slices.IndexFunc(all, func(v verdict) bool { return v.JobID == id })
		if at < 0 || !strings.HasPrefix(all[at].String(), want) {
			return fmt.Errorf("shown: %v", all)
		}
		is = all[at]
		return nil
	})
	return is
}

// checkHistory fails the test unless a job's history has no hole, and goes through nothing but the given states in their order, RUNNING
// and the last one among them.
func (r *running) checkHistory(t *testing.T, id string, states ...string) {
	t.Helper()
	entries, err := r.history(limit(t), id)
	check(t, err)
	t.Logf("the history of %s: %v", id[:8], entries)
	next, ran, last := 0, false, ""
	for i, e := range entries {
		// While Flink starts, a busy machine may keep an agent from speaking in time; then it says the same once more.
		if !ran && e.Certainty == "Held" && e.Sequence == i+1 && i+1 < len(entries) && entries[i+1].State == e.State {
			continue
		}
		at := slices.Index(states[next:], e.State)
		if at < 0 || e.Sequence != i+1 || e.Kind != "transition" || e.Certainty != "Witnessed" || e.Attempt.Number != 1 {
			t.Fatalf("entry %d is %+v, and of %v only %v may come next", i+1, e, states, states[next:])
		}
		next, ran, last = next+at+1, ran || e.State == "RUNNING", e.State
	}
	if !ran || last != states[len(states)-1] {
		t.Errorf("the history does not go from RUNNING to %s: %v", states[len(states)-1], entries)
	}
}

// transition is an entry of a job's history, as far as the suite looks at it.
type transition struct {
	Sequence               int
	Kind, State, Certainty string

	Attempt struct{ Number int }
}

// history asks the replicas one after another until one answers.
func (r *running) history(ctx context.Context, id string) (entries []transition, err error) {
	all, err := holdfast.jobs(ctx, r.jobs())
	if err != nil || len(all) == 0 {
		return nil, fmt.Errorf("%s has no job: %w", r.ID(), err)
	}
	path := fmt.Sprintf("/api/v1/jobs/%s/%s/%s/%s/history", all[0].Site, r.Namespace(), r.ID(), id)
	for _, one := range holdfast.replicas(ctx) {
		var list struct{ Items []transition }
		if err = one.ask(ctx, path, &list); err == nil {
			return list.Items, nil
		}
	}
	return nil, err
}
