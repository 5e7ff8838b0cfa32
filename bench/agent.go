package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

const (
	agentSettles  = 20 * time.Second
	agentMeasured = 60 * time.Second
)

// benchAgent measures the agent's own process as it ships, idle at a poll of one second: jobs run and nothing changes.
func benchAgent(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "holdfast-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "holdfast-agent")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "grpcnotrace", "-o", program, "./cmd/holdfast-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		return err
	}
	fmt.Printf("binary: %.1f MB\n", float64(info.Size())/1e6)
	for _, jobs := range []int{1, 10, 1000} {
		if err := agentWith(ctx, program, jobs); err != nil {
			return err
		}
	}
	return nil
}

func agentWith(ctx context.Context, program string, jobs int) error {
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
	jm, err := flinktest.Start("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer jm.Close()
	for i := range jobs {
		jm.SetJob(flinktest.Job{ID: flinktest.NewID(), Name: fmt.Sprintf("job %d", i), State: job.Running})
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(ctx, program, "--site", "bench", "--namespace", "default", "--cluster-id", "bench",
		"--pod-name", "bench-0", "--pod-uid", "bench-0", "--flink", jm.URL(), "--etcd-endpoints", server.endpoint, "--poll", "1s")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { stop(); _ = cmd.Wait() }()
	time.Sleep(agentSettles)
	if n, err := countKeys(ctx, client, "agents/"); err != nil || n != int64(jobs)+1 {
		return fmt.Errorf("%d keys below %s, %v; want a beat and %d reports", n, record.SitePrefix("bench"), err, jobs)
	}
	revision, err := countRevision(ctx, client)
	if err != nil {
		return err
	}
	pid := cmd.Process.Pid
	before, err := cpuTime(pid)
	if err != nil {
		return err
	}
	var most, mostAnon int
	for end := time.Now().Add(agentMeasured); time.Now().Before(end); time.Sleep(time.Second) {
		rss, err := procStatus(pid, "VmRSS")
		if err != nil {
			return err
		}
		anon, err := procStatus(pid, "RssAnon")
		if err != nil {
			return err
		}
		most, mostAnon = max(most, rss), max(mostAnon, anon)
	}
	after, err := cpuTime(pid)
	if err != nil {
		return err
	}
	now, err := countRevision(ctx, client)
	if err != nil {
		return err
	}
	fmt.Printf("%5d jobs: RSS %.1f MiB, anonymous %.1f MiB (the highest of a minute), %.2f millicores, %d writes\n",
		jobs, float64(most)/1024, float64(mostAnon)/1024, 1000*(after-before).Seconds()/agentMeasured.Seconds(), now-revision)
	return nil
}
