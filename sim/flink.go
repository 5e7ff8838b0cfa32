package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/agent/view"
	"github.com/holdfast-dev/holdfast/job"
)

// cluster is one Flink cluster, as it truly is.
type cluster struct {
	w      *world
	chance chance
	key    job.ClusterKey
	shape

	workload job.Workload
	// there says that the workload is, and ended that it makes no pods any more.
	there, ended bool
	replicas     int
	pods         []*pod
	jobs         []*truth
	leader       *process
	leads        time.Duration // since when
	// record names the jobs that a later JobManager takes up, and results those that have ended, where high availability is on.
	record, results map[string]bool
	// answered is when Flink last said, to whom it may concern, that the cluster is in a condition.
	answered map[job.Condition]time.Duration
	emptied  time.Duration // when the last pod of it was gone
	named    int           // counts what was given a name
}

// shape is of what kind a cluster is.
type shape struct {
	// ha is Kubernetes' high availability. Without it a JobManager that goes takes its jobs along.
	ha bool
	// application clusters run one job and end with it; others are session clusters.
	application bool
	// fixed gives the application's job the same id in each life of the JobManager. With ha it always is.
	fixed bool
	// native clusters delete their own Deployment when the application ends; others are Kubernetes Jobs, which end.
	native bool
	// managers is how many JobManagers there are.
	managers int
	// injected says that an agent sits beside each JobManager.
	injected bool
}

// truth is what is so of one job, whoever knows it.
type truth struct {
	key   job.Key
	lives []*life
}

// life is one attempt.
type life struct {
	of    *truth
	start job.Stamp
	name  string
	state job.State
	// was are the states that it has been in.
	was   job.States
	since time.Duration
	end   job.Stamp
	// ended is the state in which Flink ended it; Unknown while it runs, and when it was killed.
	ended job.State
	// dead says that it never runs again.
	dead  bool
	cause string
	// slow leaves the job out of the list: its JobMaster does not answer in time.
	slow bool
	// echo is no attempt: an ending of an earlier life, told once more as a failure.
	echo bool
	// heard is when Flink last said, to whom it may concern, that the attempt is in a state.
	heard map[job.State]time.Duration
}

func (t *truth) life(start job.Stamp) *life {
	for _, l := range t.lives {
		if l.start == start {
			return l
		}
	}
	return nil
}

func (t *truth) newest() *life {
	for i := len(t.lives) - 1; i >= 0; i-- {
		if !t.lives[i].echo {
			return t.lives[i]
		}
	}
	return nil
}

func (c *cluster) truth(id string) *truth {
	for _, t := range c.jobs {
		if t.key.ID == id {
			return t
		}
	}
	t := &truth{key: job.Key{Namespace: c.key.Namespace, Cluster: c.key.Cluster, ID: id}}
	c.jobs = append(c.jobs, t)
	return t
}

// phase is how far a JobManager's process has come.
type phase uint8

const (
	starting   phase = iota // nothing listens yet
	standing                // it listens, and has nobody to ask: no leader is known
	recovering              // it leads, and knows no job yet
	serving
	closing // its REST API is closed, and it is about to exit
	exited
)

// process is one life of a JobManager.
type process struct {
	c           *cluster
	pod         *pod
	incarnation string
	phase       phase
	lives       []*life
	stopped     int // SIGSTOP
	skew        time.Duration
}

func (c *cluster) name(prefix string) string {
	c.named++
	return fmt.Sprintf("%s%d", prefix, c.named)
}

// begin starts a JobManager's process in a pod.
func (c *cluster) begin(p *pod) *process {
	one := &process{c: c, pod: p, incarnation: c.key.Cluster + c.name("-jm"), skew: p.skew}
	p.process = one
	c.w.say("%s: JobManager %s starts in %s", c.key.Cluster, one.incarnation, p.name)
	c.w.after(c.chance.between(2*time.Second, 20*time.Second), func() {
		if one.phase == starting {
			one.phase = standing
			c.elect()
		}
	})
	return one
}

