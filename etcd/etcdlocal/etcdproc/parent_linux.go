package etcdproc

import "syscall"

// dieWithParent ends the process with the test, however the test ends: a paused one would not notice by itself.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
