package settle

import (
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/job"
)

// standing is what is said of a Flink cluster as a whole, and what that rests on. A JobManager that answers outranks the kubelet (S5); that
// nobody answers says nothing (S1), and what is wrong with its pods is said only after a grace of healthy watching (S9 to S11).
type standing struct {
	// said is what counts: what is stored. Its Sequence is 0 while nothing is.
	said     job.Cluster
	revision int64
	told     uint32
	recalled uint32 // in which round of Recall
	// anew says that it must be written though nothing changed: the store has lost it, or was set back.
	anew bool

	writing  bool
	sealed   bool // what lies in the store cannot be read
	retiring bool // a ForgetCluster was asked for

	// vouched says that somebody stood for what is said when it was last judged, and proven when somebody last did before that.
	vouched bool
	proven  time.Duration
	// noJob is since when its JobManager has said that it has no job, and met when the cluster was first seen, both on the watched clock and 1
	// more; 0 for never.
	noJob, met time.Duration
	// lived says that its JobManager was seen to run: then it is spoken of even if it has gone before there was anything to say.
	lived bool
	// idleSeen is when the core first saw it stored as idle, 0 for never.
	idleSeen time.Duration

	touched bool
	slot
}

// judgeCluster judges one cluster by all that is known of it, and proposes a WriteCluster if the judgement is another than the one that counts.
func (c *Core) judgeCluster(cl *cluster) {
	if cl.writing || cl.sealed || !c.health.synced() || !c.health.sources[Clusters].synced {
		return
	}
	j := clusterJudgement{core: c, cluster: cl, is: cl.said, wake: never}
	j.listen()
	if j.is.Sequence == 0 && !j.spoken {
		c.waitCluster(cl, j.wake)
		return
	}
	j.describe()
	switch {
	case j.differs():
		c.proposeCluster(&j)
	case c.retirableCluster(cl):
		cl.writing, cl.retiring = true, true
		c.effects = append(c.effects, ForgetCluster{Key: cl.key, IfRevision: cl.revision})
	default:
		c.waitCluster(cl, j.wake)
	}
}

func (c *Core) waitCluster(cl *cluster, wake time.Duration) {
	if at := cl.said.IdleAt; at != 0 {
		left := time.Duration(at+c.cfg.Retain.Milliseconds()-c.wall) * time.Millisecond
		wake = min(wake, c.now+max(left, c.cfg.Grace))
	}
	if wake == never {
		c.dueClusters.remove(cl)
		return
	}
	c.dueClusters.set(cl, wake)
}

// clusterJudgement is the work on one cluster.
type clusterJudgement struct {
	core    *Core
	cluster *cluster
	is      job.Cluster
	// spoken says that there is something to say of the cluster; nothing is said of one that nobody has ever seen.
	spoken bool
	wake   time.Duration
}

// listen asks the witnesses first, then the kubelet, and keeps what is said where neither tells.
func (j *clusterJudgement) listen() {
	c, cl := j.core, j.cluster
	answers, hasJob, listed := cl.answer()
	switch {
	case !answers || hasJob != job.No:
		cl.noJob = 0
	case cl.noJob == 0:
		cl.noJob = c.health.watched + 1
	}
	switch {
	case answers && hasJob == job.Yes, answers && hasJob == job.Unanswered && listed && cl.said.Condition == job.ClusterReady:
		j.say(job.ClusterReady, job.No, job.Witnessed, job.FlinkSaid)
		return
	case answers && hasJob == job.No && (cl.said.Condition == job.ClusterNoJob || j.passed(c.health.grace(cl.noJob-1), c.health.judges(c.now, c.cfg))):
		j.say(job.ClusterNoJob, job.No, job.Witnessed, job.FlinkSaid)
		return
	case !answers && j.concludeDown():
		return
	}
	j.keep(answers)
}

// passed says whether a grace has passed and the observer may judge by it; if not, it is to be asked again.
func (j *clusterJudgement) passed(watched time.Duration, judges bool) bool {
	left := j.core.cfg.Grace - watched
	if left > 0 || !judges {
		j.wake = min(j.wake, j.core.now+max(left, j.core.cfg.Tick))
		return false
	}
	return true
}

// say makes the judgement one that somebody stands for now.
func (j *clusterJudgement) say(is job.Condition, over job.Answer, certainty job.Certainty, reason job.Reason) {
	if is == j.cluster.said.Condition {
		j.cluster.vouched, j.cluster.proven = true, j.core.now
	}
	j.put(is, over, certainty, reason)
	if certainty == job.Inferred && over != job.Yes {
		j.wake = min(j.wake, j.core.now+j.core.cfg.Hold) // the API server may fall silent without a word
	}
}

