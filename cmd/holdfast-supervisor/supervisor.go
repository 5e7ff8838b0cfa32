package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// supervisor keeps one program running.
type supervisor struct {
	command []string
	backoff backoff
	look    time.Duration // between two looks at the memory of a program that takes little; see next
	limit   uint64        // the container's, in bytes; 0 if there is none
	log     *slog.Logger
}

// run returns when ctx has ended and the program, too. Until then the program is started, again and again.
func (s *supervisor) run(ctx context.Context) {
	// The kernel kills the program when this thread ends, and so with this process alone.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for ctx.Err() == nil {
		begin := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := s.backoff.after(time.Since(begin))
		s.log.Error("the program ended, and is started anew", "program", s.command[0], "error", err, "in", pause.Round(100*time.Millisecond))
		sleep(ctx, pause)
	}
}

// once runs the program until it ends. The error says how it did.
func (s *supervisor) once(ctx context.Context) error {
	program := exec.Command(s.command[0], s.command[1:]...)
	program.Stdout, program.Stderr = os.Stdout, os.Stderr
	program.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if most := s.most(); most > 0 && os.Getenv("GOMEMLIMIT") == "" {
		// The garbage collector works harder before it comes to that.
		program.Env = append(os.Environ(), fmt.Sprintf("GOMEMLIMIT=%d", most*3/4))
	}
	if err := program.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	watched := make(chan error, 1)
	go func() { watched <- s.watch(ctx, program.Process, ended) }()
	err := program.Wait()
	close(ended)
	if why := <-watched; why != nil {
		return why
	}
	if err == nil {
		return errEnded
	}
	return err
}

var errEnded = errors.New("it ended by itself, with code 0")

// watch passes the end on to the program, and kills it when it takes too much memory. The error says so.
func (s *supervisor) watch(ctx context.Context, program *os.Process, ended <-chan struct{}) (err error) {
	looks := time.NewTimer(s.look)
	defer looks.Stop()
	end := ctx.Done()
	for {
		select {
		case <-ended:
			return err
		case <-end:
			end = nil // once: the kubelet kills who does not heed it
			_ = program.Signal(syscall.SIGTERM)
		case <-looks.C:
			// Without a limit, or where the kernel does not tell, the node's own rules are all there is.
			taken, told := memoryOf(program.Pid)
			if most := s.most(); told == nil && most > 0 && taken > most {
				err = fmt.Errorf("killed: it took %d KiB, and the container may take %d KiB", taken>>10, s.limit>>10)
				_ = program.Kill()
			}
			looks.Reset(s.next(taken))
		}
	}
}

// most is what the program may take. At the limit itself the kernel kills: with cgroups of version 1 the process that takes the most,
// with version 2 everything in the container, the supervisor too, since the kubelet sets memory.oom.group (from Kubernetes 1.28 on).
// What remains is for the supervisor and the kernel's own needs.
func (s *supervisor) most() uint64 { return s.limit / 4 * 3 }

// next is how long to wait until the next look at a program that takes so much: the less it may still take, the sooner. So growth of no
// more than most in the time of one look, 48 MiB a second where the limit is 64 MiB, is seen before the kernel kills.
func (s *supervisor) next(taken uint64) time.Duration {
	most := s.most()
	if most == 0 {
		return s.look
	}
	room := most - min(taken, most)
	return max(time.Duration(float64(s.look)*float64(room)/float64(most)), s.look/20)
}

// backoff is how long to wait before the program is started anew: twice as long each time, and as at first after it ran for long
// enough.
type backoff struct {
	least, most, healthy time.Duration
	next                 time.Duration
}

func (b *backoff) after(ran time.Duration) time.Duration {
	if ran >= b.healthy || b.next == 0 {
		b.next = b.least
	}
	now := b.next
	b.next = min(2*now, b.most)
	return now/2 + rand.N(now/2+1) // not all agents of a site at once
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