// elect lets a JobManager lead, where none does.
func (c *cluster) elect() {
	if c.leader != nil {
		return
	}
	var able []*process
	for _, p := range c.pods {
		if one := p.process; one != nil && one.phase == standing && one.stopped == 0 {
			able = append(able, one)
		}
	}
	if len(able) == 0 {
		return
	}
	one := able[c.chance.IntN(len(able))]
	c.leader, c.leads = one, c.w.now
	one.phase = recovering
	c.w.say("%s: %s leads", c.key.Cluster, one.incarnation)
	one.later(c.chance.between(500*time.Millisecond, 8*time.Second), func() {
		if one.phase == recovering && c.leader == one {
			one.phase = serving
			c.recover(one)
		}
	})
}

// later does something in a process once d has passed, unless it has exited; a stopped one does it when it goes on.
func (one *process) later(d time.Duration, do func()) {
	one.c.w.after(d, func() {
		switch {
		case one.phase == exited:
		case one.stopped > 0:
			one.later(time.Second, do)
		default:
			do()
		}
	})
}

// recover takes up what is to run under a new leader.
func (c *cluster) recover(one *process) {
	switch {
	case c.application:
		id := fmt.Sprintf("%032x", hash(c.key.Cluster))
		if !c.ha && !c.fixed {
			id = c.newID()
		}
		if c.ha && c.results[id] {
			c.echo(one, id)
			return
		}
		c.start(one, id, c.key.Cluster)
	case c.ha:
		for _, t := range c.jobs {
			if c.record[t.key.ID] {
				c.start(one, t.key.ID, t.newest().name)
			}
		}
	}
}

func hash(s string) uint16 {
	h := uint16(7)
	for _, b := range []byte(s) {
		h = h*31 + uint16(b)
	}
	return h
}

func (c *cluster) newID() string {
	c.named++
	return fmt.Sprintf("%016x%012x%04x", uint64(c.named), hash(c.key.Cluster), c.chance.IntN(1<<16))
}

// submit gives a session cluster a job, if somebody takes it.
func (c *cluster) submit() {
	if c.application || c.leader == nil || c.leader.phase != serving || c.leader.stopped > 0 || len(c.jobs) > 6 {
		return
	}
	c.start(c.leader, c.newID(), c.name("job-"))
}

// start begins an attempt.
func (c *cluster) start(one *process, id, name string) {
	t := c.truth(id)
	wall := c.w.wall(one.skew)
	for t.life(job.StampOf(wall)) != nil {
		wall++
	}
	l := &life{of: t, start: job.StampOf(wall), name: name}
	for _, before := range t.lives {
		before.dead = true
	}
	t.lives = append(t.lives, l)
	one.lives = append(one.lives, l)
	if c.ha {
		c.record[id] = true
	}
	c.w.say("%s: attempt of %s begins at %s under %s", c.key.Cluster, id, l.start, one.incarnation)
	one.turn(l, job.Initializing)
	one.later(c.chance.between(50*time.Millisecond, 2*time.Second), func() {
		one.turn(l, job.Created)
		one.later(c.chance.between(10*time.Millisecond, 2*time.Second), func() {
			one.turn(l, job.Running)
			one.live(l)
		})
	})
}

// turn brings an attempt into a state.
func (one *process) turn(l *life, s job.State) {
	if l.dead || l.ended != job.Unknown || l.state == s {
		return
	}
	c := one.c
	l.state, l.since = s, c.w.now
	l.was |= job.StatesOf(s)
	c.w.say("%s: %s is truly %s", c.key.Cluster, l.of.key.ID, s)
	if !s.Terminal() {
		return
	}
	l.ended, l.dead, l.end = s, true, c.w.stamp(one.skew)
	if s == job.Failed {
		l.cause = "it broke"
	}
	c.w.met["ended "+s.String()]++
	delete(c.record, l.of.key.ID)
	if c.ha {
		c.results[l.of.key.ID] = true
	}
	if c.application {
		one.later(c.chance.between(0, 2*time.Second), func() { one.shut(s) })
	}
}

