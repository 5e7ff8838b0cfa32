package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/aggregator/api"
	"github.com/holdfast-dev/holdfast/job"
)

// The clusters of the script: one in each condition, and one whose pods say what a terminal should not hear.
func clusters() []api.Cluster {
	code := 1
	base := api.Cluster{
		Site: "local", Namespace: "team-a", Cluster: "orders", Condition: job.ClusterReady, Over: job.No, Certainty: job.Witnessed,
		Reason: job.FlinkSaid, Since: ago(2 * time.Hour), LastSeen: ago(0), Message: "a JobManager answers, and has a job or can take one",
		Workload: "Deployment/orders", Pods: []job.PodStatus{{Name: "orders-7d", Running: job.Yes, Reach: job.Fine}}, Version: "1.10",
	}
	noJob, crash, gone, held, unknown := base, base, base, base, base
	noJob.Cluster, noJob.Condition, noJob.Workload, noJob.Since = "audit", job.ClusterNoJob, "", ago(time.Minute)
	noJob.Message = "a JobManager answers and has no job: main() has not submitted one yet, or has failed to"
	crash.Cluster, crash.Condition, crash.Certainty, crash.Reason = "returns", job.ClusterCrashLoop, job.Inferred, job.JobManagerDown
	crash.Message = "the JobManager's container ends again and again: pod \x1b[2Jreturns, exit code 1, started anew 4 times, CrashLoopBackOff"
	crash.Pods = []job.PodStatus{{
		Name: "\x1b[2Jreturns", Running: job.No, Restarts: 4, ExitCode: &code, Waiting: "CrashLoopBackOff", Message: "back-off 40s", Reach: job.Refused,
	}}
	gone.Namespace, gone.Condition, gone.Over, gone.Certainty, gone.Reason = "team-b", job.ClusterDown, job.Yes, job.Inferred, job.JobManagerDown
	gone.Message, gone.Pods = "no JobManager runs, and what made them is gone", []job.PodStatus{}
	held.Cluster, held.Certainty, held.Reason, held.LastSeen = "invoices", job.Held, job.AgentSilent, ago(4*time.Minute)
	held.Message = "nobody hears the cluster, for 4m0s; before that: a JobManager answers, and has a job or can take one"
	unknown.Cluster, unknown.Condition, unknown.Certainty, unknown.Reason = "stock", job.ClusterUnknown, job.Held, job.AgentSilent
	unknown.Message, unknown.LastSeen = "nobody hears the cluster; nothing is known of the cluster", ""
	return []api.Cluster{noJob, held, base, crash, unknown, gone}
}

func scriptedClusters(t *testing.T) *script {
	s := scripted(t)
	all := clusters()
	for _, c := range all {
		c.Jobs, c.JobCount = []api.ClusterJob{{JobID: "a1", Pipeline: "p", State: job.Running, Over: job.No, Certainty: job.Witnessed}}, 1
		if c.Condition == job.ClusterCrashLoop || c.Condition == job.ClusterNoJob {
			c.Jobs, c.JobCount = nil, 0
		}
		s.on("/api/v1/clusters/local/"+c.Namespace+"/"+c.Cluster, answer(c))
	}
	s.on("/api/v1/clusters", answer(api.ClusterList{Items: all, Version: "1.10"}))
	return s
}

