//go:build unix

// Package etcdproc runs etcd as a process of its own, for tests that pause it, kill it, empty it and set it back. The
// process is the test binary, started once more: TestMain calls Main.
package etcdproc

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal"
)

// variable holds the etcdlocal.Options of a process that is to be etcd, as JSON.
const variable = "HOLDFAST_TEST_ETCD"

// ready is what the process writes when it serves.
const ready = "ready"

// startBound bounds one start of etcd on a busy machine.
const startBound = 30 * time.Second

// Main runs etcd, and does not return, in a process that Start started. In any other it does nothing. Call it first in
// TestMain.
func Main() {
	text, ok := os.LookupEnv(variable)
	if !ok {
		return
	}
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve is etcd until the parent closes our standard input, or dies.
func serve(text string) error {
	var o etcdlocal.Options
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	server, err := etcdlocal.Start(context.Background(), o)
	if err != nil {
		return err
	}
	fmt.Println(ready)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		server.Close()
	}()
	<-server.Done()
	return server.Err()
}

// Process is an etcd that a test may treat badly. It listens on a unix socket, so that its address stays its own while it
// is down. Its methods fail the test where they cannot do what they say.
type Process struct {
	t       testing.TB
	options etcdlocal.Options
	saved   int

	mu     sync.Mutex
	cmd    *exec.Cmd
	stdin  io.Closer
	exited chan struct{}
}

// Start starts an etcd with an empty store, which ends with the test. quota is in bytes, 0 is etcd's own.
func Start(t testing.TB, quota int64) *Process {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd") // t.TempDir is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, options: etcdlocal.Options{
		Dir: filepath.Join(dir, "data"), Address: "unix://" + filepath.Join(dir, "s"), Quota: quota,
		Token: "one", // so that an emptied store has the cluster id of the old one, which is the harder case
	}}
	t.Cleanup(func() {
		p.Kill()
		os.RemoveAll(dir)
	})
	p.Restart()
	return p
}

// Endpoint is where clients connect; it is the same after a restart.
func (p *Process) Endpoint() string { return p.options.Address }

// Client makes a client, which is closed with the test.
func (p *Process) Client() *clientv3.Client {
	p.t.Helper()
	c, err := etcd.Dial(context.Background(), etcd.Options{Endpoints: []string{p.Endpoint()}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

// Restart kills etcd, if it runs, and starts it, on the data that it has.
func (p *Process) Restart() {
	p.t.Helper()
	p.Kill()
	text, err := json.Marshal(p.options)
	if err != nil {
		p.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), variable+"="+string(text))
	cmd.SysProcAttr = dieWithParent()
	var complaint strings.Builder
	cmd.Stderr = &complaint
	stdin, err := cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	late := time.AfterFunc(startBound, func() { cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	late.Stop()
	if err != nil || strings.TrimSpace(line) != ready {
		cmd.Process.Kill()
		cmd.Wait()
		p.t.Fatalf("etcd did not start: %v %q: %s", err, line, complaint.String())
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		cmd.Wait()
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.stdin, p.exited = cmd, stdin, exited
}

// Pause stops the process where it is (SIGSTOP): its sockets stay open, and nobody answers.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

// Kill ends the process at once, paused or not (SIGKILL). Without a process it does nothing.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Kill()
	<-p.exited
	p.stdin.Close()
	p.cmd = nil
}

func (p *Process) signal(s syscall.Signal) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		p.t.Fatalf("etcd is not running: cannot send it %v", s)
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Empty kills etcd and takes its data away. It has the same cluster id when it is started again.
func (p *Process) Empty() {
	p.t.Helper()
	p.Kill()
	if err := os.RemoveAll(p.options.Dir); err != nil {
		p.t.Fatal(err)
	}
}

// Save kills etcd and copies its data, for Restore. Restart it afterwards.
func (p *Process) Save() (copy string) {
	p.t.Helper()
	p.Kill()
	p.saved++
	copy = fmt.Sprintf("%s.%d", p.options.Dir, p.saved)
	if err := os.CopyFS(copy, os.DirFS(p.options.Dir)); err != nil {
		p.t.Fatal(err)
	}
	return copy
}

// Restore kills etcd and puts a copy of Save back, as one restores a volume: the cluster id is the old one. Restart it
// afterwards. A copy can be put back once.
func (p *Process) Restore(copy string) {
	p.t.Helper()
	p.Empty()
	if err := os.Rename(copy, p.options.Dir); err != nil {
		p.t.Fatal(err)
	}
}
