package settle

import (
	"iter"
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// sight is one witness's report of one job.
type sight struct {
	by       *witness
	report   *evidence.Report
	revision int64
	told     uint32
	// proven is when the sight was last shown to be live; while it is live, that is now.
	proven time.Duration
	// denied is when the witness was first heard to deny the job, on the watched clock; 0 if it does not.
	denied     time.Duration
	unreadable bool
}

// witness is what the core knows of one agent.
type witness struct {
	agent    evidence.Agent
	cluster  *cluster
	beat     evidence.Beat
	told     uint32
	beating  bool
	goodbye  bool
	unread   bool // the beat is there and cannot be read
	lost     bool // fell silent without a goodbye, not long ago
	lostAt   time.Duration
	shaken   bool // lost within a lease time of a gap or a change of leader in etcd
	reported int  // number of reports
	absence
}

// beat takes an agent's sign of life.
func (c *Core) beat(b evidence.Beat) {
	if c.unasked(b.Agent) {
		return
	}
	w := c.witness(b.Agent)
	w.told = c.health.sources[Agents].rounds
	if w.beating && !w.unread && w.beat == b {
		return
	}
	was := *w
	w.beat, w.unread = b, false
	w.beating, w.goodbye, w.absence = !b.Goodbye, b.Goodbye, absence{}
	switch {
	case w.beating && !was.beating:
		c.hear(w)
	case !w.beating && was.beating:
		c.miss(w, false)
	case w.goodbye:
		c.excuse(w)
	}
	c.turn(w, was, c.followedOf(w))
	c.judgeSilence()
	c.resettle(w)
	c.askAbout(w.agent)
}

// silent takes the loss of a beat.
func (c *Core) silent(agent evidence.Agent) {
	w := c.witnesses[agent]
	if w == nil {
		return
	}
	w.told = c.health.sources[Agents].rounds
	if w.beating {
		c.mute(w)
		c.judgeSilence()
		c.resettle(w)
	}
	c.release(w)
	c.askAbout(agent)
}

// mute takes a witness's beat away. A lease that ran out was kept for the last time one lease time ago.
func (c *Core) mute(w *witness) {
	was := *w
	w.beating, w.unread = false, false
	c.miss(w, true)
	if w.agent.Probe {
		c.turn(w, was, c.now-c.cfg.Hold) // since when no look has ended
		return
	}
	c.turn(w, was, min(c.now-c.cfg.Lease, c.followed()))
}

func (c *Core) unreadableBeat(agent evidence.Agent) {
	w := c.witness(agent)
	w.told = c.health.sources[Agents].rounds
	was := *w
	w.unread, w.beating, w.goodbye, w.absence = true, true, false, absence{}
	if !was.beating {
		c.hear(w)
	}
	c.turn(w, was, c.followed())
	c.resettle(w)
}

// turn notes what began or ended for the sights of a witness whose beat changed from was.
func (c *Core) turn(w *witness, was witness, lastProof time.Duration) {
	c.touch(w.cluster)
	switch {
	case was.answers() && !w.answers():
		c.unvouch(w.cluster, lastProof)
	case !was.answers() && w.answers():
		for _, e := range w.cluster.jobs {
			if e.account.Verdict.Over != job.Yes && e.sightBy(w) < 0 {
				c.due.set(e, c.now) // it may have taken the place of its JobManager
			}
		}
	}
	for e, i := range c.sights(w) {
		s := &e.sights[i]
		before := *s
		before.by = &was
		s.turn(before.live(), lastProof)
		c.noteDenial(s)
	}
}

// resettle settles the jobs that a witness speaks of.
func (c *Core) resettle(w *witness) {
	for e := range c.sights(w) {
		c.settle(e)
	}
}

// sights are those of one witness, each with its job and its place there.
func (c *Core) sights(w *witness) iter.Seq2[*entry, int] {
	return func(yield func(*entry, int) bool) {
		group := c.clusters[w.agent.ClusterKey()]
		if group == nil {
			return
		}
		for _, e := range group.jobs {
			if i := e.sightBy(w); i >= 0 && !yield(e, i) {
				return
			}
		}
	}
}

// followedOf is followed for one witness: a probe is asked by the settler itself.
func (c *Core) followedOf(w *witness) time.Duration {
	if w.agent.Probe {
		return c.now
	}
	return c.followed()
}

// followed is up to when the agents' records are known: what lived then may have died since.
func (c *Core) followed() time.Duration {
	if source := &c.health.sources[Agents]; !source.synced {
		return source.progress
	}
	return c.now
}

// reported takes what an agent says of a job.
func (c *Core) reported(in Reported) {
	c.weighed = max(c.weighed, in.Revision)
	r := in.Report
	if c.unasked(r.Agent) {
		return
	}
	w := c.witness(r.Agent)
	e := c.entry(r.Key())
	s := e.sight(w)
	s.told = c.health.sources[Agents].rounds
	if old := s.report; old != nil && old.Session == r.Session {
		switch {
		case old.Sequence > r.Sequence:
			return // S7: a write whose outcome was unknown came late
		case old.Sequence == r.Sequence && s.revision == in.Revision && in.Revision > 0 && !s.unreadable:
			return // a list tells it once more, which proves nothing new
		}
	}
	was := s.live()
	s.report, s.revision, s.unreadable = r, in.Revision, false
	if !was || !s.live() {
		c.touch(w.cluster)
	}
	s.share(e)
	s.turn(was, c.followedOf(w))
	c.noteDenial(s)
	switch live := s.live(); {
	case !live && !r.State.Terminal():
		c.due.set(e, c.now) // an agent that comes asserts its reports first and the beat last: until the next Tick it may be there
		return
	case live && !was:
		c.reconsider(w)
	}
	c.settle(e)
}

// reconsider settles what a witness denies, when it tells of a job that it did not tell of before: a later one may be it (S8).
func (c *Core) reconsider(w *witness) {
	for e, i := range c.sights(w) {
		if e.sights[i].denied > 0 {
			c.settle(e)
		}
	}
}

func (c *Core) unreported(agent evidence.Agent, jobID string) {
	w, e := c.witnesses[agent], c.jobs[job.Key{Namespace: agent.Namespace, Cluster: agent.Cluster, ID: jobID}]
	if w == nil || e == nil {
		return
	}
	if i := e.sightBy(w); i >= 0 {
		c.drop(e, i)
		c.settle(e)
		c.retire(e)
	}
	c.release(w)
}

// unreadableReport takes a report that cannot be read. That there is one says that its agent knows the job.
func (c *Core) unreadableReport(agent evidence.Agent, jobID string) {
	if c.unasked(agent) {
		return
	}
	w := c.witness(agent)
	e := c.entry(job.Key{Namespace: agent.Namespace, Cluster: agent.Cluster, ID: jobID})
	s := e.sight(w)
	s.told = c.health.sources[Agents].rounds
	was := s.live()
	s.unreadable = true
	c.touch(w.cluster)
	s.turn(was, c.followed())
	c.settle(e)
}

func (c *Core) witness(agent evidence.Agent) *witness {
	w := c.witnesses[agent]
	if w == nil {
		cl := c.cluster(agent.ClusterKey())
		agent.Namespace, agent.Cluster = cl.key.Namespace, cl.key.Cluster
		w = &witness{agent: agent, cluster: cl, beat: evidence.Beat{Agent: agent}, told: c.health.sources[Agents].rounds}
		cl.witnesses = append(cl.witnesses, w)
		c.witnesses[agent] = w
	}
	return w
}

// drop takes the i-th sight from a job. What it proved, it has proved.
func (c *Core) drop(e *entry, i int) {
	s := e.sights[i]
	if v := &e.account.Verdict; s.report != nil && s.report.StartTime == v.Attempt.StartTime && s.report.State == v.State {
		e.proven = max(e.proven, s.provenAt(c.followedOf(s.by)))
	}
	s.by.reported--
	c.touch(s.by.cluster)
	e.sights = slices.Delete(e.sights, i, i+1)
	c.release(s.by)
}

// release lets go of a witness that is silent and has left no report.
func (c *Core) release(w *witness) {
	if !w.beating && w.reported == 0 && !w.lost && c.witnesses[w.agent] == w {
		delete(c.witnesses, w.agent)
		w.cluster.witnesses = slices.DeleteFunc(w.cluster.witnesses, func(other *witness) bool { return other == w })
		c.releaseCluster(w.cluster)
	}
}

// sight is that of a witness, which is made if there is none yet.
func (e *entry) sight(w *witness) *sight {
	if i := e.sightBy(w); i >= 0 {
		return &e.sights[i]
	}
	e.sights = append(e.sights, sight{by: w, proven: e.proven})
	w.reported++
	return &e.sights[len(e.sights)-1]
}

func (e *entry) sightBy(w *witness) int {
	for i := range e.sights {
		if e.sights[i].by == w {
			return i
		}
	}
	return -1
}

// live says whether the sight is that of a live witness (S5): its agent beats in the session that reported, can ask the
// JobManager, was answered about this job by the process that runs now, and the answer was not that there is none.
func (s *sight) live() bool {
	return s.speaks() && s.report.Known != job.No && s.report.Reach == job.Fine &&
		(s.report.Incarnation == s.by.beat.Incarnation || s.report.Incarnation == "") // a JobManager need not tell
}

// denies says whether a live witness says that its JobManager does not know the job (S6).
func (s *sight) denies() bool {
	return s.speaks() && s.report.Known == job.No && s.report.Denier != "" && s.report.Denier == s.by.beat.Incarnation
}

func (s *sight) speaks() bool {
	w := s.by
	return s.report != nil && !s.unreadable && w.beating && !w.unread &&
		w.beat.Session == s.report.Session && w.beat.Reach == job.Fine
}

// turn notes when the sight was last live: an event that just came in proves it, or ended it.
func (s *sight) turn(wasLive bool, lastProof time.Duration) {
	if wasLive || s.live() {
		s.proven = max(s.proven, lastProof)
	}
}

func (s *sight) provenAt(now time.Duration) time.Duration {
	if s.live() {
		return now
	}
	return s.proven
}

// noteDenial starts or stops the clock of a denial, which is the watched one: it stands while the observer is sick (S10).
func (c *Core) noteDenial(s *sight) {
	switch denies := s.denies(); {
	case denies && s.denied == 0:
		s.denied = c.health.watched + 1 // 0 means none
	case !denies:
		s.denied = 0
	}
}
