package view

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

const (
	start1 job.Stamp = "2026-01-01T00:00:00.000Z"
	start2 job.Stamp = "2026-01-02T00:00:00.000Z"
)

var who = evidence.Agent{Namespace: "team", Cluster: "orders", PodUID: "uid-1"}

// eye makes looks for a view and keeps the time.
type eye struct {
	t   *testing.T
	v   *View
	now time.Duration
	n   int
}

func newEye(t *testing.T) *eye {
	return &eye{t: t, v: New(Options{Agent: who, Session: "now", Pod: "pod", Version: "test"})}
}

// see lets a second pass.
func (e *eye) see(l Look) Changes { e.t.Helper(); return e.seeAfter(time.Second, l) }

func (e *eye) seeAfter(d time.Duration, l Look) Changes {
	e.t.Helper()
	e.now += d
	e.n++
	l.Now, l.At = e.now, at(e.now)
	if l.Process == nil && l.Reach == job.Fine && e.v.Ask(l.Now, l.Reach, l.Jobs).Process {
		l.Process = &Process{Incarnation: "one", FlinkVersion: "1.20.1", HighAvailability: job.No, Application: job.No}
	}
	return e.v.See(l)
}

func at(d time.Duration) job.Stamp { return job.Stamp(fmt.Sprintf("at %s", d)) }

func list(jobs ...Job) Look { return Look{Reach: job.Fine, Jobs: jobs} }

func one(state job.State, start job.Stamp) Job {
	return Job{ID: "a", Name: "orders", State: state, StartTime: start}
}

func running() Job { return one(job.Running, start1) }

func missing(a Asked) Look {
	a.ID = "a"
	return Look{Reach: job.Fine, Asked: []Asked{a}}
}

func (e *eye) wantNothing(c Changes) {
	e.t.Helper()
	if len(c.Reports) != 0 || c.Beat != nil || len(c.Forgotten) != 0 {
		e.t.Fatalf("look %d changed %+v", e.n, c)
	}
}

func (e *eye) wantOne(c Changes) *evidence.Report {
	e.t.Helper()
	if len(c.Reports) != 1 {
		e.t.Fatalf("look %d gave %d reports", e.n, len(c.Reports))
	}
	return c.Reports[0]
}

func numbers(r *evidence.Report) (all []string) {
	for _, t := range r.Transitions {
		all = append(all, fmt.Sprintf("%d %s %s", t.Number, t.State, t.StartTime))
	}
	return all
}

func (e *eye) wantTransitions(r *evidence.Report, want ...string) {
	e.t.Helper()
	if diff := cmp.Diff(want, numbers(r)); diff != "" {
		e.t.Errorf("look %d: %s", e.n, diff)
	}
}

func TestFirstSight(t *testing.T) {
	e := newEye(t)
	c := e.see(list(running()))
	want := evidence.Report{
		Agent: who, JobID: "a", Session: "now", Pod: "pod", Sequence: 1, Incarnation: "one", Name: "orders", Pipeline: "orders",
		StartTime: start1, State: job.Running, Via: job.ViaREST, Reach: job.Fine, LastAnswer: at(time.Second), Known: job.Yes,
		Transitions: []evidence.Transition{{Number: 1, State: job.Running, StartTime: start1, At: at(time.Second), Via: job.ViaREST}},
	}
	if diff := cmp.Diff(&want, e.wantOne(c)); diff != "" {
		t.Error(diff)
	}
	beat := evidence.Beat{
		Agent: who, Session: "now", Version: "test", Pod: "pod", Incarnation: "one", FlinkVersion: "1.20.1", HighAvailability: job.No,
		Application: job.No, Reach: job.Fine, ReachSince: at(time.Second), At: at(time.Second),
	}
	if diff := cmp.Diff(&beat, c.Beat); diff != "" {
		t.Error(diff)
	}
	e.wantNothing(e.see(list(running())))
}

