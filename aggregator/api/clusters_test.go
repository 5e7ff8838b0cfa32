package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/job"
)

const clusterPath = "/api/v1/clusters/default/team-a/orders"

func ready() job.Cluster {
	return job.Cluster{
		Condition: job.ClusterReady, Over: job.No, Certainty: job.Witnessed, Reason: job.FlinkSaid, Since: at, LastSeen: at,
		Pods: []job.PodStatus{{Name: "orders-7d", Running: job.Yes, Reach: job.Fine}},
	}
}

func crashing() job.Cluster {
	code := 1
	return job.Cluster{
		Condition: job.ClusterCrashLoop, Over: job.No, Certainty: job.Inferred, Reason: job.JobManagerDown, Since: at, LastSeen: at,
		Pods:     []job.PodStatus{{Name: "orders-7d", Running: job.No, Restarts: 4, ExitCode: &code, Waiting: "CrashLoopBackOff"}},
		Workload: job.Workload{Kind: "Deployment", Name: "orders", UID: "u"},
	}
}

func (w *world) clusters(query string) ClusterList {
	w.t.Helper()
	return into[ClusterList](w.t, w.get("/api/v1/clusters?"+query))
}

// Where main() throws there is no job: the cluster says what there is to say, with the pods and what makes them.
func TestOneCluster(t *testing.T) {
	w := newWorld(t)
	w.putCluster("orders", crashing())
	got := into[Cluster](t, w.get(clusterPath))
	want := Cluster{
		Site: "default", Namespace: "team-a", Cluster: "orders", Condition: job.ClusterCrashLoop, Over: job.No, Certainty: job.Inferred,
		Reason: job.JobManagerDown, Since: at, Pods: crashing().Pods, Workload: "Deployment/orders", Version: "1.11", LastSeen: got.LastSeen,
		Message: "the JobManager's container ends again and again: pod orders-7d, exit code 1, started anew 4 times, CrashLoopBackOff",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}

	w.put("team-a/orders/a1")
	w.put("team-a/orders-2/b1")
	w.put("team-a/orders/a2", failed)
	got = into[Cluster](t, w.get(clusterPath))
	jobs := []ClusterJob{{"a1", "orders", job.Running, job.No, job.Witnessed}, {"a2", "orders", job.Failed, job.Yes, job.Witnessed}}
	if diff := cmp.Diff(jobs, got.Jobs); diff != "" || got.JobCount != 2 {
		t.Errorf("%d jobs, -want +got\n%s", got.JobCount, diff)
	}
	if list := w.clusters("").Items; len(list) != 1 || list[0].Jobs != nil || list[0].JobCount != 0 {
		t.Errorf("the list has jobs, too: %+v", list)
	}
}

func TestThereIsNoSuchCluster(t *testing.T) {
	w := newWorld(t)
	w.put("orders") // a job alone makes no cluster: nothing is served that is not stored
	w.wrong(w.get(clusterPath), 404, "a cluster orders", "/api/v1/clusters lists")
	w.wrong(w.get("/api/v1/clusters/other/team-a/orders"), 404, `site "default"`)
	w.wrong(w.get("/api/v1/clusters/default/team%20a/orders"), 400, "namespace")
	w.wrong(w.get("/api/v1/clusters?site=other"), 404, `site "default"`)
	w.wrong(w.get("/api/v1/clusters/default/team-a/"+strings.Repeat("a", 600)), 400, "cluster")
	for _, path := range []string{"/api/v1/clusters/default/team-a", clusterPath + "/"} {
		if a := w.get(path); a.status != 404 {
			t.Errorf("%s: %d %s, want 404", path, a.status, a.body)
		}
	}
	w.wrong(w.get("/api/v1/clusters?condition=Broken"), 400, "condition", "CrashLoop")
	w.wrong(w.get("/api/v1/clusters?cluster=a/b"), 400, "cluster")
	w.wrong(w.get("/api/v1/clusters?watch=true"), 400, "watch")
	w.wrong(w.get("/api/v1/clusters?continue=x"), 400, "first page")
}

