package board

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/holdfast-dev/holdfast/record"
)

// Unreadable says why a record could not be read.
type Unreadable uint8

const (
	// Readable: it could be.
	Readable Unreadable = iota
	// Corrupt: it is damaged.
	Corrupt
	// Newer: a later version of Holdfast wrote it.
	Newer
	// Foreign: something that is none of Holdfast's lies at a place that is.
	Foreign

	numUnreadable
)

func (u Unreadable) String() string {
	switch u {
	case Readable:
		return "readable"
	case Corrupt:
		return "corrupt"
	case Newer:
		return "newer"
	case Foreign:
		return "foreign"
	}
	return fmt.Sprintf("Unreadable(%d)", uint8(u))
}

func classify(err error) Unreadable {
	if errors.Is(err, record.ErrNewer) {
		return Newer
	}
	return Corrupt
}

// badKeysLimit bounds the keys that are remembered as having been logged.
const badKeysLimit = 1024

// badRecords counts the records that cannot be read, and tells of each key once.
type badRecords struct {
	log    *slog.Logger
	total  [numUnreadable]atomic.Uint64
	mu     sync.Mutex
	logged map[string]struct{}
	// any spares the lock as long as nothing is bad, which is the rule.
	any atomic.Bool
}

func (b *badRecords) report(key string, why Unreadable, err error) {
	b.total[why].Add(1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.logged[key]; known || len(b.logged) >= badKeysLimit {
		return
	}
	if b.logged == nil {
		b.logged = make(map[string]struct{})
	}
	b.logged[key] = struct{}{}
	b.any.Store(true)
	b.log.Warn("a record cannot be read; what was known before is kept", "key", key, "why", why.String(), "error", err)
	if len(b.logged) == badKeysLimit {
		b.log.Warn("too many records cannot be read; further ones are only counted", "logged", badKeysLimit)
	}
}

// forget notes that a key can be read again, or is gone.
func (b *badRecords) forget(key string) {
	if !b.any.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.logged, key)
	b.any.Store(len(b.logged) > 0)
}

func (b *badRecords) counts() map[Unreadable]uint64 {
	counts := make(map[Unreadable]uint64, numUnreadable-1)
	for why := Corrupt; why < numUnreadable; why++ {
		counts[why] = b.total[why].Load()
	}
	return counts
}
