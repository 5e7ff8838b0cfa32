package settle

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// kubernetes is what the API server tells of one Flink cluster. It is never a witness of a job's state; it says who could be one, and
// that nobody is (S8).
type kubernetes struct {
	pods []*pod
	// known is the workload that makes the cluster's JobManager pods, the one seen last.
	known *job.Workload
	// down is since when no JobManager's container runs, on the clock of the pods and 1 more; 0 where one does, or nobody can tell. up is
	// when one was last known to run, on the clock that passes.
	down, up time.Duration

	// asked is when a Check was last asked for, 0 for never since the cluster is down; and what was answered since then.
	asked  time.Duration
	checks int
	work   *evidence.Workload
	record *evidence.HARecord
}

// pod is one JobManager's pod. One that is gone stays while its end may speak of a job.
type pod struct {
	evidence.Pod
	told  uint32
	gone  bool
	first time.Duration // when it was first seen to run
	since time.Duration // since when it has run
	asked bool          // looks from outside are asked for
	// ails is what was last wrong with its container, until it runs, or after a crash runs for long; and ailing since when, on the clock of the
	// pods and 1 more.
	ails   job.Trouble
	ailing time.Duration
	code   *int // how the container last ended; nil if it has not
}

const (
	// checkAgain is how long an answer of the API server is waited for, and after which an unanswered question is asked again; checkLater
	// is when one is asked again whose answer leaves the job a future.
	checkAgain = 10 * time.Second
	checkLater = 2 * time.Minute
	// podLimit bounds the pods that are remembered of one cluster after they are gone.
	podLimit = 4
)

// pod takes what the API server says of a pod.
func (c *Core) pod(told evidence.Pod) {
	cl := c.cluster(told.Agent.ClusterKey())
	p := cl.pod(told.Agent.PodUID)
	if p == nil {
		p = &pod{}
		cl.pods = append(cl.pods, p)
	}
	was := *p
	p.Pod, p.told, p.gone = told, c.health.sources[Pods].rounds, false
	if w := p.Workload; w != (job.Workload{}) && (cl.known == nil || *cl.known != w) {
		cl.known = &w
	}
	if p.Running && p.first == 0 {
		p.first = max(c.now, 1)
	}
	cl.lived = cl.lived || p.Running || p.Exited
	c.noteAilment(cl, p, was)
	c.podChanged(cl, p, was)
}

// noteAilment notes what is wrong with a pod's container. One that crashes runs in between, and its cluster is not well for that.
func (c *Core) noteAilment(cl *cluster, p *pod, was pod) {
	if p.Running && (!was.Running || p.Restarts != was.Restarts) {
		p.since = c.now
	}
	if p.Exited {
		if p.code == nil || *p.code != p.ExitCode {
			code := p.ExitCode
			p.code = &code
		}
	}
	trouble := p.Trouble
	if was.Agent.PodUID == "" && p.Restarts > 0 {
		// A leader before this one saw more of it.
		if i := slices.IndexFunc(cl.said.Pods, func(before job.PodStatus) bool { return before.Name == p.Name }); i >= 0 && p.code == nil {
			p.code = cl.said.Pods[i].ExitCode
		}
		if trouble == job.NoTrouble && cl.said.Condition == job.ClusterCrashLoop {
			trouble = job.CrashLoop
		}
	}
	switch {
	case trouble != job.NoTrouble && trouble != p.ails:
		p.ails, p.ailing = trouble, c.health.podsWatched+1
	case p.Running && p.ails != job.CrashLoop:
		p.ails = job.NoTrouble
	}
}

// podGone takes the end of a pod. What is known of its container is remembered: it may tell how a job ended.
func (c *Core) podGone(agent evidence.Agent) {
	cl := c.clusters[agent.ClusterKey()]
	if cl == nil {
		return
	}
	if p := cl.pod(agent.PodUID); p != nil && !p.gone {
		was := *p
		p.leave()
		c.podChanged(cl, p, was)
	}
}

func (p *pod) leave() { p.gone, p.Running, p.Address = true, false, "" }

// podChanged draws what follows from a change of one pod.
func (c *Core) podChanged(cl *cluster, p *pod, was pod) {
	c.touch(cl)
	if was.Running && !p.Running {
		if w := c.witnesses[p.Agent]; w != nil && c.stopped(w.agent) {
			c.excuse(w) // its silence needs no other cause
			c.judgeSilence()
		}
	}
	if was.Address != p.Address || was.Port != p.Port || was.Restarts != p.Restarts {
		p.unask(c, was) // another process may answer there
	}
	c.askFor(p)
	learned := was.Workload != p.Workload
	if c.noteDown(cl) || learned {
		c.resettleCluster(cl)
	}
	c.releaseCluster(cl)
}

