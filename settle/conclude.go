package settle

import (
	"cmp"
	"slices"

	"github.com/holdfast-dev/holdfast/job"
)

// What is said of a job that no JobManager speaks for any more (S8), and of how it may have ended (S3). Each of it waits for a grace of healthy
// watching.

// conclude draws negative conclusions (S8), where nobody lives who knows better.
func (j *judgement) conclude() {
	if j.account.Verdict.Over == job.Yes || j.vouched() {
		return
	}
	for _, conclude := range []func(){j.concludeDenied, j.concludeReplaced, j.concludeDown} {
		if conclude(); j.account.Verdict.Over == job.Yes {
			return
		}
	}
}

// concludeDenied draws the one negative conclusion that agents alone can carry: a JobManager without high availability that
// does not know the job cannot bring it back. The attempt is over; how it ended, nobody saw.
func (j *judgement) concludeDenied() {
	c, s := j.core, j.denial()
	if s == nil {
		return
	}
	needed := c.cfg.Missing
	successor := s.report.Incarnation != s.report.Denier && j.seesAnother(s.by, "")
	if successor {
		needed = c.cfg.Grace
	}
	if left := needed - c.health.grace(s.denied-1); left > 0 || !c.health.judges(c.now, c.cfg) {
		j.wake = min(j.wake, c.now+max(left, c.cfg.Tick))
		return
	}
	j.vanish(successor, s.by)
}

// denial is the sight of the live witness that has denied the job for the longest, and whose JobManager has high availability off; or nil.
func (j *judgement) denial() (longest *sight) {
	for i := range j.entry.sights {
		s := &j.entry.sights[i]
		if s.denied > 0 && s.by.beat.HighAvailability == job.No && s.report.StartTime == j.account.Verdict.Attempt.StartTime &&
			(longest == nil || s.denied < longest.denied || s.denied == longest.denied && s.by.agent.PodUID < longest.by.agent.PodUID) {
			longest = s
		}
	}
	return longest
}

// concludeReplaced concludes that an attempt is over where only other JobManagers run in its cluster: each of them answers, has high availability
// off and does not know the job, and so will never bring it back (S8). How it ended, nobody saw.
func (j *judgement) concludeReplaced() {
	c, e := j.core, j.entry
	by := j.successor()
	if by == nil {
		e.replaced = 0
		return
	}
	if e.replaced == 0 {
		e.replaced = c.health.podsWatched + 1
	}
	needed, successor := c.cfg.Missing, j.seesAnother(by, "")
	if successor {
		needed = c.cfg.Grace
	}
	if left := needed - c.health.podsGrace(e.replaced-1); left > 0 || !c.health.judgesPods(c.now, c.cfg) {
		j.wake = min(j.wake, c.now+max(left, c.cfg.Tick))
		return
	}
	j.vanish(successor, by)
}

// successor is a witness whose JobManager took the place of the job's, or nil: every JobManager that runs in the cluster must be such a one, and in
// another pod than any that is known to have told of the job. (In the same pod it may be the same process, which leaves jobs out of its list
// whose JobMaster is slow: there only a denial counts.)
func (j *judgement) successor() (found *witness) {
	c, e, cl, b := j.core, j.entry, j.entry.cluster, &j.account.Books
	if len(b.Marks) == 0 || !c.health.podsFresh(c.now, c.cfg) || !c.covers(cl.key.Namespace) {
		return nil
	}
	for _, p := range cl.pods {
		if !p.Running {
			continue
		}
		j.wake = min(j.wake, c.now+c.cfg.Hold) // what its JobManager lists may change
		w := c.witnesses[p.Agent]
		if w == nil || !w.answers() {
			w = c.witnesses[p.probe()]
		}
		if w == nil || !w.answers() || w.beat.HighAvailability != job.No || w.beat.Incarnation == "" || toldOf(b, p.Agent.PodUID) {
			return nil
		}
		if i := e.sightBy(w); i >= 0 && !e.sights[i].denies() {
			return nil
		}
		found = w
	}
	return found
}

// seesAnother says whether a witness that does not know this job sees another live: any, or one of a pipeline.
func (j *judgement) seesAnother(by *witness, pipeline string) bool {
	return slices.ContainsFunc(j.entry.cluster.jobs, func(other *entry) bool {
		i := other.sightBy(by)
		return other != j.entry && i >= 0 && other.sights[i].live() && (pipeline == "" || j.core.pipeline(other, other.sights[i].report) == pipeline)
	})
}

