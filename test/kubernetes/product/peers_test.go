//go:build kubernetes

package product

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
)

// What docs/benchmarks.md compares with others who watch Flink: the same cases, with native applications of Flink 1.20, as often. It takes half an
// hour, and its times mean nothing on a machine that does anything else. What is shown wrongly fails it on any machine.
func TestPeers(t *testing.T) {
	if os.Getenv("HOLDFAST_TEST_FIGURES") == "" {
		t.Skip("this measures: set HOLDFAST_TEST_FIGURES=1 on a quiet machine")
	}
	ownNode(t)
	for _, c := range []struct {
		name    string
		measure func(t *testing.T)
	}{
		{"fails", func(t *testing.T) { peerEndings(t, (*flinkproc.Control).Boom, "FAILED ") }},
		{"finishes", func(t *testing.T) { peerEndings(t, (*flinkproc.Control).Finish, "FINISHED ") }},
		{"restarts", peerRestarts},
		{"killed", peerKilled},
		{"cut off", func(t *testing.T) { peerCut(t, node.Drop, 240*time.Second, 2) }},
		{"reset", func(t *testing.T) { peerCut(t, node.Reset, 30*time.Second, 3) }},
		{"fails unseen", peerFailsUnseen},
		{"starts", peerStarts},
		{"memory", peerMemory},
	} {
		t.Run(c.name, c.measure)
	}
}

