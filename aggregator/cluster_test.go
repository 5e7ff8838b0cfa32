package aggregator

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

var ordersCluster = job.ClusterKey{Namespace: "default", Cluster: "orders"}

// condition is what the API says of the cluster orders.
func (r *replica) condition() (text, since string) {
	r.t.Helper()
	var c struct{ Condition, Certainty, Over, Reason, Since string }
	if code := r.get("/api/v1/clusters/"+r.o.Site+"/default/orders", &c); code != http.StatusOK {
		return fmt.Sprintf("HTTP %d", code), ""
	}
	return fmt.Sprintf("%s %s over=%s %s", c.Condition, c.Certainty, c.Over, c.Reason), c.Since
}

// untilCondition waits for what the cluster is to be served as, and fails if it was ever what must not be.
func (r *replica) untilCondition(want string, never ...string) (since string) {
	r.t.Helper()
	last := ""
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		last, since = r.condition()
		for _, word := range never {
			if strings.Contains(last, word) {
				r.t.Fatalf("the cluster is %s on the way to %q", last, want)
			}
		}
		if strings.HasPrefix(last, want) {
			return since
		}
	}
	r.t.Fatalf("the cluster is %s, want %q", last, want)
	return ""
}

// storedCondition is what lies in etcd of the cluster orders; found is false if nothing does.
func storedCondition(t *testing.T, client *clientv3.Client) (c job.Cluster, found bool) {
	t.Helper()
	pair, found, err := etcd.Read(t.Context(), client, record.ClusterKey(site, ordersCluster))
	if err != nil || !found {
		return job.Cluster{}, false
	}
	if c, err = record.DecodeCluster(ordersCluster, pair.Value); err != nil {
		t.Fatal(err)
	}
	return c, true
}

// untilStored waits for a condition to be in etcd with at least a sequence number.
func untilStored(t *testing.T, client *clientv3.Client, condition job.Condition, sequence int64) job.Cluster {
	t.Helper()
	var last job.Cluster
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		c, found := storedCondition(t, client)
		if last = c; found && c.Condition == condition && c.Sequence >= sequence {
			return c
		}
	}
	t.Fatalf("etcd has the cluster as %s, entry %d; want %s, %d at least", last.Condition, last.Sequence, condition, sequence)
	return job.Cluster{}
}

// A JobManager of an application that answers and has no job is said to have none; what is known is held where nobody tells, by every replica, and found
// again by whoever leads next.
func TestAConditionIsServedByAllAndFoundAgain(t *testing.T) {
	t.Parallel()
	proc := etcdproc.Start(t, 0)
	one := start(t, proc.Client(), "one")
	two := start(t, proc.Client(), "two")
	w := newWitness(t, proc.Client(), "pod-1")
	w.application = job.Yes
	w.beat()
	one.untilCondition("NoJob Witnessed over=no FlinkSaid", "Ready", "Down")
	two.untilCondition("NoJob Witnessed over=no FlinkSaid", "Ready", "Down")
	if code := one.get("/api/v1/jobs/"+site+"/default/orders/"+orders, nil); code != http.StatusNotFound {
		t.Errorf("a job that nobody has submitted is answered with HTTP %d", code)
	}

	w.report(orders, "T1", job.Running)
	one.untilCondition("Ready Witnessed over=no FlinkSaid", "Down")
	w.die()
	since := one.untilCondition("Ready Held over=no AgentSilent", "NoJob", "Down", "Unknown", "HTTP")
	two.untilCondition("Ready Held over=no AgentSilent", "NoJob", "Down", "Unknown", "HTTP")

	one.stop()
	two.untilCondition("Ready Held over=no AgentSilent", "NoJob", "Down", "Unknown", "HTTP")
	two.stop()
	three := start(t, proc.Client(), "three")
	if again := three.untilCondition("Ready Held over=no AgentSilent", "NoJob", "Down", "Unknown", "Witnessed"); again != since {
		t.Errorf("since %s became %s", since, again)
	}
	w.beat()
	w.report(orders, "T1", job.Running)
	three.untilCondition("Ready Witnessed over=no FlinkSaid", "NoJob", "Down", "Unknown", "HTTP")
}

// readyCluster is an etcd, a replica that leads there, and the witness of an application that runs its job.
func readyCluster(t *testing.T) (*etcdproc.Process, *clientv3.Client, *replica, *witness) {
	t.Helper()
	proc := etcdproc.Start(t, 0)
	client := proc.Client()
	r := start(t, client, "one")
	w := newWitness(t, client, "pod-1")
	w.application = job.Yes
	w.beat()
	w.report(orders, "T1", job.Running)
	r.untilCondition("Ready Witnessed")
	return proc, client, r, w
}

