package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hearing collects what a prober tells.
type hearing struct {
	mu    sync.Mutex
	told  []Told
	times map[evidence.Agent][]time.Time
}

func (h *hearing) take(t Told) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = append(h.told, t)
	if h.times == nil {
		h.times = map[evidence.Agent][]time.Time{}
	}
	h.times[t.Agent] = append(h.times[t.Agent], time.Now())
}

// await waits until something told is as wanted.
func (h *hearing) await(t *testing.T, what string, wanted func(Told) bool) Told {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		h.mu.Lock()
		i := slices.IndexFunc(h.told, wanted)
		if i >= 0 {
			found := h.told[i]
			h.told = h.told[i+1:]
			h.mu.Unlock()
			return found
		}
		all := fmt.Sprintf("%+v", h.told)
		h.mu.Unlock()
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("never told: %s; but %s", what, all)
		}
	}
}

func state(id string, want job.State) func(Told) bool {
	return func(t Told) bool {
		return slices.ContainsFunc(t.Reports, func(r *evidence.Report) bool { return r.JobID == id && r.State == want })
	}
}

func witness(name string) evidence.Agent {
	return evidence.Agent{Namespace: "team", Cluster: "orders", PodUID: name, Probe: true}
}

func add(jm *flinktest.JobManager, name string) (id string) {
	id = flinktest.NewID()
	jm.SetJob(flinktest.Job{ID: id, Name: name, State: job.Running})
	return id
}

func at(t *testing.T, name string, jm *flinktest.JobManager) Target {
	t.Helper()
	host, port := jm.HostPort()
	return Target{Agent: witness(name), Pod: "pod-" + name, Address: host, Port: port}
}

func prober(t *testing.T, o Options) (*Prober, *hearing) {
	t.Helper()
	h := &hearing{}
	o.Tell, o.Poll = h.take, 50*time.Millisecond
	p := New(o)
	t.Cleanup(p.Close)
	return p, h
}

// What a JobManager says from outside is told in the words of an agent.
func TestLooks(t *testing.T) {
	jm := flinktest.New(t)
	id := add(jm, "orders")
	p, h := prober(t, Options{})
	p.Ask(at(t, "a", jm))
	h.await(t, "the job runs", state(id, job.Running))
	jm.SetState(id, job.Finished)
	told := h.await(t, "the job finished", state(id, job.Finished))
	if told.Agent != witness("a") || told.Reports[0].Agent != witness("a") {
		t.Errorf("told of %+v", told.Agent)
	}
	if p.Targets() != 1 {
		t.Errorf("%d targets", p.Targets())
	}
	p.Stop(witness("a"))
	jm.SetState(id, job.Running)
	// Whoever is asked meanwhile tells of it, and of what comes next: a poll later.
	p.Ask(at(t, "b", jm))
	h.await(t, "another tells that the job runs", func(told Told) bool {
		if told.Agent == witness("a") && state(id, job.Running)(told) {
			t.Error("told of after Stop")
		}
		return told.Agent == witness("b") && state(id, job.Running)(told)
	})
	jm.SetState(id, job.Failed)
	h.await(t, "another tells that it failed", func(told Told) bool {
		if told.Agent == witness("a") && (state(id, job.Running)(told) || state(id, job.Failed)(told)) {
			t.Error("told of after Stop")
		}
		return told.Agent == witness("b") && state(id, job.Failed)(told)
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, told := range h.told {
		if told.Agent == witness("a") {
			t.Error("told of after Stop")
		}
	}
}

// A pod's address is another's by now: who answers there denies nothing, and tells of no jobs.
func TestStrangerAtTheAddress(t *testing.T) {
	jm := flinktest.New(t)
	id := add(jm, "orders")
	p, h := prober(t, Options{})
	p.Ask(at(t, "a", jm))
	h.await(t, "the job runs", state(id, job.Running))
	jm.Restart() // another process, which knows none of the jobs
	other := add(jm, "another's")
	h.await(t, "who answers is not the one", func(t Told) bool { return t.Beat != nil && t.Beat.Reach != job.Fine })
	asked := func() (n int) {
		for _, times := range jm.Requests() {
			n += times
		}
		return n
	}
	// Often enough for a denial, which takes two rounds, and for telling of jobs.
	for begin, enough := time.Now(), asked()+20; asked() < enough; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("the stranger is not asked any more: %v", jm.Requests())
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, told := range h.told {
		for _, r := range told.Reports {
			if r.JobID == other || r.Known == job.No {
				t.Errorf("told of the stranger: %+v", r)
			}
		}
	}
}

// The name that Flink gives its cluster tells a stranger from the first look on.
func TestAnotherClusterAtTheAddress(t *testing.T) {
	jm := flinktest.New(t)
	jm.SetConfig("kubernetes.cluster-id", "clicks")
	id := add(jm, "clicks")
	p, h := prober(t, Options{})
	wrong := at(t, "a", jm)
	wrong.FlinkID = "orders"
	p.Ask(wrong)
	h.await(t, "who answers is not the one", func(t Told) bool { return t.Beat != nil && t.Beat.Reach != job.Fine })
	right := at(t, "b", jm)
	right.FlinkID = "clicks"
	p.Ask(right)
	h.await(t, "the job runs", state(id, job.Running))
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, told := range h.told {
		if told.Agent == witness("a") && len(told.Reports) > 0 {
			t.Errorf("told of the stranger: %+v", told)
		}
	}
}

// Case 9 of the peers. Sixteen black holes, and many more, delay the healthy one by nothing.
func TestBlackHolesDelayNobody(t *testing.T) {
	healthy := flinktest.New(t)
	id := add(healthy, "orders")
	p, h := prober(t, Options{Dial: func(to Target) (Client, error) {
		if to.Address == "black hole" {
			return blackHole{}, nil
		}
		return dial(to)
	}})
	for n := range 16 + slowSlots {
		p.Ask(Target{Agent: witness(fmt.Sprint("hole-", n)), Address: "black hole"})
	}
	begin := time.Now()
	p.Ask(at(t, "healthy", healthy))
	h.await(t, "the job runs", state(id, job.Running))
	first := time.Since(begin)
	for range 5 {
		healthy.SetState(id, job.Restarting)
		begin := time.Now()
		h.await(t, "the job restarts", state(id, job.Restarting))
		if took := time.Since(begin); took > time.Second {
			t.Errorf("a change is seen after %s", took)
		}
		healthy.SetState(id, job.Running)
		h.await(t, "the job runs", state(id, job.Running))
	}
	t.Logf("first seen after %s", first)
}

// blackHole answers nothing, for as long as it is given.
type blackHole struct{ Client }

func (blackHole) Close() {}

func (blackHole) JobManager(ctx context.Context) (jm flink.JobManager, err error) {
	<-ctx.Done()
	return jm, errors.New("no answer")
}
