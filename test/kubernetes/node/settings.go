package node

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// settings are those of the kernel that every kubelet changes for the whole machine (setupKernelTunables in
// container_manager_linux.go). They are written down before the first node boots, and restored when the last is gone.
type settings struct {
	sys   string   // where the kernel has them
	dir   string   // where nodes have their folders
	names []string // below sys
}

var kubeletSettings = settings{"/proc/sys", folders, []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}}

func (s settings) file() string { return filepath.Join(s.dir, "settings.json") }

// lock keeps two nodes from booting and going at once. Nothing takes long under it.
func (s settings) lock() (unlock func(), err error) {
	file, err := os.OpenFile(s.file()+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { file.Close() }, nil
}

// keep writes them down, if no node has before.
func (s settings) keep() error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(s.file()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	values := map[string]string{}
	for _, name := range s.names {
		text, err := os.ReadFile(filepath.Join(s.sys, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without it
		}
		if err != nil {
			return err
		}
		values[name] = strings.TrimSpace(string(text))
	}
	text, err := json.Marshal(values)
	if err != nil {
		return err
	}
	return os.WriteFile(s.file(), text, 0o644)
}

// restore restores them, unless another node is there. The caller's own has no state any more.
func (s settings) restore() error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	others, err := filepath.Glob(filepath.Join(s.dir, "*", stateFile))
	if err != nil || len(others) > 0 {
		return err
	}
	text, err := os.ReadFile(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var values map[string]string
	if err == nil {
		err = json.Unmarshal(text, &values)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		err = errors.Join(err, os.WriteFile(filepath.Join(s.sys, name), []byte(values[name]), 0o644))
	}
	return errors.Join(err, os.Remove(s.file()))
}
