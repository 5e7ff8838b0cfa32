package sim

import (
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/settle"
)

// pod is one JobManager's pod, as it is on its node.
type pod struct {
	c         *cluster
	uid, name string
	ip        string
	skew      time.Duration // of the node's clock

	process *process
	agent   *agent
	running bool          // the JobManager's container
	since   time.Duration // when it began to run
	started int           // how often it has run
	code    int           // its last life's exit code
	ended   bool          // it has had one
	leaving bool
	gone    bool
	lost    bool // the node is, and nobody knows yet
}

func (p *pod) who() evidence.Agent {
	return evidence.Agent{Namespace: p.c.key.Namespace, Cluster: p.c.key.Cluster, PodUID: p.uid}
}

// create makes a pod, and lets the kubelet start it.
func (c *cluster) create() {
	p := &pod{c: c, uid: c.name("pod-" + c.key.Cluster + "-"), skew: c.w.skew(c.chance)}
	p.name, p.ip = p.uid, c.w.api.address(c.chance)
	c.pods = append(c.pods, p)
	c.w.say("%s: pod %s is created", c.key.Cluster, p.name)
	c.w.api.changed(p)
	c.w.after(c.chance.between(300*time.Millisecond, 3*time.Second), func() {
		if p.leaving {
			return
		}
		if c.injected {
			p.agent = newAgent(c.w, p)
		}
		p.run()
	})
}

func (p *pod) run() {
	if p.leaving || p.gone || p.lost {
		return
	}
	p.running, p.since = true, p.c.w.now
	p.started++
	p.c.begin(p)
	p.c.w.api.changed(p)
}

// exited is what the kubelet does when the JobManager's container has ended.
func (p *pod) exited(one *process, code int) {
	c := p.c
	if p.process != one || p.lost {
		return
	}
	p.running, p.ended, p.code = false, true, code
	c.w.api.changed(p)
	isJob := c.workload.Kind == "Job"
	switch {
	case p.leaving || p.gone:
	case isJob && (code == 0 || p.started > 3):
		// The pod has ended, and so will its Job be; the kubelet ends the agent.
		c.w.after(c.chance.between(200*time.Millisecond, 1500*time.Millisecond), func() {
			c.ended = true
			if p.agent != nil {
				p.agent.leave()
			}
		})
	default:
		c.w.after(c.chance.between(time.Second, 20*time.Second), func() { p.run() })
	}
}

// remove deletes a pod: Flink is told first, then the agent, and then there is no such pod.
func (p *pod) remove() {
	c := p.c
	if p.leaving || p.gone {
		return
	}
	p.leaving = true
	c.w.say("%s: pod %s is deleted", c.key.Cluster, p.name)
	c.w.api.changed(p)
	c.w.after(c.chance.between(0, 1500*time.Millisecond), c.replace)
	if p.lost {
		c.w.after(c.chance.between(30*time.Second, 60*time.Second), p.vanish)
		return
	}
	end := func() {
		if one := p.process; one != nil && one.phase != exited {
			if one.stopped > 0 { // killed at the end of the grace period
				c.w.after(25*time.Second, func() { one.exit(137) })
			} else {
				one.exit(143)
			}
		}
		c.w.after(c.chance.between(300*time.Millisecond, 1200*time.Millisecond), func() {
			if p.agent != nil {
				p.agent.leave()
			}
			c.w.after(c.chance.between(time.Second, 4*time.Second), p.vanish)
		})
	}
	c.w.after(c.chance.between(0, 2*time.Second), end)
}

func (p *pod) vanish() {
	if p.gone {
		return
	}
	p.gone = true
	if p.process != nil {
		p.process.exit(137)
	}
	if p.agent != nil {
		p.agent.kill()
	}
	p.c.pods = slices.DeleteFunc(p.c.pods, func(other *pod) bool { return other == p })
	p.c.emptied = p.c.w.now
	p.c.w.api.free(p.ip)
	p.c.w.api.changed(p)
	p.c.replace()
}

