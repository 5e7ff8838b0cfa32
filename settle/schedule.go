package settle

import (
	"container/heap"
	"time"
)

// schedule is a heap of the jobs that wait for a moment, the next one first. A Tick costs what is due, not what there is.
type schedule struct{ jobs []*entry }

// set makes the job due at the moment, in place of any other.
func (s *schedule) set(e *entry, at time.Duration) {
	if e.place < 0 {
		e.wake = at
		heap.Push(s, e)
		return
	}
	if e.wake != at {
		e.wake = at
		heap.Fix(s, e.place)
	}
}

func (s *schedule) remove(e *entry) {
	if e.place >= 0 {
		heap.Remove(s, e.place)
	}
}

// next takes out a job that is due, or gives nil.
func (s *schedule) next(now time.Duration) *entry {
	if len(s.jobs) == 0 || s.jobs[0].wake > now {
		return nil
	}
	return heap.Pop(s).(*entry)
}

func (s *schedule) Len() int           { return len(s.jobs) }
func (s *schedule) Less(i, j int) bool { return s.jobs[i].wake < s.jobs[j].wake }
func (s *schedule) Swap(i, j int) {
	s.jobs[i], s.jobs[j] = s.jobs[j], s.jobs[i]
	s.jobs[i].place, s.jobs[j].place = i, j
}

// Push is for package heap.
func (s *schedule) Push(x any) {
	e := x.(*entry)
	e.place = len(s.jobs)
	s.jobs = append(s.jobs, e)
}

// Pop is for package heap.
func (s *schedule) Pop() any {
	last := len(s.jobs) - 1
	e := s.jobs[last]
	s.jobs[last] = nil
	s.jobs = s.jobs[:last]
	e.place = -1
	return e
}