func TestTransitions(t *testing.T) {
	e := newEye(t)
	e.see(list(one(job.Created, start1)))
	e.see(list(running()))
	// Another start-time is another attempt, even in the same state, and even an earlier one.
	r := e.wantOne(e.see(list(one(job.Running, start2))))
	e.wantTransitions(r, "1 CREATED "+string(start1), "2 RUNNING "+string(start1), "3 RUNNING "+string(start2))
	r = e.wantOne(e.see(list(running())))
	if len(r.Transitions) != 4 || r.StartTime != start1 {
		t.Errorf("the earlier start-time: %v", numbers(r))
	}
	// The end has Flink's own time.
	ended := running()
	ended.State, ended.EndTime = job.Finished, "the end"
	r = e.wantOne(e.see(list(ended)))
	if last := r.Transitions[4]; last.At != "the end" || r.EndTime != "the end" {
		t.Errorf("the end is at %q and %q", last.At, r.EndTime)
	}
	for i := range 40 {
		state := job.Running
		if i%2 == 1 {
			state = job.Restarting
		}
		r = e.wantOne(e.see(list(one(state, start2))))
	}
	if n := len(r.Transitions); n != evidence.TransitionLimit || r.Transitions[n-1].Number != 45 || r.Transitions[0].Number != 14 {
		t.Errorf("%d transitions, from %d to %d", n, r.Transitions[0].Number, r.Transitions[n-1].Number)
	}
}

// S6, in full.
func TestMissing(t *testing.T) {
	e := newEye(t)
	e.see(list(running()))
	q := e.v.Ask(e.now, job.Fine, nil)
	if diff := cmp.Diff([]string{"a"}, q.Status); diff != "" {
		t.Fatal(diff)
	}
	e.wantNothing(e.see(missing(Asked{Known: job.Yes, State: job.Running})))
	r := e.wantOne(e.see(missing(Asked{Known: job.Yes, State: job.Restarting})))
	e.wantTransitions(r, "1 RUNNING "+string(start1), "2 RESTARTING "+string(start1))
	r = e.wantOne(e.see(missing(Asked{Reach: job.TimedOut})))
	if r.Reach != job.TimedOut || r.Known != job.Yes || r.LastAnswer != at(3*time.Second) {
		t.Errorf("unanswered: %+v", r)
	}
	e.wantNothing(e.see(missing(Asked{Reach: job.TimedOut})))
	// Once is no No, nor twice with an answer in between, nor twice in a moment.
	r = e.wantOne(e.see(missing(Asked{Known: job.No})))
	if r.Known != job.Yes || r.Reach != job.Fine {
		t.Errorf("denied once: %+v", r)
	}
	e.wantNothing(e.see(missing(Asked{Known: job.Yes, State: job.Restarting})))
	e.wantNothing(e.see(missing(Asked{Known: job.No})))
	e.wantNothing(e.seeAfter(100*time.Millisecond, missing(Asked{Known: job.No})))
	r = e.wantOne(e.see(missing(Asked{Known: job.No})))
	if r.Known != job.No || r.Denier != "one" || r.State != job.Restarting {
		t.Errorf("denied: %+v", r)
	}
	if q := e.v.Ask(e.now, job.Fine, nil); len(q.Status) != 0 {
		t.Error("a denied job is asked about at once again")
	}
	// It comes back.
	r = e.wantOne(e.see(list(one(job.Restarting, start1))))
	if r.Known != job.Yes || r.Denier != "" || len(r.Transitions) != 2 {
		t.Errorf("back: %+v", r)
	}
}

// After an outage one denial neither ends a job nor vouches for what was so before.
func TestDeniedAfterAnOutage(t *testing.T) {
	e := newEye(t)
	e.see(list(running()))
	for range 20 {
		e.see(Look{Reach: job.TimedOut})
	}
	r := e.wantOne(e.see(missing(Asked{Known: job.No})))
	if r.Known != job.Yes || r.Reach != job.NotAsked {
		t.Errorf("denied once: %+v", r)
	}
	r = e.wantOne(e.see(missing(Asked{Known: job.No})))
	if r.Known != job.No || r.Reach != job.Fine {
		t.Errorf("denied twice: %+v", r)
	}
}