// concludeDown draws what follows when no JobManager of the cluster runs (S3, S8): the job is SUSPENDED, or over.
func (j *judgement) concludeDown() {
	c, cl, v := j.core, j.entry.cluster, &j.account.Verdict
	if cl.down == 0 {
		return
	}
	if left := c.cfg.Grace - c.health.podsGrace(cl.down-1); left > 0 || !c.health.judgesPods(c.now, c.cfg) {
		j.wake = min(j.wake, c.now+max(left, c.cfg.Tick))
		return
	}
	again, unanswered := c.check(cl)
	j.wake = min(j.wake, again)
	if unanswered && cl.checks == 1 {
		return // for as long as it may take to hear more
	}
	if cl.record != nil && !cl.record.Names(j.entry.key.ID) && (!cl.record.Forbidden || j.withoutHA()) {
		if p := j.onlyLife(); p != nil && j.exits(p) {
			return
		}
		if cl.work != nil && (cl.work.There == job.No || cl.work.Ended) || j.forgottenWorkload() {
			j.infer(job.Unknown, endings, job.Yes, job.Vanished, job.ViaWorkload)
			return
		}
	}
	if v.State != job.Suspended || v.Certainty != job.Inferred && v.Certainty != job.Witnessed {
		j.infer(job.Suspended, 0, job.No, job.JobManagerDown, job.ViaWorkload)
	}
}

// withoutHA says whether the JobManager that ran the attempt has said that it has high availability off, so that no record can name its job.
func (j *judgement) withoutHA() bool {
	return slices.ContainsFunc(j.entry.sights, func(s sight) bool {
		return s.by.beat.HighAvailability == job.No && s.report != nil && s.report.StartTime == j.account.Verdict.Attempt.StartTime
	})
}

// forgottenWorkload says that nobody knows what made the cluster's pods, so that it cannot be asked for, and that no JobManager has come
// for as long as would do for one that denies the job.
func (j *judgement) forgottenWorkload() bool {
	c, cl := j.core, j.entry.cluster
	if cl.suspect() != (job.Workload{}) {
		return false
	}
	left := c.cfg.Missing - c.health.podsGrace(cl.down-1)
	if left > 0 {
		j.wake = min(j.wake, c.now+left)
	}
	return left <= 0
}

// onlyLife is the pod whose container's exit code speaks of this job alone (S3): it reported the attempt that stands, its container ran
// once, no other pod of the cluster is known, and the cluster runs one application whose only unsettled job this is. Otherwise nil.
func (j *judgement) onlyLife() *pod {
	cl, v := j.entry.cluster, &j.account.Verdict
	if len(cl.pods) != 1 {
		return nil
	}
	p := cl.pods[0]
	if !p.Exited || p.Restarts > 0 || p.Running || p.Application != job.Yes {
		return nil
	}
	for _, e := range cl.jobs {
		if e != j.entry && e.account.Verdict.Over != job.Yes {
			return nil
		}
	}
	for i := range j.entry.sights {
		s := &j.entry.sights[i]
		if s.by.agent == p.Agent && s.report != nil && s.report.StartTime == v.Attempt.StartTime {
			return p
		}
	}
	return nil
}

// exits takes an exit code over, if it says anything. (Flink's ApplicationStatus: 163 is 1443, as the kernel keeps it, for an application
// that failed; 0 for one that succeeded, was canceled, or left in order without its job's end.)
func (j *judgement) exits(p *pod) bool {
	v := &j.account.Verdict
	switch {
	case p.ExitCode == 163:
		j.infer(job.Failed, 0, job.Yes, job.ContainerExited, job.ViaExitCode)
	case p.ExitCode == 0 && v.State == job.Cancelling:
		j.infer(job.Canceled, 0, job.Yes, job.ContainerExited, job.ViaExitCode)
	case p.ExitCode == 0:
		j.infer(job.Unknown, job.StatesOf(job.Finished, job.Canceled, job.Suspended), job.Yes, job.ContainerExited, job.ViaExitCode)
	default:
		return false
	}
	return true
}

// vanish makes the verdict that of a job which is over, and of which nobody saw how it ended.
func (j *judgement) vanish(successor bool, by *witness) {
	reason := job.Vanished
	if v := &j.account.Verdict; successor && j.seesAnother(by, cmp.Or(v.Pipeline, v.Name)) {
		reason = job.Replaced
	}
	j.infer(job.Unknown, endings, job.Yes, reason, job.ViaNone)
}

// infer makes the verdict one that facts leave no other than.
func (j *judgement) infer(state job.State, possible job.States, over job.Answer, reason job.Reason, via job.Via) {
	v := &j.account.Verdict
	v.State, v.Possible, v.Over, v.Certainty, v.Reason, v.Via = state, possible, over, job.Inferred, reason, via
	v.Cause, v.Since = "", job.StampOf(j.core.wall)
	j.positive = true
	j.enter(v.Since, false)
}

// endings are the states that an attempt may have ended in which nobody saw end.
const endings = job.TerminalStates | 1<<job.Suspended
