//go:build unix && !linux

package etcdproc

import "syscall"

// dieWithParent has no means here: the process ends when its standard input does.
func dieWithParent() *syscall.SysProcAttr { return nil }