// What the process before denied, this one has not: it must say so twice by itself.
func TestDeniedByTwoProcesses(t *testing.T) {
	e := newEye(t)
	e.see(list(running()))
	e.wantNothing(e.see(missing(Asked{Known: job.No})))
	e.see(Look{Reach: job.Refused})
	successor := func() Look {
		l := missing(Asked{Known: job.No})
		l.Process = &Process{Incarnation: "two"}
		return l
	}
	e.see(successor())
	if r := e.v.jobs["a"].report; r.Known != job.Yes {
		t.Errorf("denied once by each of two processes: %+v", r)
	}
	r := e.wantOne(e.see(successor()))
	if r.Known != job.No || r.Denier != "two" {
		t.Errorf("denied twice: %+v", r)
	}
}

// A state without its attempt cannot end an attempt, nor begin one.
func TestStateWithoutAttempt(t *testing.T) {
	for _, c := range []struct {
		was, says job.State
		start     job.Stamp
		want      job.State
		reach     job.Reach
	}{
		{job.Running, job.Finished, "", job.Running, job.NotAsked},
		{job.Running, job.Finished, start1, job.Finished, job.Fine},
		{job.Finished, job.Running, "", job.Finished, job.NotAsked},
		{job.Finished, job.Running, start2, job.Running, job.Fine},
		{job.Finished, job.Finished, "", job.Finished, job.Fine},
		{job.Running, job.Cancelling, "", job.Cancelling, job.Fine},
		{job.Running, job.Initializing, "", job.Running, job.NotAsked},
		{job.Running, job.Initializing, start2, job.Initializing, job.Fine},
		{job.Initializing, job.Initializing, "", job.Initializing, job.Fine},
		{job.Initializing, job.Running, "", job.Running, job.Fine},
	} {
		e := newEye(t)
		e.see(list(one(c.was, start1)))
		e.see(missing(Asked{Known: job.Yes, State: c.says, StartTime: c.start}))
		r := e.v.jobs["a"].report
		if r.State != c.want || r.Reach != c.reach {
			t.Errorf("%s, then %s with start-time %q: %s, %s", c.was, c.says, c.start, r.State, r.Reach)
		}
	}
}

// Nor can it be of the attempt that another process ran.
func TestStateWithoutAttemptOfAnotherProcess(t *testing.T) {
	for name, between := range map[string]func(e *eye){
		"unseen": func(*eye) {},
		"seen":   func(e *eye) { e.see(Look{Reach: job.Refused}) },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEye(t)
			e.see(list(running()))
			between(e)
			l := missing(Asked{Known: job.Yes, State: job.Running})
			l.Process = &Process{Incarnation: "two"}
			e.see(l)
			if r := e.v.jobs["a"].report; r.Reach != job.NotAsked || r.Incarnation != "one" {
				t.Errorf("an attempt of process %q is vouched for by another: %+v", r.Incarnation, r)
			}
			l.Asked[0].StartTime = start2
			e.see(l)
			if r := e.v.jobs["a"].report; r.Reach != job.Fine || r.Incarnation != "two" || r.StartTime != start2 {
				t.Errorf("the next attempt: %+v", r)
			}
		})
	}
}

// A JobManager that cannot be asked is said once, in the beat. What it was is in doubt until it has said so itself.
func TestUnreachable(t *testing.T) {
	e := newEye(t)
	e.see(list(running()))
	for _, reach := range []job.Reach{job.Refused, job.TimedOut, job.NoLeader, job.Closed, job.Erred, job.Malformed} {
		c := e.see(Look{Reach: reach})
		if len(c.Reports) != 0 || c.Beat == nil || c.Beat.Reach != reach || c.Beat.ReachSince != at(e.now) || c.Beat.Incarnation != "one" {
			t.Errorf("%s: %+v", reach, c)
		}
		e.wantNothing(e.see(Look{Reach: reach}))
	}
	if !e.v.Ask(e.now, job.Fine, []Job{running()}).Process {
		t.Error("a JobManager that is back is not asked who it is")
	}
	e.now += time.Second
	c := e.v.See(Look{Now: e.now, At: at(e.now), Reach: job.Fine, Jobs: []Job{running()}})
	if c.Beat == nil || c.Beat.Incarnation != "" || c.Beat.Reach != job.Fine || len(c.Reports) != 0 {
		t.Errorf("back, without having said who it is: %+v", c)
	}
	// What an unknown process cannot find does not count.
	for range 3 {
		e.now += time.Second
		c = e.v.See(Look{Now: e.now, At: at(e.now), Reach: job.Fine, Asked: []Asked{{ID: "a", Known: job.No}}})
		e.wantNothing(c)
	}
	// Nor does it put its name to what the one before said.
	e.now += time.Second
	c = e.v.See(Look{Now: e.now, At: at(e.now), Reach: job.Fine, Jobs: []Job{one(job.Running, start2)}})
	if r := e.wantOne(c); r.Incarnation != "" {
		t.Errorf("given by nobody known, and reported of %q", r.Incarnation)
	}
	l := list(one(job.Running, start2))
	l.Process = &Process{Incarnation: "two"}
	c = e.see(l)
	if r := e.wantOne(c); r.Incarnation != "two" || c.Beat.Incarnation != "two" {
		t.Errorf("another process: %+v", r)
	}
}

