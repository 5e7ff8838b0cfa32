package etcd

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	minBackoff = 250 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// backoff says how long to wait after each failure in a row: anything up to a ceiling that doubles from min to max. The
// whole wait is random ("full jitter"), because what fails together would otherwise come back together.
type backoff struct {
	min, max time.Duration
	ceiling  time.Duration
}

// next is the wait after one more failure, in (0, max].
func (b *backoff) next() time.Duration {
	switch {
	case b.ceiling == 0:
		b.ceiling = b.min
	case b.ceiling < b.max:
		b.ceiling *= 2
	}
	b.ceiling = min(b.ceiling, b.max)
	return 1 + rand.N(b.ceiling)
}

// reset forgets the failures so far.
func (b *backoff) reset() { b.ceiling = 0 }

// sleep waits for d and reports whether it did: false means that ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
