package node

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/test/machine"
)

func TestPlaces(t *testing.T) {
	t.Setenv("HOLDFAST_KUBERNETES_NODE", "3")
	third, err := newPlace(-1)
	check(t, err)
	fourth, err := newPlace(4)
	check(t, err)
	if third.number != 3 || third.name != "holdfast3" || third.network.Overlaps(fourth.network) || third.dir == fourth.dir {
		t.Errorf("nodes 3 and 4 are %+v and %+v, want nothing in common", third, fourth)
	}
	for _, p := range []*place{third, fourth} {
		for name, in := range map[string]bool{
			"services": p.network.Contains(p.services.Addr()), "pods": p.network.Contains(p.pods.Addr()), "host": p.network.Contains(p.host),
			"node": p.network.Contains(p.node), "kubernetes": p.services.Contains(p.kubernetes), "apart": !p.pods.Overlaps(p.services),
		} {
			if !in {
				t.Errorf("%s of node %d: %+v", name, p.number, p)
			}
		}
	}
	for _, wrong := range []string{"ten", "10", "-"} {
		t.Setenv("HOLDFAST_KUBERNETES_NODE", wrong)
		if _, err := newPlace(-1); err == nil {
			t.Errorf("there is a node %q", wrong)
		}
	}
}

func TestCutRules(t *testing.T) {
	tests := []struct {
		how   How
		peers []string
		want  []string
	}{
		{Drop, nil, []string{"OUTPUT ! -o lo -j DROP", "INPUT ! -i lo -j DROP"}},
		{Drop, []string{"10.0.0.1", "10.1.0.0/16"}, []string{
			"OUTPUT ! -o lo -d 10.0.0.1 -j DROP", "INPUT ! -i lo -s 10.0.0.1 -j DROP",
			"OUTPUT ! -o lo -d 10.1.0.0/16 -j DROP", "INPUT ! -i lo -s 10.1.0.0/16 -j DROP",
		}},
		{Drop, []string{"10.0.0.1:8081"}, []string{
			"OUTPUT ! -o lo -d 10.0.0.1 -p tcp --dport 8081 -j DROP", "INPUT ! -i lo -s 10.0.0.1 -p tcp --sport 8081 -j DROP",
		}},
		{Reset, []string{"10.0.0.1:8081"}, []string{
			"OUTPUT ! -o lo -d 10.0.0.1 -p tcp --dport 8081 -j REJECT --reject-with tcp-reset",
			"INPUT ! -i lo -s 10.0.0.1 -p tcp --sport 8081 -j REJECT --reject-with tcp-reset",
		}},
		{Reset, []string{"10.0.0.1"}, []string{
			"OUTPUT ! -o lo -d 10.0.0.1 -j REJECT", "INPUT ! -i lo -s 10.0.0.1 -j REJECT",
			"OUTPUT ! -o lo -d 10.0.0.1 -p tcp -j REJECT --reject-with tcp-reset",
			"INPUT ! -i lo -s 10.0.0.1 -p tcp -j REJECT --reject-with tcp-reset",
		}},
	}
	for _, test := range tests {
		rules, err := cutRules(test.how, test.peers)
		check(t, err)
		var got []string
		for _, rule := range rules {
			got = append(got, strings.Join(rule, " "))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s of %q (-want +got):\n%s", test.how, test.peers, diff)
		}
	}
	for _, wrong := range []string{
		"", "flink", "flink:8081", "10.0.0.1:", "10.0.0.1:99999", "10.0.0.0/33", "::1", "[::1]:80", "fd00::/64", "10.0.0.1 -j ACCEPT",
	} {
		if rules, err := cutRules(Drop, []string{wrong}); err == nil {
			t.Errorf("to cut %q off is %q", wrong, rules)
		}
	}
}

