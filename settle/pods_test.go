package settle

import (
	"testing"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// Pods of one cluster that are gone together are let go of one by one, while the core goes over them.
func TestPodsThatAreGoneTogether(t *testing.T) {
	t.Parallel()
	core, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	o := &observer{t: t, core: core}
	for _, source := range []Source{Agents, Verdicts, Clusters} {
		o.step(Listing{Source: source, Epoch: 1})
		o.step(Synced{Source: source, Revision: 1})
	}
	// It was spoken of: of one that was not, the pods stay for as long as nothing was said.
	o.step(StoredCluster{Cluster: job.Cluster{Key: o.who(0).ClusterKey(), Condition: job.ClusterReady, Sequence: 1}, Revision: 1})
	o.step(Listing{Source: Pods, Epoch: 1})
	for i := range 3 {
		o.step(Pod{evidence.Pod{Agent: o.who(i), Name: string(rune('a' + i)), Address: "10.0.0.1", Port: 8081, Running: true}})
	}
	o.step(Synced{Source: Pods})
	o.ticks(5)
	for i := range 3 {
		probe := o.who(i)
		probe.Probe = true
		o.step(Beat{evidence.Beat{Agent: probe, Session: "s", Reach: job.Fine}})
	}
	cl := core.clusters[o.who(0).ClusterKey()]
	if len(cl.pods) != 3 || len(cl.witnesses) != 3 {
		t.Fatalf("%d pods and %d looks at them, want 3 of each", len(cl.pods), len(cl.witnesses))
	}
	o.step(Listing{Source: Pods, Epoch: 1})
	o.step(Synced{Source: Pods})
	if len(cl.pods) != 0 || len(cl.witnesses) != 0 {
		t.Errorf("%d pods and %d looks at them are left", len(cl.pods), len(cl.witnesses))
	}
}
