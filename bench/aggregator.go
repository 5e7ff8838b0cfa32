package main

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/aggregator"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

const (
	fleetAgents = 10_000
	fleetJobs   = 100_000
)

// benchAggregator fills etcd with the reports of a fleet, lets an aggregator settle them, and measures what it needs for
// that, and how long a restarted one takes until it is ready.
func benchAggregator(ctx context.Context) error {
	server, err := startEtcd(ctx)
	if err != nil {
		return err
	}
	defer server.stop()
	client, err := server.client(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	begin := time.Now()
	if err := fillFleet(ctx, client); err != nil {
		return err
	}
	fmt.Printf("%d reports of %d agents put into etcd in %.1f s\n", fleetJobs, fleetAgents, time.Since(begin).Seconds())

	before := heap()
	settled, _, err := runAggregator(ctx, server, func() bool { n, _ := countKeys(ctx, client, "verdicts/"); return n >= fleetJobs }, nil)
	if err != nil {
		return err
	}
	fmt.Printf("first start: all %d settled after %.1f s (%.0f verdicts/s)\n", fleetJobs, settled.Seconds(), fleetJobs/settled.Seconds())

	for round := range 3 {
		revision, err := countRevision(ctx, client)
		if err != nil {
			return err
		}
		var bytes float64
		var leading time.Duration
		_, ready, err := runAggregator(ctx, server, nil, func(begin time.Time) {
			// The settler has the fleet too once it has told how many agents beat.
			for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				if now, err := countRevision(ctx, client); err == nil && now > revision+1 {
					break
				}
			}
			leading = time.Since(begin)
			time.Sleep(3 * time.Second)
			bytes = float64(heap()-before) / fleetJobs
		})
		if err != nil {
			return err
		}
		after, err := countRevision(ctx, client)
		if err != nil {
			return err
		}
		fmt.Printf("restart %d: ready after %.2f s, settling after %.2f s; %.0f bytes of heap a job (board and settler); %d writes\n",
			round+1, ready.Seconds(), leading.Seconds(), bytes, after-revision)
	}
	return nil
}

func fillFleet(ctx context.Context, client *clientv3.Client) error {
	lease, err := client.Grant(ctx, 3600)
	if err != nil {
		return err
	}
	const perAgent = fleetJobs / fleetAgents
	agents := make(chan int)
	var all sync.WaitGroup
	failed := make(chan error, 16)
	for range 16 {
		all.Go(func() {
			for n := range agents {
				a := evidence.Agent{Namespace: fmt.Sprintf("team-%d", n%50), Cluster: fmt.Sprintf("cluster-%05d", n), PodUID: fmt.Sprintf("0b9c6f1e-1d7c-4a57-9f2e-%012d", n)}
				beat := evidence.Beat{Agent: a, Session: fmt.Sprintf("%032x", n), Version: "v0", Pod: a.Cluster + "-6f7d8c9b5-x2x4z",
					Incarnation: fmt.Sprintf("%036d", n), FlinkVersion: "1.20.1", HighAvailability: job.No, Reach: job.Fine, At: job.StampOf(1)}
				ops := []etcd.Op{{Key: record.BeatKey("bench", a), Value: record.EncodeBeat(beat), Lease: lease.ID}}
				for j := range perAgent {
					ops = append(ops, etcd.Op{Key: record.ReportKey("bench", a, fmt.Sprintf("%032x", n*perAgent+j)), Value: record.EncodeReport(fleetReport(a, beat, n*perAgent+j))})
				}
				if _, err := etcd.Commit(ctx, client, nil, ops); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	for n := range fleetAgents {
		select {
		case agents <- n:
		case err := <-failed:
			close(agents)
			return err
		}
	}
	close(agents)
	all.Wait()
	return nil
}

func fleetReport(a evidence.Agent, b evidence.Beat, n int) evidence.Report {
	start := job.StampOf(1_790_000_000_000 + int64(n))
	r := evidence.Report{
		Agent: a, JobID: fmt.Sprintf("%032x", n), Session: b.Session, Pod: b.Pod, Sequence: 4, Incarnation: b.Incarnation,
		Name: fmt.Sprintf("orders enrichment %d", n), StartTime: start, State: job.Running, Tasks: job.Tasks{Total: 8, Running: 8},
		Via: job.ViaREST, Reach: job.Fine, LastAnswer: start, Known: job.Yes,
	}
	for i, s := range []job.State{job.Initializing, job.Created, job.Running} {
		r.Transitions = append(r.Transitions, evidence.Transition{Number: int64(i + 1), State: s, StartTime: start, At: start, Via: job.ViaREST})
	}
	return r
}

// runAggregator runs one until done says so, and gives how long that took and when it was ready. While, if not nil, is
// called once it is ready.
func runAggregator(ctx context.Context, server *etcdProcess, done func() bool, while func(begin time.Time)) (took, ready time.Duration, err error) {
	client, err := server.client(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer client.Close()
	begin := time.Now()
	a, err := aggregator.New(aggregator.Options{Site: "bench", UID: "bench", Listen: "127.0.0.1:0", LeaderLease: 2 * time.Second, Etcd: client})
	if err != nil {
		return 0, 0, err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	for {
		response, err := http.Get("http://" + a.Address() + "/readyz")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				break
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	ready = time.Since(begin)
	if while != nil {
		while(begin)
	}
	for done != nil && !done() {
		time.Sleep(100 * time.Millisecond)
	}
	took = time.Since(begin)
	stop()
	return took, ready, <-ended
}

func countKeys(ctx context.Context, client *clientv3.Client, below string) (int64, error) {
	answer, err := client.Get(ctx, record.SitePrefix("bench")+below, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return answer.Count, nil
}

func countRevision(ctx context.Context, client *clientv3.Client) (int64, error) {
	answer, err := client.Get(ctx, "x", clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return answer.Header.Revision, nil
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
