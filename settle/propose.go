package settle

import (
	"cmp"
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// differs says whether the judgement is another than the verdict that counts. When a witness was last heard, and what the pieces of
// evidence are in detail, makes no difference by itself: an idle fleet costs etcd nothing but keepalives.
func (j *judgement) differs() bool {
	if j.anew || j.outranked || len(j.entries) > 0 {
		return true
	}
	was, is := &j.entry.account.Verdict, &j.account.Verdict
	if known, noted := j.entry.cluster.known, j.account.Books.Workload; known != nil && (noted == nil || *noted != *known) {
		return true
	}
	return was.Name != is.Name || was.Pipeline != is.Pipeline || was.Cause != is.Cause || was.Tasks != is.Tasks ||
		was.Since != is.Since || was.Via != is.Via
}

// propose asks for the judgement to be written.
func (c *Core) propose(j *judgement) {
	e := j.entry
	j.own()
	v, b := &j.account.Verdict, &j.account.Books
	if j.anew && (len(j.entries) == 0 || j.entries[len(j.entries)-1].Kind == job.Gap) {
		j.enter(job.StampOf(c.wall), false)
	}
	// Whoever saw the same has nothing more to say.
	for i := range e.sights {
		s := &e.sights[i]
		if s.report == nil || s.report.StartTime != v.Attempt.StartTime || s.report.State != v.State {
			continue
		}
		if n := len(s.report.Transitions); n > 0 {
			if number, _ := j.mark(s); number < s.report.Transitions[n-1].Number {
				j.setMark(s, s.report.Transitions[n-1].Number)
			}
		}
	}
	if e.cluster.known != nil {
		b.Workload = e.cluster.known
	}
	b.Weighed = c.weighed
	if j.partial {
		b.Weighed = j.heard
	}
	if v.Over != job.Yes {
		b.OverAt = 0
	} else if b.OverAt == 0 {
		b.OverAt = c.wall
	}
	v.Evidence = append(statements(e.sights), e.cluster.statements()...)
	e.writing, e.forgotten, e.retiring = true, false, false
	c.due.remove(e)
	c.effects = append(c.effects, Write{Account: j.account, Entries: j.entries, IfRevision: e.revision})
}

// statements is the evidence as people read it.
func statements(sights []sight) []job.Statement {
	const most = 6 // with those of Kubernetes 8
	list := make([]job.Statement, 0, min(len(sights), most))
	for i := range sights {
		s := &sights[i]
		if s.report == nil || len(list) == most {
			continue
		}
		source := "agent"
		if s.by.agent.Probe {
			source = "probe"
		}
		list = append(list, job.Statement{Source: source, Subject: "pod/" + podName(s.report), Says: s.says(), At: s.report.LastAnswer})
	}
	return list
}

func podName(r *evidence.Report) string {
	if r.Pod != "" {
		return r.Pod
	}
	return r.Agent.PodUID
}

func (s *sight) says() string {
	state := s.report.State.String()
	if s.live() || s.report.State.Terminal() {
		return state
	}
	before := "; " + state + " before"
	switch s.reason() {
	case job.JobManagerUnreachable:
		return "JobManager: " + s.by.beat.Reach.String() + before
	case job.JobUnanswered:
		return "about the job: " + s.report.Reach.String() + before
	case job.JobMissing:
		return "JobManager does not know the job" + before
	case job.AgentLeft:
		return "goodbye" + before
	case job.AgentStale:
		if s.unreadable || s.by.unread {
			return "cannot be read" + before
		}
		return "not asserted since the agent restarted" + before
	default:
		return "silent" + before
	}
}

// retirable says whether a job has been over for so long that it may be forgotten, and nobody speaks of it, or may come back who did. The time
// is that of the wall clock, so that it goes on over restarts.
func (c *Core) retirable(e *entry) bool {
	b := &e.account.Books
	if e.account.Verdict.Over != job.Yes || b.OverAt == 0 || e.overSeen == 0 {
		return false
	}
	for i := range e.sights {
		if s := &e.sights[i]; s.by.beating && (s.report == nil || s.report.Known != job.No) || !s.by.beating && !c.absent(s.by) {
			return false
		}
	}
	return !e.cluster.mute(c) && c.outlived(e.key.Namespace, b.OverAt, e.overSeen)
}

// mute says whether a JobManager runs whom nobody hears: it may list what is over, as it has before.
func (cl *cluster) mute(c *Core) bool {
	return slices.ContainsFunc(cl.pods, func(p *pod) bool {
		if !p.Running {
			return false
		}
		agent, probe := c.witnesses[p.Agent], c.witnesses[p.probe()]
		return (agent == nil || !agent.answers()) && (probe == nil || !probe.answers())
	})
}

// outlived says whether something that has been so since a moment of the wall clock, and was first seen here at a moment, has been kept for as
// long as it is to be. A wall clock that does not agree with the monotonic one is not believed; and for a grace after the sources have told
// all, whoever may still speak of it is waited for, who is asked from outside among them (S11).
func (c *Core) outlived(namespace string, at int64, seen time.Duration) bool {
	if c.health.grace(0) < c.cfg.Grace || c.health.sources[Pods].rounds > 0 && c.covers(namespace) && c.health.podsGrace(0) < c.cfg.Grace {
		return false
	}
	drift := (c.wall - c.wallStart) - (c.now - c.start).Milliseconds()
	if drift > time.Minute.Milliseconds() || drift < -time.Minute.Milliseconds() {
		return false
	}
	return seen != 0 && c.now-seen >= c.cfg.Grace && c.wall-at >= c.cfg.Retain.Milliseconds() && c.health.judges(c.now, c.cfg)
}

// forget asks for the removal of a job.
func (c *Core) forget(e *entry) {
	reports := make([]evidence.Agent, 0, len(e.sights))
	for i := range e.sights {
		reports = append(reports, e.sights[i].by.agent)
	}
	e.writing, e.retiring = true, true
	c.effects = append(c.effects, Forget{Key: e.key, Reports: reports, IfRevision: e.revision})
}

// byKey orders effects by their jobs: neither the order of a map nor that of what falls due together may show.
func byKey(a, b Effect) int { return compareKeys(effectKey(a), effectKey(b)) }

func effectKey(effect Effect) (key job.Key) {
	switch e := effect.(type) {
	case Write:
		key = e.Account.Key
	case Forget:
		key = e.Key
	case WriteCluster:
		key = job.Key{Namespace: e.Cluster.Key.Namespace, Cluster: e.Cluster.Key.Cluster}
	case ForgetCluster:
		key = job.Key{Namespace: e.Key.Namespace, Cluster: e.Key.Cluster}
	case Sweep:
		key = job.Key{Namespace: e.Agent.Namespace, Cluster: e.Agent.Cluster, ID: e.Agent.PodUID}
	case Ask:
		key = job.Key{Namespace: e.Agent.Namespace, Cluster: e.Agent.Cluster}
	case Check:
		key = job.Key{Namespace: e.Cluster.Namespace, Cluster: e.Cluster.Cluster}
	}
	return key
}

func compareKeys(a, b job.Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.ID, b.ID))
}