func (j *clusterJudgement) put(is job.Condition, over job.Answer, certainty job.Certainty, reason job.Reason) {
	if j.is.Sequence == 0 || j.is.Condition != is {
		j.is.Since = job.StampOf(j.core.wall)
	}
	j.spoken = true
	j.is.Condition, j.is.Over, j.is.Certainty, j.is.Reason = is, over, certainty, reason
}

// concludeDown draws what follows when no JobManager of the cluster runs, and says whether anything does.
func (j *clusterJudgement) concludeDown() bool {
	c, cl := j.core, j.cluster
	if !j.told() || cl.said.Sequence == 0 && !cl.present() && !cl.lived {
		return false
	}
	is, since := c.trouble(cl)
	if is == job.ClusterUnknown {
		return false
	}
	if is != cl.said.Condition {
		if is == job.ClusterCrashLoop && cl.down == 0 || !j.passed(c.health.podsGrace(since-1), c.health.judgesPods(c.now, c.cfg)) {
			return false
		}
	}
	over := job.No
	if is == job.ClusterDown {
		var known bool
		if over, known = j.gone(); !known {
			return false
		}
	}
	j.say(is, over, job.Inferred, job.JobManagerDown)
	return true
}

// trouble is what is wrong with the cluster's pods, and since when on the clock of the pods; ClusterUnknown if nothing is known to be.
func (c *Core) trouble(cl *cluster) (is job.Condition, since time.Duration) {
	for _, p := range cl.pods {
		switch {
		case p.gone:
		case p.ails == job.CrashLoop && p.Running && c.now-p.since >= c.cfg.Hold:
			p.ails = job.NoTrouble // it stays up
		case p.ails == job.CrashLoop && (is != job.ClusterCrashLoop || p.ailing < since):
			is, since = job.ClusterCrashLoop, p.ailing
		case p.ails == job.ImagePull && is == job.ClusterUnknown && cl.down > 0:
			is, since = job.ClusterImagePull, cl.down
		}
	}
	if is == job.ClusterUnknown && cl.down > 0 {
		is, since = job.ClusterDown, cl.down
	}
	if is == job.ClusterCrashLoop && cl.down > 0 {
		since = min(since, cl.down)
	}
	return is, since
}

// gone says whether what makes the cluster's JobManagers is gone. known is false for as long as the API server may take to say so.
func (j *clusterJudgement) gone() (over job.Answer, known bool) {
	c, cl := j.core, j.cluster
	switch {
	case cl.awaited():
		return job.No, true
	case cl.said.Over == job.Yes && cl.said.Condition == job.ClusterDown:
		return job.Yes, true
	}
	again, unanswered := c.check(cl)
	j.wake = min(j.wake, again)
	switch {
	case cl.work != nil && (cl.work.There == job.No || cl.work.Ended):
		return job.Yes, true
	case cl.work != nil:
		return job.No, true
	case cl.suspect() == job.Workload{}:
		left := c.cfg.Missing - c.health.podsGrace(cl.down-1)
		if left <= 0 && !cl.present() {
			return job.Yes, true
		}
		j.wake = min(j.wake, c.now+max(left, c.cfg.Tick))
		return job.Unanswered, true
	}
	if unanswered && cl.checks == 1 { // for as long as it may take to hear more
		return cl.said.Over, cl.said.Condition == job.ClusterDown
	}
	return job.Unanswered, true
}

