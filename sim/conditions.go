package sim

import (
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// conditions is what the invariants remember of clusters as a whole.
type conditions struct {
	// ever is all that was ever stored of them, by their place and revision; several where etcd was set back.
	ever map[string]map[int64][]job.Cluster
	// stored is what is stored now.
	stored map[job.ClusterKey]job.Cluster
}

func newConditions() conditions {
	return conditions{ever: map[string]map[int64][]job.Cluster{}, stored: map[job.ClusterKey]job.Cluster{}}
}

// patient is how long the truth may have been another when something negative is stored: what is decided was heard before.
const patient = 90 * time.Second

// answered notes what a JobManager said of its cluster by listing its jobs.
func (w *world) answered(one *process) {
	is := job.ClusterNoJob
	if !one.c.application || len(one.lives) > 0 { // one that has ended counts: main() has done what it is for
		is = job.ClusterReady
	}
	one.c.answered[is] = w.now
	// A job whose JobMaster is slow is left out of the list. Where nobody has ever heard of it, there is none.
	if one.c.application && !slices.ContainsFunc(one.lives, func(l *life) bool {
		_, known := w.watched.stored[l.of.key]
		return known || !l.slow || l.state.Terminal()
	}) {
		one.c.answered[job.ClusterNoJob] = w.now
	}
}

// committedCluster sees what was stored of a cluster.
func (w *world) committedCluster(key job.ClusterKey, pair etcd.Pair) {
	if pair.Deleted {
		delete(w.watched.conditions.stored, key)
		return
	}
	is, err := record.DecodeCluster(key, pair.Value)
	if err != nil {
		w.breach(12, "%s: %v", key, err)
		return
	}
	ever := w.watched.conditions.ever
	if ever[key.String()] == nil {
		ever[key.String()] = map[int64][]job.Cluster{}
	}
	ever[key.String()][pair.ModRevision] = append(ever[key.String()][pair.ModRevision], is)
	was, there := w.watched.conditions.stored[key]
	w.watched.conditions.stored[key] = is
	w.say("stored %s: %s %s over=%s %s, entry %d", key, is.Condition, is.Certainty, is.Over, is.Reason, is.Sequence)
	w.met["cluster "+is.Condition.String()]++
	w.judgeCluster(was, is, there)
}

// judgeCluster holds what is said of a cluster against the truth (invariants 3 and 5), and against what was said before (6).
func (w *world) judgeCluster(was, is job.Cluster, there bool) {
	c := w.clusterOf(is.Key)
	if c == nil {
		w.breach(12, "there is no such cluster: %s", is.Key)
		return
	}
	if there && is.Sequence <= was.Sequence {
		w.breach(6, "%s: entry %d after %d", is.Key, is.Sequence, was.Sequence)
	}
	if there && was.Condition == is.Condition && was.Over == is.Over && was.Certainty == is.Certainty {
		return
	}
	up := c.up()
	switch {
	case is.Over == job.Yes && is.Condition != job.ClusterDown:
		w.breach(3, "%s is said to be %s, and gone", is.Key, is.Condition)
	case is.Over == job.Yes && (!there || was.Over != job.Yes) && c.there && !c.ended && up > patient:
		w.breach(3, "%s is said to be gone, and a JobManager has run for %s", is.Key, up)
	case is.Condition.Negative() && is.Certainty == job.Inferred && is.Over != job.Yes && up > patient:
		w.breach(5, "%s is said to be %s, and a JobManager has run for %s", is.Key, is.Condition, up)
	case is.Condition == job.ClusterNoJob && !c.application:
		w.breach(5, "%s is a session cluster, and is said to have no job", is.Key)
	}
}

// restoredClusters sees that etcd was set back.
func (w *world) restoredClusters() {
	w.watched.conditions.stored = map[job.ClusterKey]job.Cluster{}
	for _, pair := range w.etcd.list(record.SitePrefix(site) + "clusters/") {
		if place, err := record.ParseKey(site, pair.Key); err == nil {
			key := place.Job.ClusterKey()
			if is, err := record.DecodeCluster(key, pair.Value); err == nil {
				w.watched.conditions.stored[key] = is
			}
		}
	}
}

// servedClusters holds what a replica shows of clusters against what was stored, and against when Flink last said it (invariants 4 and 8).
func (w *world) servedClusters(a *aggregator, view *board.View, limit time.Duration) {
	view.Clusters("", func(c *board.Cluster) bool {
		shown, _, _ := view.ShowCluster(c)
		stored := w.watched.conditions.ever[c.Path()][c.Revision()]
		if !slices.ContainsFunc(stored, func(is job.Cluster) bool {
			return is.Condition == shown.Condition && is.Over == shown.Over && shown.Certainty <= is.Certainty
		}) {
			w.breach(8, "%s shows %s as %s %s at revision %d, and that was not stored", a.r.name, c.Path(), shown.Condition, shown.Certainty, c.Revision())
			return false
		}
		if shown.Certainty != job.Witnessed || len(stored) > 1 {
			return true
		}
		if at, said := w.clusterOf(c.Key).answered[shown.Condition]; !said || w.now-at > limit {
			w.breach(4, "%s shows %s as %s Witnessed, and Flink last said so %s ago", a.r.name, c.Path(), shown.Condition, w.now-at)
		}
		return true
	})
}

// forgetsCluster sees that what is said of a cluster is to be taken away (invariant 14). Whom the API server does not answer knows of no pods.
func (w *world) forgetsCluster(r *replica, key job.ClusterKey) {
	w.met["cluster retired"]++
	if w.api.down > 0 || r.apiCut > 0 {
		return
	}
	if up := w.clusterOf(key).up(); up > patient {
		w.breach(14, "%s is forgotten, and a JobManager has run for %s", key, up)
	}
}

// settledCluster holds the end of a schedule against the truth (invariant 13).
func (w *world) settledCluster(c *cluster) {
	is, there := w.watched.conditions.stored[c.key]
	var serves *process
	for _, p := range c.pods {
		if p.process != nil && !p.leaving && !p.lost {
			if whose, _ := p.process.rest(); whose != nil && whose.phase == serving {
				serves = whose
			}
		}
	}
	has := serves != nil && (!c.application || slices.ContainsFunc(serves.lives, func(l *life) bool { return !l.state.Terminal() }))
	switch {
	case has && (!there || is.Condition != job.ClusterReady || is.Certainty != job.Witnessed):
		w.breach(13, "%s has a JobManager that answers and has a job or takes one, and is said to be %s %s (%s)", c.key, is.Condition, is.Certainty, is.Reason)
	case !there || len(c.pods) > 0:
	case is.Certainty == job.Witnessed && w.now-c.emptied > patient:
		w.breach(13, "%s has had no pod for %s, and is said to be %s Witnessed", c.key, w.now-c.emptied, is.Condition)
	case !c.there && w.now-c.emptied > quiet && is.Workload != (job.Workload{}) && w.watched.frozen == 0 && is.Over != job.Yes:
		w.breach(13, "%s is gone with its workload, and is said to be %s %s (%s), over=%s", c.key, is.Condition, is.Certainty, is.Reason, is.Over)
	}
}
