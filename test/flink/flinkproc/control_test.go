package flinkproc

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func TestControl(t *testing.T) {
	control, err := NewControl()
	check(t, err)
	t.Cleanup(func() { control.Close() })
	if err := control.Boom(); !errors.Is(err, errNotConnected) {
		t.Errorf("Boom to nobody: %v", err)
	}
	if err := control.Finish(); !errors.Is(err, errNotConnected) {
		t.Errorf("Finish of nobody: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := control.WaitConnected(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("WaitConnected: %v, want the context's error", err)
	}

	first := dial(t, control)
	check(t, control.WaitConnected(t.Context()), control.Boom())
	line := make([]byte, 5)
	if _, err := io.ReadFull(first, line); err != nil || string(line) != "boom\n" {
		t.Errorf("the task reads %q, %v, want boom", line, err)
	}

	// The task goes and its next life comes.
	check(t, first.Close())
	eventually(t, "its leaving", func() bool { live, _ := control.Connections(); return live == 0 })
	second := dial(t, control)
	check(t, control.WaitConnected(t.Context()))
	if live, ever := control.Connections(); live != 1 || ever != 2 {
		t.Errorf("%d of %d connections live, want 1 of 2", live, ever)
	}

	check(t, control.Finish())
	if _, err := second.Read(line); err != io.EOF {
		t.Errorf("the task reads %v, want the end", err)
	}
	if live, _ := control.Connections(); live != 0 {
		t.Errorf("%d connections live after Finish, want none", live)
	}

	third := dial(t, control)
	check(t, control.WaitConnected(t.Context()), control.Close())
	if _, err := third.Read(line); err != io.EOF {
		t.Errorf("the task reads %v after Close, want the end", err)
	}
	if conn, err := net.Dial("tcp4", control.Addr()); err == nil {
		conn.Close()
		t.Error("it listens after Close")
	}
}

func dial(t *testing.T, control *Control) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp4", control.Addr())
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}
