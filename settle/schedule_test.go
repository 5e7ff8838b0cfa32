package settle

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The schedule gives each job once, at the last moment that was set for it, in order; whatever is set, moved and removed.
func TestSchedule(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var s schedule[*entry]
		jobs := make([]*entry, 12)
		for i := range jobs {
			jobs[i] = &entry{slot: outside}
		}
		want := map[*entry]time.Duration{}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			e := jobs[rapid.IntRange(0, len(jobs)-1).Draw(t, "job")]
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				at := time.Duration(rapid.IntRange(0, 20).Draw(t, "at"))
				s.set(e, at)
				want[e] = at
			case 2:
				s.remove(e)
				delete(want, e)
			case 3:
				now := time.Duration(rapid.IntRange(0, 20).Draw(t, "now"))
				got, is := s.next(now)
				var due []time.Duration
				for _, at := range want {
					if at <= now {
						due = append(due, at)
					}
				}
				if len(due) == 0 {
					if is {
						t.Fatalf("nothing is due at %d, and something came", now)
					}
					continue
				}
				if !is || want[got] != slices.Min(due) {
					t.Fatalf("at %d %v is due, got %v", now, due, got)
				}
				delete(want, got)
			}
			for _, e := range jobs {
				_, in := want[e]
				if in != (e.place >= 0) || in && s.items[e.place] != e {
					t.Fatalf("a job is at place %d, in the schedule: %v", e.place, in)
				}
			}
			if len(s.items) != len(want) {
				t.Fatalf("%d jobs, want %d", len(s.items), len(want))
			}
		}
	})
}
