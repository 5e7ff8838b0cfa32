package view

import (
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// known is the memory of one job. All durations are moments of Look.Now, 0 for never.
type known struct {
	// report is what was last given out; it is replaced and never changed.
	report *evidence.Report
	number int64     // of the newest transition
	last   job.Stamp // when Flink last gave the state

	answered time.Duration // when Flink last answered about the job, yes or no
	affirmed time.Duration // when it was last yes
	written  time.Duration // when report was given out
	asked    time.Duration // when the job was last asked about by itself
	askDue   time.Duration // when to do so again, where that is not at once
	denied   time.Duration // when Flink first could not find it, since it last could
	causeDue time.Duration // when to ask for the failure again
	burst    time.Duration // what is left of the time for which it may hasten the looks

	mark, round uint32 // the look that listed it, the look that took it in
	tries       uint8  // how often its failure could not be asked for
	assert      bool   // report is of an earlier session
	merged      bool   // what an earlier session said is in it
}

// at says whether the report is of this state of this attempt. Start-times are compared by equality only.
func (k *known) at(state job.State, start job.Stamp) bool {
	return k.report.State == state && k.report.StartTime == start
}

func (k *known) newest() *evidence.Transition {
	if n := len(k.report.Transitions); n > 0 {
		return &k.report.Transitions[n-1]
	}
	return nil
}

// seeListed takes in a job of /jobs/overview.
func (v *View) seeListed(l *Look, j *Job, causes map[string]*Cause) {
	k := v.jobs[j.ID]
	if k == nil {
		if v.gone.settled(j) {
			return
		}
		if len(v.jobs) >= JobLimit {
			v.out.Refused++
			return
		}
		k = v.meet(j.ID)
	}
	if k.round == v.round {
		return // listed twice
	}
	d := *k.report
	v.given(l, k, &d)
	d.Name, d.Tasks, d.EndTime = j.Name, j.Tasks, j.EndTime
	d.Pipeline = v.pipeline(j.Name, d.Pipeline)
	if !k.at(j.State, j.StartTime) || k.number == 0 {
		v.move(k, &d, j.State, j.StartTime, j.EndTime, l.At)
	}
	v.conclude(l, k, &d, causes[j.ID])
}

// seeAsked takes in the answer about a job that was asked about by itself.
func (v *View) seeAsked(l *Look, a *Asked, causes map[string]*Cause) {
	k := v.jobs[a.ID]
	if k == nil || k.round == v.round {
		return
	}
	k.asked, k.askDue = l.Now, 0
	d := *k.report
	switch {
	case a.Known == job.No:
		v.deny(l, k, &d)
	case a.Known == job.Unanswered:
		d.Reach = a.Reach
	case a.StartTime == "" && v.NeedsAttempt(a.ID, a.State):
		d.Reach = job.NotAsked // the state is of an attempt that was not asked for
	default:
		v.given(l, k, &d)
		start := a.StartTime
		if start == "" {
			start = d.StartTime
		}
		if !k.at(a.State, start) {
			d.EndTime = a.EndTime
			v.move(k, &d, a.State, start, a.EndTime, l.At)
		}
	}
	v.conclude(l, k, &d, causes[a.ID])
}

// seeNothing is for a job that the look says nothing of. If the JobManager could not be asked at all, its beat says so once
// for all jobs.
func (v *View) seeNothing(l *Look, k *known, reach job.Reach) {
	stale := reach == job.Fine && k.report.Known != job.No && l.Now-k.answered >= staleAfter
	if !stale && !k.assert {
		return
	}
	d := *k.report
	if stale {
		d.Reach = job.NotAsked
	}
	v.conclude(l, k, &d, nil)
}

// given notes that this JobManager gave the job's state.
func (v *View) given(l *Look, k *known, d *evidence.Report) {
	k.answered, k.affirmed, k.last, k.denied = l.Now, l.Now, l.At, 0
	d.Known, d.Denier, d.Reach, d.Via = job.Yes, "", job.Fine, job.ViaREST
	if !v.doubt && v.process.Incarnation != "" {
		d.Incarnation = v.process.Incarnation
	}
}

// deny notes that Flink could not find the job. That counts once the JobManager has said who it is, and the second time. Until then what it said
// before stands, unless that was long ago: after an outage a first denial must not vouch for what was so before it.
func (v *View) deny(l *Look, k *known, d *evidence.Report) {
	k.answered = l.Now
	d.Reach = job.Fine
	if d.Known != job.No && l.Now-k.affirmed >= staleAfter {
		d.Reach = job.NotAsked
	}
	switch {
	case v.doubt:
	case k.denied == 0:
		k.denied = l.Now
	case l.Now-k.denied >= denyAfter:
		d.Known, d.Denier, d.Reach = job.No, v.process.Incarnation, job.Fine
		k.askDue = l.Now + deniedEvery
	}
}

// move adds a transition, numbered on from the last, and drops the oldest beyond the limit. While the JobManager may be another
// process than before, it is nobody known who gave the state.
func (v *View) move(k *known, d *evidence.Report, state job.State, start, end, at job.Stamp) {
	if state.Terminal() && end != "" {
		at = end
	}
	if v.doubt {
		d.Incarnation = ""
	}
	k.number++
	k.tries, k.causeDue = 0, 0
	kept := d.Transitions
	if extra := len(kept) + 1 - evidence.TransitionLimit; extra > 0 {
		kept = kept[extra:]
	}
	all := make([]evidence.Transition, 0, len(kept)+1)
	d.Transitions = append(append(all, kept...), evidence.Transition{
		Number: k.number, State: state, StartTime: start, At: at, Via: job.ViaREST,
	})
	d.State, d.StartTime = state, start
}

// fail notes how the question for a failure ended. An answer amends the transition, which keeps its number.
func (k *known) fail(d *evidence.Report, c *Cause, now time.Duration) {
	n := len(d.Transitions)
	if n == 0 || d.State != job.Failed || d.Transitions[n-1].CauseAsked == job.Yes {
		return
	}
	if !c.Answered {
		// At first without a pause, since the JobManager may be about to go; then ever more rarely.
		k.causeDue = now + min(50*time.Millisecond<<k.tries, time.Minute)
		k.tries = min(k.tries+1, 20)
		return
	}
	d.Transitions = slices.Clone(d.Transitions)
	d.Transitions[n-1].Cause, d.Transitions[n-1].CauseAsked = c.Text, job.Yes
}

// conclude gives the draft out if it says something new.
func (v *View) conclude(l *Look, k *known, d *evidence.Report, c *Cause) {
	k.round = v.round
	if c != nil {
		k.fail(d, c, l.Now)
	}
	moved := k.number > 0 && (len(k.report.Transitions) == 0 || k.newest().Number != k.number)
	switch tasksOnly, same := compare(k.report, d); {
	case k.assert:
	case same:
		return
	case tasksOnly && l.Now-k.written < tasksEvery:
		return
	}
	d.Agent, d.Session, d.Pod, d.LastAnswer = v.o.Agent, v.o.Session, v.o.Pod, k.last
	v.sequence++
	d.Sequence = v.sequence
	k.assert, k.written = false, l.Now
	report := *d
	k.report = &report
	v.out.Reports = append(v.out.Reports, &report)
	if moved {
		v.out.Moved = append(v.out.Moved, &report)
	}
}

// compare says whether two reports of one job and session say the same, or the same but for the tasks.
func compare(a, b *evidence.Report) (tasksOnly, same bool) {
	transitions := len(a.Transitions) == len(b.Transitions) &&
		(len(a.Transitions) == 0 || a.Transitions[len(a.Transitions)-1] == b.Transitions[len(b.Transitions)-1])
	rest := transitions && a.State == b.State && a.StartTime == b.StartTime && a.EndTime == b.EndTime &&
		a.Reach == b.Reach && a.Known == b.Known && a.Denier == b.Denier && a.Incarnation == b.Incarnation &&
		a.Name == b.Name && a.Pipeline == b.Pipeline && a.Via == b.Via
	return rest, rest && a.Tasks == b.Tasks
}
