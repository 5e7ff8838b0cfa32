package local

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// disk mounts a file system of a size.
func disk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a file system of %s cannot be mounted, which needs root: %v", size, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// A full disk is no reason to give a folder up: with room, it goes on.
func TestLocalOnAFullDisk(t *testing.T) {
	dir := disk(t, "64k")
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	o := fine(data)
	o.Log = slog.New(slog.DiscardHandler)
	_, err := New(t.Context(), o)
	if want := "the disk is full: make room (200 MB), or choose another folder with --data"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=300m"); err != nil {
		t.Fatal(err)
	}
	l, err := New(t.Context(), o)
	if err != nil {
		t.Fatalf("with room: %v", err)
	}
	l.Close()
}

// asNobody does something with the rights of another user, as far as files are concerned.
func asNobody(t *testing.T, do func()) {
	t.Helper()
	ours := filepath.Join(t.TempDir(), "ours")
	done := make(chan bool)
	go func() {
		defer close(done)
		// The rights are this thread's. It is not unlocked, so it ends with the goroutine.
		runtime.LockOSThread()
		if err := syscall.Setfsuid(65534); err != nil {
			return
		}
		if err := os.WriteFile(ours, nil, 0o600); err == nil {
			return
		}
		do()
		done <- true
	}()
	if !<-done {
		t.Skip("this user cannot take another's rights, which needs root")
	}
}

func TestLocalWithoutRights(t *testing.T) {
	dir := t.TempDir()
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		for _, path := range []string{closed, filepath.Join(dir, "new"), filepath.Join(closed, "below")} {
			o := fine(path)
			o.Log = slog.New(slog.DiscardHandler)
			_, err := New(t.Context(), o)
			if want := "this user may not write there: change its owner, or choose another folder with --data"; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", path, err, want)
			}
		}
	})
}
