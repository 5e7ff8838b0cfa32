package settle

import (
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// Core is the settler of one site. It is not safe for concurrent use.
type Core struct {
	cfg Config

	jobs      map[job.Key]*entry
	witnesses map[evidence.Agent]*witness
	clusters  map[job.ClusterKey]*cluster
	due       schedule[*entry]
	// dueClusters are the clusters that wait for a moment.
	dueClusters schedule[*cluster]
	touched     []*cluster
	health      health

	now     time.Duration
	wall    int64
	effects []Effect
	// start and wallStart are the two clocks at the first event.
	start     time.Duration
	wallStart int64
	started   bool
	// weighed is the revision up to which the agents' records have come in, listed that of their last list.
	weighed, listed int64
	absencesNoted   time.Duration
	recalls         [numSources]uint32
}

// entry is what the core knows of one job.
type entry struct {
	key     job.Key
	cluster *cluster
	sights  []sight

	// account is the verdict that counts: the stored one. Its zero value has attempt number 0.
	account  job.Account
	revision int64
	told     uint32
	recalled uint32 // in which round of Recall
	// rewound is how many history entries that lead to account the store has lost.
	rewound int64
	// proven is when the verdict last had a live witness, for a job without sights.
	proven time.Duration
	// replaced is since when only JobManagers run in the cluster that do not know the job, on the clock of the pods and 1 more; 0 if it is not so.
	replaced time.Duration
	// overSeen is when the core first saw the verdict stored as over, 0 for never.
	overSeen time.Duration

	writing   bool
	sealed    bool // what lies in the store cannot be read
	retiring  bool // a Forget was asked for; whether it happened, its Erased tells
	forgotten bool // retired; only reports remain, which had their say

	slot
}

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

// cluster is one Flink cluster: its jobs, who tells of it, the pods of its JobManagers, and what is said of it as a whole.
type cluster struct {
	key       job.ClusterKey
	jobs      []*entry
	witnesses []*witness
	kubernetes
	standing
}

// New makes a core that knows nothing yet.
func New(cfg Config) (*Core, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Core{
		cfg:       cfg,
		jobs:      map[job.Key]*entry{},
		witnesses: map[evidence.Agent]*witness{},
		clusters:  map[job.ClusterKey]*cluster{},
	}
	c.health.begin()
	return c, nil
}

// Step takes one event and gives what is to be done about it. The slice is the core's own, and good until the next Step.
func (c *Core) Step(event Event) []Effect {
	c.effects = c.effects[:0]
	c.now, c.wall = max(c.now, event.At), event.Wall
	if !c.started {
		c.started, c.start, c.wallStart = true, c.now, c.wall
	}
	switch in := event.Input.(type) {
	case Tick:
		c.tick()
	case Listing:
		c.listing(in)
	case Synced:
		c.synced(in)
	case Progress:
		c.progress(in)
	case Lost:
		c.lost(in)
	case Beat:
		c.beat(in.Beat)
	case Silent:
		c.silent(in.Agent)
	case UnreadableBeat:
		c.unreadableBeat(in.Agent)
	case Reported:
		c.reported(in)
	case Unreported:
		c.unreported(in.Agent, in.JobID)
	case UnreadableReport:
		c.unreadableReport(in.Agent, in.JobID)
	case Pod:
		c.pod(in.Pod)
	case PodGone:
		c.podGone(in.Agent)
	case Workload:
		c.workload(in.Workload)
	case HARecord:
		c.haRecord(in.HARecord)
	case Stored:
		c.stored(in)
	case StoredCluster:
		c.storedCluster(in)
	case Erased:
		c.erased(in.Key)
	case UnreadableVerdict:
		c.unreadableVerdict(in.Key)
	case NotWritten:
		c.notWritten(in)
	case Found:
		c.found(in.Is)
	}
	c.judgeTouched()
	return c.effects
}

// tick lets time pass: for the observer itself first (S10), then for every job whose hour has come.
func (c *Core) tick() {
	c.health.tick(c.now, c.cfg)
	c.excuseOld()
	c.judgeSilence()
	c.askInTime()
	c.noteAbsences()
	for e, is := c.due.next(c.now); is; e, is = c.due.next(c.now) {
		c.settle(e)
		c.retire(e)
	}
	for cl, is := c.dueClusters.next(c.now); is; cl, is = c.dueClusters.next(c.now) {
		c.touch(cl)
	}
	c.judgeTouched()
	slices.SortFunc(c.effects, byKey)
	c.tellCondition()
}

// listing begins a new round of the source: everything told before is in doubt until it is told again.
func (c *Core) listing(in Listing) {
	if in.Epoch != c.health.sources[in.Source].epoch {
		c.recount(in.Source)
	}
	c.health.list(in.Source, in.Epoch)
	if in.Source == Agents {
		for _, cl := range c.clusters {
			c.unvouch(cl, c.followed())
		}
	}
}

// recount notes that another store counts its revisions anew: those of the one before may return, and then mean something else.
func (c *Core) recount(of Source) {
	switch of {
	case Agents:
		c.weighed = 0
	case Verdicts:
		for _, e := range c.jobs {
			if e.revision != 0 {
				e.revision = noRevision
			}
		}
	case Clusters:
		for _, cl := range c.clusters {
			if cl.revision != 0 {
				cl.revision = noRevision
			}
		}
	}
}

// noRevision is none that a store gives: what was stored at another's is to be told, or lost, before anything is written.
const noRevision = -1

// synced ends the round: what was not told again is gone. All that is gone is noted first, then the observer is judged, then the
// jobs: mass silence must be seen as such before anything is concluded from its parts.
func (c *Core) synced(in Synced) {
	round := c.health.sources[in.Source].rounds
	switch in.Source {
	case Pods:
		c.podsSynced(round)
	case Agents:
		for _, w := range c.witnesses {
			if w.told != round && w.beating && !w.agent.Probe {
				c.mute(w)
			}
		}
		for _, e := range c.jobs {
			for i := len(e.sights) - 1; i >= 0; i-- {
				if s := &e.sights[i]; s.told != round && !s.by.agent.Probe {
					c.drop(e, i)
				}
			}
		}
		c.weighed, c.listed = max(c.weighed, in.Revision), in.Revision
	case Verdicts:
		for _, e := range c.jobs {
			if e.told != round {
				c.lose(e)
			}
		}
	case Clusters:
		for _, cl := range c.clusters {
			if cl.told != round {
				c.loseCluster(cl)
			}
		}
		c.health.sync(Clusters, c.now)
		c.judgeClusters()
		return
	}
	c.health.sync(in.Source, c.now)
	if in.Source == Agents && round > 1 {
		c.shake(gap)
	}
	c.judgeSilence()
	for _, w := range c.witnesses {
		c.release(w)
	}
	for _, e := range c.jobs {
		c.settle(e)
		c.retire(e)
	}
	c.judgeClusters()
	c.tellCondition()
}

// judgeClusters judges all clusters.
func (c *Core) judgeClusters() {
	for _, cl := range c.clusters {
		c.touch(cl)
	}
	c.judgeTouched()
	slices.SortFunc(c.effects, byKey)
}

// lost ends the following of a source. Whoever fell silent just before may have done so for the same cause.
func (c *Core) lost(in Lost) {
	if in.Source == Agents && c.health.sources[Agents].synced {
		c.shake(gap)
	}
	if in.Source == Probes {
		c.endProbes()
		return
	}
	c.health.lose(in.Source, in.Why, c.now)
	if in.Source == Pods {
		for _, cl := range c.clusters {
			if cl.said.Condition.Negative() {
				c.dueClusters.set(cl, c.now) // it cannot be vouched for any more
			}
		}
	}
	c.tellCondition()
}

func (c *Core) progress(in Progress) {
	if in.Source == Agents {
		c.weighed = max(c.weighed, in.Revision)
	}
	if c.health.progress(in.Source, in.Term, c.now) {
		c.shake("etcd changed its leader")
	}
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

// stored makes a verdict count.
func (c *Core) stored(in Stored) {
	e := c.entry(in.Account.Key)
	e.told = c.health.sources[Verdicts].rounds
	e.sealed = false
	if e.revision == in.Revision {
		return
	}
	e.writing, e.retiring, e.forgotten = false, false, false
	e.revision = in.Revision
	if behind := e.account.Books.Sequence - in.Account.Books.Sequence; behind > 0 {
		// The store was set back. What was known here was true before, and is said again, after what the store still has.
		e.rewound += behind
		e.account.Books.Sequence, e.account.Books.Fold = in.Account.Books.Sequence, nil
	} else {
		e.account, e.rewound = in.Account, 0
		e.share()
	}
	c.count(e)
}

// count lets the account count: the job is judged anew.
func (c *Core) count(e *entry) {
	e.noteOver(c.now)
	c.settle(e)
}

// noteOver notes since when the job has been known to be over.
func (e *entry) noteOver(now time.Duration) {
	if e.account.Verdict.Over == job.Yes && e.overSeen == 0 {
		e.overSeen = max(now, 1)
	} else if e.account.Verdict.Over != job.Yes {
		e.overSeen = 0
	}
}

// erased takes the disappearance of a verdict. If it was retired, that was the purpose; if not, it is written again.
func (c *Core) erased(key job.Key) {
	if cl := c.clusters[key.ClusterKey()]; cl != nil && key.ID == "" {
		c.loseCluster(cl)
		c.touch(cl)
		return
	}
	if e := c.jobs[key]; e != nil {
		c.lose(e)
		c.settle(e)
		c.retire(e)
	}
}

// lose notes that a verdict is not in the store any more.
func (c *Core) lose(e *entry) {
	if e.revision == 0 && !e.sealed {
		return
	}
	e.forgotten = e.retiring || c.retirable(e)
	e.revision, e.sealed, e.writing, e.retiring = 0, false, false, false
	if e.forgotten {
		c.due.set(e, c.now+c.cfg.Missing) // an agent may be about to repair its report
	}
}

func (c *Core) unreadableVerdict(key job.Key) {
	if key.ID == "" {
		cl := c.cluster(key.ClusterKey())
		cl.told = c.health.sources[Clusters].rounds
		cl.sealed, cl.writing = true, false
		return
	}
	e := c.entry(key)
	e.told = c.health.sources[Verdicts].rounds
	e.sealed, e.writing = true, false
}

// notWritten ends a write; the next Tick proposes again, not this. What was written and lost counts as if it had been told before it was lost.
func (c *Core) notWritten(in NotWritten) {
	if cl := c.clusters[in.Key.ClusterKey()]; cl != nil && in.Key.ID == "" {
		cl.writing = false
		if lost, is := in.Lost.(StoredCluster); is {
			cl.count(lost.Cluster, c.now)
			cl.anew = true
		}
		c.dueClusters.set(cl, c.now)
		return
	}
	if e := c.jobs[in.Key]; e != nil {
		e.writing = false
		if lost, is := in.Lost.(Stored); is {
			e.account = lost.Account
			e.share()
			e.noteOver(c.now)
		}
		c.due.set(e, c.now)
	}
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

func (c *Core) entry(key job.Key) *entry {
	e := c.jobs[key]
	if e == nil {
		group := c.cluster(key.ClusterKey())
		key = job.Key{Namespace: group.key.Namespace, Cluster: group.key.Cluster, ID: strings.Clone(key.ID)}
		// Whoever is not heard of when a job is first met has been silent for a lease time at least.
		e = &entry{key: key, cluster: group, slot: outside, proven: c.now - c.cfg.Lease}
		e.account.Key = key
		e.told = c.health.sources[Verdicts].rounds
		group.jobs = append(group.jobs, e)
		c.jobs[key] = e
	}
	return e
}

func (c *Core) cluster(key job.ClusterKey) *cluster {
	group := c.clusters[key]
	if group == nil {
		group = &cluster{key: job.ClusterKey{Namespace: strings.Clone(key.Namespace), Cluster: strings.Clone(key.Cluster)}}
		group.slot, group.met, group.told = outside, c.health.watched+1, c.health.sources[Clusters].rounds
		c.clusters[group.key] = group
		c.noteDown(group)
	}
	return group
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

// retire lets go of a job of which nothing is left, in the store or in reports; of one that was forgotten, after a while.
func (c *Core) retire(e *entry) {
	if e.revision != 0 || e.sealed || e.writing || len(e.sights) > 0 {
		return
	}
	if e.forgotten && e.place >= 0 || !e.forgotten && e.account.Verdict.Attempt.Number != 0 {
		return
	}
	c.due.remove(e)
	delete(c.jobs, e.key)
	e.cluster.jobs = slices.DeleteFunc(e.cluster.jobs, func(other *entry) bool { return other == e })
	if e.cluster.said.IdleAt != 0 {
		c.dueClusters.set(e.cluster, c.now) // it may have waited for this
	}
	c.releaseCluster(e.cluster)
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