// Where the list hangs each job is asked, those that waited longest first; what answers shows that the JobManager does.
func TestHungListIsAskedOneByOne(t *testing.T) {
	e := newEye(t)
	jobs := []Job{{ID: "a", State: job.Running}, {ID: "b", State: job.Running}, {ID: "c", State: job.Running}}
	e.see(list(jobs...))
	for _, reach := range []job.Reach{job.Refused, job.NoLeader, job.Closed, job.Malformed} {
		if q := e.v.Ask(e.now, reach, nil); len(q.Status) != 0 {
			t.Errorf("%s: jobs are asked about", reach)
		}
	}
	want := [][]string{{"a", "b", "c"}, {"c", "a", "b"}, {"b", "a", "c"}}
	for _, order := range want {
		got := e.v.Ask(e.now, job.TimedOut, nil).Status
		if diff := cmp.Diff(order, got); diff != "" {
			t.Error(diff)
		}
		c := e.see(Look{Reach: job.TimedOut, Asked: []Asked{
			{ID: got[0], Known: job.Yes, State: job.Running}, {ID: got[1], Known: job.Yes, State: job.Running},
		}})
		e.wantNothing(c)
	}
	c := e.see(Look{Reach: job.TimedOut, Asked: []Asked{{ID: "a", Reach: job.TimedOut}, {ID: "b", Known: job.Yes, State: job.Running}}})
	if r := e.wantOne(c); r.JobID != "a" || r.Reach != job.TimedOut || c.Beat != nil {
		t.Errorf("one answers, one does not: %+v", c)
	}
	c = e.see(Look{Reach: job.TimedOut, Asked: []Asked{{ID: "a", Reach: job.TimedOut}, {ID: "b", Reach: job.TimedOut}}})
	if c.Beat == nil || c.Beat.Reach != job.TimedOut || len(c.Reports) != 0 {
		t.Errorf("none answers: %+v", c)
	}
}

// A job whose turn does not come is not vouched for after 10 s.
func TestStale(t *testing.T) {
	e := newEye(t)
	e.see(list(running(), Job{ID: "b", State: job.Running}))
	for range 9 {
		e.wantNothing(e.see(list(Job{ID: "b", State: job.Running})))
	}
	if r := e.wantOne(e.see(list(Job{ID: "b", State: job.Running}))); r.JobID != "a" || r.Reach != job.NotAsked || r.LastAnswer != at(time.Second) {
		t.Errorf("stale: %+v", r)
	}
}

func TestCauses(t *testing.T) {
	e := newEye(t)
	e.see(list(running()))
	failed := []Job{one(job.Failed, start1)}
	ask := func() []string { return e.v.Ask(e.now, job.Fine, failed).Causes }
	if len(ask()) != 1 {
		t.Fatal("the cause of a new failure is not asked for")
	}
	l := list(failed...)
	l.Causes = []Cause{{ID: "a"}}
	r := e.wantOne(e.see(l))
	if last := r.Transitions[1]; last.CauseAsked != job.Unanswered {
		t.Errorf("not answered: %+v", last)
	}
	if len(ask()) != 0 {
		t.Error("it is asked for again at once")
	}
	e.now += time.Second
	if len(ask()) != 1 {
		t.Error("it is not asked for again")
	}
	l.Causes = []Cause{{ID: "a", Answered: true, Text: "boom"}}
	amended := e.wantOne(e.see(l))
	if last := amended.Transitions[1]; last.CauseAsked != job.Yes || last.Cause != "boom" || last.Number != 2 || len(amended.Transitions) != 2 {
		t.Errorf("answered: %+v", last)
	}
	if r.Transitions[1].Cause != "" {
		t.Error("the earlier report has changed")
	}
	e.wantNothing(e.see(l))
	if len(ask()) != 0 {
		t.Error("a known cause is asked for")
	}
	// None is an answer too.
	next := list(one(job.Failed, start2))
	next.Causes = []Cause{{ID: "a", Answered: true}}
	if r := e.wantOne(e.see(next)); r.Transitions[2].CauseAsked != job.Yes {
		t.Errorf("an empty cause: %+v", r.Transitions[2])
	}
}

