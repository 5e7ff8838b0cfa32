package settle

import (
	"container/heap"
	"time"
)

// schedule is a heap of what waits for a moment, the next one first. A Tick costs what is due, not what there is.
type schedule[T waiter] struct{ items []T }

// waiter is what may wait. Its slot belongs to the schedule.
type waiter interface{ waits() *slot }

type slot struct {
	wake  time.Duration
	place int // in the schedule, -1 outside
}

var outside = slot{place: -1}

func (s *slot) waits() *slot { return s }

// set makes the item due at the moment, in place of any other.
func (s *schedule[T]) set(item T, at time.Duration) {
	slot := item.waits()
	if slot.place < 0 {
		slot.wake = at
		heap.Push(s, item)
		return
	}
	if slot.wake != at {
		slot.wake = at
		heap.Fix(s, slot.place)
	}
}

func (s *schedule[T]) remove(item T) {
	if place := item.waits().place; place >= 0 {
		heap.Remove(s, place)
	}
}

// next takes out an item that is due, if there is one.
func (s *schedule[T]) next(now time.Duration) (item T, is bool) {
	if len(s.items) == 0 || s.items[0].waits().wake > now {
		return item, false
	}
	return heap.Pop(s).(T), true
}

func (s *schedule[T]) Len() int           { return len(s.items) }
func (s *schedule[T]) Less(i, j int) bool { return s.items[i].waits().wake < s.items[j].waits().wake }
func (s *schedule[T]) Swap(i, j int) {
	s.items[i], s.items[j] = s.items[j], s.items[i]
	s.items[i].waits().place, s.items[j].waits().place = i, j
}

// Push is for package heap.
func (s *schedule[T]) Push(x any) {
	item := x.(T)
	item.waits().place = len(s.items)
	s.items = append(s.items, item)
}

// Pop is for package heap.
func (s *schedule[T]) Pop() any {
	var none T
	last := len(s.items) - 1
	item := s.items[last]
	s.items[last] = none
	s.items = s.items[:last]
	item.waits().place = -1
	return item
}
