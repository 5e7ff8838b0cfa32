//go:build kubernetes

package product

import (
	"cmp"
	"context"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
)

// again is within which time after the last fault a verdict must be Witnessed again: lease, hold and grace time, and the longest pause
// between two tries to reach etcd.
const again = (20 + 30 + 30 + 30) * time.Second

// outage is how long the network is cut, each time. HOLDFAST_TEST_OUTAGE shortens it while one works on the test.
func outage(t *testing.T) time.Duration {
	d, err := time.ParseDuration(cmp.Or(os.Getenv("HOLDFAST_TEST_OUTAGE"), "4m"))
	check(t, err)
	return d
}

// The fault that this project exists for. Nothing passes between the aggregator and the API server, nor between the aggregator and
// Flink, for four minutes, twice; then the same with connections that are reset. The job runs, and is shown as RUNNING Witnessed
// throughout. A second job's agent is cut off from etcd as well: that one is Held, and Witnessed again by itself. In
// the second round both replicas are killed half way: they start cut off, and say the same.
func TestNetworkCut(t *testing.T) {
	t.Parallel()
	n := ownNode(t)
	dists := cluster.Flinks
	ns := namespace(t, "cut", nil)
	heard := application(t, flinkpod.Options{Dist: dists[0], Namespace: ns, ID: "heard"}, flinkproc.Job{})
	deaf := application(t, flinkpod.Options{Dist: dists[len(dists)-1], Namespace: ns, ID: "deaf"}, flinkproc.Job{})
	for _, r := range []*running{heard, deaf} {
		holdfast.until(t, r.jobs(), 30*time.Second, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
	}
	heardRecord, deafRecord := holdfast.record(t, heard.jobs()), holdfast.record(t, deaf.jobs())
	for _, how := range []node.How{node.Drop, node.Reset} {
		for round := 1; round <= 2; round++ {
			heal := cutAggregators(t, n, how, heard, deaf)
			t.Logf("cut off: %s, round %d", how, round)
			healAgent := cutAgent(t, n, how, deaf)
			half := time.After(outage(t) / 2)
			<-half
			if round == 2 {
				killAggregators(t, n)
			}
			time.Sleep(outage(t) / 2)
			if v := newestOf(t, deaf); v.State != "RUNNING" || v.Certainty != "Held" {
				t.Errorf("an agent is cut off from etcd, and its job is shown as %s", v)
			}
			healed := time.Now()
			healAgent()
			heal()
			holdfast.until(t, deaf.jobs(), again, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
			t.Logf("witnessed again %.1f s after healing", time.Since(healed).Seconds())
		}
	}
	heardRecord.only(t, "RUNNING Witnessed over=no attempt=1")
	deafRecord.only(t, "RUNNING Witnessed over=no attempt=1", "RUNNING Held over=no attempt=1")
	if state, err := heard.flink.State(limit(t), heard.job); err != nil || state.String() != "RUNNING" {
		t.Errorf("Flink itself says %s, %v", state, err)
	}
}

func ownNode(t *testing.T) *node.Node {
	t.Helper()
	if cluster.Node == nil {
		t.Skip("this breaks the network of a node, and that is only for one of our own: docs/reproduce.md does it by hand")
	}
	return cluster.Node
}

func newestOf(t *testing.T, r *running) verdict {
	t.Helper()
	all, err := holdfast.jobs(t.Context(), r.jobs())
	check(t, err)
	if len(all) == 0 {
		t.Fatalf("%s has no job", r.ID())
	}
	return all[0]
}

// cutAggregators cuts every replica off from the API server and from the given Flink clusters: pods, and services.
func cutAggregators(t *testing.T, n *node.Node, how node.How, from ...*running) (heal func()) {
	t.Helper()
	peers := slices.Clone(n.APIServerAddresses())
	for _, r := range from {
		peers = append(peers, r.jobManager(t).Status.PodIP)
		services, err := cluster.Set.CoreV1().Services(r.Namespace()).List(limit(t), metav1.ListOptions{})
		check(t, err)
		for _, s := range services.Items {
			if s.Spec.ClusterIP != "None" {
				peers = append(peers, s.Spec.ClusterIP)
			}
		}
	}
	pods, err := holdfast.aggregators(limit(t))
	check(t, err)
	var heals []func()
	for _, pod := range pods {
		heals = append(heals, cut(t, n, how, home, pod.Name, peers...))
	}
	return func() {
		for _, heal := range heals {
			heal()
		}
	}
}

// cutAgent cuts a JobManager's pod, and with it the agent, off from etcd.
func cutAgent(t *testing.T, n *node.Node, how node.How, r *running) (heal func()) {
	t.Helper()
	service, err := cluster.Set.CoreV1().Services(home).Get(limit(t), "holdfast-etcd", metav1.GetOptions{})
	check(t, err)
	peers := []string{service.Spec.ClusterIP}
	pods, err := cluster.Set.CoreV1().Pods(home).List(limit(t), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=etcd"})
	check(t, err)
	for _, pod := range pods.Items {
		peers = append(peers, pod.Status.PodIP)
	}
	return cut(t, n, how, r.Namespace(), r.jobManager(t).Name, peers...)
}

// cut cuts one pod off, until heal is called or the test ends.
func cut(t *testing.T, n *node.Node, how node.How, namespace, pod string, peers ...string) (heal func()) {
	t.Helper()
	network, err := n.Network(limit(t), namespace, pod)
	check(t, err)
	c, err := network.Cut(limit(t), how, peers...)
	check(t, err)
	var once sync.Once
	heal = func() {
		once.Do(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := c.Heal(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(heal)
	return heal
}

// killAggregators kills the program of every replica. Its pod stays, and with it what is cut.
func killAggregators(t *testing.T, n *node.Node) {
	t.Helper()
	pods, err := holdfast.aggregators(limit(t))
	check(t, err)
	for _, pod := range pods {
		c, err := n.Container(limit(t), home, pod.Name, "aggregator")
		check(t, err)
		check(t, c.Kill(limit(t), "SIGKILL"))
	}
}
