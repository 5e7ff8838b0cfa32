package board

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

func clusterPair(name string, revision int64, c job.Cluster) etcd.Pair {
	key := job.ClusterKey{Namespace: "team-a", Cluster: name}
	c.Sequence = 1
	return etcd.Pair{Key: record.ClusterKey("default", key), Value: record.EncodeCluster(c), ModRevision: revision}
}

func shownCluster(b *Board, name string) string {
	view := b.Snapshot().At(b.Now())
	c := view.Cluster("team-a/" + name)
	if c == nil {
		return "nothing"
	}
	shown, message, version := view.ShowCluster(c)
	text := shown.Condition.String() + " " + shown.Certainty.String() + " " + shown.Reason.String() + ", " + message
	if version.Lowered {
		text += " (lowered)"
	}
	return text
}

// What is served of a cluster is what is stored, or weaker (S13), and a record that cannot be read leaves what was known.
func TestClusters(t *testing.T) {
	code := 1
	crashing := job.Cluster{
		Condition: job.ClusterCrashLoop, Over: job.No, Certainty: job.Inferred, Reason: job.JobManagerDown,
		Pods: []job.PodStatus{{Name: "p", Running: job.No, Restarts: 4, ExitCode: &code, Waiting: "CrashLoopBackOff"}},
	}
	gone := job.Cluster{Condition: job.ClusterDown, Over: job.Yes, Certainty: job.Inferred, Reason: job.JobManagerDown,
		Pods: []job.PodStatus{{Name: "p", Running: job.No, ExitCode: &code}}}
	ready := job.Cluster{Condition: job.ClusterReady, Over: job.No, Certainty: job.Witnessed, Reason: job.FlinkSaid}
	damaged := clusterPair("orders", 12, ready)
	damaged.Value = []byte("{")
	newer := damaged
	newer.Value = []byte(`{"v":2}`)
	foreign := etcd.Pair{Key: "/holdfast/v1/default/clusters/team-a/orders/x", Value: []byte("{}"), ModRevision: 12}
	const crashes = "the JobManager's container ends again and again: pod p, exit code 1, started anew 4 times, CrashLoopBackOff"
	for name, c := range map[string]struct {
		updates []etcd.Update
		late    time.Duration
		want    string
	}{
		"as it is stored": {[]etcd.Update{listed(11, clusterPair("orders", 11, crashing))}, 0, "CrashLoop Inferred JobManagerDown, " + crashes},
		"changed": {[]etcd.Update{listed(11, clusterPair("orders", 11, crashing)), changed(clusterPair("orders", 12, ready))}, 0,
			"Ready Witnessed FlinkSaid, a JobManager answers, and has a job or can take one"},
		"over": {[]etcd.Update{listed(11, clusterPair("orders", 11, gone))}, 0,
			"JobManagerDown Inferred JobManagerDown, no JobManager runs, and what made them is gone: pod p, exit code 1"},
		"not in a new list": {[]etcd.Update{listed(11, clusterPair("orders", 11, crashing)), listed(12)}, 0, "nothing"},
		"gone": {[]etcd.Update{listed(11, clusterPair("orders", 11, crashing)), changed(etcd.Pair{Key: damaged.Key, ModRevision: 12, Deleted: true})}, 0,
			"nothing"},
		"its feed is dead": {[]etcd.Update{listed(11, clusterPair("orders", 11, crashing))}, hold + 1,
			"CrashLoop Held StoreUnreachable, this server has been cut off from etcd for 30s, since 2000-01-01T00:00:00Z; before that: " + crashes + " (lowered)"},
		"damaged": {[]etcd.Update{listed(11, clusterPair("orders", 11, ready)), changed(damaged)}, 0,
			"Ready Held StoreUnreachable, the newest record of this cluster is damaged and cannot be read; before that: a JobManager answers, and has a job or can take one"},
		"newer, never known": {[]etcd.Update{listed(11, newer)}, 0,
			"Unknown Held StoreUnreachable, this server is too old to read the newest record of this cluster, upgrade it; before that: nothing is known of the cluster"},
		"foreign": {[]etcd.Update{listed(11, foreign)}, 0, "nothing"},
		"another life of the store": {[]etcd.Update{
			listed(11, clusterPair("orders", 11, crashing)), {Kind: etcd.Listed, Epoch: 2, Revision: 11, Pairs: []etcd.Pair{clusterPair("orders", 11, ready)}},
		}, 0, "Ready Witnessed FlinkSaid, a JobManager answers, and has a job or can take one"},
	} {
		now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
		b := newBoard(t, Options{Now: func() time.Time { return now }})
		for _, u := range c.updates {
			b.Apply(Clusters, u)
		}
		now = now.Add(c.late)
		for _, f := range []Feed{Verdicts, Leader} { // those of jobs are well
			b.Apply(f, progressed(11))
		}
		if got := shownCluster(b, "orders"); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
}

// Every condition, and every reason for which one is held, has a sentence of its own.
func TestEveryConditionHasASentence(t *testing.T) {
	seen := map[string]bool{}
	for _, condition := range job.Conditions() {
		claim := clusterClaim(&job.Cluster{Condition: condition})
		if seen[claim] {
			t.Errorf("%s says what another says: %s", condition, claim)
		}
		seen[claim] = true
	}
	for reason, text := range clusterSilences {
		if seen[text] || strings.Contains(text, reason.String()) {
			t.Errorf("%s: %s", reason, text)
		}
		seen[text] = true
	}
}