// live lets a running job do what running jobs do: restart its tasks now and then, and end some day.
func (one *process) live(l *life) {
	c := one.c
	one.later(c.chance.between(5*time.Second, 4*time.Minute), func() {
		if l.dead || l.state.Terminal() || c.w.calm {
			return
		}
		if l.state != job.Running {
			one.live(l)
			return
		}
		switch c.chance.IntN(6) {
		case 0:
			one.end(l, []job.State{job.Failed, job.Finished, job.Canceled}[c.chance.IntN(3)])
			return
		case 1, 2:
			one.restart(l)
		}
		one.live(l)
	})
}

func (one *process) restart(l *life) {
	if l.state != job.Running {
		return
	}
	one.turn(l, job.Restarting)
	one.later(one.c.chance.between(100*time.Millisecond, 12*time.Second), func() {
		if l.state == job.Restarting {
			one.turn(l, job.Running)
		}
	})
}

// end leads an attempt to its end.
func (one *process) end(l *life, s job.State) {
	if l.dead || l.state.Terminal() || l.state == job.Failing || l.state == job.Cancelling {
		return
	}
	via := map[job.State]job.State{job.Failed: job.Failing, job.Canceled: job.Cancelling}[s]
	if via != job.Unknown {
		one.turn(l, via)
		one.later(one.c.chance.between(0, 3*time.Second), func() { one.turn(l, s) })
		return
	}
	one.turn(l, s)
}

// echo is what Flink does with a job that ended in an earlier life of its cluster: it tells it once more, as a failure.
func (c *cluster) echo(one *process, id string) {
	t := c.truth(id)
	l := &life{
		of: t, start: c.w.stamp(one.skew), name: c.key.Cluster, state: job.Failed, dead: true, echo: true, end: c.w.stamp(one.skew),
		cause: "org.apache.flink.runtime.jobmaster.JobAlreadyDoneException: already done",
	}
	t.lives = append(t.lives, l)
	one.lives = append(one.lives, l)
	c.w.met["JobAlreadyDone"]++
	one.later(c.chance.between(0, 3*time.Second), func() { one.shut(job.Finished) })
}

// shut ends an application cluster whose job has ended in a state.
func (one *process) shut(s job.State) {
	c := one.c
	if one.phase == closing || one.phase == exited {
		return
	}
	one.phase = closing
	code := map[job.State]int{job.Failed: 163}[s]
	if c.native && !c.chance.one(6) {
		code = 143 // Flink has deleted its Deployment, and the kubelet is faster
	}
	one.later(c.chance.between(0, 1500*time.Millisecond), func() {
		if c.native {
			c.record, c.results = map[string]bool{}, map[string]bool{}
			one.exit(code)
			c.deleteWorkload()
			return
		}
		one.exit(code)
	})
}

// exit ends a process, and with it what ran in it.
func (one *process) exit(code int) {
	if one.phase == exited {
		return
	}
	c := one.c
	one.phase = exited
	for _, l := range one.lives {
		l.dead = true
	}
	c.w.say("%s: JobManager %s exits with %d", c.key.Cluster, one.incarnation, code)
	if c.leader == one {
		c.leader = nil
		c.w.after(c.chance.between(500*time.Millisecond, 15*time.Second), c.elect)
	}
	one.pod.exited(one, code)
}

// stop is SIGSTOP for a time. Where high availability is on, others lead meanwhile, and who was stopped for too long ends itself.
func (one *process) stop(d time.Duration) {
	c := one.c
	one.stopped++
	begin := c.w.now
	if c.ha {
		c.w.after(15*time.Second, func() {
			if one.stopped > 0 && c.leader == one && c.w.now-begin >= 15*time.Second {
				c.leader = nil
				c.elect()
			}
		})
	}
	c.w.after(d, func() {
		one.stopped--
		if one.stopped == 0 && one.phase >= recovering && c.leader != one && c.ha {
			// It finds that it leads no more, a moment after it has begun to answer again.
			one.later(c.chance.between(100*time.Millisecond, 2*time.Second), func() { one.exit(239) })
		}
		if one.stopped == 0 {
			c.elect()
		}
	})
}

