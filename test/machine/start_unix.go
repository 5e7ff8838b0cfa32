//go:build unix && !linux

package machine

import (
	"os/exec"
	"syscall"
)

// Start starts a command in a process group of its own, so that an interrupt at the terminal reaches only us. Only
// Linux can also make it die when we are killed.
func Start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd.Start()
}
