//go:build flink

package product

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/agent"
	"github.com/holdfast-dev/holdfast/aggregator"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/settle"
	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/metric"
)

// product is Holdfast as it ships, in this process: etcd, an aggregator, and an agent for each JobManager.
type product struct {
	t       *testing.T
	client  *clientv3.Client
	address string
}

// startProduct starts etcd and an aggregator. Its patience is short; what a test waits for is not.
func startProduct(t *testing.T, tune func(*settle.Config)) *product {
	t.Helper()
	ctx := t.Context()
	server, err := etcdlocal.Start(ctx, etcdlocal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	client, err := server.Client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	cfg := settle.DefaultConfig()
	cfg.Hold, cfg.Lease, cfg.Grace, cfg.Missing = 6*time.Second, 5*time.Second, 3*time.Second, 8*time.Second
	if tune != nil {
		tune(&cfg)
	}
	a, err := aggregator.New(aggregator.Options{
		Site: "local", UID: "test", Listen: "127.0.0.1:0", Etcd: client, Settle: cfg, LeaderLease: 3 * time.Second,
		CheckPeriod: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &product{t: t, client: client, address: a.Address()}
	p.background(a.Run)
	t.Cleanup(func() {
		check(t, metric.Unmended(context.Background(), "http://"+p.address))
	})
	return p
}

// background runs something until the test ends, before what it needs is taken away.
func (p *product) background(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	p.t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				p.t.Error(err)
			}
		case <-time.After(20 * time.Second):
			p.t.Error("something does not stop")
		}
	})
}

// attend puts an agent beside each JobManager.
func (p *product) attend(cluster *flinkproc.Cluster, name string) {
	p.t.Helper()
	for i, jm := range cluster.JobManagers() {
		f, err := flink.Dial(jm.URL(), flink.Options{})
		if err != nil {
			p.t.Fatal(err)
		}
		pod := fmt.Sprintf("%s-%d", name, i)
		a, err := agent.New(agent.Options{
			Site: "local", Agent: evidence.Agent{Namespace: "default", Cluster: name, PodUID: pod}, Pod: pod, Version: "test",
			Flink: f, Etcd: p.client, Poll: 500 * time.Millisecond, Lease: 5 * time.Second, Log: p.log(),
		})
		if err != nil {
			p.t.Fatal(err)
		}
		p.background(a.Run)
	}
}

func (p *product) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(p.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type verdict struct {
	State, Certainty, Over, Reason, Message string
	Possible                                []string
	Attempt                                 struct{ Number int }
}

func (v verdict) String() string {
	return fmt.Sprintf("%s %s over=%s attempt=%d %s", v.State, v.Certainty, v.Over, v.Attempt.Number, v.Reason)
}

func (p *product) get(path string, into any) int {
	p.t.Helper()
	response, err := http.Get("http://" + p.address + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if response.StatusCode == http.StatusOK {
		if err := json.Unmarshal(body, into); err != nil {
			p.t.Fatalf("%s: %v", path, err)
		}
	}
	return response.StatusCode
}

func (p *product) verdict(cluster, id string) verdict {
	p.t.Helper()
	var v verdict
	if code := p.get("/api/v1/jobs/local/default/"+cluster+"/"+id, &v); code != http.StatusOK {
		v.State = fmt.Sprintf("HTTP %d", code)
	}
	return v
}

// until waits for what the job is to be shown as. What it must never be shown as, on the way, fails the test.
func (p *product) until(cluster, id, want string, never ...string) verdict {
	p.t.Helper()
	begin, last := time.Now(), ""
	for time.Since(begin) < 90*time.Second {
		v := p.verdict(cluster, id)
		if now := v.String(); now != last {
			p.t.Logf("%6.2f s  %s", time.Since(begin).Seconds(), now)
			last = now
		}
		if slices.Contains(never, v.State) {
			p.t.Fatalf("job %s is shown as %s (%s)", id, v, v.Message)
		}
		if strings.HasPrefix(last, want) {
			return v
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.t.Fatalf("job %s is shown as %s, want %s", id, last, want)
	return verdict{}
}

// history gives the states of a job's history, without those that only repeat with another certainty.
func (p *product) history(cluster, id string) []string {
	p.t.Helper()
	var list struct {
		Items []struct {
			Sequence int64
			Kind     string
			State    string
		}
	}
	if code := p.get("/api/v1/jobs/local/default/"+cluster+"/"+id+"/history", &list); code != http.StatusOK {
		p.t.Fatalf("history: HTTP %d", code)
	}
	var states []string
	for i, item := range list.Items {
		if item.Sequence != int64(i+1) {
			p.t.Errorf("entry %d of the history has number %d", i+1, item.Sequence)
		}
		if len(states) == 0 || states[len(states)-1] != item.State {
			states = append(states, item.State)
		}
	}
	return states
}
