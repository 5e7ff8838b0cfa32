package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-dev/holdfast/test/machine"
)

// ErrNotRunning is the answer of a process that is asked for something that only a running one can do.
var ErrNotRunning = errors.New("process is not running")

// Process is one program of the control plane or of the node, over all its lives: it can be paused, killed and started again.
// It may have been started by another process than this one. Its methods may be called from any goroutine.
type Process struct {
	name   string
	log    string
	argv   []string
	launch func(*exec.Cmd) error
	save   func() error // called after each start

	mu   sync.Mutex
	life life
}

// life is one run of a process, told from later ones with the same pid by its start: clock ticks since the machine booted.
type life struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// Pid is the id of the newest life, 0 before the first.
func (p *Process) Pid() int { return p.newest().Pid }

func (p *Process) newest() life {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.life
}

// Running says whether the process lives. One that is paused does.
func (p *Process) Running() bool { return p.newest().alive() }

// Start begins a new life. It fails if one goes on.
func (p *Process) Start() error {
	if p.Running() {
		return fmt.Errorf("start %s: it runs already", p.name)
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	defer log.Close()
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := p.launch(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	began, _ := startOf(cmd.Process.Pid) // it may be over already: then it is not alive, whatever its start
	p.mu.Lock()
	p.life = life{cmd.Process.Pid, began}
	p.mu.Unlock()
	go cmd.Wait() // so that it leaves no zombie
	return p.save()
}

// Pause stops the process where it is (SIGSTOP), and returns when all of its threads stand: its sockets stay open and nobody answers.
func (p *Process) Pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return machine.Poll(ctx, func() (bool, error) { return stands(p.Pid()), nil })
}

// stands says whether no thread of a process runs. On a busy machine one may go on for a while after the signal was sent.
func stands(pid int) bool {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, thread := range threads {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, thread.Name()))
		if _, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " "); err == nil && !strings.HasPrefix(rest, "T") {
			return false
		}
	}
	return err != nil || len(threads) > 0 // who is gone does not run either
}

// Continue ends a pause.
func (p *Process) Continue() error { return p.signal(syscall.SIGCONT) }

// Kill ends the process without its doing (SIGKILL), paused or not, and returns when it is gone. To kill what is gone
// already is no error.
func (p *Process) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	return machine.Poll(context.Background(), func() (bool, error) { return !p.Running(), nil })
}

// Stop asks the process to end (SIGTERM) and returns when it is gone. kube-apiserver takes seconds for it.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := machine.Poll(ctx, func() (bool, error) { return !p.Running(), nil }); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	return nil
}

// Restart kills the process, if it lives, and starts it again with the same command line.
func (p *Process) Restart() error {
	if err := p.Kill(); err != nil {
		return err
	}
	return p.Start()
}

func (p *Process) signal(signal syscall.Signal) error {
	life := p.newest()
	// The handle is taken first and the life is looked at through it then: a pid that is given anew in between is not ours.
	process, err := os.FindProcess(life.Pid)
	if err != nil || !life.alive() {
		return fmt.Errorf("%s: %w", p.name, ErrNotRunning)
	}
	defer process.Release()
	if err := process.Signal(signal); errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.name, ErrNotRunning)
	} else if err != nil {
		return fmt.Errorf("send %s to %s: %w", signal, p.name, err)
	}
	return nil
}

// ended is the error of a process that should not have ended.
func (p *Process) ended() error {
	log, err := os.ReadFile(p.log)
	if err != nil {
		return fmt.Errorf("%s has ended, and its log cannot be read: %w", p.name, err)
	}
	return fmt.Errorf("%s has ended; its log %s ends so:\n%s", p.name, p.log, machine.LastLines(string(log), 20))
}

func (l life) alive() bool {
	start, state := startOf(l.Pid)
	return l.Pid > 0 && start == l.Start && state != 'Z' && state != 'X' && state != 0
}

// startOf reads when a process started, and its state, from /proc/PID/stat (proc_pid_stat(5), fields 22 and 3). The state is 0 if
// there is no such process.
func startOf(pid int) (start uint64, state byte) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	// The second field is the name in parentheses, which may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return 0, 0
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, 0
	}
	return start, fields[0][0]
}