// Lines of a machine with both versions of cgroups, and of one with the second alone.
func TestHierarchies(t *testing.T) {
	const both = `24 1 254:0 / / rw shared:1 - ext4 /dev/vda rw
31 24 0:26 / /sys/fs/cgroup rw,relatime shared:5 - tmpfs tmpfs rw,mode=755
32 31 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:6 - cgroup cgroup rw,cpu,cpuacct
33 31 0:28 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
34 31 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
35 31 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
36 24 0:31 / /somewhere/else rw,relatime - cgroup2 cgroup2 rw
`
	all, err := readHierarchies(strings.NewReader(both))
	check(t, err)
	if len(all) != 4 || len(ruling(all)) != 3 {
		t.Errorf("%d hierarchies, %d of them with controllers: %+v", len(all), len(ruling(all)), all)
	}
	all, err = readHierarchies(strings.NewReader("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"))
	check(t, err)
	if want := []hierarchy{{dir: "/sys/fs/cgroup", unified: true}}; !cmp.Equal(ruling(all), want, cmp.AllowUnexported(hierarchy{})) {
		t.Errorf("with version 2 alone: %+v, want %+v", ruling(all), want)
	}
	if _, err := readHierarchies(strings.NewReader("24 1 254:0 / / rw - ext4 /dev/vda rw\n")); err == nil {
		t.Error("no cgroups at all, and no error")
	}
}

