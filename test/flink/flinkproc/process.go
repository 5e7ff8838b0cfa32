package flinkproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/holdfast-dev/holdfast/test/machine"
)

// ErrNotRunning is the answer of a process that is asked for something that only a running one can do.
var ErrNotRunning = errors.New("process is not running")

// Process is one process of a cluster, over all its lives: it can be killed and started again. Its methods may be
// called from any goroutine.
type Process struct {
	name string
	dir  string
	log  string
	argv []string

	mu   sync.Mutex
	life *life // the newest, nil before the first
}

// life is one run of a process.
type life struct {
	cmd   *exec.Cmd
	begin int64 // where its part of the log file begins
	ended chan struct{}
}

func newProcess(name, dir, log string, argv ...string) *Process {
	return &Process{name: name, dir: dir, log: log, argv: argv}
}

// Name says who this is in its cluster, such as "jobmanager-0".
func (p *Process) Name() string { return p.name }

// Log is the path of its log file, which goes on over its lives.
func (p *Process) Log() string { return p.log }

// Pid is the id of the newest life, 0 before the first.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life == nil {
		return 0
	}
	return p.life.cmd.Process.Pid
}

// Running says whether the process lives. One that is paused does.
func (p *Process) Running() bool {
	select {
	case <-p.Ended():
		return false
	default:
		return true
	}
}

// Ended is closed when the newest life is over.
func (p *Process) Ended() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life == nil {
		return closed
	}
	return p.life.ended
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// ExitCode is how the newest life ended: -1 by a signal. The answer is false while it lives, and before the first.
func (p *Process) ExitCode() (code int, ended bool) {
	p.mu.Lock()
	life := p.life
	p.mu.Unlock()
	if life == nil || p.Running() {
		return 0, false
	}
	return life.cmd.ProcessState.ExitCode(), true
}

// Start begins a new life. It fails if one goes on.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life != nil {
		select {
		case <-p.life.ended:
		default:
			return fmt.Errorf("start %s: it runs already", p.name)
		}
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	defer log.Close()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, log, log
	if err := machine.Start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.life = &life{cmd: cmd, begin: begin, ended: make(chan struct{})}
	go func(life *life) {
		life.cmd.Wait() // how it ended is in its ProcessState
		close(life.ended)
	}(p.life)
	return nil
}

// Pause stops the process where it is (SIGSTOP): its sockets stay open and nobody answers. It is what a long garbage
// collection or a frozen machine looks like from outside.
func (p *Process) Pause() error { return p.signal(syscall.SIGSTOP) }

// Continue ends a pause.
func (p *Process) Continue() error { return p.signal(syscall.SIGCONT) }

// Kill ends the process without its doing (SIGKILL), paused or not, and returns when it is gone. To kill what is gone
// already is no error.
func (p *Process) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	<-p.Ended()
	return nil
}

// Stop asks the process to end (SIGTERM), as the kubelet does, and returns when it is gone.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.Ended():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop %s: %w", p.name, ctx.Err())
	}
}

// Restart kills the process, if it lives, and starts it again with the same command line.
func (p *Process) Restart() error {
	if err := p.Kill(); err != nil {
		return err
	}
	return p.Start()
}

func (p *Process) signal(signal syscall.Signal) error {
	p.mu.Lock()
	life := p.life
	p.mu.Unlock()
	if life == nil {
		return fmt.Errorf("%s: %w", p.name, ErrNotRunning)
	}
	err := life.cmd.Process.Signal(signal)
	if errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.name, ErrNotRunning)
	}
	return err
}

// lifeLog gives what the newest life has logged.
func (p *Process) lifeLog() ([]byte, error) {
	p.mu.Lock()
	life := p.life
	p.mu.Unlock()
	if life == nil {
		return nil, nil
	}
	content, err := os.ReadFile(p.log)
	if err != nil {
		return nil, err
	}
	return content[min(life.begin, int64(len(content))):], nil
}

// lastLog gives the end of the log, for errors.
func (p *Process) lastLog(lines int) string {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return machine.LastLines(string(content), lines)
}
