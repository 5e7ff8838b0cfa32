package settle

import (
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

const (
	// absenceEvery is how far apart the silent witnesses are gone through.
	absenceEvery = time.Minute
	// sweepLimit bounds the reports that one Sweep removes; etcd takes no more than 128 operations in a transaction.
	sweepLimit = 100
)

// absence is for how long a silent witness has been known to be silent, each on its own clock and 1 more; 0 while it is not.
type absence struct {
	quiet time.Duration // that it does not beat, on the watched clock
	gone  time.Duration // that there is no such pod, on the clock of the pods
}

// noteAbsences goes through the silent witnesses, and removes the reports of those that will not come back and are not needed any more.
func (c *Core) noteAbsences() {
	if c.now-c.absencesNoted < absenceEvery {
		return
	}
	c.absencesNoted = c.now
	for _, w := range c.witnesses {
		if w.beating || w.agent.Probe {
			continue
		}
		if w.quiet == 0 {
			w.quiet = c.health.watched + 1
		}
		switch {
		case !c.noSuchPod(w.agent):
			w.gone = 0
		case w.gone == 0:
			w.gone = c.health.podsWatched + 1
		}
		if w.reported > 0 && c.departed(w) {
			c.sweep(w)
		}
	}
}

// noSuchPod says whether the API server, which has told of all pods and lives, knows of no such pod.
func (c *Core) noSuchPod(agent evidence.Agent) bool {
	if !c.health.podsFresh(c.now, c.cfg) || !c.covers(agent.Namespace) {
		return false
	}
	cl := c.clusters[agent.ClusterKey()]
	if cl == nil {
		return true
	}
	p := cl.pod(agent.PodUID)
	return p == nil || p.gone
}

// departed says whether a witness's pod is gone, and it has been silent since for so long that it will not come back.
func (c *Core) departed(w *witness) bool {
	return !w.beating && w.gone > 0 && c.health.podsGrace(w.gone-1) >= c.cfg.Absent && c.health.judgesPods(c.now, c.cfg)
}

// absent says whether nobody needs to wait for a witness: it said goodbye, or has departed; or it has been silent for as long as verdicts are
// kept, where nobody tells of pods.
func (c *Core) absent(w *witness) bool {
	if w.beating {
		return false
	}
	told := c.health.sources[Pods].rounds > 0 && c.covers(w.agent.Namespace)
	return w.goodbye || c.departed(w) || !told && w.quiet > 0 && c.health.grace(w.quiet-1) >= c.cfg.Retain
}

// sweep removes the reports of a witness that has departed. What a job that is not over was last heard of stays, where nobody else is heard.
func (c *Core) sweep(w *witness) {
	s := Sweep{Agent: w.agent}
	for e, i := range c.sights(w) {
		if len(s.Reports) < sweepLimit && !e.sights[i].unreadable && e.spares(w) {
			s.Reports = append(s.Reports, SweptReport{JobID: e.key.ID, IfRevision: e.sights[i].revision})
		}
	}
	if len(s.Reports) > 0 {
		c.effects = append(c.effects, s)
	}
}

// spares says whether a job needs nothing more of a witness that is gone: all that it said is stored, and it is over, or somebody else is heard.
func (e *entry) spares(w *witness) bool {
	if e.writing || e.sealed || e.revision == 0 {
		return e.forgotten && !e.sealed
	}
	return e.account.Verdict.Over == job.Yes || slices.ContainsFunc(e.sights, func(s sight) bool { return s.by != w && s.live() })
}