// A record of a cluster that somebody deletes, that etcd loses, or that is set back to an older one is written again: what the leader remembers
// counts. Who is left cannot tell, so that nothing else can have brought it back.
func TestAConditionThatTheStoreLostIsWrittenAgain(t *testing.T) {
	t.Parallel()
	proc, client, r, w := readyCluster(t)
	old := untilStored(t, client, job.ClusterReady, 1)
	copy := proc.Save() // in which the agent still beats
	proc.Restart()
	copied := revisionOf(t, client)
	r.untilCondition("Ready Witnessed")

	w.die()
	r.untilCondition("Ready Held", "NoJob", "Down", "Unknown", "HTTP")
	held := untilStored(t, client, job.ClusterReady, old.Sequence+1)
	if held.Certainty != job.Held {
		t.Fatalf("what is served as Held is stored as %s", held.Certainty)
	}

	if _, err := client.Delete(t.Context(), record.ClusterKey(site, ordersCluster)); err != nil {
		t.Fatal(err)
	}
	deleted := untilStored(t, client, job.ClusterReady, held.Sequence)
	r.untilCondition("Ready Held", "NoJob", "Down", "Unknown", "Witnessed")

	proc.Empty()
	proc.Restart()
	emptied := untilStored(t, client, job.ClusterReady, deleted.Sequence)
	r.untilCondition("Ready Held", "NoJob", "Down", "Unknown", "Witnessed")

	growPast(t, client, copied) // or the copy passes for what comes next
	proc.Restore(copy)
	proc.Restart()
	again := untilStored(t, client, job.ClusterReady, emptied.Sequence)
	if again.Since != held.Since || emptied.Since != held.Since || deleted.Since != held.Since {
		t.Errorf("since %s became %s, %s, %s", held.Since, deleted.Since, emptied.Since, again.Since)
	}
	r.untilCondition("Ready Held over=no AgentSilent", "NoJob", "Down", "Unknown", "HTTP")
}

func revisionOf(t *testing.T, client *clientv3.Client) int64 {
	t.Helper()
	now, err := etcd.Where(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	return now.Revision
}

func growPast(t *testing.T, client *clientv3.Client, revision int64) {
	t.Helper()
	for revisionOf(t, client) <= revision {
		if _, err := client.Put(t.Context(), "/somebody-else's", ""); err != nil {
			t.Fatal(err)
		}
	}
}

// An etcd that was lost begins anew, empty, and is set back to a copy of what it was: the copy has come further than the new one, so that neither
// revision nor term tell. The site's epoch does, by which whoever leads next knows that the store has lost what the leader remembers.
func TestAnEmptiedStoreIsSetBackToACopyThatHasComeFurther(t *testing.T) {
	t.Parallel()
	proc, client, r, w := readyCluster(t)
	growPast(t, client, revisionOf(t, client)+100)
	copy := proc.Save()
	proc.Restart()
	r.untilCondition("Ready Witnessed")
	w.die()
	r.untilCondition("Ready Held")

	proc.Empty()
	proc.Restart()
	emptied := untilStored(t, client, job.ClusterReady, 3)
	eventually(t, "a new epoch", func() bool {
		epoch, err := epochOf(t.Context(), client, site)
		return err == nil && epoch > 1
	})
	checks := r.checks(settlerMemory)
	eventually(t, "the new store has everything, as a check shows", func() bool { return r.checks(settlerMemory) > checks })
	proc.Restore(copy)
	proc.Restart()
	again := untilStored(t, client, job.ClusterReady, emptied.Sequence)
	if again.Since != emptied.Since || again.Certainty != job.Held {
		t.Errorf("%s since %s, and it was since %s", again.Certainty, again.Since, emptied.Since)
	}
	r.untilCondition("Ready Held over=no AgentSilent", "NoJob", "Down", "Unknown", "HTTP")
	r.until(orders, "RUNNING Held over=no #1 AgentSilent", "UNKNOWN", "FAILED")
	eventually(t, "a third epoch", func() bool {
		epoch, err := epochOf(t.Context(), client, site)
		return err == nil && epoch > 2
	})
}

// What cannot be read of a cluster is neither written over nor deleted, and harms no other cluster.
func TestAnUnreadableConditionHarmsNobody(t *testing.T) {
	t.Parallel()
	client := etcdproc.Start(t, 0).Client()
	key, newer := record.ClusterKey(site, ordersCluster), `{"v":99}`
	w := newWitness(t, client, "pod-1")
	w.put(key, []byte(newer))
	w.beat()
	other := newWitness(t, client, "pod-2")
	other.agent.Cluster = "returns"
	other.application = job.Yes
	other.beat()
	r := start(t, client, "one")
	r.untilCondition("Unknown Held over=unknown StoreUnreachable", "Ready")
	var list struct {
		Items []struct{ Cluster, Condition string }
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if r.get("/api/v1/clusters", &list); len(list.Items) == 2 && list.Items[1].Condition == "NoJob" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("its neighbour is not judged: %+v", list)
		}
	}
	if pair, found, err := etcd.Read(t.Context(), client, key); err != nil || !found || string(pair.Value) != newer {
		t.Errorf("the record is %q now (%v)", pair.Value, err)
	}
}