func TestClusterFilters(t *testing.T) {
	w := newWorld(t)
	w.putCluster("team-a/orders", ready())
	w.putCluster("team-a/returns", crashing())
	gone := crashing()
	gone.Condition, gone.Over = job.ClusterDown, job.Yes
	w.putCluster("team-b/orders", gone)
	w.putCluster("team-c/audit", job.Cluster{Certainty: job.Held, Over: job.No, Reason: job.AgentSilent})
	all := []string{"team-a/orders", "team-a/returns", "team-b/orders", "team-c/audit"}
	for query, want := range map[string][]string{
		"":                              all,
		"site=default":                  all,
		"namespace=team-a":              all[:2],
		"namespace=team":                nil,
		"cluster=orders":                {"team-a/orders", "team-b/orders"},
		"condition=CrashLoop,ImagePull": all[1:2],
		"condition=Unknown":             all[3:],
		"certainty=Inferred":            all[1:3],
		"over=yes":                      all[2:3],
		"over=no&namespace=team-b":      nil,
	} {
		var got []string
		for _, c := range w.clusters(query).Items {
			got = append(got, c.Namespace+"/"+c.Cluster)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", query, diff)
		}
	}
	// Filters are by what is served, not by what is stored.
	w.later(testHold + time.Second)
	if got := w.clusters("certainty=Witnessed,Inferred").Items; len(got) != 0 {
		t.Errorf("a server that is cut off vouches for %+v", got)
	}
	if got := w.clusters("condition=CrashLoop").Items; len(got) != 1 || got[0].Certainty != job.Held || got[0].Reason != job.StoreUnreachable {
		t.Errorf("weakened: %+v", got)
	}
}

func TestClusterPages(t *testing.T) {
	w := newWorld(t)
	var want []string
	for i := range 10 {
		want = append(want, fmt.Sprintf("stays-%02d", i))
		w.putCluster(want[i], ready())
	}
	first := w.clusters("limit=4")
	got, next := []string{}, first
	for pages := 1; pages < 10; pages++ {
		for _, c := range next.Items {
			got = append(got, c.Cluster)
		}
		if next.Continue == "" {
			if pages != 3 {
				t.Errorf("%d pages of 4 for 10 clusters", pages)
			}
			break
		}
		w.putCluster("stays-00", crashing())
		if next = w.clusters("limit=4&continue=" + next.Continue); next.Version != first.Version {
			t.Errorf("page %d has version %s, the first one %s", pages, next.Version, first.Version)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if exact := w.clusters("limit=10"); len(exact.Items) != 10 || exact.Continue != "" {
		t.Errorf("a list that fits exactly goes on: %d clusters, continue %q", len(exact.Items), exact.Continue)
	}
}

func TestClusterEntityTags(t *testing.T) {
	w := newWorld(t)
	w.putCluster("orders", ready())
	w.put("orders")
	paths := []string{clusterPath, "/api/v1/clusters"}
	for _, change := range []struct {
		name    string
		happens func()
		changes []bool
	}{
		{"nothing", func() {}, []bool{false, false}},
		{"a proof of life", w.heard, []bool{false, false}},
		{"another cluster", func() { w.putCluster("returns", ready()) }, []bool{false, true}},
		{"the cluster itself", func() { w.putCluster("orders", crashing()) }, []bool{true, true}},
		{"a job", func() { w.put("orders", failed) }, []bool{true, false}},
		{"weakness", func() { w.later(testHold + time.Second) }, []bool{true, true}},
		{"its end", w.heard, []bool{true, true}},
	} {
		var tags []string
		for _, path := range paths {
			tags = append(tags, w.get(path).header.Get("ETag"))
		}
		change.happens()
		for i, path := range paths {
			want := 304
			if change.changes[i] {
				want = 200
			}
			if a := w.get(path, "If-None-Match: "+tags[i]); a.status != want || a.header.Get("ETag") == "" || want == 304 && len(a.body) > 0 {
				t.Errorf("%s: %s is answered with %d after %s, want %d", change.name, path, a.status, tags[i], want)
			}
		}
	}
}
