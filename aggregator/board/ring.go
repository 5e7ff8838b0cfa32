package board

import (
	"errors"
	"fmt"
	"sort"
	"sync"
)

// Change is one verdict that came, changed or went. At least one of Old and New is set, and both are immutable.
type Change struct {
	// Revision is the one at which etcd made the change; for what was found out by a new list, that list's.
	Revision int64
	// Last marks the last change of its revision. Only after it has a reader seen the whole revision.
	Last bool
	// Old is nil if the job was not on the board before, New if it is not any more.
	Old, New *Job
}

// Errors of Resume and Changes. Whoever gets one begins again with a snapshot.
var (
	// ErrEpoch: the version is of another life of the store, and says nothing about this one.
	ErrEpoch = errors.New("the version belongs to another life of the store")
	// ErrTooOld: changes since the version are not kept any more. Changes returns it to a reader that fell behind.
	ErrTooOld = errors.New("the changes since the version are no longer kept")
	// ErrFuture: this board has not come to the version yet.
	ErrFuture = errors.New("this server has not come to the version yet")
)

// ring keeps the newest changes. Readers have positions in it and no buffers of their own, so that a thousand watchers
// cost no more memory than one, and none of them can hold up the writer.
type ring struct {
	mu      sync.RWMutex
	changes []Change
	// next is the position that the next change gets. A position is never used twice. A reset skips one, so that even
	// a reader that had read everything notices it.
	next uint64
	// first is the oldest position that can be read.
	first uint64
	// floor is the revision up to which changes are lost.
	floor int64
}

func newRing(size int) *ring { return &ring{changes: make([]Change, size), next: 1, first: 1} }

// reset forgets all changes: what is known begins at revision. Every reader has fallen behind.
func (r *ring) reset(revision int64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.changes)
	r.next++
	r.first, r.floor = r.next, revision
	return r.next
}

// add appends changes, whose revisions do not fall, and returns the position after them.
func (r *ring) add(changes []Change) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	size := uint64(len(r.changes))
	for _, c := range changes {
		slot := &r.changes[r.next%size]
		if r.next-r.first == size {
			r.floor = slot.Revision
			r.first++
		}
		*slot = c
		r.next++
	}
	return r.next
}

// after gives the position of the first change that is newer than a revision.
func (r *ring) after(revision int64) (uint64, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if revision < r.floor {
		return 0, fmt.Errorf("they are kept from revision %d: %w", r.floor, ErrTooOld)
	}
	size := uint64(len(r.changes))
	n := sort.Search(int(r.next-r.first), func(i int) bool {
		return r.changes[(r.first+uint64(i))%size].Revision > revision
	})
	return r.first + uint64(n), nil
}

// read copies changes from the position on, but none from the position end on, and returns how many.
func (r *ring) read(from, end uint64, into []Change) (int, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if from < r.first || from > r.next {
		return 0, ErrTooOld
	}
	size, n := uint64(len(r.changes)), 0
	for ; n < len(into) && from < min(end, r.next); n++ {
		into[n] = r.changes[from%size]
		from++
	}
	return n, nil
}
