// Package machine is what tests with real processes need of the machine that they run on: commands, Debian packages,
// locks between processes, and lines of progress for people. It knows no Flink and no Kubernetes.
package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Run runs a command to its end and gives what it printed, which is also in the error if it fails. env is added to the
// environment of this process.
func Run(ctx context.Context, env []string, name string, args ...string) (string, error) {
	return RunIn(ctx, "", env, name, args...)
}

// RunIn is Run in another working folder.
func RunIn(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	var printed bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &printed, &printed
	if err := Start(cmd); err != nil {
		return "", err
	}
	// The whole group: pip and apt-get have children that would go on.
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	stop()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, LastLines(printed.String(), 20))
	}
	return printed.String(), nil
}

// ErrCannotInstall is the answer of Install where that is not ours to do: not root, or no Debian.
var ErrCannotInstall = errors.New("cannot install packages here")

// installing keeps the parts of one process from running apt-get beside one another: apt-get update does not wait for its lock.
var installing sync.Mutex

// Install installs Debian packages.
func Install(ctx context.Context, tell Teller, packages ...string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: not root", ErrCannotInstall)
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("%w: no apt-get", ErrCannotInstall)
	}
	installing.Lock()
	defer installing.Unlock()
	tell.Sayf("installing %s with apt-get", strings.Join(packages, " "))
	env := []string{"DEBIAN_FRONTEND=noninteractive"}
	const patience = "DPkg::Lock::Timeout=120" // seconds, if another apt-get is at work
	if _, err := Run(ctx, env, apt, "-o", patience, "update"); err != nil {
		return err
	}
	args := append([]string{"-o", patience, "install", "--yes", "--no-install-recommends"}, packages...)
	_, err = Run(ctx, env, apt, args...)
	return err
}

// Poll asks every 50 ms until the answer is yes. An error ends it.
func Poll(ctx context.Context, ask func() (bool, error)) error {
	for {
		if yes, err := ask(); yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// LastLines gives the end of a text.
func LastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// WriteSynced writes a file to the disk itself, for one that will be trusted for ever by its name alone.
func WriteSynced(name string, content io.Reader) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Sync(), file.Close())
}

// Together does all things at once and waits for all. The first error ends the others' context.
func Together(ctx context.Context, things ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for _, thing := range things {
		all.Go(func() {
			if err := thing(ctx); err != nil {
				cancel(err) // the first stands, the others' are its consequences
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}
