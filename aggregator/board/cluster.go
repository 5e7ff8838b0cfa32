package board

import (
	"fmt"
	"strings"
	"time"

	"github.com/tidwall/btree"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// Cluster is what is said of one Flink cluster as a whole, as the board keeps it. It is immutable.
type Cluster struct {
	job.Cluster
	revision   int64
	unreadable Unreadable
}

// Path is namespace/cluster, by which the board is sorted; it is that of the cluster's jobs, too, up to their ids.
func (c *Cluster) Path() string { return c.Key.String() }

// Unreadable says whether the cluster's newest record could not be read. What is said of it otherwise is then from an earlier record, or nothing.
func (c *Cluster) Unreadable() Unreadable { return c.unreadable }

// Revision is the one of etcd at which the record last changed.
func (c *Cluster) Revision() int64 { return c.revision }

// applyClusters takes one update of the clusters' feed.
func (b *Board) applyClusters(u etcd.Update) {
	b.publish(func(s *Snapshot) {
		s.prove(Clusters, u, b.o.Now())
		if u.Kind == etcd.Lost || u.Kind != etcd.Listed && len(u.Pairs) == 0 {
			return
		}
		old, clusters := s.clusters, s.clusters.Copy()
		if u.Kind == etcd.Listed {
			clusters = new(btree.Map[string, *Cluster])
			if u.Epoch != b.clusterLife {
				b.clusterLife, old = u.Epoch, clusters // revisions of another life of the store do not compare
			}
		}
		for _, pair := range u.Pairs {
			b.putCluster(clusters, old, pair)
		}
		s.clusters, s.clustersChanged = clusters, u.Revision
	})
}

func (b *Board) putCluster(clusters, old *btree.Map[string, *Cluster], pair etcd.Pair) {
	place, err := record.ParseKey(b.o.Site, pair.Key)
	if err == nil && place.Kind != record.Cluster {
		err = record.ErrForeign
	}
	for _, name := range [...]string{place.Job.Namespace, place.Job.Cluster} {
		if err == nil {
			err = record.CheckSegment("a name in the key of a cluster", name)
		}
	}
	if err != nil {
		b.bad.report(pair.Key, Foreign, err)
		return
	}
	key := job.ClusterKey{Namespace: strings.Clone(place.Job.Namespace), Cluster: strings.Clone(place.Job.Cluster)}
	path := key.String()
	if pair.Deleted {
		b.bad.forget(pair.Key)
		clusters.Delete(path)
		return
	}
	before, known := clusters.Get(path)
	if !known {
		before, known = old.Get(path)
	}
	if known && before.revision == pair.ModRevision {
		clusters.Set(path, before)
		return
	}
	said, err := record.DecodeCluster(key, pair.Value)
	if err != nil {
		bad := classify(err)
		b.bad.report(pair.Key, bad, err)
		said = job.Cluster{Key: key, Reason: job.StoreUnreachable}
		if known {
			said = before.Cluster
			if said.Certainty > job.Held {
				said.Certainty, said.Reason = job.Held, job.StoreUnreachable
			}
		}
		clusters.Set(path, &Cluster{Cluster: said, revision: pair.ModRevision, unreadable: bad})
		return
	}
	b.bad.forget(pair.Key)
	clusters.Set(path, &Cluster{Cluster: said, revision: pair.ModRevision})
}

// Cluster finds a cluster by its path; nil if nothing is said of it.
func (s *Snapshot) Cluster(path string) *Cluster {
	c, _ := s.clusters.Get(path)
	return c
}

// Clusters calls visit for the clusters whose path is greater than after, sorted by path, until it returns false.
func (s *Snapshot) Clusters(after string, visit func(*Cluster) bool) {
	s.clusters.Ascend(after, func(path string, c *Cluster) bool { return path == after || visit(c) })
}

// ClustersChange is the revision at which the set of clusters last changed.
func (s *Snapshot) ClustersChange() int64 { return s.clustersChanged }

// ClusterWeakness is the one under which clusters are served: that of jobs, or that of their own feed.
func (v *View) ClusterWeakness() Weakness {
	if v.weakness.Holds() {
		return v.weakness
	}
	return v.weaken(v.now, Clusters)
}

// ShowCluster gives a cluster as it is served: lowered, where rule S13 says so, and with a sentence for people.
func (v *View) ShowCluster(c *Cluster) (shown job.Cluster, message string, version Version) {
	shown = c.Cluster
	weakness := v.ClusterWeakness()
	version = Version{Epoch: v.version.Epoch, Revision: c.revision, Lowered: weakness.Holds() && shown.Certainty > job.Held}
	switch {
	case version.Lowered:
		shown.Certainty, shown.Reason = job.Held, weakness.Reason
		message = string(weakness.append(nil, v.now))
	case shown.Certainty > job.Held && shown.Over != job.Yes && !v.feeds[Clusters].Proven.IsZero():
		seen := v.feeds[Clusters].Proven
		if v.led.Before(seen) {
			seen = v.led
		}
		shown.LastSeen = job.StampOf(seen.UnixMilli())
	}
	switch c.unreadable {
	case Readable:
	case Newer:
		message = "this server is too old to read the newest record of this cluster, upgrade it"
	default:
		message = "the newest record of this cluster is damaged and cannot be read"
	}
	claim := clusterClaim(&c.Cluster)
	switch {
	case message != "":
		message += "; before that: " + claim
	case shown.Certainty > job.Held:
		message = claim
	default:
		message = v.clusterSilence(&shown) + "; " + map[bool]string{true: "", false: "before that: "}[shown.Condition == job.ClusterUnknown] + claim
	}
	return shown, message, version
}

// clusterSilences are the reasons for which a condition is held.
var clusterSilences = map[job.Reason]string{
	job.AgentSilent:           "nobody hears the cluster",
	job.AgentLeft:             "the agent said goodbye, and nobody has come since",
	job.JobManagerUnreachable: "the JobManager does not answer",
	job.JobUnanswered:         "a JobManager answers, and does not tell whether it has a job",
	job.JobMissing:            "the JobManager answers, and has no job as yet",
	job.KubernetesSilent:      "the API server cannot be heard",
	job.StoreUnreachable:      "etcd could not be read",
	job.NoSettler:             "no aggregator judges",
}

func (v *View) clusterSilence(c *job.Cluster) string {
	text, known := clusterSilences[c.Reason]
	if !known {
		text = "the last known condition is held: " + c.Reason.String()
	}
	if seen := millis(c.LastSeen); seen > 0 && v.millis > seen && c.Condition != job.ClusterUnknown {
		text += string(appendAge([]byte(", for "), time.Duration(v.millis-seen)*time.Millisecond))
	}
	return text
}

// clusterClaim is the condition as a sentence.
func clusterClaim(c *job.Cluster) string {
	switch c.Condition {
	case job.ClusterReady:
		return "a JobManager answers, and has a job or can take one"
	case job.ClusterNoJob:
		return "a JobManager answers and has no job: main() has not submitted one yet, or has failed to"
	case job.ClusterDown:
		if c.Over == job.Yes {
			return "no JobManager runs, and what made them is gone" + worst(c.Pods)
		}
		return "no JobManager runs" + worst(c.Pods)
	case job.ClusterCrashLoop:
		return "the JobManager's container ends again and again" + worst(c.Pods)
	case job.ClusterImagePull:
		return "the JobManager's image cannot be pulled" + worst(c.Pods)
	}
	return "nothing is known of the cluster" + worst(c.Pods)
}

// worst is what the first pod says that has something to say.
func worst(pods []job.PodStatus) string {
	for _, p := range pods {
		text := ""
		if p.ExitCode != nil {
			text += fmt.Sprintf(", exit code %d", *p.ExitCode)
		}
		if p.Restarts > 0 {
			text += fmt.Sprintf(", started anew %d times", p.Restarts)
		}
		if p.Waiting != "" {
			text += ", " + p.Waiting
		}
		if p.Message != "" {
			text += ": " + p.Message
		}
		if text != "" {
			return ": pod " + p.Name + text
		}
	}
	return ""
}
