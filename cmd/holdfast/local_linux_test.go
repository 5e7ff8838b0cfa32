package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
)

// asProgram makes the test's binary the program.
const asProgram = "RUN_AS_HOLDFAST"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// process is "holdfast local" as a process of its own.
type process struct {
	cmd *exec.Cmd
	// out is what it printed until it served.
	out string
	api string

	mu  sync.Mutex
	log strings.Builder
}

func (p *process) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(text)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// launch starts the program. It waits until the program serves, or has ended.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], append([]string{"local"}, args...)...)}
	p.cmd.Env = append(os.Environ(), asProgram+"=1", "HOLDFAST_LISTEN=127.0.0.1:0")
	p.cmd.Stderr = p
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	lines := bufio.NewReader(out)
	for !strings.HasSuffix(p.out, "Ctrl-C stops it.\n") {
		line, err := lines.ReadString('\n')
		p.out += line
		if _, after, found := strings.Cut(line, "and answers at "); found {
			p.api, _, _ = strings.Cut(after, ". ")
		}
		if err != nil {
			break
		}
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	return p
}

// ends waits for the end, and gives the exit code, or the signal as a text.
func (p *process) ends(t *testing.T) string {
	t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	_ = p.cmd.Wait() // the error is the exit code
	return p.cmd.ProcessState.String()
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// ask runs another command against it until that prints a text.
func (p *process) ask(t *testing.T, want string, args ...string) {
	t.Helper()
	var out, errs string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if _, out, errs = run(map[string]string{"HOLDFAST_SERVER": p.api}, args...); strings.Contains(out, want) {
			return
		}
	}
	t.Fatalf("%v: never printed %q, but\n%s%s\nthe log:\n%s", args, want, out, errs, p.said())
}

func TestLocalAsAProcess(t *testing.T) {
	jm := flinktest.New(t)
	id := flinktest.NewID()
	jm.SetJob(flinktest.Job{ID: id, Name: "orders", State: job.Running})
	data := filepath.Join(t.TempDir(), "data")
	p := launch(t, "--flink", "shop="+jm.URL(), "--data", data)
	p.ask(t, "RUNNING", "get")
	p.ask(t, "Witnessed: a JobManager said it, over its REST API", "why", "orders")
	p.ask(t, "via REST", "history", id[:8])
	p.ask(t, "1 of 1 beat", "status")
	for _, want := range []string{"shop ", jm.URL(), data, "holdfast get --server " + p.api} {
		if !strings.Contains(p.out, want) {
			t.Errorf("no %q in the start's text:\n%s", want, p.out)
		}
	}

	other := launch(t, "--flink", "shop="+jm.URL(), "--data", data)
	if end := other.ends(t); end != "exit status 1" || !strings.Contains(other.said(), "holdfast: data folder "+data+" is in use by another 'holdfast local'") {
		t.Errorf("a second one with the same folder: %s: %s", end, other.said())
	}
	other = launch(t, "--flink", jm.URL(), "--data", filepath.Join(t.TempDir(), "data"), "--listen", strings.TrimPrefix(p.api, "http://"))
	if end := other.ends(t); end != "exit status 1" || !strings.Contains(other.said(), "another program already listens on") {
		t.Errorf("a second one with the same address: %s: %s", end, other.said())
	}

	p.signal(t, syscall.SIGTERM)
	if end := p.ends(t); end != "exit status 0" || !strings.Contains(p.said(), "agent has left") {
		t.Errorf("after SIGTERM: %s; the log:\n%s", end, p.said())
	}

	// A crash loses nothing that was shown.
	p = launch(t, "--flink", "shop="+jm.URL(), "--data", data, "--log-format", "json")
	p.ask(t, "Witnessed", "get", "orders")
	p.signal(t, syscall.SIGKILL)
	p.ends(t)
	jm.SetState(id, job.Canceled)
	p = launch(t, "--flink", "shop="+jm.URL(), "--data", data, "--log-format", "json")
	p.ask(t, "CANCELED", "get", "orders")
	p.ask(t, "RUNNING", "history", "orders")
	p.signal(t, os.Interrupt)
	if end := p.ends(t); end != "exit status 0" {
		t.Errorf("after SIGINT: %s", end)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(p.said()), "\n") {
		if !strings.HasPrefix(line, `{"time":`) {
			t.Errorf("not logged as JSON: %s", line)
		}
	}
}

