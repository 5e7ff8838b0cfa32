package settle

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// The aggregator's budget is 2 KiB a job, of which the board takes a third. Everything comes in here as the intake decodes it: no
// text is shared with any other.
func TestMemoryOfAJob(t *testing.T) {
	const agents, jobsEach, budget = 1000, 10, 1400
	c, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	before := heapInUse()
	revision := int64(1)
	var written []job.Account
	var clusters []job.Cluster
	step := func(in Input) {
		for _, effect := range c.Step(Event{At: 1, Wall: 1_790_000_000_000, Input: in}) {
			switch e := effect.(type) {
			case Write:
				written = append(written, e.Account)
			case WriteCluster:
				clusters = append(clusters, e.Cluster)
			}
		}
	}
	for _, source := range []Source{Verdicts, Agents, Clusters} {
		step(Listing{Source: source, Epoch: 1})
		step(Synced{Source: source, Revision: revision})
	}
	for n := range agents {
		who := evidence.Agent{Namespace: fmt.Sprintf("team-%d", n%50), Cluster: fmt.Sprintf("cluster-%05d", n), PodUID: fmt.Sprintf("%036d", n)}
		beat, err := record.DecodeBeat(clone(who), record.EncodeBeat(evidence.Beat{
			Session: fmt.Sprintf("%032x", n), Pod: who.Cluster + "-6f7d8c9b5-x2x4z", Incarnation: fmt.Sprintf("%036d", n),
			Reach: job.Fine, HighAvailability: job.No,
		}))
		if err != nil {
			t.Fatal(err)
		}
		step(Beat{beat})
		for k := range jobsEach {
			id := fmt.Sprintf("%032x", n*jobsEach+k)
			start := job.StampOf(1_780_000_000_000 + int64(n*jobsEach+k))
			r := evidence.Report{
				Session: beat.Session, Pod: beat.Pod, Sequence: 3, Incarnation: beat.Incarnation, Name: "orders enrichment " + id[24:],
				StartTime: start, State: job.Running, Via: job.ViaREST, Reach: job.Fine, LastAnswer: start, Known: job.Yes,
			}
			for i, s := range []job.State{job.Initializing, job.Created, job.Running} {
				r.Transitions = append(r.Transitions, evidence.Transition{Number: int64(i + 1), State: s, StartTime: start, At: start, Via: job.ViaREST})
			}
			report, err := record.DecodeReport(clone(who), strings.Clone(id), record.EncodeReport(r))
			if err != nil {
				t.Fatal(err)
			}
			revision++
			step(Reported{Report: &report, Revision: revision})
			for _, a := range written {
				account, err := record.DecodeAccount(a.Key, record.EncodeAccount(a))
				if err != nil {
					t.Fatal(err)
				}
				revision++
				written = nil
				step(Stored{Account: account, Revision: revision})
			}
		}
		for _, is := range clusters {
			cluster, err := record.DecodeCluster(is.Key, record.EncodeCluster(is))
			if err != nil {
				t.Fatal(err)
			}
			revision++
			clusters = nil
			step(StoredCluster{Cluster: cluster, Revision: revision})
		}
	}
	each := float64(heapInUse()-before) / (agents * jobsEach)
	if len(c.jobs) != agents*jobsEach || len(c.clusters) != agents {
		t.Fatalf("%d jobs, %d clusters", len(c.jobs), len(c.clusters))
	}
	for _, cl := range c.clusters {
		if cl.said.Condition != job.ClusterReady {
			t.Fatalf("%s is %s", cl.key, cl.said.Condition)
		}
	}
	t.Logf("%.0f bytes a job", each)
	if each > budget {
		t.Errorf("%.0f bytes a job, the budget is %d", each, budget)
	}
	runtime.KeepAlive(c)
}

func clone(a evidence.Agent) evidence.Agent {
	return evidence.Agent{Namespace: strings.Clone(a.Namespace), Cluster: strings.Clone(a.Cluster), PodUID: strings.Clone(a.PodUID)}
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
