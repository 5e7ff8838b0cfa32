//go:build kubernetes

package realkubernetes

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
	"github.com/holdfast-dev/holdfast/test/machine"
)

// second is the number of a node beside the one that all tests share.
const second = 8

// crashing is the variable that makes TestCrash boot a node and never stop it.
const crashing = "HOLDFAST_TEST_CRASH"

// running is what it prints then: the node's folder and its name.
const running = "running in %s as %s"

// A node leaves nothing behind: neither when it is stopped nor when whoever booted it is killed.
func TestTeardown(t *testing.T) {
	ctx := bounded(t)
	ownNode(t)
	n, err := node.Start(ctx, node.Options{Number: second, Progress: os.Stderr})
	must(t, err)
	t.Cleanup(func() { must(t, node.Remove(context.Background(), second, os.Stderr)) })
	runPod(ctx, t, n)
	if left := remains(t, n.Name(), n.Dir()); len(left) == 0 {
		t.Fatal("of a node that runs nothing is to be seen: this test could not fail")
	}
	must(t, n.Stop(ctx))
	clean(t, n.Name(), n.Dir())
}

// TestCrash kills the process that booted a node, in the middle of its work.
func TestCrash(t *testing.T) {
	if os.Getenv(crashing) != "" {
		n, err := node.Start(t.Context(), node.Options{Number: second, Progress: os.Stderr})
		must(t, err)
		runPod(t.Context(), t, n)
		fmt.Printf(running+"\n", n.Dir(), n.Name())
		select {} // until it is killed
	}
	ctx := bounded(t)
	ownNode(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrash$", "-test.v")
	cmd.Env = append(os.Environ(), crashing+"=1", "KUBECONFIG=")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err, machine.Start(cmd))
	t.Cleanup(func() { must(t, node.Remove(context.Background(), second, os.Stderr)) })
	dir, name := "", ""
	for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
		fmt.Sscanf(lines.Text(), running, &dir, &name)
	}
	if dir == "" {
		t.Fatalf("it ended before its node was there: %v", cmd.Wait())
	}
	if left := remains(t, name, dir); len(left) == 0 {
		t.Fatal("of a node that runs nothing is to be seen: this test could not fail")
	}
	must(t, cmd.Process.Kill())
	cmd.Wait()
	eventually(ctx, t, "an end of what the killed process left", func() bool { return len(remains(t, name, dir)) == 0 })
	clean(t, name, dir)
}

// One process at a time uses a node, and another hears why it has to wait.
func TestOneAtATime(t *testing.T) {
	ownNode(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var told strings.Builder
	_, err := node.Start(ctx, node.Options{Progress: &told})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(told.String(), "waiting for another process") {
		t.Errorf("a second start has %v and tells %q, want it to wait and to say so", err, told.String())
	}
}

// runPod runs a pod on a node.
func runPod(ctx context.Context, t *testing.T, n *node.Node) {
	t.Helper()
	client, err := flinkpod.NewClient(n.Kubeconfig(), true)
	must(t, err)
	createPodOn(ctx, t, client, "default", "pod", corev1.PodSpec{Containers: []corev1.Container{podtool("main")}})
	eventually(ctx, t, "a container", func() bool {
		_, err := n.Container(ctx, "default", "pod", "main")
		return err == nil
	})
}

func clean(t *testing.T, name, dir string) {
	t.Helper()
	for _, left := range remains(t, name, dir) {
		t.Errorf("this is left: %s", left)
	}
}

// remains looks for everything that a node has on the machine.
func remains(t *testing.T, name, dir string) (left []string) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, file := range processes {
		text, err := os.ReadFile(file)
		if err != nil || len(text) == 0 {
			continue // gone meanwhile, or a zombie
		}
		words := strings.ReplaceAll(string(text), "\x00", " ")
		cgroups, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup"))
		if strings.Contains(words, dir+"/") || strings.Contains(string(cgroups), "/"+name+"/") {
			left = append(left, "process "+filepath.Base(filepath.Dir(file))+": "+words)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			left = append(left, "mount "+line)
		}
	}
	cgroups, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	must(t, err)
	left = append(left, cgroups...)
	if _, err := os.Stat("/sys/fs/cgroup/" + name); err == nil {
		left = append(left, "/sys/fs/cgroup/"+name)
	}
	if _, err := os.Stat("/sys/class/net/" + name); err == nil {
		left = append(left, "network interface "+name)
	}
	routes, err := os.ReadFile("/proc/net/route")
	must(t, err)
	if strings.Contains(string(routes), name) {
		left = append(left, "a route over "+name)
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, entry := range entries {
		if entry.Name() != "logs" {
			left = append(left, filepath.Join(dir, entry.Name()))
		}
	}
	slices.Sort(left)
	return left
}