func TestGetClusters(t *testing.T) {
	s := scriptedClusters(t)
	for file, args := range map[string][]string{
		"clusters.txt":      {"get", "clusters"},
		"clusters-wide.txt": {"get", "clusters", "-o", "wide"},
		"clusters-one.txt":  {"get", "cluster", "returns"},
		"clusters-yaml.txt": {"get", "clusters", "team-a/orders", "-o", "yaml"},
	} {
		code, out, errs := s.run(args...)
		if code != 0 || errs != "" {
			t.Errorf("%v: exit code %d, complained %q", args, code, errs)
		}
		golden(t, file, out)
	}
	_, out, _ := s.run("get", "clusters", "-o", "json")
	var got api.ClusterList
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(api.ClusterList{Items: clusters(), Version: "1.10"}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestClusterFiltersReachTheAPI(t *testing.T) {
	s := scriptedClusters(t)
	s.run("get", "clusters", "-n", "a,b", "--condition", "nojob,CRASHLOOP,odd", "--certainty", "held", "--over", "No")
	want := []string{"/api/v1/clusters?certainty=Held&condition=NoJob&condition=CrashLoop&condition=odd&limit=5000&namespace=a&namespace=b&over=no"}
	if diff := cmp.Diff(want, s.asked()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestClustersThatAreNotThere(t *testing.T) {
	s := scriptedClusters(t)
	if code, _, errs := s.run("get", "clusters", "nobody"); code != exitNoJob || !strings.Contains(errs, `none of 6 clusters is named "nobody"`) {
		t.Errorf("exit code %d, said %q", code, errs)
	}
	if code, _, errs := s.run("get", "clusters", "orders"); code != 1 || !strings.Contains(errs, "team-a/orders\n  team-b/orders") {
		t.Errorf("two of one name: exit code %d, said %q", code, errs)
	}
	if code, _, errs := s.run("get", "clusters", "a", "b"); code != 2 || !strings.Contains(errs, "no more than one cluster") {
		t.Errorf("two names: exit code %d, said %q", code, errs)
	}
	empty := newScript(t)
	empty.on("/api/v1/clusters", answer(api.ClusterList{Items: []api.Cluster{}}))
	if code, out, errs := empty.run("get", "clusters"); code != 0 || out != "" || errs != "There are no clusters yet.\n" {
		t.Errorf("none: exit code %d, out %q, said %q", code, out, errs)
	}
	if _, _, errs := empty.run("get", "clusters", "-n", "x"); errs != "No cluster passes these flags.\n" {
		t.Errorf("none with a filter: said %q", errs)
	}
}

// Where there is no job of that name, as when main() throws, "why" explains the cluster; a job outranks the cluster that it runs in.
func TestWhyCluster(t *testing.T) {
	s := scriptedClusters(t)
	for file, meant := range map[string]string{
		"why-cluster-no-job.txt": "team-a/audit", "why-cluster-crash-loop.txt": "team-a/returns", "why-cluster-held.txt": "team-a/invoices",
		"why-cluster-gone.txt": "team-b/orders", "why-cluster-unknown.txt": "stock", "why-running.txt": "a1b2c3d4e5f60718293a4b5c6d7e8f90",
	} {
		code, out, errs := s.run("why", meant)
		if code != 0 || errs != "" {
			t.Errorf("why %s: exit code %d, complained %q", meant, code, errs)
		}
		golden(t, file, out)
	}
	if code, _, errs := s.run("why", "nobody"); code != exitNoJob || !strings.Contains(errs, "no such job") {
		t.Errorf("neither a job nor a cluster: exit code %d, said %q", code, errs)
	}
	if _, out, _ := s.run("why", "stock", "-o", "json"); !strings.Contains(out, `"condition": "Unknown"`) {
		t.Errorf("as JSON: %s", out)
	}
	s.on("/api/v1/clusters", refuse(404, "There is nothing at this path", "no route fits"))
	if code, _, errs := s.run("why", "stock"); code != exitNoJob || !strings.Contains(errs, "no such job") {
		t.Errorf("a server that knows of no clusters: exit code %d, said %q", code, errs)
	}
}

// Every condition has a word on what would change it.
func TestEveryConditionIsExplained(t *testing.T) {
	for _, c := range conditions() {
		if conditionWaitsFor[c] == "" || c != job.ClusterUnknown.String() && conditionSentences[c] == [2]string{} {
			t.Errorf("%s is not explained", c)
		}
	}
}
