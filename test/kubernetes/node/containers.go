package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrNoContainer says that no such container runs on the node.
var ErrNoContainer = errors.New("no such container runs")

// Container is one running container, as the kernel sees it.
type Container struct {
	// ID is containerd's.
	ID string
	// Pid is its first process, for nsenter and the like.
	Pid int

	node *Node
	life life
}

// Container gives the running container of that name in a pod. The error is ErrNoContainer if there is none.
func (n *Node) Container(ctx context.Context, namespace, pod, name string) (*Container, error) {
	return n.container(ctx, namespace, pod, "container", fmt.Sprintf(`,labels."io.kubernetes.container.name"==%q`, name))
}

// sandbox gives the container that holds a pod's network, from the pod's beginning to its end.
func (n *Node) sandbox(ctx context.Context, namespace, pod string) (*Container, error) {
	return n.container(ctx, namespace, pod, "sandbox", "")
}

func (n *Node) container(ctx context.Context, namespace, pod, kind, further string) (*Container, error) {
	filter := fmt.Sprintf(`labels."io.kubernetes.pod.namespace"==%q,labels."io.kubernetes.pod.name"==%q,labels."io.cri-containerd.kind"==%q`,
		namespace, pod, kind) + further
	printed, err := n.ctr(ctx, "containers", "list", "--quiet", filter)
	if err != nil {
		return nil, err
	}
	ids := strings.Fields(printed)
	if printed, err = n.ctr(ctx, "tasks", "list"); err != nil {
		return nil, err
	}
	for line := range strings.Lines(printed) {
		// TASK, PID and STATUS. Those that have ended are on the list for a while.
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[2] != "RUNNING" || !slices.Contains(ids, fields[0]) {
			continue
		}
		pid, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, err
		}
		start, _ := startOf(pid)
		return &Container{ID: fields[0], Pid: pid, node: n, life: life{pid, start}}, nil
	}
	return nil, fmt.Errorf("%s %s/%s%s: %w", kind, namespace, pod, further, ErrNoContainer)
}

// Running says whether the container still runs.
func (c *Container) Running() bool { return c.life.alive() }

// Kill sends a signal, such as SIGKILL, to the container's first process, as the kernel does when memory is short.
func (c *Container) Kill(ctx context.Context, signal string) error {
	_, err := c.node.ctr(ctx, "tasks", "kill", "--signal", signal, c.ID)
	return err
}

