// Command bench measures what docs/benchmarks.md reports, on real parts: etcd is a process of its own, JobManagers are scripted
// ones that answer as Flink does, and the programs measured are the ones that ship. It prints figures; it asserts nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal"
)

var benches = map[string]func(context.Context) error{
	"agent":      benchAgent,
	"aggregator": benchAggregator,
	"latency":    benchLatency,
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "etcd" {
		serveEtcd(os.Args[2])
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var names []string
	for name := range benches {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(os.Args) > 1 {
		names = os.Args[1:]
	}
	for _, name := range names {
		bench, ok := benches[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "there is no bench %q\n", name)
			os.Exit(2)
		}
		fmt.Printf("== %s\n", name)
		if err := bench(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			os.Exit(1)
		}
	}
}

// etcdProcess is an etcd beside this process, so that its memory and work are not counted as somebody else's.
type etcdProcess struct {
	endpoint string
	cmd      *exec.Cmd
	dir      string
}

// startEtcd runs this program once more, as an etcd. Stop ends it.
func startEtcd(ctx context.Context) (*etcdProcess, error) {
	dir, err := os.MkdirTemp("", "holdfast-bench-")
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &etcdProcess{endpoint: "unix://" + filepath.Join(dir, "etcd.sock"), dir: dir}
	p.cmd = exec.CommandContext(ctx, self, "etcd", p.endpoint)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		return nil, errors.New("etcd did not start")
	}
	return p, nil
}

func (p *etcdProcess) stop() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	_ = os.RemoveAll(p.dir)
}

func (p *etcdProcess) client(ctx context.Context) (*clientv3.Client, error) {
	return etcd.Dial(ctx, etcd.Options{Endpoints: []string{p.endpoint}})
}

func serveEtcd(address string) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server, err := etcdlocal.Start(ctx, etcdlocal.Options{Address: address, Quota: 8 << 30})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	<-ctx.Done()
	server.Close()
}

// percentile gives the p-th percentile of durations, which it sorts.
func percentile(all []time.Duration, p float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)-1, int(float64(len(all))*p))]
}

// procStatus reads a figure in KiB of /proc/PID/status.
func procStatus(pid int, field string) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			return strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	return 0, fmt.Errorf("no %s in /proc/%d/status", field, pid)
}

// cpuTime is the processor time that a process has used.
func cpuTime(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+2:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	const ticksPerSecond = 100 // USER_HZ, which Linux never changes for user space
	return time.Duration(user+system) * time.Second / ticksPerSecond, nil
}