// podsSynced takes the end of a round: what was not told again is gone. What its container did in between, nobody has seen: it may have run again
// since its last exit.
func (c *Core) podsSynced(round uint32) {
	for _, cl := range c.clusters {
		for _, p := range slices.Clone(cl.pods) { // one whose looks end may be let go of meanwhile
			if p.told != round && !p.gone {
				was := *p
				p.leave()
				p.Exited, p.ExitCode = false, 0
				p.unask(c, was)
			}
		}
		if len(cl.jobs) == 0 {
			c.releaseCluster(cl)
		}
	}
	c.health.sync(Pods, c.now)
	for _, cl := range c.clusters {
		c.noteDown(cl)
	}
	// Whoever fell silent with its container accuses nobody, whichever of the two was told first.
	for w := range c.health.lost {
		if c.stopped(w.agent) {
			c.excuse(w)
		}
	}
	c.judgeSilence()
}

// noteDown starts or stops the clock of a cluster that has no running JobManager, and says whether it did. Nothing is known of pods of
// which the API server has not told all.
func (c *Core) noteDown(cl *cluster) (changed bool) {
	if !c.health.sources[Pods].synced || !c.covers(cl.key.Namespace) {
		return false
	}
	down := !slices.ContainsFunc(cl.pods, func(p *pod) bool { return p.Running })
	switch {
	case down && cl.down == 0:
		cl.down, cl.asked, cl.checks, cl.work, cl.record = c.health.podsWatched+1, 0, 0, nil, nil // 0 means none
		return true
	case !down:
		changed = cl.down != 0
		cl.down, cl.up = 0, c.now
	}
	return changed
}

// covers says whether the API server tells of a namespace.
func (c *Core) covers(namespace string) bool {
	return c.cfg.Namespaces == nil || slices.Contains(c.cfg.Namespaces, namespace)
}

// stopped says whether the container beside an agent is known not to run: then there is nobody who could beat.
func (c *Core) stopped(agent evidence.Agent) bool {
	if !c.health.podsFresh(c.now, c.cfg) || !c.covers(agent.Namespace) {
		return false
	}
	cl := c.clusters[agent.ClusterKey()]
	if cl == nil {
		return true
	}
	p := cl.pod(agent.PodUID)
	return p == nil || !p.Running || p.Leaving
}

// workload and haRecord take the answers to a Check.
func (c *Core) workload(w evidence.Workload) {
	cl := c.clusters[w.Cluster]
	if cl == nil || cl.down == 0 || cl.asked == 0 || w.There == job.Unanswered && !w.Forbidden || w.Workload != cl.suspect() {
		return
	}
	cl.work = &w
	c.touch(cl)
	c.resettleCluster(cl)
}

func (c *Core) haRecord(r evidence.HARecord) {
	cl := c.clusters[r.Cluster]
	if cl == nil || cl.down == 0 || cl.asked == 0 || r.There == job.Unanswered && !r.Forbidden {
		return
	}
	cl.record = &r
	c.resettleCluster(cl)
}

// suspect is the workload that is asked for: the one that was seen, or what a verdict, or what is said of the cluster, remembers.
func (cl *cluster) suspect() job.Workload {
	if cl.known != nil {
		return *cl.known
	}
	for _, e := range cl.jobs {
		if w := e.account.Books.Workload; w != nil {
			return *w
		}
	}
	return cl.said.Workload
}

func (c *Core) resettleCluster(cl *cluster) {
	for _, e := range cl.jobs {
		c.settle(e)
	}
}

// releaseCluster lets go of what nobody will ask for: pods that are gone, where no job is unsettled, and a cluster without pods or jobs. One that
// has lived stays until that was said.
func (c *Core) releaseCluster(cl *cluster) {
	unsettled := slices.ContainsFunc(cl.jobs, func(e *entry) bool { return e.account.Verdict.Over != job.Yes })
	gone := 0
	for _, p := range cl.pods {
		if p.gone {
			gone++
		}
	}
	cl.pods = slices.DeleteFunc(cl.pods, func(p *pod) bool {
		if p.gone && (!unsettled && !cl.unspoken() || gone > podLimit) {
			gone--
			return true
		}
		return false
	})
	if len(cl.jobs) == 0 && len(cl.pods) == 0 && len(cl.witnesses) == 0 && cl.said.Sequence == 0 && !cl.lived && cl.revision == 0 && !cl.writing &&
		!cl.sealed && c.clusters[cl.key] == cl {
		c.dueClusters.remove(cl)
		delete(c.clusters, cl.key)
	}
}

func (cl *cluster) pod(uid string) *pod {
	for _, p := range cl.pods {
		if p.Agent.PodUID == uid {
			return p
		}
	}
	return nil
}

// askFor asks for looks at a pod's JobManager from outside while no agent beats there, or ends them. An agent that was put into the pod is
// given time to come.
func (c *Core) askFor(p *pod) {
	wants := p.Running && !p.Leaving && p.Address != "" && !c.beats(p.Agent)
	if wants && p.Injected && !c.hasBeaten(p.Agent) && c.now-p.first < c.cfg.Hold {
		c.health.young[p] = struct{}{}
		return
	}
	delete(c.health.young, p)
	switch {
	case wants && !p.asked:
		p.asked = true
		c.effects = append(c.effects, Ask{Agent: p.probe(), Pod: p.Name, Address: p.Address, Port: p.Port, FlinkID: p.FlinkID})
	case !wants:
		p.unask(c, *p)
	}
}

