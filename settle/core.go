package settle

import (
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
	called    map[job.Key]string // what FlinkSessionJobs call their jobs
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
		called:    map[job.Key]string{},
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
	case SessionJob:
		c.sessionJob(in.SessionJob)
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