func TestTasksAreReportedRarely(t *testing.T) {
	e := newEye(t)
	with := func(running int) Look {
		j := running1(running)
		return list(j)
	}
	e.see(with(0))
	for i := 1; i < 5; i++ {
		e.wantNothing(e.see(with(i)))
	}
	if r := e.wantOne(e.see(with(5))); r.Tasks.Running != 5 {
		t.Errorf("tasks: %+v", r.Tasks)
	}
	// Something else takes them along.
	e.wantNothing(e.see(with(6)))
	j := running1(7)
	j.State = job.Restarting
	if r := e.wantOne(e.see(list(j))); r.Tasks.Running != 7 {
		t.Errorf("tasks: %+v", r.Tasks)
	}
}

func running1(tasks int) Job {
	j := running()
	j.Tasks = job.Tasks{Total: 10, Running: tasks}
	return j
}

func TestPipeline(t *testing.T) {
	for _, c := range []struct {
		application job.Answer
		want        string
	}{{job.Yes, "orders-cluster"}, {job.No, "orders"}, {job.Unanswered, ""}} {
		v := New(Options{Agent: evidence.Agent{Cluster: "orders-cluster"}})
		got := v.See(Look{Now: 1, Reach: job.Fine, Jobs: []Job{running()}, Process: &Process{Application: c.application}})
		if p := got.Reports[0].Pipeline; p != c.want {
			t.Errorf("application %s: pipeline %q, want %q", c.application, p, c.want)
		}
	}
}

// What Flink has denied and what was over is forgotten, and comes back with its numbers going on.
func TestForgets(t *testing.T) {
	e := newEye(t)
	e.see(list(one(job.Finished, start1)))
	e.see(missing(Asked{Known: job.No}))
	c := e.see(missing(Asked{Known: job.No}))
	if r := e.wantOne(c); r.Known != job.No || len(c.Forgotten) != 1 || e.v.Len() != 0 {
		t.Fatalf("denied and over: %+v", c)
	}
	r := e.wantOne(e.see(list(one(job.Running, start2))))
	e.wantTransitions(r, "2 RUNNING "+string(start2))
	// What is not over is kept.
	e.see(missing(Asked{Known: job.No}))
	if c := e.see(missing(Asked{Known: job.No})); len(c.Forgotten) != 0 || e.v.Len() != 1 {
		t.Errorf("denied and not over: %+v", c)
	}
}

func TestRetire(t *testing.T) {
	e := newEye(t)
	e.see(list(running()))
	if e.v.Retire("a") {
		t.Error("a running job is retired")
	}
	e.see(list(one(job.Failed, start1)))
	if !e.v.Retire("a") || e.v.Retire("a") || e.v.Len() != 0 {
		t.Error("a failed job is not retired once")
	}
	e.wantNothing(e.see(list(one(job.Failed, start1))))
	if q := e.v.Ask(e.now, job.Fine, []Job{one(job.Failed, start1)}); q.Process || len(q.Causes) != 0 {
		t.Errorf("a retired job leads to questions: %+v", q)
	}
	r := e.wantOne(e.see(list(one(job.Failed, start2))))
	e.wantTransitions(r, "3 FAILED "+string(start2))
}

