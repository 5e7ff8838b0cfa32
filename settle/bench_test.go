package settle

import (
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// fleet is a core with so many jobs, ten an agent, all of them running, witnessed and stored.
func fleet(tb testing.TB, jobs int) (c *Core, beats []evidence.Beat, reports []evidence.Report) {
	tb.Helper()
	c, err := New(DefaultConfig())
	if err != nil {
		tb.Fatal(err)
	}
	revision := int64(1)
	var written []Write
	var clusters []job.Cluster
	step := func(in Input) {
		for _, effect := range c.Step(Event{Input: in}) {
			switch e := effect.(type) {
			case Write:
				written = append(written, e)
			case WriteCluster:
				clusters = append(clusters, e.Cluster)
			}
		}
	}
	for _, source := range []Source{Verdicts, Agents, Clusters} {
		step(Listing{Source: source, Epoch: 1})
		step(Synced{Source: source, Revision: revision})
	}
	for n := range jobs {
		who := evidence.Agent{Namespace: "team", Cluster: fmt.Sprintf("cluster-%d", n/10), PodUID: fmt.Sprintf("pod-%d", n/10)}
		if n%10 == 0 {
			beats = append(beats, evidence.Beat{Agent: who, Session: "s", Incarnation: "i", Reach: job.Fine, HighAvailability: job.No})
			step(Beat{beats[len(beats)-1]})
		}
		r := evidence.Report{
			Agent: who, JobID: fmt.Sprintf("%032x", n), Session: "s", Sequence: 1, Incarnation: "i", Name: "orders", StartTime: "T1",
			State: job.Running, Via: job.ViaREST, Reach: job.Fine, Known: job.Yes,
			Transitions: []evidence.Transition{{Number: 1, State: job.Running, StartTime: "T1", Via: job.ViaREST}},
		}
		reports = append(reports, r)
		report := r
		revision++
		step(Reported{Report: &report, Revision: revision})
	}
	for _, w := range written {
		revision++
		step(Stored{Account: w.Account, Revision: revision})
	}
	for _, cluster := range clusters {
		revision++
		step(StoredCluster{Cluster: cluster, Revision: revision})
	}
	return c, beats, reports
}

// The budget of a step that changes nothing is 2 µs and no allocation, however many jobs there are. The inputs are made beforehand:
// what it costs to bring them in is the intake's.
func BenchmarkStep(b *testing.B) {
	for _, jobs := range []int{1, 10_000, 100_000} {
		c, beats, reports := fleet(b, jobs)
		inputs := map[string][]Input{"tick": {Tick{}}, "progress": {Progress{Source: Agents, Revision: 1}}}
		for i := range min(len(beats), 1000) {
			inputs["beat"] = append(inputs["beat"], Beat{beats[i*len(beats)/min(len(beats), 1000)]})
		}
		for i := range min(len(reports), 1000) {
			r := reports[i*len(reports)/min(len(reports), 1000)]
			r.Sequence = 2
			inputs["report"] = append(inputs["report"], Reported{Report: &r, Revision: 1})
		}
		for _, name := range []string{"tick", "progress", "beat", "report"} {
			b.Run(fmt.Sprintf("%s/%d", name, jobs), func(b *testing.B) {
				b.ReportAllocs()
				now, i := time.Duration(0), 0
				for b.Loop() {
					if name == "tick" {
						now += time.Millisecond
					}
					if effects := c.Step(Event{At: now, Input: inputs[name][i%len(inputs[name])]}); len(effects) > 1 {
						b.Fatalf("%v", effects)
					}
					i++
				}
			})
		}
	}
}

// Allocations are stable on any machine, so they are asserted.
func TestAStepThatChangesNothingAllocatesNothing(t *testing.T) {
	c, beats, reports := fleet(t, 1000)
	r := reports[500]
	r.Sequence = 2
	for name, in := range map[string]Input{
		"tick": Tick{}, "progress": Progress{Source: Agents, Revision: 1}, "beat": Beat{beats[50]}, "report": Reported{Report: &r, Revision: 1},
	} {
		c.Step(Event{Input: in}) // the first may tell how many agents beat
		if n := testing.AllocsPerRun(100, func() { c.Step(Event{Input: in}) }); n > 0 {
			t.Errorf("%s: %.0f allocations", name, n)
		}
	}
}
