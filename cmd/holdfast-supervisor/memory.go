package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// memoryLimit is the memory that the container may take, in bytes, as its cgroup says, of version 2 or 1; 0 if there is no limit, or
// nothing to learn it from.
func memoryLimit(cgroup string) uint64 {
	for _, file := range []string{"memory.max", "memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(filepath.Join(cgroup, file))
		if err != nil {
			continue
		}
		limit, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64)
		if err != nil || limit >= 1<<60 { // "max", and what version 1 says for it
			return 0
		}
		return limit
	}
	return 0
}

// memoryOf is what only this process has in memory, in bytes. Files that are mapped do not count: the kernel takes their pages away
// before it kills anybody. (proc(5), /proc/pid/statm: resident and shared, in pages.)
func memoryOf(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	return anonymous(text)
}

func anonymous(statm []byte) (uint64, error) {
	var size, resident, shared uint64
	if _, err := fmt.Sscan(string(statm), &size, &resident, &shared); err != nil {
		return 0, fmt.Errorf("statm is %q: %w", statm, err)
	}
	if shared > resident {
		return 0, fmt.Errorf("statm is %q: more is shared than there is", statm)
	}
	return (resident - shared) * uint64(os.Getpagesize()), nil
}
