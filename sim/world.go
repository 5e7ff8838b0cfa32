// Package sim is a simulated world around the real settler: Flink clusters with their true states, kubelets and an API server, an etcd with
// leases, agents with the real view, and two aggregators with the real intake, core and board. Its time is its own, so that years of it pass
// in an hour, and everything in it follows from a seed, so that what fails once fails again.
//
// What has a goroutine, a socket or a clock in Holdfast is played here: how agents write (package agent), how etcd is followed and led
// (package etcd), and how an aggregator drives its core. Those have tests of their own, against real ones.
package sim

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"

	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/settle"
)

const (
	site      = "sim"
	leaseTime = 20 * time.Second
	// epochMillis is when every world begins: 10:00:00 of some day.
	epochMillis = 1772359200000
)

// world is all there is, at one moment.
type world struct {
	seed   uint64
	cfg    settle.Config
	now    time.Duration
	agenda agenda
	order  uint64
	steps  int

	etcd     *store
	api      *apiServer
	clusters []*cluster
	replicas []*replica
	watched  watched
	// calm says that nothing happens any more by itself.
	calm bool
	// met counts what happened, by its name.
	met map[string]int

	// tell takes the trace; nil where nobody reads it.
	tell func(line string)
	// broken is the first breach of an invariant.
	broken *Breach
}

// Breach is an invariant that does not hold.
type Breach struct {
	// Invariant is its number.
	Invariant int
	What      string
	At        time.Duration
}

func (b *Breach) Error() string {
	return fmt.Sprintf("invariant %d at %s: %s", b.Invariant, b.At, b.What)
}

func (w *world) breach(invariant int, format string, args ...any) {
	if w.broken == nil {
		w.broken = &Breach{Invariant: invariant, What: fmt.Sprintf(format, args...), At: w.now}
		w.say("BREACH of invariant %d: %s", invariant, w.broken.What)
	}
}

// say adds a line to the trace.
func (w *world) say(format string, args ...any) {
	if w.tell != nil {
		w.tell(fmt.Sprintf("%10.3f  ", w.now.Seconds()) + fmt.Sprintf(format, args...))
	}
}

// chance is a source of random numbers of its own, so that what one part of the world draws changes nothing for the others.
type chance struct{ *rand.Rand }

func (w *world) chance(name string) chance {
	h := fnv.New64a()
	h.Write([]byte(name))
	return chance{rand.New(rand.NewPCG(w.seed, h.Sum64()))}
}

// between draws a duration.
func (c chance) between(from, to time.Duration) time.Duration {
	if to <= from {
		return from
	}
	return from + time.Duration(c.Int64N(int64(to-from)))
}

// one says yes one time in n.
func (c chance) one(n int) bool { return c.IntN(n) == 0 }

// event is something that is to happen.
type event struct {
	at    time.Duration
	order uint64
	do    func()
}

// agenda is a heap of events, the next one first; of those at one moment the one that was planned first.
type agenda []event

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].order < a[j].order
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(event)) }
func (a *agenda) Pop() any {
	old := *a
	last := old[len(old)-1]
	old[len(old)-1] = event{}
	*a = old[:len(old)-1]
	return last
}

// after lets something happen once d has passed.
func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.agenda, event{at: w.now + max(d, 0), order: w.order, do: do})
}

// every lets something happen again and again, until it says false.
func (w *world) every(first, d time.Duration, do func() bool) {
	w.after(first, func() {
		if do() {
			w.every(d, d, do)
		}
	})
}

// run lets time pass up to a moment, or to the first breach.
func (w *world) run(until time.Duration) {
	for w.broken == nil && len(w.agenda) > 0 && w.agenda[0].at <= until {
		e := heap.Pop(&w.agenda).(event)
		w.now = e.at
		e.do()
		w.steps++
		w.check()
	}
	if w.broken == nil {
		w.now = until
	}
}

// skew draws by how much a node's clock is off.
func (w *world) skew(c chance) time.Duration {
	return []time.Duration{0, 0, 0, 40 * time.Millisecond, -3 * time.Second, time.Hour, -time.Hour}[c.IntN(7)]
}

// wall is a wall clock that is off by skew, in milliseconds since 1970.
func (w *world) wall(skew time.Duration) int64 { return epochMillis + (w.now + skew).Milliseconds() }

func (w *world) stamp(skew time.Duration) job.Stamp { return job.StampOf(w.wall(skew)) }