// lose takes a pod's node away without a word. Kubernetes notices after a while.
func (p *pod) lose() {
	if p.lost || p.leaving {
		return
	}
	p.lost = true
	if p.process != nil {
		p.process.exit(137)
	}
	if p.agent != nil {
		p.agent.kill()
	}
	p.c.w.after(p.c.chance.between(40*time.Second, 90*time.Second), func() { p.remove() })
}

// replace makes the pods that the workload wants and that are not there.
func (c *cluster) replace() {
	if !c.there || c.ended {
		return
	}
	have := 0
	for _, p := range c.pods {
		if !p.leaving {
			have++
		}
	}
	for ; have < c.replicas; have++ {
		c.create()
	}
}

// deleteWorkload takes the workload away, and then its pods. What high availability recorded stays, unless it is taken away too.
func (c *cluster) deleteWorkload() {
	if !c.there {
		return
	}
	c.there = false
	c.w.say("%s: its %s is deleted", c.key.Cluster, c.workload.Kind)
	c.w.after(c.chance.between(50*time.Millisecond, time.Second), func() {
		for _, p := range slices.Clone(c.pods) {
			p.remove()
		}
	})
}

// deploy makes the workload, where there is none.
func (c *cluster) deploy() {
	if c.there && !c.ended {
		return
	}
	kind := "Deployment"
	if c.application && !c.native {
		kind = "Job"
	}
	c.there, c.ended = true, false
	c.workload = job.Workload{Kind: kind, Name: c.key.Cluster, UID: c.name("uid-" + c.key.Cluster + "-")}
	c.w.say("%s: %s %s is made", c.key.Cluster, kind, c.workload.UID)
	c.replace()
}

// scale is how many JobManagers the workload wants.
func (c *cluster) scale(n int) {
	c.replicas = n
	for i, p := range slices.Clone(c.pods) {
		if i >= n {
			p.remove()
		}
	}
	c.replace()
}

// apiServer is Kubernetes' API server, and what it believes.
type apiServer struct {
	w         *world
	chance    chance
	down      int
	forbidden bool // nobody may read high-availability records
	followers []*podFollower
	unused    []string
	addresses int
}

func newAPIServer(w *world) *apiServer { return &apiServer{w: w, chance: w.chance("api server")} }

// address gives a pod an address, perhaps one that another pod had.
func (a *apiServer) address(c chance) string {
	if len(a.unused) > 0 && c.one(2) {
		ip := a.unused[0]
		a.unused = a.unused[1:]
		return ip
	}
	a.addresses++
	return "10.0.0." + string(rune('0'+a.addresses/10%10)) + string(rune('0'+a.addresses%10)) + string(rune('a'+a.addresses/100))
}

func (a *apiServer) free(ip string) { a.unused = append(a.unused, ip) }

// at is the pod that has an address.
func (w *world) at(ip string) *pod {
	for _, c := range w.clusters {
		for _, p := range c.pods {
			if p.ip == ip && !p.lost {
				return p
			}
		}
	}
	return nil
}

// shown is a pod as the API server shows it.
func (a *apiServer) shown(p *pod) evidence.Pod {
	e := evidence.Pod{
		Agent: p.who(), Name: p.name, Port: 8081, FlinkID: p.c.key.Cluster, Injected: p.c.injected, Application: job.No,
		Workload: p.c.workload, Leaving: p.leaving, Running: p.running || p.lost, Restarts: max(p.started-1, 0),
	}
	if p.c.application {
		e.Application = job.Yes
	}
	if p.started > 0 {
		e.Address = p.ip
	}
	if p.ended && !e.Running {
		e.Exited, e.ExitCode = true, p.code
		if p.started > 1 && !p.leaving {
			e.Trouble, e.Waiting = job.CrashLoop, "CrashLoopBackOff"
		}
	}
	return e
}

// changed tells those who follow of a pod, when the kubelet has told the API server.
func (a *apiServer) changed(p *pod) {
	a.w.after(a.chance.between(20*time.Millisecond, 800*time.Millisecond), func() {
		if p.lost && !p.gone && !p.leaving {
			return // nobody tells
		}
		for _, f := range a.followers {
			f.changed(p)
		}
	})
}

