package flinkproc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/test/machine"
)

// A shell that writes a line to its log each 20 ms, and leaves in order when it is asked to.
const ticking = `trap 'exit 7' TERM; while :; do echo tick; sleep 0.02; done`

func TestProcess(t *testing.T) {
	p := newProcess("ticker", t.TempDir(), filepath.Join(t.TempDir(), "log"), "/bin/sh", "-c", ticking)
	t.Cleanup(func() { p.Kill() })
	if p.Running() {
		t.Error("it runs before it is started")
	}
	if err := p.Pause(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Pause before Start: %v, want ErrNotRunning", err)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("Kill before Start: %v", err)
	}

	check(t, p.Start())
	awaitTicks(t, p)
	if err := p.Start(); err == nil {
		t.Error("it can be started twice")
	}

	check(t, p.Pause())
	still := awaitStill(t, p)
	if !p.Running() {
		t.Error("a paused process does not run")
	}
	check(t, p.Continue())
	if awaitTicks(t, p); ticks(t, p) <= still {
		t.Error("it does not go on after a pause")
	}

	check(t, p.Stop(t.Context()))
	if code, ended := p.ExitCode(); code != 7 || !ended {
		t.Errorf("exit code %d, ended %v after Stop, want 7, true", code, ended)
	}
	if err := p.Stop(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Stop after its end: %v, want ErrNotRunning", err)
	}

	// A paused process can be killed too, and its next life is another one.
	check(t, p.Restart(), p.Pause())
	before := p.Pid()
	check(t, p.Restart())
	if p.Pid() == before || !p.Running() {
		t.Errorf("after a restart: pid %d (before: %d), running %v", p.Pid(), before, p.Running())
	}
	check(t, p.Kill())
	if code, ended := p.ExitCode(); code != -1 || !ended {
		t.Errorf("exit code %d, ended %v after Kill, want -1, true", code, ended)
	}
}

// A process that will not go is not waited for for ever.
func TestProcessThatWillNotStop(t *testing.T) {
	p := newProcess("deaf", t.TempDir(), filepath.Join(t.TempDir(), "log"), "/bin/sh", "-c",
		`trap '' TERM; while :; do echo tick; sleep 0.02; done`)
	t.Cleanup(func() { p.Kill() })
	check(t, p.Start())
	awaitTicks(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Stop: %v, want the context's error", err)
	}
	if !p.Running() {
		t.Error("Stop has killed it")
	}
}

// When we are killed, so is what we started. The test runs itself as the one that is killed.
func TestNothingSurvivesUs(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can do it")
	}
	const role = "FLINKPROC_TEST_PARENT"
	if os.Getenv(role) != "" {
		p := newProcess("child", t.TempDir(), filepath.Join(t.TempDir(), "log"), "/bin/sleep", "60")
		check(t, p.Start())
		fmt.Println("pid", p.Pid())
		<-t.Context().Done()
		return
	}
	parent := exec.Command(os.Args[0], "-test.run=^TestNothingSurvivesUs$")
	parent.Env = append(os.Environ(), role+"=1", "TMPDIR="+t.TempDir())
	output, err := parent.StdoutPipe()
	check(t, err, parent.Start())
	child := 0
	for lines := bufio.NewScanner(output); child == 0 && lines.Scan(); {
		if pid, found := strings.CutPrefix(lines.Text(), "pid "); found {
			child, err = strconv.Atoi(pid)
			check(t, err)
		}
	}
	if child == 0 {
		t.Fatal("the child's process id has not come")
	}
	check(t, parent.Process.Kill())
	parent.Wait()
	eventually(t, "the child is gone", func() bool { return errors.Is(syscall.Kill(child, 0), syscall.ESRCH) })
}

// ticks counts the lines in the log.
func ticks(t *testing.T, p *Process) int {
	t.Helper()
	log, err := os.ReadFile(p.Log())
	check(t, err)
	return strings.Count(string(log), "tick")
}

// awaitTicks waits until it has written something more.
func awaitTicks(t *testing.T, p *Process) {
	t.Helper()
	before := 0
	if _, err := os.Stat(p.Log()); err == nil {
		before = ticks(t, p)
	}
	eventually(t, "another tick", func() bool { return ticks(t, p) > before })
}

// awaitStill waits until it has written nothing for ten times as long as it takes to write a line.
func awaitStill(t *testing.T, p *Process) (count int) {
	t.Helper()
	count, since := ticks(t, p), time.Now()
	eventually(t, "silence", func() bool {
		if now := ticks(t, p); now != count {
			count, since = now, time.Now()
		}
		return time.Since(since) > 200*time.Millisecond
	})
	return count
}

func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := machine.Poll(ctx, func() (bool, error) { return happened(), nil }); err != nil {
		t.Fatalf("wait for %s: %v", what, err)
	}
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
