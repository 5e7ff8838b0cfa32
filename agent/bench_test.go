package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
)

// The budgets of an idle agent at a poll interval of 1 s.
const (
	budgetRSS       = 16 << 10 // KiB
	budgetAnonymous = 5 << 10  // KiB
	budgetCPU       = 2.0      // thousandths of a core
)

// TestIdleCost measures the real program beside an idle JobManager. It takes minutes, so it runs where it is asked for:
//
//	HOLDFAST_BENCH=1 go test ./agent -run TestIdleCost -v
//
// HOLDFAST_BENCH may be a duration, which is how long each measurement lasts; else that is 70 s, so that there is a repair in it.
func TestIdleCost(t *testing.T) {
	text := os.Getenv("HOLDFAST_BENCH")
	if text == "" {
		t.Skip("HOLDFAST_BENCH is not set")
	}
	span, err := time.ParseDuration(text)
	if err != nil {
		span = 70 * time.Second
	}
	program := filepath.Join(t.TempDir(), "holdfast-agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "grpcnotrace", "-o", program, "../cmd/holdfast-agent")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, jobs := range []int{1, 10, 1000} {
		t.Run(fmt.Sprint(jobs), func(t *testing.T) {
			c := measure(t, program, jobs, span)
			t.Logf("%5d jobs: RSS %5d KiB, anonymous %5d KiB, %.2f millicores (over %s)", jobs, c.rss, c.anonymous, c.cpu, span)
			if jobs > 10 {
				return // the budget is for what a pod usually has
			}
			if c.rss > budgetRSS || c.anonymous > budgetAnonymous || c.cpu > budgetCPU {
				t.Errorf("over the budget of RSS %d KiB, anonymous %d KiB, %.0f millicores", budgetRSS, budgetAnonymous, budgetCPU)
			}
		})
	}
}

type cost struct {
	rss, anonymous int     // KiB
	cpu            float64 // thousandths of a core
}

func measure(t *testing.T, program string, jobs int, span time.Duration) cost {
	w := newWorld(t, 0)
	for i := range jobs {
		w.jm.SetJob(flinktest.Job{ID: jobID(i), Name: fmt.Sprintf("orders-%d", i), State: job.Running})
	}
	_, port := w.jm.HostPort()
	ctx, cancel := context.WithTimeout(t.Context(), span+2*time.Minute)
	defer cancel()
	agent := exec.CommandContext(ctx, program, "--site", testSite, "--namespace", w.who.Namespace, "--cluster-id", w.who.Cluster,
		"--pod-uid", w.who.PodUID, "--etcd-endpoints", w.etcd.Endpoint(), "--rest-port", strconv.Itoa(port), "--listen", "127.0.0.1:0")
	agent.Stderr = w.log
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = agent.Process.Signal(syscall.SIGTERM)
		if err := agent.Wait(); err != nil {
			t.Errorf("the agent ended with %v", err)
		}
	}()
	w.wantBeat("a beat", anyBeat)
	time.Sleep(5 * time.Second) // what it takes to start does not count
	before := onCore(t, agent.Process.Pid)
	time.Sleep(span)
	used := onCore(t, agent.Process.Pid) - before
	c := cost{cpu: 1000 * used.Seconds() / span.Seconds()}
	c.rss, c.anonymous = memory(t, agent.Process.Pid)
	return c
}

// onCore is the time that all threads of a process have had on a core so far (the first field of schedstat, in nanoseconds).
// A thread that ends takes its time along, but Go keeps its threads.
func onCore(t *testing.T, pid int) (sum time.Duration) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		t.Skip("no schedstat here")
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		first, _, _ := strings.Cut(string(data), " ")
		n, _ := strconv.ParseInt(first, 10, 64)
		sum += time.Duration(n)
	}
	return sum
}

func memory(t *testing.T, pid int) (rss, anonymous int) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch n, _ := strconv.Atoi(fields[1]); fields[0] {
		case "Rss:":
			rss = n
		case "Anonymous:":
			anonymous = n
		}
	}
	return rss, anonymous
}