// unask ends the looks at a pod as it was.
func (p *pod) unask(c *Core, was pod) {
	delete(c.health.young, p)
	if !was.asked {
		return
	}
	p.asked = false
	c.effects = append(c.effects, Ask{Agent: p.probe(), Pod: p.Name, Stop: true})
	if w := c.witnesses[p.probe()]; w != nil {
		c.silence(w)
	}
}

// probe is the witness that looks from outside.
func (p *pod) probe() evidence.Agent {
	a := p.Agent
	a.Probe = true
	return a
}

// hasBeaten says whether an agent has ever been heard, as far as the core remembers.
func (c *Core) hasBeaten(agent evidence.Agent) bool {
	w := c.witnesses[agent]
	return w != nil && w.beat.Session != ""
}

// unasked says that a look from outside was not asked for, or is not any more: what it tells comes too late.
func (c *Core) unasked(agent evidence.Agent) bool {
	if !agent.Probe {
		return false
	}
	cl := c.clusters[agent.ClusterKey()]
	if cl == nil {
		return true
	}
	p := cl.pod(agent.PodUID)
	return p == nil || !p.asked
}

func (c *Core) beats(agent evidence.Agent) bool {
	w := c.witnesses[agent]
	return w != nil && w.beating
}

// askAbout asks for looks from outside, or ends them, when an agent fell silent or is heard again.
func (c *Core) askAbout(agent evidence.Agent) {
	if cl := c.clusters[agent.ClusterKey()]; cl != nil && !agent.Probe {
		if p := cl.pod(agent.PodUID); p != nil {
			c.askFor(p)
		}
	}
}

// askInTime asks where an agent has not come for too long.
func (c *Core) askInTime() {
	for p := range c.health.young {
		c.askFor(p)
	}
}

// endProbes takes the end of all looks from outside.
func (c *Core) endProbes() {
	for _, w := range c.witnesses {
		if w.agent.Probe {
			c.silence(w)
		}
	}
	for _, cl := range c.clusters {
		for _, p := range cl.pods {
			p.asked = false
		}
	}
}

// silence ends a probe: what it proved, it proved until now. Nothing of it lies anywhere, so nothing of it stays.
func (c *Core) silence(w *witness) {
	was := *w
	w.beating = false
	c.turn(w, was, min(c.now, c.health.ticked+c.cfg.Tick)) // a settler that stood still did not look either
	if cl := c.clusters[w.agent.ClusterKey()]; cl != nil {
		for _, e := range cl.jobs {
			if i := e.sightBy(w); i >= 0 {
				c.drop(e, i)
				c.due.set(e, c.now)
			}
		}
	}
	c.release(w)
}

// inferredDown says whether it stands that the cluster has no JobManager: a job that is SUSPENDED for that reason stays so, while nobody
// says otherwise.
func (j *judgement) inferredDown() bool {
	c, cl, v := j.core, j.entry.cluster, &j.account.Verdict
	if v.Certainty != job.Inferred || v.Reason != job.JobManagerDown {
		return false
	}
	if cl.down > 0 || !c.health.sources[Pods].synced {
		return true
	}
	if left := cl.up + c.cfg.Hold - c.now; left > 0 {
		j.wake = min(j.wake, c.now+left)
		return true
	}
	return false // one runs again, and nobody has said anything of the job
}

// check asks the API server for what is not known yet, or may have changed. It says when it will be asked again, and whether it has not
// answered yet.
func (c *Core) check(cl *cluster) (again time.Duration, unanswered bool) {
	workload := cl.suspect()
	unanswered = cl.record == nil || cl.work == nil && workload != job.Workload{}
	wait := checkLater
	if unanswered {
		wait = checkAgain
	}
	if cl.asked == 0 || c.now-cl.asked >= wait {
		cl.asked = max(c.now, 1)
		cl.checks++
		c.effects = append(c.effects, Check{Cluster: cl.key, Workload: workload})
	}
	return cl.asked + wait, unanswered
}

// statements is what Kubernetes says, as people read it: at most two.
func (k *kubernetes) statements() (list []job.Statement) {
	for _, p := range k.pods {
		if s := p.says(); s != "" && len(list) == 0 {
			list = append(list, job.Statement{Source: "kubernetes", Subject: "pod/" + p.Name, Says: s})
		}
	}
	if w := k.work; w != nil && w.There == job.No {
		list = append(list, job.Statement{Source: "kubernetes", Subject: w.Workload.Kind + "/" + w.Workload.Name, Says: "gone"})
	} else if w != nil && w.Ended {
		list = append(list, job.Statement{Source: "kubernetes", Subject: w.Workload.Kind + "/" + w.Workload.Name, Says: "has ended"})
	}
	return list
}

// says is what is worth saying of a pod: that its JobManager does not run, and why.
func (p *pod) says() string {
	switch {
	case p.Running:
		return ""
	case p.Exited:
		return fmt.Sprintf("exit code %d", p.ExitCode)
	case p.Trouble != job.NoTrouble:
		return p.Trouble.String()
	case p.gone:
		return "gone"
	}
	return "not running"
}