// peer starts an application that is shown as RUNNING.
func peer(t *testing.T, id string, job flinkproc.Job) *running {
	t.Helper()
	r := application(t, flinkpod.Options{Dist: cluster.Flinks[0], Namespace: namespace(t, "peers", nil), ID: id}, job)
	holdfast.until(t, r.jobs(), prompt, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
	return r
}

// peerEndings ends the jobs of twelve applications, one after another, each of which takes its Deployment with it, and says how soon, and whether, that
// was shown. What nobody saw may be held, or not known; a state that is not the job's fails the test.
func peerEndings(t *testing.T, end func(*flinkproc.Control) error, want string) {
	shown := map[string]int{}
	var took []time.Duration
	for n := range 12 {
		r := peer(t, fmt.Sprintf("ends-%d", n), flinkproc.Job{})
		time.Sleep(rand.N(3 * time.Second)) // the agent has just asked when a job is shown: it shall not be the rhythm that it ends in
		begin, last := time.Now(), ""
		check(t, end(r.control))
		for time.Since(begin) < 2*concluded() {
			if all, err := holdfast.jobs(t.Context(), r.jobs()); err == nil && len(all) == 1 {
				last = all[0].String()
			}
			if strings.HasPrefix(last, want) {
				took = append(took, time.Since(begin))
			}
			if strings.Contains(last, "over=yes") {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if state := strings.Fields(last)[0]; state != strings.Fields(want)[0] && state != "RUNNING" && state != "UNKNOWN" {
			t.Errorf("a job that is %s is shown as %s", strings.Fields(want)[0], last)
		}
		shown[last]++
		check(t, r.Remove(limit(t)))
	}
	slices.Sort(took)
	t.Logf("shown in the end: %v", shown)
	if len(took) > 0 {
		t.Logf("from the moment of its end until it is shown: %s", spread(took))
	}
}

// peerRestarts lets a job fail 17 times, and counts how many of its restarts, of three seconds each, a reader sees who asks four times a second.
func peerRestarts(t *testing.T) {
	const times = 17
	r := peer(t, "restarts", flinkproc.Job{Restarts: 1000, Delay: 3 * time.Second})
	record := holdfast.record(t, r.jobs())
	for n := range times {
		_, before := r.control.Connections()
		check(t, r.control.Boom())
		for {
			if live, ever := r.control.Connections(); live > 0 && ever > before {
				break
			}
			time.Sleep(100 * time.Millisecond)
			if t.Context().Err() != nil {
				t.Fatalf("restart %d does not end", n+1)
			}
		}
		check(t, r.flink.WaitRunning(limit(t), r.job))
		holdfast.until(t, r.jobs(), prompt, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
		time.Sleep(2 * time.Second)
	}
	seen := map[string]int{}
	for _, s := range record.seen(t) {
		if strings.HasPrefix(s.is, "RESTARTING Witnessed") {
			seen[s.replica]++
		}
	}
	t.Logf("of %d restarts each replica showed: %v", times, seen)
}

// peerKilled kills a JobManager's container six times: what is shown is the last thing that was known, or the truth.
func peerKilled(t *testing.T) {
	for n := range 6 {
		r := peer(t, fmt.Sprintf("killed-%d", n), flinkproc.Job{Restarts: 1000, Delay: time.Second})
		record := holdfast.record(t, r.jobs())
		c, err := ownNode(t).Container(limit(t), r.Namespace(), r.jobManager(t).Name, flinkpod.MainContainer)
		check(t, err)
		check(t, c.Kill(limit(t), "SIGKILL"))
		gone(t, c)
		time.Sleep(concluded() + sometime)
		for _, s := range record.seen(t) {
			if state := strings.Fields(s.is)[0]; state == "FAILED" || state == "NOTHING" {
				t.Errorf("after %s %s shows job %s as %s", s.at, s.replica, s.job, s.is)
			}
		}
		check(t, r.Remove(limit(t)))
	}
}

// peerCut cuts the aggregators off from the API server and from Flink while a job runs.
func peerCut(t *testing.T, how node.How, outage time.Duration, times int) {
	r := peer(t, "cut", flinkproc.Job{})
	record := holdfast.record(t, r.jobs())
	for range times {
		roads := cutAggregators(t, ownNode(t), how, r)
		roads.proveCut(t)
		time.Sleep(outage)
		roads.heal()
		time.Sleep(10 * time.Second)
	}
	record.only(t, "RUNNING Witnessed over=no attempt=1")
	t.Logf("%s for %s, %d times: RUNNING Witnessed throughout", how, outage, times)
}

// peerFailsUnseen lets jobs fail while the aggregators are cut off from the API server and from Flink for 120 s, and says what is shown until then, and
// within a minute after that. A job that ended between two looks of its agent may be held, or not known: it is never anything else than it was.
func peerFailsUnseen(t *testing.T) {
	for n := range 4 {
		r := peer(t, fmt.Sprintf("unseen-%d", n), flinkproc.Job{})
		roads := cutAggregators(t, ownNode(t), node.Drop, r)
		roads.proveCut(t)
		begin, last := time.Now(), ""
		check(t, r.control.Boom())
		healed := false
		for time.Since(begin) < 3*time.Minute {
			if !healed && time.Since(begin) > 2*time.Minute {
				healed = true
				roads.heal()
			}
			all, err := holdfast.jobs(t.Context(), r.jobs())
			if err != nil || len(all) != 1 || all[0].String() == last {
				time.Sleep(50 * time.Millisecond)
				continue
			}
			last = all[0].String()
			t.Logf("%6.2f s after its end, healed %t: %s", time.Since(begin).Seconds(), healed, last)
			if state := all[0].State; state != "RUNNING" && state != "FAILED" && state != "UNKNOWN" {
				t.Errorf("a job that failed is shown as %s", last)
			}
			if strings.HasPrefix(last, "RUNNING Witnessed") && time.Since(begin) > concluded() {
				t.Errorf("%s after its end a job is shown as %s", time.Since(begin), last)
			}
			if strings.HasPrefix(last, "FAILED Witnessed") {
				break
			}
		}
		roads.heal()
		check(t, r.Remove(limit(t)))
	}
}

// peerStarts deletes the pods of all replicas at once, and says how long it takes until one that came in their place answers for a job.
func peerStarts(t *testing.T) {
	r := peer(t, "starts", flinkproc.Job{})
	var took []time.Duration
	for range 5 {
		before := holdfast.leader(t, "")
		begin := time.Now()
		for _, pod := range aggregatorPods(t) {
			deletePod(t, home, pod.Name)
		}
		holdfast.watch(t, r.jobs(), time.Minute, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
		took = append(took, time.Since(begin))
		holdfast.leader(t, before)
		eventually(t, 2*time.Minute, "all replicas run", func(ctx context.Context) error {
			pods, err := holdfast.aggregators(ctx)
			if err == nil && (len(pods) != replicasOf(t, "aggregator") || len(holdfast.replicas(ctx)) != len(pods)) {
				err = fmt.Errorf("%d pods run", len(pods))
			}
			return err
		})
	}
	slices.Sort(took)
	t.Logf("from the end of all replicas' pods to a job's state from a new one: %s", spread(took))
}

// peerMemory asks the kernel what each aggregator needs with one job.
func peerMemory(t *testing.T) {
	peer(t, "memory", flinkproc.Job{})
	time.Sleep(time.Minute)
	for _, pod := range aggregatorPods(t) {
		c, err := ownNode(t).Container(limit(t), home, pod.Name, "aggregator")
		check(t, err)
		m, err := c.Memory()
		check(t, err)
		t.Logf("%s: working set %.1f MiB, anonymous %.1f MiB", pod.Name, float64(m.WorkingSet)/(1<<20), float64(m.Anonymous)/(1<<20))
	}
}

// spread says how long things took that are sorted.
func spread(sorted []time.Duration) string {
	var sum time.Duration
	for _, d := range sorted {
		sum += d
	}
	return fmt.Sprintf("%d times, mean %s, median %s, longest %s", len(sorted), (sum / time.Duration(len(sorted))).Round(time.Millisecond),
		quantile(sorted, .5), sorted[len(sorted)-1].Round(time.Millisecond))
}