// keep keeps what is said. Where nobody has stood for it for the hold time, it is Held; what is contradicted, and nothing else known, is Unknown.
func (j *clusterJudgement) keep(answers bool) {
	c, cl := j.core, j.cluster
	told := j.told()
	if cl.vouched {
		cl.vouched, cl.proven = false, c.now
		if cl.said.Condition.Negative() && !told {
			cl.proven = min(c.now, c.health.sources[Pods].progress)
		}
	}
	switch {
	case j.is.Sequence == 0:
		if (cl.present() || cl.beating()) && j.passed(c.health.grace(cl.met-1), c.health.judges(c.now, c.cfg)) {
			j.put(job.ClusterUnknown, job.No, job.Held, j.silence(told))
		}
		return
	case cl.said.Condition.Negative() && told && cl.down == 0:
		if left := cl.ran() + c.cfg.Hold - c.now; left > 0 {
			j.wake = min(j.wake, c.now+left)
		} else if is, _ := c.trouble(cl); is == job.ClusterUnknown {
			j.put(job.ClusterUnknown, job.No, job.Held, j.silence(told))
			return
		}
	}
	patience := c.cfg.Hold
	if told && cl.down > 0 && !answers {
		patience += c.cfg.Late // for what is about to be concluded
		if cl.said.Condition.Negative() {
			patience += c.cfg.Grace
		}
	}
	left := cl.proven + patience - c.now
	switch reason := j.silence(told); {
	case j.is.Over == job.Yes && j.is.Condition == job.ClusterDown:
		// As with a verdict that is over: nobody needs to stand for it any more.
	case j.is.Certainty != job.Held && left > 0:
		j.wake = min(j.wake, c.now+left)
	case j.is.Certainty != job.Held || j.is.Reason != reason && !(j.is.Reason == job.AgentLeft && reason == job.AgentSilent):
		if j.is.Certainty != job.Held {
			j.is.LastSeen = job.StampOf(c.wall - (c.now - cl.proven).Milliseconds())
		}
		j.put(j.is.Condition, j.is.Over, job.Held, reason)
	}
}

// silence says why nobody stands for what is said.
func (j *clusterJudgement) silence(told bool) job.Reason {
	if j.is.Condition.Negative() && !told {
		return job.KubernetesSilent
	}
	reason := job.AgentSilent
	for _, w := range j.cluster.witnesses {
		switch {
		case w.answers():
			if has, _ := j.cluster.jobOf(w); has == job.Unanswered {
				return job.JobUnanswered
			}
			return job.JobMissing
		case w.beating:
			reason = job.JobManagerUnreachable
		case w.goodbye && reason == job.AgentSilent && j.cluster.ran() == never:
			reason = job.AgentLeft // and nobody has come in its place
		}
	}
	return reason
}

// answer says whether any JobManager of the cluster answers, and whether it has a job or can take one. listed says, where that is not known, that
// one has a job at least, about which it does not answer.
func (cl *cluster) answer() (answers bool, hasJob job.Answer, listed bool) {
	hasJob = job.No
	for _, w := range cl.witnesses {
		if !w.answers() {
			continue
		}
		answers = true
		switch has, one := cl.jobOf(w); {
		case has == job.Yes:
			return true, job.Yes, true
		case has == job.Unanswered:
			hasJob, listed = job.Unanswered, listed || one
		}
	}
	return answers, hasJob, listed
}

// answers says whether a witness lives, and its JobManager answers it.
func (w *witness) answers() bool { return w.beating && !w.unread && w.beat.Reach == job.Fine }

// jobOf says whether the JobManager of a witness that lives has a job, or can take one; and whether it is for a job that this is not known.
func (cl *cluster) jobOf(w *witness) (has job.Answer, listed bool) {
	if w.beat.Application == job.No {
		return job.Yes, true // whoever runs no application takes jobs
	}
	has = w.beat.Application // where it is not known what the JobManager runs, that it has no job says nothing
	if has == job.Yes {
		has = job.No
	}
	for _, e := range slices.Backward(cl.jobs) {
		i := e.sightBy(w)
		if i < 0 {
			continue
		}
		switch s := &e.sights[i]; {
		case s.live():
			return job.Yes, true
		case s.unreadable, s.report == nil:
			has = job.Unanswered // what cannot be read may be about a job that it has (S2)
		case s.report.Known != job.No && !s.report.State.Terminal():
			// Of a job of the process before it is not known yet whether this one has it.
			has, listed = job.Unanswered, listed || s.report.Reach != job.NotAsked &&
				s.report.Session == w.beat.Session && s.report.Incarnation == w.beat.Incarnation
		}
	}
	if has == job.No && cl.leftOut(w) {
		has = job.Unanswered
	}
	return has, listed
}

// leftOut says whether a witness's JobManager may have a job that it does not list, since the JobMaster is slow (S6): one that is not over, that
// the witness has not denied, and that this very process had. It had if somebody reported so, or if its container ran when the cluster was ready.
func (cl *cluster) leftOut(w *witness) bool {
	same := false
	if p := cl.pod(w.agent.PodUID); p != nil && !p.gone && cl.said.Condition == job.ClusterReady {
		same = slices.ContainsFunc(cl.said.Pods, func(was job.PodStatus) bool { return was.Name == p.Name && was.Restarts == p.Restarts })
	}
	return slices.ContainsFunc(cl.jobs, func(e *entry) bool {
		if i := e.sightBy(w); e.account.Verdict.Over == job.Yes || i >= 0 && e.sights[i].denies() {
			return false
		}
		return same || slices.ContainsFunc(e.sights, func(s sight) bool {
			return s.report != nil && s.report.Known != job.No && s.report.Incarnation != "" && s.report.Incarnation == w.beat.Incarnation
		})
	})
}

