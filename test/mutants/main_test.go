package main

import (
	"path/filepath"
	"testing"
)

// A bug that no longer fits the code is planted by nobody: whoever changes the code adapts it.
func TestEveryBugCanBePlanted(t *testing.T) {
	names := map[string]bool{}
	for _, b := range bugs {
		if _, err := b.in(filepath.Join("..", "..", b.file)); err != nil {
			t.Errorf("%s: %v", b.name, err)
		}
		if names[b.name] || len(b.tests) == 0 || b.old == b.new {
			t.Errorf("%s: needs a name of its own, a change, and tests that notice it", b.name)
		}
		names[b.name] = true
	}
}
