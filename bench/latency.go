package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/agent"
	"github.com/holdfast-dev/holdfast/aggregator"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
)

const (
	latencyJobs    = 100
	latencyChanges = 400
)

// benchLatency measures from a change inside the JobManager to its arrival at a watcher of the API: agent, etcd, settler, etcd
// and board lie in between.
func benchLatency(ctx context.Context) error {
	for _, poll := range []time.Duration{time.Second, 100 * time.Millisecond} {
		all, err := latency(ctx, poll)
		if err != nil {
			return err
		}
		n := len(all)
		p50, p90, p99, most := percentile(all, 0.5), percentile(all, 0.9), percentile(all, 0.99), percentile(all, 1)
		fmt.Printf("poll %6s: %d changes of %d jobs, p50 %s, p90 %s, p99 %s, max %s; budget p99 ≤ %s\n",
			poll, n, latencyJobs, round(p50), round(p90), round(p99), round(most), poll+50*time.Millisecond)
	}
	return nil
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

func latency(ctx context.Context, poll time.Duration) ([]time.Duration, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	server, err := startEtcd(ctx)
	if err != nil {
		return nil, err
	}
	defer server.stop()
	client, err := server.client(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	jm, err := flinktest.Start("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer jm.Close()
	begin := time.Now().Add(-time.Hour)
	ids := make([]string, latencyJobs)
	for i := range ids {
		ids[i] = flinktest.NewID()
		jm.SetJob(flinktest.Job{ID: ids[i], Name: fmt.Sprintf("job %d", i), State: job.Running, Start: begin})
	}

	f, err := flink.Dial(jm.URL(), flink.Options{})
	if err != nil {
		return nil, err
	}
	sidecar, err := agent.New(agent.Options{
		Site: "bench", Agent: evidence.Agent{Namespace: "default", Cluster: "bench", PodUID: "pod"}, Pod: "pod", Version: "bench",
		Flink: f, Etcd: client, Poll: poll,
	})
	if err != nil {
		return nil, err
	}
	answers, err := aggregator.New(aggregator.Options{Site: "bench", UID: "bench", Listen: "127.0.0.1:0", Etcd: client})
	if err != nil {
		return nil, err
	}
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { _ = sidecar.Run(ctx) })
	running.Go(func() { _ = answers.Run(ctx) })

	seen := make(chan arrival, latencyChanges)
	if err := watch(ctx, "http://"+answers.Address(), seen); err != nil {
		return nil, err
	}
	for known := map[string]bool{}; len(known) < latencyJobs; {
		select {
		case a := <-seen:
			known[a.id] = true
		case <-time.After(20 * time.Second):
			return nil, fmt.Errorf("%d of %d jobs are known", len(known), latencyJobs)
		}
	}

	// A job ends, and later a new attempt of it runs: states that do not make the agent look more often.
	changed := map[string]time.Time{}
	running1 := map[string]bool{}
	for _, id := range ids {
		running1[id] = true
	}
	var all []time.Duration
	collect := func(a arrival) {
		if at, waits := changed[a.id]; waits && (a.state == "RUNNING") == running1[a.id] {
			all = append(all, a.at.Sub(at))
			delete(changed, a.id)
		}
	}
	next := time.NewTimer(0)
	for made := 0; made < latencyChanges || len(changed) > 0; {
		select {
		case a := <-seen:
			collect(a)
		case <-next.C:
			if made < latencyChanges {
				id := ids[rand.N(latencyJobs)]
				if _, waits := changed[id]; !waits {
					running1[id] = !running1[id]
					changed[id] = time.Now()
					if running1[id] {
						jm.SetJob(flinktest.Job{ID: id, Name: "again", State: job.Running, Start: time.Now()})
					} else {
						jm.SetState(id, job.Finished)
					}
					made++
				}
				next.Reset(rand.N(100 * time.Millisecond))
			}
		case <-time.After(20 * time.Second):
			return nil, fmt.Errorf("%d changes did not arrive", len(changed))
		}
	}
	return all, nil
}

type arrival struct {
	id, state string
	at        time.Time
}

// watch gives every change that the API tells, as it comes.
func watch(ctx context.Context, url string, seen chan<- arrival) error {
	var response *http.Response
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/api/v1/jobs?watch=true", nil)
		if err != nil {
			return err
		}
		if response, err = http.DefaultClient.Do(request); err == nil && response.StatusCode == http.StatusOK {
			break
		}
		if err == nil {
			response.Body.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	go func() {
		defer response.Body.Close()
		lines := bufio.NewScanner(response.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var event struct {
				Type   string
				Object struct{ JobID, State, Certainty string }
			}
			if json.Unmarshal(lines.Bytes(), &event) == nil && event.Type == "put" && event.Object.Certainty == "Witnessed" {
				seen <- arrival{id: event.Object.JobID, state: event.Object.State, at: time.Now()}
			}
		}
	}()
	return nil
}