// present says whether the API server shows a pod of the cluster, and beating whether an agent, or a look from outside, is heard.
func (cl *cluster) present() bool {
	return slices.ContainsFunc(cl.pods, func(p *pod) bool { return !p.gone })
}

// unspoken says whether a JobManager has run of which nothing was said yet.
func (cl *cluster) unspoken() bool { return cl.lived && cl.said.Sequence == 0 }

func (cl *cluster) beating() bool {
	return slices.ContainsFunc(cl.witnesses, func(w *witness) bool { return w.beating })
}

// awaited says whether a pod is there that may run yet.
func (cl *cluster) awaited() bool {
	return slices.ContainsFunc(cl.pods, func(p *pod) bool { return !p.gone && !p.Leaving && !p.Exited })
}

// ran is when the container that has run the longest began to.
func (cl *cluster) ran() time.Duration {
	first := never
	for _, p := range cl.pods {
		if p.Running {
			first = min(first, p.since)
		}
	}
	return first
}

// unvouch notes that a witness answers no more, and until when it did.
func (c *Core) unvouch(cl *cluster, until time.Duration) {
	if cl.vouched && !cl.said.Condition.Negative() {
		cl.vouched, cl.proven = false, max(until, 0)
	}
}

// describe takes over what is known of the cluster beside its condition.
func (j *clusterJudgement) describe() {
	c, cl := j.core, j.cluster
	if cl.known != nil {
		j.is.Workload = *cl.known
	}
	switch idle := j.is.Certainty != job.Witnessed && !cl.present() && !cl.beating(); {
	case !idle:
		j.is.IdleAt = 0
	case j.is.IdleAt == 0:
		j.is.IdleAt = c.wall
	}
}

// differs says whether the judgement is another than the one that counts. Since when a witness has been silent, and what the kubelet says in
// detail, makes no difference by itself.
func (j *clusterJudgement) differs() bool {
	was, is := &j.cluster.said, &j.is
	return j.cluster.anew || was.Sequence == 0 || was.Condition != is.Condition || was.Over != is.Over || was.Certainty != is.Certainty ||
		was.Reason != is.Reason || was.Workload != is.Workload || (was.IdleAt == 0) != (is.IdleAt == 0) || j.podsDiffer()
}

// podsDiffer says whether the pods are worth writing anew: where a JobManager answers, that is only whose they are.
func (j *clusterJudgement) podsDiffer() bool {
	switch {
	case j.is.Certainty == job.Witnessed:
		return j.cluster.vouched && !j.cluster.shows(j.is.Pods, false)
	case j.is.Over == job.Yes && !j.cluster.present():
		return false // what was last said of its pods is how it ended
	}
	return j.told() && !j.cluster.shows(j.is.Pods, true)
}

// told says whether the API server has told of all the cluster's pods, and lives.
func (j *clusterJudgement) told() bool {
	c := j.core
	return c.health.podsFresh(c.now, c.cfg) && c.covers(j.cluster.key.Namespace)
}

// proposeCluster asks for the judgement to be written.
func (c *Core) proposeCluster(j *clusterJudgement) {
	cl := j.cluster
	j.is.Key, j.is.Sequence = cl.key, j.is.Sequence+1
	if j.is.Certainty != job.Held || j.is.LastSeen == "" {
		j.is.LastSeen = job.StampOf(c.wall)
	}
	if j.told() || j.is.Certainty == job.Witnessed || len(j.is.Pods) == 0 {
		// Of a cluster that is gone before anything was said of it, they tell how it ended.
		j.is.Pods = cl.podStatuses(j.is.Over == job.Yes && cl.unspoken() && !cl.present())
	}
	cl.writing, cl.retiring = true, false
	c.dueClusters.remove(cl)
	c.effects = append(c.effects, WriteCluster{Cluster: j.is, IfRevision: cl.revision})
}

// podStatuses are the pods as people read of them: those that are there, or those that have gone.
func (cl *cluster) podStatuses(gone bool) (list []job.PodStatus) {
	cl.speakOf(gone, func(p job.PodStatus) bool {
		list = append(list, p)
		return true
	})
	return list
}

