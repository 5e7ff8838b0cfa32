package view

import (
	"math/rand/v2"
	"time"

	"github.com/holdfast-dev/holdfast/job"
)

const (
	// burstLimit is how long one job may hasten the looks; its time comes back at one part in burstReturn, so that a
	// job that flaps for ever hastens a twentieth of them.
	burstLimit  = 30 * time.Second
	burstReturn = 20
	// burstShare keeps hastened looks from costing more than about a twentieth of a core, where the list is long.
	burstShare = 20
	// patience is how long a JobManager may be unreachable before the looks become rarer, up to slowest.
	patience = time.Minute
	slowest  = 5 * time.Second
	// jitter is by how much at most, one part in jitter, a delay is made shorter: a thousand pods that started together
	// must not ask, or write, together for ever.
	jitter = 10
)

// pace says when to look again.
type pace struct {
	random *rand.Rand
	next   time.Duration
	last   time.Duration // when the last look ended
	down   time.Duration // when the JobManager was first found unreachable, since it last answered
	isDown bool
}

// Next is how long to wait before the next look.
func (v *View) Next() time.Duration { return v.pace.next }

// after sets the wait that follows a look.
func (p *pace) after(l *Look, reach job.Reach, v *View) {
	passed := min(max(l.Now-p.last, 0), slowest)
	p.last = l.Now
	delay := v.o.Poll
	if reach == job.Fine {
		p.isDown = false
		if v.hasten(passed) {
			delay = min(delay, max(v.o.Burst, burstShare*l.Took))
		}
	} else {
		if !p.isDown {
			p.isDown, p.down = true, l.Now
		}
		// In proportion to the time that it has been gone, beginning where patience ends.
		if gone := l.Now - p.down; gone > patience {
			delay = max(delay, min(slowest, time.Duration(float64(delay)*float64(gone)/float64(patience))))
		}
	}
	p.next = delay - time.Duration(p.random.Int64N(int64(delay/jitter)+1))
}

// hasten says whether some job is worth looking at more often, and keeps the accounts of all.
func (v *View) hasten(passed time.Duration) bool {
	fast := false
	for _, k := range v.jobs {
		if !k.stirs() {
			if k.burst < burstLimit {
				k.burst = min(burstLimit, k.burst+passed/burstReturn)
			}
			continue
		}
		if k.burst > 0 {
			k.burst -= passed
			fast = true
		}
	}
	return fast
}

// stirs says whether the job's next state is probably near: it is in a passing one, or its tasks begin to end.
func (k *known) stirs() bool {
	r := k.report
	if r.Known == job.No {
		return false
	}
	ended := r.Tasks.Finished + r.Tasks.Failed + r.Tasks.Canceled
	return r.State.Passing() || r.State == job.Running && ended > 0
}
