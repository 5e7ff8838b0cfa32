package etcdlocal

import (
	"errors"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
)

// What etcd would end the process for, while it runs, ends the server, and Err says what to do.
func TestFailureEndsTheServerOnly(t *testing.T) {
	var log strings.Builder
	s, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	logger := s.failure.logger(slog.New(slog.NewTextHandler(&log, nil))).With(zap.String("member", "holdfast"))
	logger.Info("of no interest")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		logger.Fatal("failed to save Raft hard state and entries", zap.Error(syscall.ENOSPC))
	}()
	<-ended
	select {
	case <-s.Done():
	case <-time.After(2 * stopBound):
		t.Fatal("the server goes on")
	}
	if err := s.Err(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "disk of data folder") {
		t.Errorf("error %v", err)
	}
	got := log.String()
	if !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "failed to save Raft") ||
		!strings.Contains(got, "member=holdfast") || strings.Contains(got, "of no interest") {
		t.Errorf("logged %q", got)
	}
	s.Close()
}
