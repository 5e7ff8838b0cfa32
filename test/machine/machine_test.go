package machine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFreePortsDiffer(t *testing.T) {
	seen := map[int]bool{}
	for range 200 {
		port, err := FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] || port < lowestPort || port >= highestPort {
			t.Fatalf("port %d, seen before: %v", port, seen[port])
		}
		seen[port] = true
	}
}

// The first error is the one that is told, and ends the others.
func TestTogether(t *testing.T) {
	wrong := errors.New("wrong")
	err := Together(t.Context(),
		func(ctx context.Context) error { <-ctx.Done(); return errors.New("a consequence") },
		func(context.Context) error { return wrong },
		func(context.Context) error { return nil },
	)
	if !errors.Is(err, wrong) {
		t.Errorf("%v, want %v", err, wrong)
	}
	if err := Together(t.Context(), func(context.Context) error { return nil }); err != nil {
		t.Errorf("all is well, and the error is %v", err)
	}
}

// A lock is for one at a time, and who waits says for what.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(t.Context(), path, "testing", Teller{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var told strings.Builder
	_, err = Lock(ctx, path, "testing", NewTeller(&told, "x: "))
	if !errors.Is(err, context.DeadlineExceeded) || told.String() != "x: waiting for another process that is testing\n" {
		t.Errorf("a second lock has %v and tells %q", err, told.String())
	}
	unlock()
	if unlock, err = Lock(t.Context(), path, "testing", Teller{}); err != nil {
		t.Fatal(err)
	}
	unlock()
}

// A command's error shows what it printed, and its end does not leave its children running.
func TestRun(t *testing.T) {
	printed, err := RunIn(t.Context(), "/", []string{"WORD=said"}, "sh", "-c", "pwd; echo $WORD")
	if err != nil || printed != "/\nsaid\n" {
		t.Errorf("%q, %v", printed, err)
	}
	_, err = Run(t.Context(), nil, "sh", "-c", "echo why >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "exit status 3\nwhy") {
		t.Errorf("of a command that fails: %v", err)
	}
	file := filepath.Join(t.TempDir(), "written")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(file); err == nil {
				cancel()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	begin := time.Now()
	// The child holds the output open: without its end there is none of Run.
	_, err = Run(ctx, nil, "sh", "-c", "(sleep 60) & touch "+file+"; wait")
	if !errors.Is(err, context.Canceled) || time.Since(begin) > 30*time.Second {
		t.Errorf("of a command that was told to end: %v after %s", err, time.Since(begin))
	}
}