// A request that does not end makes the orderly end wait for some seconds. Nobody has to.
func TestLocalEndsAtOnceAtTheSecondSignal(t *testing.T) {
	jm := flinktest.New(t)
	p := launch(t, "--flink", jm.URL(), "--data", filepath.Join(t.TempDir(), "data"))
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.api, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: x\r\n"); err != nil {
		t.Fatal(err)
	}
	p.ask(t, "of 1 beat", "status") // by then it has accepted the connection before
	p.signal(t, os.Interrupt)
	for end := time.Now().Add(20 * time.Second); !strings.Contains(p.said(), "msg=stopping"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not stop; the log:\n%s", p.said())
		}
	}
	began := time.Now()
	again := time.NewTicker(20 * time.Millisecond) // the first one may still be at work
	defer again.Stop()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case <-again.C:
				_ = p.cmd.Process.Signal(os.Interrupt)
			case <-ended:
				return
			}
		}
	}()
	if end := p.ends(t); end != "signal: interrupt" || time.Since(began) > 2*time.Second {
		t.Errorf("after the second signal: %s, after %s", end, time.Since(began))
	}
}

func TestLocalSaysAllThatIsWrong(t *testing.T) {
	p := launch(t, "--flink", "a=localhost:8081", "--flink", "b=http://h:1,b=http://h:2", "--data", "", "--hold", "1s", "--log-level", "loud")
	end, said := p.ends(t), p.said()
	if end != "exit status 2" || p.out != "" {
		t.Errorf("%s, printed %q", end, p.out)
	}
	for _, want := range []string{
		`--log-level "loud" does not exist`, `URL "localhost:8081": give it with http`, `both called "b"`, "--data is empty", "--hold 1s is shorter",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	if lines := strings.Count(said, "\n"); lines != 6 {
		t.Errorf("%d lines, want one for each complaint, and one with a hint:\n%s", lines, said)
	}
}

func TestLocalTakesVariables(t *testing.T) {
	t.Setenv("HOLDFAST_POLL", "often")
	p := launch(t, "--flink", "http://h")
	if end := p.ends(t); end != "exit status 2" || !strings.Contains(p.said(), `variable HOLDFAST_POLL="often" is not a duration`) {
		t.Errorf("%s: %s", end, p.said())
	}
	jm := flinktest.New(t)
	t.Setenv("HOLDFAST_POLL", "200ms")
	t.Setenv("HOLDFAST_FLINK", "shop="+jm.URL())
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	p = launch(t)
	if want := os.Getenv("XDG_STATE_HOME") + "/holdfast/local"; !strings.Contains(p.out, want) || !strings.Contains(p.out, "shop") {
		t.Errorf("no %q, or no shop, in\n%s%s", want, p.out, p.said())
	}
	p.signal(t, syscall.SIGTERM)
	if end := p.ends(t); end != "exit status 0" {
		t.Errorf("%s: %s", end, p.said())
	}
}

// A disk that is too small for etcd is no reason to give the folder up: with room, it starts.
func TestLocalOnASmallDisk(t *testing.T) {
	jm := flinktest.New(t)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("a small file system cannot be mounted, which needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	data := filepath.Join(disk, "data")
	p := launch(t, "--flink", jm.URL(), "--data", data)
	if end, want := p.ends(t), fmt.Sprintf("the disk of data folder %s/etcd is full: etcd needs at least 200 MB", data); end != "exit status 1" || !strings.Contains(p.said(), want) {
		t.Errorf("%s: %s\nwant %q", end, p.said(), want)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=300m"); err != nil {
		t.Fatal(err)
	}
	p = launch(t, "--flink", jm.URL(), "--data", data)
	p.ask(t, "1 of 1 beat", "status")
	p.signal(t, syscall.SIGTERM)
	if end := p.ends(t); end != "exit status 0" {
		t.Errorf("with room: %s: %s", end, p.said())
	}
}
