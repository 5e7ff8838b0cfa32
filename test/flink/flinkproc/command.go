package flinkproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// command runs a command to its end and gives what it printed, which is also in the error if it fails.
func command(ctx context.Context, env []string, name string, args ...string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	var printed bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &printed, &printed
	if err := start(cmd); err != nil {
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
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, lastLines(printed.String(), 20))
	}
	return printed.String(), nil
}

// aptInstall installs Debian packages. The error wraps errCannotInstall where that is not ours to do.
func aptInstall(ctx context.Context, tell teller, packages ...string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: not root", errCannotInstall)
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("%w: no apt-get", errCannotInstall)
	}
	tell.sayf("installing %s with apt-get", strings.Join(packages, " "))
	env := []string{"DEBIAN_FRONTEND=noninteractive"}
	const patience = "DPkg::Lock::Timeout=120" // seconds, if another apt-get is at work
	if _, err := command(ctx, env, apt, "-o", patience, "update"); err != nil {
		return err
	}
	args := append([]string{"-o", patience, "install", "--yes", "--no-install-recommends"}, packages...)
	_, err = command(ctx, env, apt, args...)
	return err
}

var errCannotInstall = errors.New("cannot install packages here")

// lastLines gives the end of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