// shows says whether the pods are still those that were written; in detail, as they were.
func (cl *cluster) shows(was []job.PodStatus, detail bool) bool {
	n, same := 0, true
	cl.speakOf(false, func(is job.PodStatus) bool {
		i := slices.IndexFunc(was, func(p job.PodStatus) bool { return p.Name == is.Name })
		n++
		if i < 0 || detail && (was[i].Running != is.Running || was[i].Restarts != is.Restarts || (was[i].Waiting == "") != (is.Waiting == "") ||
			(was[i].ExitCode == nil) != (is.ExitCode == nil) || is.ExitCode != nil && *was[i].ExitCode != *is.ExitCode) {
			same = false
		}
		return same
	})
	return same && n == len(was)
}

// speakOf tells of each pod that the API server shows, and of those of agents of which it tells nothing; or of those that have gone.
func (cl *cluster) speakOf(gone bool, tell func(job.PodStatus) (more bool)) {
	n := 0
	for _, p := range cl.pods {
		if p.gone != gone || n == job.PodsLimit {
			continue
		}
		is := job.PodStatus{Name: p.Name, Running: job.No, Restarts: p.Restarts, ExitCode: p.code, Waiting: p.Waiting, Message: p.Message}
		if p.Running {
			is.Running = job.Yes
		}
		for _, w := range cl.witnesses {
			if w.agent.PodUID == p.Agent.PodUID && w.beating && is.Reach != job.Fine {
				is.Reach = w.beat.Reach
			}
		}
		if n++; !tell(is) {
			return
		}
	}
	for _, w := range cl.witnesses {
		if n < job.PodsLimit && w.beating && !w.unread && cl.pod(w.agent.PodUID) == nil {
			if n++; !tell(job.PodStatus{Name: w.podName(), Reach: w.beat.Reach}) {
				return
			}
		}
	}
}

func (w *witness) podName() string {
	if w.beat.Pod != "" {
		return w.beat.Pod
	}
	return w.agent.PodUID
}

// storedCluster makes a judgement of a cluster count.
func (c *Core) storedCluster(in StoredCluster) {
	cl := c.cluster(in.Cluster.Key)
	cl.told, cl.sealed = c.health.sources[Clusters].rounds, false
	c.touch(cl)
	if cl.revision == in.Revision {
		return
	}
	cl.writing, cl.retiring = false, false
	cl.revision = in.Revision
	if in.Cluster.Sequence < cl.said.Sequence {
		cl.anew = true // the store was set back: what was known here is said again
		return
	}
	if cl.said.Sequence == 0 {
		cl.proven = c.now
		if in.Cluster.Certainty == job.Witnessed {
			cl.proven -= c.cfg.Lease // as long as whoever is not heard of has been silent
		}
	}
	cl.count(in.Cluster, c.now)
}

// count lets what is stored of a cluster count.
func (cl *cluster) count(said job.Cluster, now time.Duration) {
	cl.said, cl.anew = said, false
	cl.said.Key = cl.key
	if cl.said.IdleAt == 0 {
		cl.idleSeen = 0
	} else if cl.idleSeen == 0 {
		cl.idleSeen = max(now, 1)
	}
}

// loseCluster notes that what was said of a cluster is not in the store any more. If it was retired, that was the purpose; if not, it is
// written again.
func (c *Core) loseCluster(cl *cluster) {
	if cl.revision == 0 && !cl.sealed {
		return
	}
	if cl.retiring || c.retirableCluster(cl) {
		cl.said, cl.lived = job.Cluster{}, false
	}
	cl.revision, cl.writing, cl.sealed, cl.retiring, cl.anew = 0, false, false, false, cl.said.Sequence > 0
}

// retirableCluster says whether a cluster has not been seen for so long that it may be forgotten, and none of its jobs is known any more.
func (c *Core) retirableCluster(cl *cluster) bool {
	return cl.said.IdleAt != 0 && len(cl.jobs) == 0 && !cl.present() && !cl.beating() && c.outlived(cl.key.Namespace, cl.said.IdleAt, cl.idleSeen)
}

// touch notes that what is known of a cluster has changed: it is judged at the end of the step.
func (c *Core) touch(cl *cluster) {
	if cl != nil && !cl.touched {
		cl.touched = true
		c.touched = append(c.touched, cl)
	}
}

// judgeTouched judges the clusters of which something has changed.
func (c *Core) judgeTouched() {
	if len(c.touched) == 0 {
		return
	}
	for _, cl := range c.touched {
		cl.touched = false
		c.judgeCluster(cl)
		c.releaseCluster(cl)
	}
	if len(c.touched) > 1 {
		slices.SortStableFunc(c.effects, byKey)
	}
	clear(c.touched)
	c.touched = c.touched[:0]
}
