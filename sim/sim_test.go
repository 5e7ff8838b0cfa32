package sim

import (
	"flag"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	count = flag.Int("schedules", 200, "how many schedules to run; 0 runs them for a time")
	span  = flag.Duration("for", time.Minute, "for how long to run schedules, where their number is 0")
	first = flag.Uint64("seed", 1, "the first schedule's seed")
	trace = flag.Bool("trace", false, "show all that happens in the first schedule")
)

// Whatever befalls the world, what is said of a job is so, and in the end all of it is said. `make sim` runs more of it.
func TestSchedules(t *testing.T) {
	var (
		mu      sync.Mutex
		next    = *first
		begin   = time.Now()
		all     Outcome
		ran     int
		failed  []uint64
		workers sync.WaitGroup
	)
	all.Met = map[string]int{}
	debug.SetGCPercent(1600) // a world lives for milliseconds: two fifths of the time went into collecting it
	take := func() (uint64, bool) {
		mu.Lock()
		defer mu.Unlock()
		if len(failed) > 2 || *count > 0 && ran >= *count || *count == 0 && time.Since(begin) > *span {
			return 0, false
		}
		ran++
		next++
		return next - 1, true
	}
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for seed, more := take(); more; seed, more = take() {
				o := Run(Draw(seed), nil)
				mu.Lock()
				all.Steps += o.Steps
				all.Simulated += o.Simulated
				for what, n := range o.Met {
					all.Met[what] += n
				}
				if o.Breach != nil {
					failed = append(failed, seed)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	t.Logf("%d schedules, %d steps, %.3f simulated years, %s", ran, all.Steps, all.Simulated.Hours()/24/365, time.Since(begin).Round(time.Second))
	for _, what := range slices.Sorted(maps.Keys(all.Met)) {
		t.Logf("%8d  %s", all.Met[what], what)
	}
	for _, seed := range failed {
		t.Error(explain(seed))
	}
	if ran < 200 {
		return
	}
	for _, what := range append(Kinds(), "freeze", "retired", "probe", "check", "unreadable record", "JobAlreadyDone", "ended FAILED",
		"ended FINISHED", "ended CANCELED", "cluster Ready", "cluster JobManagerDown", "cluster CrashLoop", "cluster Unknown") {
		if all.Met[what] == 0 {
			t.Errorf("%q was never met in %d schedules", what, ran)
		}
	}
}

// explain shrinks a schedule that breaks an invariant, and tells what happens in it.
func explain(seed uint64) string {
	s := Shrink(Draw(seed))
	var lines []string
	o := Run(s, func(line string) { lines = append(lines, line) })
	text := fmt.Sprintf("seed %d: %v\n", seed, o.Breach)
	for _, f := range s.Faults {
		text += f.String() + "\n"
	}
	return text + "…\n" + strings.Join(lines[max(0, len(lines)-80):], "\n")
}

// The same seed is the same world, or nothing that fails could be looked at.
func TestSameSeedSameWorld(t *testing.T) {
	for seed := range uint64(20) {
		var traces [2][]string
		for i := range traces {
			Run(Draw(seed), func(line string) { traces[i] = append(traces[i], line) })
		}
		for i, line := range traces[0] {
			if i >= len(traces[1]) || line != traces[1][i] {
				t.Fatalf("seed %d: line %d is %q, and in the second run it is another", seed, i+1, line)
			}
		}
	}
}

// TestTrace shows one schedule: go test ./sim -run Trace -v -args -trace -seed 7
func TestTrace(t *testing.T) {
	if !*trace {
		t.Skip("-trace shows all that happens in the schedule of -seed")
	}
	o := Run(Draw(*first), func(line string) { t.Log(line) })
	t.Log(o.Steps, "steps,", o.Breach)
}