func TestAdopt(t *testing.T) {
	earlier := func() evidence.Report {
		return evidence.Report{
			Agent: who, JobID: "a", Session: "before", Sequence: 99, State: job.Running, StartTime: start1, Known: job.Yes, Reach: job.Fine,
			Incarnation: "zero", LastAnswer: "long ago", Transitions: []evidence.Transition{
				{Number: 6, State: job.Created, StartTime: start1}, {Number: 7, State: job.Running, StartTime: start1},
			},
		}
	}
	t.Run("before the first look", func(t *testing.T) {
		e := newEye(t)
		e.v.Adopt(earlier())
		r := e.wantOne(e.see(list(running())))
		e.wantTransitions(r, "6 CREATED "+string(start1), "7 RUNNING "+string(start1))
		if r.Session != "now" || r.Sequence != 1 || r.LastAnswer != at(time.Second) || r.Reach != job.Fine || r.Incarnation != "one" {
			t.Errorf("asserted as %+v", r)
		}
		r = e.wantOne(e.see(list(one(job.Restarting, start1))))
		if n := len(r.Transitions); r.Transitions[n-1].Number != 8 {
			t.Errorf("goes on with %v", numbers(r))
		}
	})
	t.Run("after the first look", func(t *testing.T) {
		e := newEye(t)
		e.see(list(running()))
		e.see(list(one(job.Restarting, start1)))
		e.v.Adopt(earlier())
		r := e.wantOne(e.see(list(one(job.Restarting, start1))))
		e.wantTransitions(r, "6 CREATED "+string(start1), "7 RUNNING "+string(start1), "8 RESTARTING "+string(start1))
		if e.v.Adopt(earlier()) {
			t.Error("adopted twice")
		}
		r = e.wantOne(e.see(list(running())))
		if n := len(r.Transitions); r.Transitions[n-1].Number != 9 {
			t.Errorf("goes on with %v", numbers(r))
		}
	})
	t.Run("while Flink is away", func(t *testing.T) {
		e := newEye(t)
		e.v.Adopt(earlier())
		r := e.wantOne(e.see(Look{Reach: job.Refused}))
		if r.Session != "now" || r.Reach != job.NotAsked || r.LastAnswer != "long ago" || r.Incarnation != "zero" || r.Known != job.Yes {
			t.Errorf("asserted as %+v", r)
		}
		e.wantNothing(e.see(Look{Reach: job.Refused}))
		if r := e.wantOne(e.see(list(running()))); r.Reach != job.Fine {
			t.Errorf("back: %+v", r)
		}
	})
	t.Run("of this session", func(t *testing.T) {
		e := newEye(t)
		r := *e.wantOne(e.see(list(running())))
		if e.v.Adopt(r) {
			t.Error("its own report of a job that it knows was adopted")
		}
		e.see(list(one(job.Finished, start1)))
		deny := func() Changes {
			l := missing(Asked{Known: job.No})
			l.Process = &Process{Incarnation: "one"}
			return e.see(l)
		}
		deny()
		var last Changes
		for range 10 {
			if last = deny(); len(last.Forgotten) == 1 {
				break
			}
		}
		final := *e.wantOne(last)
		if e.v.Adopt(final) || e.v.Len() != 0 {
			t.Errorf("its own last report was adopted: %+v", final)
		}
		// The store is set back to what it was.
		if !e.v.Adopt(r) || !slices.Contains(e.v.Ask(e.now, job.Fine, nil).Status, "a") {
			t.Fatal("the job that its own earlier report tells of is not asked about")
		}
		e.see(list())
		deny()
		for range 10 {
			last = deny()
			if len(last.Reports) == 1 && last.Reports[0].Known == job.No {
				return
			}
		}
		t.Errorf("what the store says of the job is not denied: %+v", last)
	})
	t.Run("over and denied", func(t *testing.T) {
		e := newEye(t)
		r := earlier()
		r.State, r.Known, r.Transitions = job.Finished, job.No, nil
		e.v.Adopt(r)
		c := e.see(list())
		if got := e.wantOne(c); got.Session != "now" || len(c.Forgotten) != 1 {
			t.Errorf("resolved as %+v", c)
		}
	})
	t.Run("with its cause", func(t *testing.T) {
		e := newEye(t)
		l := list(one(job.Failed, start1))
		l.Causes = []Cause{{ID: "a", Answered: true, Text: "boom"}}
		e.see(l)
		r := earlier()
		r.State = job.Failed
		r.Transitions[1].State = job.Failed
		e.v.Adopt(r)
		if got := e.wantOne(e.see(l)); got.Transitions[1].Cause != "boom" || len(got.Transitions) != 2 {
			t.Errorf("adopted as %+v", got.Transitions)
		}
	})
}

