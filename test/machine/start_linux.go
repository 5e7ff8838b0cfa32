package machine

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// Start starts a command in a process group of its own, so that an interrupt at the terminal reaches only us, and
// sees to it that it dies when we do, even by SIGKILL.
//
// The kernel sends the death signal when the thread that forked ends, not the process (prctl(2), PR_SET_PDEATHSIG).
// So all forks are done by one goroutine that keeps its thread for ever.
func Start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	request := startRequest{cmd, make(chan error, 1)}
	starter() <- request
	return <-request.result
}

type startRequest struct {
	cmd    *exec.Cmd
	result chan error
}

var starter = sync.OnceValue(func() chan<- startRequest {
	requests := make(chan startRequest)
	go func() {
		runtime.LockOSThread()
		for request := range requests {
			request.result <- request.cmd.Start()
		}
	}()
	return requests
})
