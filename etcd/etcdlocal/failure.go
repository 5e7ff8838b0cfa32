package etcdlocal

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// failure is the first fatal error inside etcd. etcd reports these by zap's Fatal, which ends the process, and Panic, which
// mostly does so too, being called from goroutines of etcd's own. Here both end the goroutine that called them.
type failure struct {
	once     sync.Once
	happened chan struct{}
	mu       sync.Mutex
	cause    error
}

func newFailure() *failure { return &failure{happened: make(chan struct{})} }

func (f *failure) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cause
}

// OnWrite is called by zap after a fatal entry was logged.
func (f *failure) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	f.once.Do(func() {
		err := fmt.Errorf("%s", entry.Message)
		for _, field := range fields {
			if cause, ok := field.Interface.(error); ok {
				err = fmt.Errorf("%s: %w", entry.Message, cause)
			}
		}
		f.mu.Lock()
		f.cause = err
		f.mu.Unlock()
		close(f.happened)
	})
	runtime.Goexit()
}

// logger is the logger for etcd: warnings and worse go to out, and fatal entries here.
func (f *failure) logger(out *slog.Logger) *zap.Logger {
	core := zapcore.NewNopCore()
	if out != nil {
		core = slogCore{out: out}
	}
	return zap.New(core, zap.WithFatalHook(f), zap.WithPanicHook(f))
}

// slogCore hands zap's entries to slog.
type slogCore struct {
	out    *slog.Logger
	fields []zapcore.Field
}

func (c slogCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	return slogCore{out: c.out, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c slogCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

func (c slogCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	encoder := zapcore.NewMapObjectEncoder()
	for _, field := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		field.AddTo(encoder)
	}
	attributes := make([]slog.Attr, 0, len(encoder.Fields))
	for key, value := range encoder.Fields {
		attributes = append(attributes, slog.Any(key, value))
	}
	level := slog.LevelWarn
	if entry.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	c.out.LogAttrs(context.Background(), level, "etcd: "+entry.Message, attributes...)
	return nil
}

func (c slogCore) Sync() error { return nil }