// rest is whom a JobManager's REST API speaks for: itself, or the leader that it asks. Reach says how a question ends.
func (one *process) rest() (whose *process, reach job.Reach) {
	switch {
	case one == nil || one.phase == starting || one.phase == closing || one.phase == exited:
		return nil, job.Refused
	case one.stopped > 0:
		return nil, job.TimedOut
	case one.phase == recovering || one.phase == serving:
		return one, job.Fine
	}
	switch leader := one.c.leader; {
	case leader == nil || leader.phase == closing || leader.phase == exited:
		return nil, job.NoLeader
	case leader.stopped > 0:
		return nil, job.TimedOut
	default:
		return leader, job.Fine
	}
}

// answer is one round of questions to a JobManager, in the order in which package look asks them. reachable says whether the way there
// is open; who answers tells of itself whatever it knows.
func (w *world) answer(v *view.View, one *process, reachable bool, at job.Stamp, now time.Duration, c chance) view.Look {
	seen := view.Look{At: at, Now: now, Took: 5 * time.Millisecond}
	whose, reach := one.rest()
	if !reachable {
		whose, reach = nil, job.TimedOut
	}
	if reach == job.Fine && c.one(400) {
		reach = []job.Reach{job.TimedOut, job.Erred, job.Closed, job.Malformed}[c.IntN(4)]
	}
	seen.Reach = reach
	if whose == nil {
		if reach == job.TimedOut {
			q := v.Ask(now, reach, nil)
			for _, id := range q.Status {
				seen.Asked = append(seen.Asked, view.Asked{ID: id, Reach: job.TimedOut})
			}
		}
		return seen
	}
	if reach == job.Fine {
		w.answered(whose)
		for _, l := range whose.lives {
			if l.slow && !l.state.Terminal() {
				continue
			}
			seen.Jobs = append(seen.Jobs, view.Job{
				ID: l.of.key.ID, Name: l.name, State: l.state, StartTime: l.start, EndTime: l.end, Tasks: job.Tasks{Total: 2, Running: 2},
			})
			w.heard(l)
		}
	}
	q := v.Ask(now, reach, seen.Jobs)
	denied := false
	for _, id := range q.Status {
		asked, ok := whose.status(v, id, c)
		denied = denied || asked.Known == job.No
		if ok {
			seen.Asked = append(seen.Asked, asked)
		}
	}
	if (q.Process || denied) && (reach == job.Fine || len(seen.Asked) > 0) && !c.one(50) {
		seen.Process = &view.Process{Incarnation: one.incarnation, HighAvailability: job.No, Application: job.No}
		if one.c.ha {
			seen.Process.HighAvailability = job.Yes
		}
		if one.c.application {
			seen.Process.Application = job.Yes
		}
	}
	causes := q.Causes
	for _, asked := range seen.Asked {
		if v.WantsCause(now, asked.ID, asked.State, asked.StartTime) {
			causes = append(causes, asked.ID)
		}
	}
	for _, id := range causes {
		cause := view.Cause{ID: id}
		if l := whose.of(id); l != nil && !c.one(10) {
			cause.Answered, cause.Text = true, l.cause
		}
		seen.Causes = append(seen.Causes, cause)
	}
	return seen
}

// of is the newest attempt of a job in a process.
func (one *process) of(id string) *life {
	for _, l := range slices.Backward(one.lives) {
		if l.of.key.ID == id {
			return l
		}
	}
	return nil
}

func (one *process) status(v *view.View, id string, c chance) (asked view.Asked, ok bool) {
	l := one.of(id)
	switch {
	case l == nil:
		return view.Asked{ID: id, Known: job.No}, true
	case l.slow && c.one(2):
		return view.Asked{ID: id, Reach: job.TimedOut}, true
	}
	one.c.w.heard(l)
	one.c.w.answered(one)
	asked = view.Asked{ID: id, Known: job.Yes, State: l.state}
	if v.NeedsAttempt(id, l.state) {
		asked.StartTime, asked.EndTime = l.start, l.end
	}
	return asked, !c.one(20)
}