// podFollower is kube.FollowPods: a list, then what changes, and a list again after every loss.
type podFollower struct {
	r        *replica
	tell     func([]settle.Input)
	stopped  bool
	synced   bool
	missed   bool // something was not heard
	known    map[*pod]bool
	heard    time.Duration
	lostTold bool
}

func (r *replica) followPods(tell func([]settle.Input)) *podFollower {
	f := &podFollower{r: r, tell: tell, known: map[*pod]bool{}, heard: r.w.now, missed: true}
	r.w.api.followers = append(r.w.api.followers, f)
	r.w.every(r.w.api.chance.between(0, time.Second), 5*time.Second, func() bool {
		f.beat()
		return !f.stopped
	})
	return f
}

func (f *podFollower) stop() {
	f.stopped = true
	a := f.r.w.api
	a.followers = slices.DeleteFunc(a.followers, func(other *podFollower) bool { return other == f })
}

func (f *podFollower) reaches() bool { return f.r.w.api.down == 0 && f.r.apiCut == 0 }

func (f *podFollower) changed(p *pod) {
	if !f.synced || !f.reaches() {
		f.missed = true
		return
	}
	f.r.w.after(f.r.w.api.chance.between(time.Millisecond, 200*time.Millisecond), func() {
		switch {
		case f.stopped:
		case !f.reaches():
			f.missed = true
		default:
			f.show(p)
		}
	})
}

func (f *podFollower) show(p *pod) {
	if p.gone {
		if f.known[p] {
			delete(f.known, p)
			f.tell([]settle.Input{settle.PodGone{Agent: p.who()}})
		}
		return
	}
	f.known[p] = true
	f.tell([]settle.Input{settle.Pod{Pod: f.r.w.api.shown(p)}})
}

// beat asks the API server whether it lives, and for all pods where something may have been missed.
func (f *podFollower) beat() {
	w := f.r.w
	if f.stopped {
		return
	}
	if !f.reaches() {
		if w.now-f.heard > 15*time.Second && (f.synced || !f.lostTold) {
			f.synced, f.missed, f.lostTold = false, true, true
			f.tell([]settle.Input{settle.Lost{Source: settle.Pods, Why: "the API server does not answer"}})
		}
		return
	}
	f.heard, f.lostTold = w.now, false
	if !f.missed {
		f.tell([]settle.Input{settle.Progress{Source: settle.Pods}})
		return
	}
	if f.synced {
		f.tell([]settle.Input{settle.Lost{Source: settle.Pods, Why: "the watch ended"}})
	}
	f.synced, f.missed = true, false
	f.known = map[*pod]bool{}
	inputs := []settle.Input{settle.Listing{Source: settle.Pods, Epoch: 1}}
	for _, c := range w.clusters {
		for _, p := range c.pods {
			f.known[p] = true
			inputs = append(inputs, settle.Pod{Pod: w.api.shown(p)})
		}
	}
	f.tell(append(inputs, settle.Synced{Source: settle.Pods}, settle.Progress{Source: settle.Pods}))
}

// answer is what the API server says to a Check; nothing, if it cannot be asked.
func (a *apiServer) answer(check settle.Check) (inputs []settle.Input) {
	var c *cluster
	for _, one := range a.w.clusters {
		if one.key == check.Cluster {
			c = one
		}
	}
	if check.Workload != (job.Workload{}) {
		answer := evidence.Workload{Cluster: check.Cluster, Workload: check.Workload, There: job.No}
		if c != nil && c.there && c.workload == check.Workload {
			answer.There, answer.Ended = job.Yes, c.ended
		}
		inputs = append(inputs, settle.Workload{Workload: answer})
	}
	record := evidence.HARecord{Cluster: check.Cluster, There: job.No}
	if a.forbidden {
		record.There, record.Forbidden = job.Unanswered, true
	} else if c != nil && len(c.record) > 0 {
		record.There = job.Yes
		for _, t := range c.jobs {
			if c.record[t.key.ID] {
				record.Jobs = append(record.Jobs, t.key.ID)
			}
		}
	}
	return append(inputs, settle.HARecord{HARecord: record})
}
