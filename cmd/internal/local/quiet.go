package local

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// quiet takes etcd's messages down to what concerns somebody who runs it without knowing: warnings, such as those that it
// gives of its own configuration, are for debugging, and so are the errors of a server that is being stopped.
type quiet struct {
	slog.Handler
	stopping *atomic.Bool
}

func (q quiet) level(of slog.Level) slog.Level {
	if of < slog.LevelError || q.stopping.Load() {
		return slog.LevelDebug
	}
	return of
}

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return q.Handler.Enabled(ctx, q.level(level))
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = q.level(r.Level)
	if !q.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quiet{q.Handler.WithAttrs(attrs), q.stopping}
}

func (q quiet) WithGroup(name string) slog.Handler {
	return quiet{q.Handler.WithGroup(name), q.stopping}
}
