//go:build unix && !linux

package flinkproc

import (
	"os/exec"
	"syscall"
)

// start starts a command in a process group of its own, so that an interrupt at the terminal reaches only us. Only
// Linux can also make it die when we are killed.
func start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd.Start()
}