func TestPace(t *testing.T) {
	near := func(e *eye, what string, want time.Duration) {
		t.Helper()
		if d := e.v.Next(); d < want*9/10 || d > want*11/10 {
			t.Errorf("%s: next look in %s, want about %s", what, d, want)
		}
	}
	e := newEye(t)
	e.see(list(running()))
	near(e, "running", time.Second)
	e.see(list(one(job.Cancelling, start1)))
	near(e, "passing", 100*time.Millisecond)
	l := list(one(job.Cancelling, start1))
	l.Took = 20 * time.Millisecond
	e.see(l)
	near(e, "passing, and looks are slow", 400*time.Millisecond)
	ending := running()
	ending.Tasks = job.Tasks{Total: 4, Running: 3, Finished: 1}
	e.see(list(ending))
	near(e, "tasks begin to end", 100*time.Millisecond)
	for range 310 {
		e.seeAfter(100*time.Millisecond, list(one(job.Restarting, start1)))
	}
	near(e, "passing for long", time.Second)
	// What was used up comes back, slowly.
	for range 100 {
		e.see(list(running()))
	}
	fast := 0
	for range 100 {
		e.seeAfter(100*time.Millisecond, list(one(job.Restarting, start1)))
		if e.v.Next() < 500*time.Millisecond {
			fast++
		}
	}
	if fast < 45 || fast > 55 {
		t.Errorf("after 100 calm seconds %d tenths of a second are fast, want about 50", fast)
	}

	e = newEye(t)
	for range 55 {
		e.see(Look{Reach: job.Refused})
	}
	near(e, "unreachable", time.Second)
	for range 70 {
		e.see(Look{Reach: job.Refused})
	}
	near(e, "unreachable for two minutes", 2*time.Second)
	for range 1000 {
		e.see(Look{Reach: job.Refused})
	}
	near(e, "unreachable for long", 5*time.Second)
	e.see(list())
	near(e, "back", time.Second)
	e.see(Look{Reach: job.Refused})
	near(e, "unreachable again", time.Second)
}

func TestProcessIsAskedEachMinute(t *testing.T) {
	e := newEye(t)
	e.see(list(running()))
	asked := 0
	for range 120 {
		e.now += time.Second
		l := list(running())
		l.Now = e.now
		if e.v.Ask(e.now, job.Fine, l.Jobs).Process {
			asked++
			l.Process = &Process{Incarnation: "one"}
		}
		e.v.See(l)
	}
	if asked != 2 {
		t.Errorf("asked %d times in two minutes", asked)
	}
	if !e.v.Ask(e.now, job.Fine, []Job{one(job.Running, start2)}).Process {
		t.Error("not asked about a new attempt")
	}
}

func TestLimits(t *testing.T) {
	v := New(Options{Agent: who})
	l := Look{Now: 1, Reach: job.Fine}
	for i := range JobLimit + 5 {
		l.Jobs = append(l.Jobs, Job{ID: fmt.Sprint(i), State: job.Running})
	}
	if c := v.See(l); c.Refused != 5 || v.Len() != JobLimit {
		t.Errorf("%d known, %d refused", v.Len(), c.Refused)
	}
	var g tombs
	for i := range 3 * tombLimit {
		g.put(fmt.Sprint(i), tomb{number: int64(i)})
		if i%2 == 0 {
			g.take(fmt.Sprint(i))
		}
	}
	if len(g.of) > tombLimit || len(g.order) > 2*tombLimit {
		t.Errorf("%d tombs, %d in order", len(g.of), len(g.order))
	}
}

// A look that was given up says nothing at all.
func TestGivenUp(t *testing.T) {
	e := newEye(t)
	e.see(list(running()))
	e.wantNothing(e.see(Look{Reach: job.NotAsked, Asked: []Asked{{ID: "a", Known: job.No}}}))
}