// Processes gives the ids of all its processes, the first one first.
func (c *Container) Processes() ([]int, error) {
	dir, _, err := cgroupOf(c.Pid, "memory")
	if err != nil {
		return nil, fmt.Errorf("find the cgroup of container %s: %w", c.ID, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	pids := []int{c.Pid}
	for field := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil && pid != c.Pid {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// ErrKillsAll says that where memory is short the kernel kills all of a container: the kubelet asks for that with cgroups of version 2.
var ErrKillsAll = errors.New("the kernel would kill all processes of the container")

// Choke leaves the container hardly more memory than it has in use, so that the kernel kills one of its processes when that wants more.
// Unchoke ends it. The error is ErrKillsAll where it would not be one process.
func (c *Container) Choke() (unchoke func() error, err error) {
	dir, unified, err := cgroupOf(c.Pid, "memory")
	if err != nil {
		return nil, fmt.Errorf("find the memory cgroup of container %s: %w", c.ID, err)
	}
	if unified {
		return nil, ErrKillsAll
	}
	file := filepath.Join(dir, memoryV1.limit)
	before, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	memory, err := memoryV1.read(dir)
	if err != nil {
		return nil, err
	}
	// As low as the kernel lets us: it refuses what it cannot make true by taking pages of files away.
	for limit := memory.Anonymous; ; limit += 64 << 10 {
		err := os.WriteFile(file, []byte(strconv.FormatUint(limit, 10)), 0o644)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EBUSY) || limit > memory.Current {
			return nil, err
		}
	}
	return func() error { return os.WriteFile(file, bytes.TrimSpace(before), 0o644) }, nil
}

// CPU is the time that the container's processes have been running so far, on all processors together.
func (c *Container) CPU() (time.Duration, error) {
	dir, unified, err := cgroupOf(c.Pid, "cpuacct")
	if err != nil {
		return 0, fmt.Errorf("find the cpu cgroup of container %s: %w", c.ID, err)
	}
	if unified {
		text, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
		if err != nil {
			return 0, err
		}
		var microseconds int64
		if _, err := fmt.Sscanf(string(text), "usage_usec %d", &microseconds); err != nil {
			return 0, fmt.Errorf("%s/cpu.stat: %w", dir, err)
		}
		return time.Duration(microseconds) * time.Microsecond, nil
	}
	text, err := os.ReadFile(filepath.Join(dir, "cpuacct.usage"))
	if err != nil {
		return 0, err
	}
	nanoseconds, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return time.Duration(nanoseconds), err
}

// Memory is what the kernel counts of a container, in bytes.
type Memory struct {
	// Current is all that is counted against Limit, with what the kernel has in its caches of the container's files.
	Current uint64
	// Peak is the highest Current ever was.
	Peak uint64
	// Limit is 0 if there is none.
	Limit uint64
	// Anonymous is heap and stacks; File, the page cache, of which Mapped is mapped (the program itself, for example).
	Anonymous, File, Mapped uint64
	// WorkingSet is Current without the file pages that the kernel would take first: what the kubelet reports, and evicts by.
	WorkingSet uint64
}

// Memory asks the kernel, by whichever version of cgroups the machine has.
func (c *Container) Memory() (Memory, error) {
	dir, unified, err := cgroupOf(c.Pid, "memory")
	if err != nil {
		return Memory{}, fmt.Errorf("find the memory cgroup of container %s: %w", c.ID, err)
	}
	if unified {
		return memoryV2.read(dir)
	}
	return memoryV1.read(dir)
}

// memoryNames are those of the kernel's files, and of the lines in memory.stat.
type memoryNames struct{ current, peak, limit, anonymous, file, mapped, inactive string }

var (
	memoryV1 = memoryNames{
		"memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes",
		"total_rss", "total_cache", "total_mapped_file", "total_inactive_file",
	}
	memoryV2 = memoryNames{"memory.current", "memory.peak", "memory.max", "anon", "file", "file_mapped", "inactive_file"}
)

func (names memoryNames) read(dir string) (Memory, error) {
	var m Memory
	for name, value := range map[string]*uint64{names.current: &m.Current, names.peak: &m.Peak, names.limit: &m.Limit} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return m, err
		}
		if strings.TrimSpace(string(text)) == "max" {
			continue
		}
		if *value, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err != nil {
			return m, err
		}
	}
	// Version 1 says "no limit" with the largest number of pages that there can be.
	if m.Limit > 1<<60 {
		m.Limit = 0
	}
	text, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return m, err
	}
	var inactive uint64
	values := map[string]*uint64{names.anonymous: &m.Anonymous, names.file: &m.File, names.mapped: &m.Mapped, names.inactive: &inactive}
	found := 0
	for line := range strings.Lines(string(text)) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if value := values[name]; value != nil {
			if *value, err = strconv.ParseUint(number, 10, 64); err != nil {
				return m, err
			}
			found++
		}
	}
	if found != len(values) {
		return m, fmt.Errorf("%s tells only %d of %d values", filepath.Join(dir, "memory.stat"), found, len(values))
	}
	m.WorkingSet = m.Current - min(m.Current, inactive)
	return m, nil
}

// cgroupOf gives the folder of the cgroup in which a controller counts a process.
func cgroupOf(pid int, controller string) (dir string, unified bool, err error) {
	all, err := mounted()
	if err != nil {
		return "", false, err
	}
	file, err := os.Open(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", false, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// cgroups(7): "ID:CONTROLLERS:PATH", and no controllers in version 2.
		fields := strings.SplitN(lines.Text(), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for _, h := range ruling(all) {
			if h.unified && fields[1] == "" || slices.Contains(h.controllers, controller) && slices.Contains(strings.Split(fields[1], ","), controller) {
				return filepath.Join(h.dir, fields[2]), h.unified, nil
			}
		}
	}
	return "", false, errors.Join(fmt.Errorf("no hierarchy that is mounted counts its %s", controller), lines.Err())
}