func TestMemory(t *testing.T) {
	v1, v2 := t.TempDir(), t.TempDir()
	write := func(dir string, files map[string]string) {
		for name, text := range files {
			check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		}
	}
	write(v1, map[string]string{
		"memory.usage_in_bytes": "1000\n", "memory.max_usage_in_bytes": "2000\n", "memory.limit_in_bytes": "9223372036854771712\n",
		"memory.stat": "rss 1\ntotal_cache 500\ntotal_rss 400\ntotal_mapped_file 300\ntotal_inactive_file 200\n",
	})
	write(v2, map[string]string{
		"memory.current": "1000\n", "memory.peak": "2000\n", "memory.max": "max\n",
		"memory.stat": "anon 400\nfile 500\nfile_mapped 300\ninactive_file 200\nanon_thp 7\n",
	})
	want := Memory{Current: 1000, Peak: 2000, Anonymous: 400, File: 500, Mapped: 300, WorkingSet: 800}
	for dir, names := range map[string]memoryNames{v1: memoryV1, v2: memoryV2} {
		got, err := names.read(dir)
		if check(t, err); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	write(v2, map[string]string{"memory.max": "3000\n"})
	if got, err := memoryV2.read(v2); err != nil || got.Limit != 3000 {
		t.Errorf("with a limit: %+v, %v", got, err)
	}
	write(v2, map[string]string{"memory.stat": "anon 400\n"})
	if got, err := memoryV2.read(v2); err == nil {
		t.Errorf("of a statistic that lacks lines: %+v", got)
	}
}

func TestProcess(t *testing.T) {
	saved := 0
	dir := t.TempDir()
	p := &Process{
		name: "shell", log: filepath.Join(dir, "log"), argv: []string{"/bin/sh", "-c", "echo begun; exec sleep 1000"},
		launch: func(cmd *exec.Cmd) error { return machine.Start(cmd) }, save: func() error { saved++; return nil },
	}
	t.Cleanup(func() { p.Kill() })
	if err := p.Pause(); !errors.Is(err, ErrNotRunning) || p.Running() {
		t.Errorf("Pause before Start: %v, want %v", err, ErrNotRunning)
	}
	check(t, p.Kill())
	check(t, p.Start())
	if err := p.Start(); err == nil {
		t.Error("it can be started twice")
	}
	check(t, p.Pause())
	eventually(t, "a stopped process", func() bool { _, state := startOf(p.Pid()); return state == 'T' && p.Running() })
	check(t, p.Continue())
	eventually(t, "a process that goes on", func() bool { _, state := startOf(p.Pid()); return state == 'S' })

	// Another process that uses the node knows it by what was saved.
	adopted := &Process{name: p.name, life: p.newest()}
	if !adopted.Running() {
		t.Error("nobody else can see it run")
	}
	// One that has its pid by chance is not it.
	if (life{p.Pid(), p.newest().Start + 1}).alive() {
		t.Error("a later process with its pid is taken for it")
	}
	before := p.Pid()
	check(t, p.Pause())
	check(t, p.Restart())
	if p.Pid() == before || !p.Running() || adopted.Running() || saved != 2 {
		t.Errorf("after a restart: pid %d (before: %d), running %v, the old life %v, saved %d times",
			p.Pid(), before, p.Running(), adopted.Running(), saved)
	}
	eventually(t, "a second line in its log", func() bool { return strings.Contains(p.ended().Error(), "begun\nbegun") })
	check(t, p.Stop(t.Context()))
	if err := p.Continue(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Continue after its end: %v, want %v", err, ErrNotRunning)
	}
}

func TestDigestSeesEveryChange(t *testing.T) {
	dir := t.TempDir()
	seen := map[string]string{}
	for _, step := range []struct{ name, file, text string }{
		{"a file", "main.go", "package main"}, {"another text", "main.go", "package mine"}, {"another file", "sub/x.go", ""},
		{"text that moved", "main.go", "package min"},
	} {
		file := filepath.Join(dir, step.file)
		check(t, os.MkdirAll(filepath.Dir(file), 0o755))
		check(t, os.WriteFile(file, []byte(step.text), 0o644))
		digest, err := digestOf(dir)
		check(t, err)
		if other, same := seen[digest]; same {
			t.Errorf("%s has the digest of %s", step.name, other)
		}
		seen[digest] = step.name
	}
}

// What was built is kept; what was interrupted is built again; what is old goes.
func TestRecipe(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("HOLDFAST_KUBERNETES_CACHE", cache)
	built, fail := 0, false
	r := recipe{"thing", "podtool", func(_ context.Context, _, into string) error {
		built++
		check(t, os.WriteFile(filepath.Join(into, "half"), nil, 0o644))
		if fail {
			return errors.New("interrupted")
		}
		return nil
	}}
	fail = true
	if _, err := r.make(t.Context(), machine.Teller{}); err == nil || !strings.Contains(err.Error(), "build thing: interrupted") {
		t.Errorf("a build that fails: %v", err)
	}
	fail = false
	old := filepath.Join(cache, "thing-0123456789ab")
	check(t, os.Mkdir(old, 0o755))
	check(t, os.Chtimes(old, time.Time{}, time.Now().Add(-8*24*time.Hour)))
	home, err := r.make(t.Context(), machine.Teller{})
	check(t, err)
	again, err := r.make(t.Context(), machine.Teller{})
	check(t, err)
	if home != again || built != 2 {
		t.Errorf("built %d times, in %s and %s, want twice and the same", built, home, again)
	}
	if _, err := os.Stat(filepath.Join(home, "half")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("what nobody has used for a week is still there")
	}
}

// Files of the old and the new life of a node are told apart, and nonsense is not taken for a node.
func TestState(t *testing.T) {
	p := &place{dir: t.TempDir()}
	empty, err := p.readState()
	if check(t, err); empty.Boot != "" || empty.Holder.alive() {
		t.Errorf("where no node was: %+v", empty)
	}
	check(t, os.WriteFile(p.path("state.json"), []byte("{"), 0o644))
	if _, err := p.readState(); err == nil || !strings.Contains(err.Error(), "state.json") {
		t.Errorf("of half a file: %v, want an error that names it", err)
	}
}

// The first node to come and the last to go see to what a kubelet changes.
func TestSettings(t *testing.T) {
	s := settings{sys: t.TempDir(), dir: t.TempDir(), names: []string{"panic", "missing"}}
	kernel := filepath.Join(s.sys, "panic")
	set := func(value string) { check(t, os.WriteFile(kernel, []byte(value+"\n"), 0o644)) }
	want := func(value string) {
		t.Helper()
		text, err := os.ReadFile(kernel)
		if check(t, err); strings.TrimSpace(string(text)) != value {
			t.Errorf("the setting is %q, want %s", text, value)
		}
	}
	first, second := filepath.Join(s.dir, "0"), filepath.Join(s.dir, "1")
	set("0")
	for _, node := range []string{first, second} {
		check(t, os.MkdirAll(node, 0o755))
		check(t, s.keep())
		check(t, os.WriteFile(filepath.Join(node, stateFile), nil, 0o644))
		set("10")
	}
	check(t, os.Remove(filepath.Join(first, stateFile)))
	check(t, s.restore())
	want("10") // the second is still there
	check(t, os.Remove(filepath.Join(second, stateFile)))
	check(t, s.restore())
	want("0")
	set("5")
	check(t, s.restore()) // nothing was there that could have changed it
	want("5")
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := machine.Poll(ctx, func() (bool, error) { return is(), nil }); err != nil {
		t.Fatalf("there never was %s", what)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
