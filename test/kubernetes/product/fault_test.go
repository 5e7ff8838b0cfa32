//go:build kubernetes

package product

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
	"github.com/holdfast-dev/holdfast/test/machine"
)

// outage is how long the network is cut, each time: HOLDFAST_TEST_OUTAGE, 4 minutes by default. .ci/run says 75s, which is longer than
// all times after which a state would be Held (lease and hold time, 50 s), and than those after which something would be concluded from
// the silence of the API server or of Flink (hold and grace time, 60 s). Half of it is left for aggregators that start cut off, and longer
// than the hold time, after which what they do not hear would show.
func outage(t *testing.T) time.Duration {
	d, err := time.ParseDuration(cmp.Or(os.Getenv("HOLDFAST_TEST_OUTAGE"), "4m"))
	check(t, err)
	return d
}

// The fault that this project exists for. Nothing passes between the aggregator and the API server, nor between the aggregator and
// Flink, for one outage, twice; then the same with connections that are reset. The job runs, and is shown as RUNNING Witnessed
// throughout. A second job's agent is cut off from etcd as well: that one is Held, since its agent is silent, and Witnessed again by
// itself. In the second round, half way, all replicas are killed when packets are lost, and replaced by new pods when connections are
// reset: they start cut off, and say the same. Both versions of Flink take both parts.
func TestNetworkCut(t *testing.T) {
	t.Parallel()
	n := ownNode(t)
	ns := namespace(t, "cut", nil)
	first := application(t, flinkpod.Options{Dist: cluster.Flinks[0], Namespace: ns, ID: "first"}, flinkproc.Job{})
	last := application(t, flinkpod.Options{Dist: cluster.Flinks[len(cluster.Flinks)-1], Namespace: ns, ID: "last"}, flinkproc.Job{})
	for _, r := range []*running{first, last} {
		holdfast.until(t, r.jobs(), prompt, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
	}
	for _, c := range []struct {
		how         node.How
		heard, deaf *running
		renew       func(t *testing.T, roads *roads)
	}{
		{node.Drop, first, last, killAggregators},
		{node.Reset, last, first, replaceAggregators},
	} {
		t.Logf("%s: %s of %s is heard throughout, and the agent of %s is cut off from etcd", c.how, c.heard.ID(), c.heard.Namespace(), c.deaf.ID())
		heardRecord, deafRecord := holdfast.record(t, c.heard.jobs()), holdfast.record(t, c.deaf.jobs())
		for round := 1; round <= 2; round++ {
			begin := time.Now()
			aggregators := cutAggregators(t, n, c.how, c.heard, c.deaf)
			agent := cutAgent(t, n, c.how, c.deaf)
			t.Logf("%s, round %d: cut off", c.how, round)
			aggregators.proveCut(t)
			agent.proveCut(t)
			time.Sleep(time.Until(begin.Add(outage(t) / 2)))
			if round == 2 {
				c.renew(t, aggregators)
			}
			time.Sleep(outage(t) / 2) // whenever that was: who starts cut off has as much time to err
			if v := onlyJob(t, c.deaf); v.State != "RUNNING" || v.Certainty != "Held" || v.Reason != "AgentSilent" {
				t.Errorf("an agent is cut off from etcd, and its job is shown as %s", v)
			}
			agent.proveMissed(t)
			if round == 2 {
				aggregators.proveMissed(t) // a program that starts asks the API server whose site this is
			}
			aggregators.proveCut(t)
			agent.proveCut(t)
			healed := time.Now()
			agent.heal()
			aggregators.heal()
			aggregators.proveHealed(t)
			agent.proveHealed(t)
			holdfast.until(t, c.deaf.jobs(), recovery-time.Since(healed), "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
			t.Logf("%s, round %d: cut off for %.1f s, witnessed again %.1f s after healing", c.how, round, healed.Sub(begin).Seconds(),
				time.Since(healed).Seconds())
		}
		heardRecord.only(t, "RUNNING Witnessed over=no attempt=1")
		deafRecord.only(t, "RUNNING Witnessed over=no attempt=1", "RUNNING Held over=no attempt=1 AgentSilent")
	}
	for _, r := range []*running{first, last} {
		if state, err := r.flink.State(limit(t), r.job); err != nil || state.String() != "RUNNING" {
			t.Errorf("%s: Flink itself says %s, %v", r.ID(), state, err)
		}
	}
}

func ownNode(t *testing.T) *node.Node {
	t.Helper()
	if cluster.Node == nil {
		t.Skip("this breaks the network of a node, and that is only for one of our own: docs/reproduce.md does it by hand")
	}
	return cluster.Node
}

// onlyJob is what is shown of a cluster's one job.
func onlyJob(t *testing.T, r *running) verdict {
	t.Helper()
	all, err := holdfast.jobs(t.Context(), r.jobs())
	check(t, err)
	if len(all) != 1 {
		t.Fatalf("of %s there are %d jobs, want one: %v", r.ID(), len(all), all)
	}
	return all[0]
}

// roads are the ways from pods to their peers, which are cut together.
type roads struct {
	node *node.Node
	how  node.How
	// peers are what the pods are cut off from, and servers all that they could connect to there.
	peers, servers []string
	cut            []*road
}

// road is one pod's.
type road struct {
	pod     types.NamespacedName
	network *node.Network
	heal    func()
	// attempts is how many packets were lost while the test itself tried to connect.
	attempts int
}

// cutAggregators cuts every replica off from the API server and from the given Flink clusters: pods, and services.
func cutAggregators(t *testing.T, n *node.Node, how node.How, from ...*running) *roads {
	t.Helper()
	all := &roads{node: n, how: how, peers: n.APIServerAddresses(), servers: n.APIServerAddresses()}
	for _, r := range from {
		all.add(flinkpod.RESTPort, r.jobManager(t).Status.PodIP)
		services, err := cluster.Set.CoreV1().Services(r.Namespace()).List(limit(t), metav1.ListOptions{LabelSelector: "app=" + r.ID()})
		check(t, err)
		for _, s := range services.Items {
			if s.Spec.ClusterIP != corev1.ClusterIPNone {
				all.add(flinkpod.RESTPort, s.Spec.ClusterIP)
			}
		}
	}
	if want := len(n.APIServerAddresses()) + 2*len(from); len(all.servers) != want {
		t.Fatalf("the API server and %d clusters of Flink are at %q: want %d addresses, each as a pod and as a service", len(from), all.servers, want)
	}
	pods, err := holdfast.aggregators(limit(t))
	check(t, err)
	if len(pods) != replicasOf(t, "aggregator") {
		t.Fatalf("%d replicas of the aggregator run, want %d", len(pods), replicasOf(t, "aggregator"))
	}
	for _, pod := range pods {
		all.sever(t, home, pod.Name)
	}
	return all
}

// etcdPort is where the chart's etcd listens for its clients.
const etcdPort = 2379

// cutAgent cuts a JobManager's pod, and with it the agent, off from etcd.
func cutAgent(t *testing.T, n *node.Node, how node.How, r *running) *roads {
	t.Helper()
	all := &roads{node: n, how: how}
	service, err := cluster.Set.CoreV1().Services(home).Get(limit(t), "holdfast-etcd", metav1.GetOptions{})
	check(t, err)
	all.add(etcdPort, service.Spec.ClusterIP)
	pods, err := cluster.Set.CoreV1().Pods(home).List(limit(t), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=etcd"})
	check(t, err)
	for _, pod := range pods.Items {
		all.add(etcdPort, pod.Status.PodIP)
	}
	all.sever(t, r.Namespace(), r.jobManager(t).Name)
	return all
}

func (all *roads) add(port int, addresses ...string) {
	for _, address := range addresses {
		all.peers = append(all.peers, address)
		all.servers = append(all.servers, net.JoinHostPort(address, strconv.Itoa(port)))
	}
}

// sever cuts one pod off, until heal is called or the test ends.
func (all *roads) sever(t *testing.T, namespace, pod string) *road {
	t.Helper()
	network, err := all.node.Network(limit(t), namespace, pod)
	check(t, err)
	return all.severNetwork(t, namespace, pod, network)
}

func (all *roads) severNetwork(t *testing.T, namespace, pod string, network *node.Network) *road {
	t.Helper()
	c, err := network.Cut(limit(t), all.how, all.peers...)
	check(t, err)
	one := &road{pod: types.NamespacedName{Namespace: namespace, Name: pod}, network: network, heal: sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.Heal(ctx); err != nil {
			t.Error(err)
		}
	})}
	t.Cleanup(one.heal)
	all.cut = append(all.cut, one)
	return one
}

func (all *roads) heal() {
	for _, one := range all.cut {
		one.heal()
	}
}

// proveCut fails the test unless each attempt to connect from where the pods are fails in the way that is meant.
func (all *roads) proveCut(t *testing.T) {
	t.Helper()
	want := map[node.How]error{node.Drop: node.ErrNoAnswer, node.Reset: node.ErrRefused}[all.how]
	before := all.lost(t)
	for attempt, err := range all.connect(t) {
		if !errors.Is(err, want) {
			t.Errorf("cut off (%s), and %s has %v, want %v", all.how, attempt, err, want)
		}
	}
	for i, packets := range all.lost(t) {
		all.cut[i].attempts += packets - before[i]
	}
}

// proveMissed fails the test unless each of the pods has sent something, by itself, that was cut off.
func (all *roads) proveMissed(t *testing.T) {
	t.Helper()
	for i, packets := range all.lost(t) {
		one := all.cut[i]
		t.Logf("%s lost %d packets of its own (%s)", one.pod, packets-one.attempts, all.how)
		if packets == one.attempts {
			t.Errorf("%s is cut off (%s), and has sent nothing there", one.pod, all.how)
		}
	}
}

// proveAnyMissed is proveMissed for the pods of one service: which of them is called is chance.
func (all *roads) proveAnyMissed(t *testing.T) {
	t.Helper()
	sum := 0
	for _, packets := range all.lost(t) {
		sum += packets
	}
	if t.Logf("%d packets were lost (%s)", sum, all.how); sum == 0 {
		t.Errorf("%s is cut off (%s), and nothing was sent there", all.cut[0].pod, all.how)
	}
}

// lost is how many packets of each pod were cut off so far.
func (all *roads) lost(t *testing.T) (packets []int) {
	t.Helper()
	for _, one := range all.cut {
		n, err := one.network.Lost(limit(t))
		check(t, err)
		packets = append(packets, n)
	}
	return packets
}

// proveHealed fails the test unless each of these attempts succeeds.
func (all *roads) proveHealed(t *testing.T) {
	t.Helper()
	for attempt, err := range all.connect(t) {
		if err != nil {
			t.Errorf("healed, and %s has %v", attempt, err)
		}
	}
}

// connect tries to connect from each pod's network to all servers at once, and says what came of it.
func (all *roads) connect(t *testing.T) map[string]error {
	t.Helper()
	ctx, outcomes := limit(t), map[string]error{}
	var mu sync.Mutex
	var attempts sync.WaitGroup
	for _, one := range all.cut {
		for _, server := range all.servers {
			attempts.Go(func() {
				err := one.network.Reach(ctx, server)
				mu.Lock()
				defer mu.Unlock()
				outcomes[fmt.Sprintf("a connection from %s to %s", one.pod, server)] = err
			})
		}
	}
	attempts.Wait()
	if len(outcomes) == 0 {
		t.Fatal("nothing is cut off")
	}
	return outcomes
}

// killAggregators kills the program of every replica. Its pod stays, and with it what is cut. It returns when one of them leads: the
// dead leader is waited for as long as its lease lasts.
func killAggregators(t *testing.T, aggregators *roads) {
	t.Helper()
	holdfast.whole.Lock() // nobody waits for them meanwhile
	defer holdfast.whole.Unlock()
	before := holdfast.leader(t, "")
	killed := time.Now()
	for _, one := range aggregators.cut {
		c, err := aggregators.node.Container(limit(t), home, one.pod.Name, "aggregator")
		check(t, err)
		check(t, c.Kill(limit(t), "SIGKILL"))
	}
	now := holdfast.leader(t, before)
	t.Logf("all replicas were killed; after %.1f s there is a leader again: %s", time.Since(killed).Seconds(), now)
}

// replaceAggregators deletes the pods of all replicas, one after another, and returns when their successors are ready. Each of these is cut
// off as soon as it has a network, tenths of a second before or after its program begins: in that time it may reach the API server once.
func replaceAggregators(t *testing.T, aggregators *roads) {
	t.Helper()
	old := aggregators.cut
	aggregators.cut = nil
	for _, one := range old {
		known := aggregatorPods(t)
		begin := time.Now()
		deletePod(t, home, one.pod.Name)
		var name string
		var network *node.Network
		ctx := limit(t)
		check(t, machine.Poll(ctx, func() (bool, error) {
			for uid, pod := range aggregatorPods(t) {
				if _, is := known[uid]; !is {
					name = pod.Name
				}
			}
			if name == "" {
				return false, nil
			}
			found, err := aggregators.node.Network(ctx, home, name)
			if errors.Is(err, node.ErrNoContainer) {
				return false, nil
			}
			network = found
			return true, err
		}))
		has := time.Now()
		successor := aggregators.severNetwork(t, home, name, network)
		cut := time.Now()
		(&roads{how: aggregators.how, servers: aggregators.servers, cut: []*road{successor}}).proveCut(t)
		_, err := cluster.AwaitPod(ctx, home, name, "ready", rig.Ready)
		check(t, err)
		t.Logf("%s was deleted; %.1f s later %s has a network, is cut off %.2f s after that, and ready %.1f s after that", one.pod.Name,
			has.Sub(begin).Seconds(), name, cut.Sub(has).Seconds(), time.Since(cut).Seconds())
	}
}

// aggregatorPods are all pods of the aggregator, those that come and go, too.
func aggregatorPods(t *testing.T) map[types.UID]corev1.Pod {
	t.Helper()
	list, err := cluster.Set.CoreV1().Pods(home).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=aggregator"})
	check(t, err)
	all := map[types.UID]corev1.Pod{}
	for _, pod := range list.Items {
		all[pod.UID] = pod
	}
	return all
}
