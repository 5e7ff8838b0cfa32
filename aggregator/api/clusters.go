package api

import (
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// clusterFilter says which clusters are wanted. The zero value wants all.
type clusterFilter struct {
	namespaces, clusters           []string
	conditions, certainties, overs uint32
}

func newClusterFilter(q *query, site string) (clusterFilter, *Problem) {
	if sites := q.all("site"); sites != nil && !slices.Contains(sites, site) {
		return clusterFilter{}, otherSite(sites[0], site)
	}
	for _, what := range [...]string{"namespace", "cluster"} {
		for _, value := range q.all(what) {
			if err := record.CheckSegment(what, shorten(value)); err != nil {
				return clusterFilter{}, badParameter("%v", err)
			}
		}
	}
	return clusterFilter{
		namespaces: q.all("namespace"), clusters: q.all("cluster"), conditions: bits[job.Condition](q, "condition"), certainties: bits[job.Certainty](q, "certainty"),
		overs: bits[job.Answer](q, "over"),
	}, nil
}

// match says whether a cluster is wanted, as it is shown.
func (f *clusterFilter) match(c *job.Cluster) bool {
	return in(f.conditions, uint8(c.Condition)) && in(f.certainties, uint8(c.Certainty)) && in(f.overs, uint8(c.Over)) &&
		(f.namespaces == nil || slices.Contains(f.namespaces, c.Key.Namespace)) && (f.clusters == nil || slices.Contains(f.clusters, c.Key.Cluster))
}

// listClusters answers with a page of clusters.
func (s *Server) listClusters(r *request) *Problem {
	f, p := newClusterFilter(&r.query, r.view.Site())
	if p != nil {
		return p
	}
	from := place{Version: r.view.Version()}
	if r.query.has("continue") {
		if from, p = r.readPlace(); p != nil {
			return p
		}
	}
	condition, changedAt := r.view.Condition()
	if r.unchanged(r.clustersTag(changedAt)) {
		return nil
	}
	list := ClusterList{Items: []Cluster{}, Version: from.Version.String(), Frozen: frozen(condition)}
	limit, last := r.query.number("limit"), ""
	r.view.Clusters(from.After, func(c *board.Cluster) bool {
		shown, message, version := r.view.ShowCluster(c)
		if !f.match(&shown) {
			return true
		}
		if len(list.Items) == limit {
			list.Continue = string(place{Version: from.Version, After: last}.append(nil))
			return false
		}
		list.Items = append(list.Items, cluster(r.view.Site(), &shown, message, version))
		last = c.Path()
		return true
	})
	r.sendJSON(list)
	return nil
}

// clustersTag is the entity tag of a list of clusters: it changes with any cluster, with S13 and with the freeze.
func (r *request) clustersTag(condition int64) []byte {
	version := r.view.Version()
	version.Revision, version.Lowered = r.view.ClustersChange(), r.view.ClusterWeakness().Holds()
	tag := version.Append([]byte(`W/"`))
	tag = board.Version{Epoch: 0, Revision: condition}.Append(append(tag, '-'))
	return append(tag, '"')
}

// clusterTag is the entity tag of one cluster: it changes with the cluster, and with any job, since the answer shows some.
func (r *request) clusterTag(is board.Version) []byte {
	jobs := r.view.Version()
	jobs.Revision = r.view.LastChange()
	return append(jobs.Append(append(is.Append([]byte(`W/"`)), '-')), '"')
}

// jobsOfCluster bounds the jobs in the answer about one cluster.
const jobsOfCluster = 500

// getCluster answers about one cluster, with its jobs.
func (s *Server) getCluster(r *request) *Problem {
	if p := r.checkSite(); p != nil {
		return p
	}
	c := r.view.Cluster(r.path)
	if c == nil {
		return r.noCluster()
	}
	shown, message, version := r.view.ShowCluster(c)
	if r.unchanged(r.clusterTag(version)) {
		return nil
	}
	answer := cluster(r.view.Site(), &shown, message, version)
	prefix := c.Path() + "/"
	r.view.Ascend(prefix, func(j *board.Job) bool {
		if !strings.HasPrefix(j.Path(), prefix) {
			return false
		}
		if answer.JobCount++; len(answer.Jobs) < jobsOfCluster {
			answer.Jobs = append(answer.Jobs, ClusterJob{
				JobID: j.Key().ID, Pipeline: j.Pipeline(), State: j.State(), Over: j.Over(), Certainty: r.view.Certainty(j),
			})
		}
		return true
	})
	r.sendJSON(answer)
	return nil
}

func (r *request) noCluster() *Problem {
	for i, what := range [...]string{"namespace", "cluster"} {
		if err := record.CheckSegment(what, shorten(r.names[i+1])); err != nil {
			return badParameter("%v", err)
		}
	}
	return problem(fasthttp.StatusNotFound, kindNotFound, "There is no such cluster",
		"nothing is said of a cluster %s in the namespace %s of the site %q: /api/v1/clusters lists those that it has", shorten(r.names[2]),
		shorten(r.names[1]), r.view.Site())
}

func cluster(site string, c *job.Cluster, message string, version board.Version) Cluster {
	out := Cluster{
		Site: site, Namespace: c.Key.Namespace, Cluster: c.Key.Cluster, Condition: c.Condition, Over: c.Over, Certainty: c.Certainty,
		Reason: c.Reason, Message: message, Since: c.Since, LastSeen: c.LastSeen, Pods: c.Pods, Version: version.String(),
	}
	if out.Pods == nil {
		out.Pods = []job.PodStatus{}
	}
	if w := c.Workload; w.Name != "" {
		out.Workload = w.Kind + "/" + w.Name
	}
	return out
}
