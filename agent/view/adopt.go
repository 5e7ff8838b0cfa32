package view

import (
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// Adopt takes over a report that an earlier session left. The job is known from then on, is asked about if Flink does not
// list it, and its transitions go on from the last number. The next look gives the report out again under this session, whatever it sees.
//
// A job that this session has seen already keeps what it saw: its transitions are numbered anew, after the adopted ones. A
// report of this very session is not adopted, unless the job was forgotten since and the report does not say that Flink does not know
// it any more: then the store was set back, and what lies there would count as long as this session lives. None is adopted beyond JobLimit.
func (v *View) Adopt(r evidence.Report) bool {
	k := v.jobs[r.JobID]
	last := r.Known == job.No && r.State.Terminal() // all that a job is forgotten after
	if r.Session == v.o.Session && (k != nil || last) || k != nil && k.merged || k == nil && len(v.jobs) >= JobLimit {
		return false
	}
	number := int64(0)
	if n := len(r.Transitions); n > 0 {
		number = r.Transitions[n-1].Number
	}
	if k == nil {
		r.Agent = v.o.Agent
		r.Reach = job.NotAsked
		k = v.meet(r.JobID)
		k.report, k.last, k.number = &r, r.LastAnswer, max(number, k.number)
	} else {
		d := *k.report
		d.Transitions = joined(r.Transitions, d.Transitions)
		k.report = &d
		k.number = d.Transitions[len(d.Transitions)-1].Number
	}
	k.assert, k.merged = true, true
	return true
}

// joined is what an earlier session saw, then what this one did. The first sight of a state that the job was left in is no transition.
func joined(earlier, later []evidence.Transition) []evidence.Transition {
	all := make([]evidence.Transition, 0, len(earlier)+len(later))
	all = append(all, earlier...)
	for _, t := range later {
		n := len(all)
		if n > 0 && all[n-1].State == t.State && all[n-1].StartTime == t.StartTime {
			if t.CauseAsked == job.Yes {
				all[n-1].Cause, all[n-1].CauseAsked = t.Cause, t.CauseAsked
			}
			continue
		}
		t.Number = 1
		if n > 0 {
			t.Number = all[n-1].Number + 1
		}
		all = append(all, t)
	}
	return all[max(0, len(all)-evidence.TransitionLimit):]
}

// Retire forgets a job whose report somebody took away on purpose, as is done with what is long over. It is not
// reported again while Flink says the same of it. A job that is not over, as far as Flink said, is not forgotten.
func (v *View) Retire(id string) bool {
	k := v.jobs[id]
	if k == nil || k.assert || !Retirable(k.report) {
		return false
	}
	v.forget(id, k, true)
	return true
}

// Retirable says whether the job of a report may be over for good, so that its report may be taken away.
func Retirable(r *evidence.Report) bool { return r.State.Terminal() || r.Known == job.No }

// meet begins to know a job. One that was known before goes on with its numbers.
func (v *View) meet(id string) *known {
	k := &known{report: &evidence.Report{Agent: v.o.Agent, JobID: id}, burst: burstLimit}
	if t, ok := v.gone.take(id); ok {
		k.number = t.number
	}
	v.jobs[id] = k
	return k
}

func (v *View) forget(id string, k *known, retired bool) {
	delete(v.jobs, id)
	v.gone.put(id, tomb{number: k.number, state: k.report.State, start: k.report.StartTime, retired: retired})
}

// tomb is what is left of a job that was forgotten: enough to number its transitions on if it comes back.
type tomb struct {
	number  int64
	state   job.State
	start   job.Stamp
	retired bool
}

// tombs are bounded: of more than tombLimit the oldest are dropped. A job that came back after that would begin at 1.
type tombs struct {
	of    map[string]tomb
	order []string // the oldest first; may hold ids that were taken
}

const tombLimit = 4096

func (t *tombs) put(id string, one tomb) {
	if t.of == nil {
		t.of = map[string]tomb{}
	}
	if _, there := t.of[id]; !there {
		t.order = append(t.order, id)
	}
	t.of[id] = one
	for len(t.of) > tombLimit || len(t.order) > 2*tombLimit {
		delete(t.of, t.order[0])
		t.order = t.order[1:]
	}
}

func (t *tombs) take(id string) (tomb, bool) {
	one, ok := t.of[id]
	delete(t.of, id)
	return one, ok
}

// settled says whether a listed job is one that was retired and has not changed since.
func (t *tombs) settled(j *Job) bool {
	one, ok := t.of[j.ID]
	return ok && one.retired && one.state.Terminal() && one.state == j.State && one.start == j.StartTime
}
