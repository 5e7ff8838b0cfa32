package view

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// walk drives views through random looks, restarts and late adoptions, and checks after each look what must always hold.
type walk struct {
	t       *rapid.T
	v       *View
	session int
	now     time.Duration
	stored  map[string]*evidence.Report // the newest of each job, as etcd has it
	bytes   map[*evidence.Report][]byte // every report given out, as it was then
	number  map[string]int64            // the highest number given out
	denied  map[string]int              // rounds in which Flink denied a job, since it last had it
	waiting map[string]*evidence.Report // what may not be written before the adoption
	heard   map[string]bool             // jobs that Flink answered about in this session
	last    int64                       // sequence
	settled bool                        // what was stored has been adopted
}

var ids = []string{"a", "b", "c"}

func (w *walk) begin() {
	w.session++
	w.v = New(Options{Agent: who, Session: fmt.Sprint(w.session), Seed: uint64(w.session)})
	w.last, w.settled, w.heard = 0, false, map[string]bool{}
	w.waiting = map[string]*evidence.Report{}
	for id := range w.number {
		if w.stored[id] == nil {
			delete(w.number, id) // what is neither in etcd nor in memory begins anew
		}
	}
}

func (w *walk) adopt() {
	for _, r := range w.stored {
		decoded, err := record.DecodeReport(who, r.JobID, record.EncodeReport(*r))
		if err != nil {
			w.t.Fatalf("a report does not read: %v", err)
		}
		w.v.Adopt(decoded)
	}
	for id, r := range w.waiting {
		if w.stored[id] == nil {
			w.keep(r)
		}
	}
	w.settled = true
}

// keep notes that a report lies in etcd.
func (w *walk) keep(r *evidence.Report) {
	w.number[r.JobID] = r.Transitions[len(r.Transitions)-1].Number
	w.stored[r.JobID] = r
	w.bytes[r] = record.EncodeReport(*r)
}

// look makes a random look that Flink might cause.
func (w *walk) look() Look {
	t := w.t
	w.now += time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond
	l := Look{
		Now: w.now, At: at(w.now), Took: time.Millisecond,
		Reach: rapid.SampledFrom([]job.Reach{job.Fine, job.Fine, job.Fine, job.TimedOut, job.Refused, job.NotAsked}).Draw(t, "reach"),
	}
	if rapid.Bool().Draw(t, "process") {
		l.Process = &Process{Incarnation: rapid.SampledFrom([]string{"one", "two"}).Draw(t, "incarnation")}
	}
	state := rapid.SampledFrom(job.AllStates.List())
	start := rapid.SampledFrom([]job.Stamp{start1, start2})
	for _, id := range ids {
		switch rapid.SampledFrom([]string{"listed", "listed", "asked", "denied", "unanswered", "nothing"}).Draw(t, id) {
		case "listed":
			if l.Reach == job.Fine {
				l.Jobs = append(l.Jobs, Job{ID: id, Name: id, State: state.Draw(t, "state"), StartTime: start.Draw(t, "start"),
					Tasks: job.Tasks{Total: 4, Running: rapid.IntRange(0, 4).Draw(t, "running")}})
			}
		case "asked":
			a := Asked{ID: id, Known: job.Yes, State: state.Draw(t, "state")}
			if rapid.Bool().Draw(t, "attempt") {
				a.StartTime = start.Draw(t, "start")
			}
			l.Asked = append(l.Asked, a)
		case "denied":
			l.Asked = append(l.Asked, Asked{ID: id, Known: job.No})
		case "unanswered":
			l.Asked = append(l.Asked, Asked{ID: id, Reach: job.TimedOut})
		}
		if rapid.IntRange(0, 3).Draw(t, "cause") == 0 {
			l.Causes = append(l.Causes, Cause{ID: id, Answered: rapid.Bool().Draw(t, "answered"), Text: "boom"})
		}
	}
	return l
}

func (w *walk) see() {
	t, l := w.t, w.look()
	if l.Reach != job.NotAsked {
		for _, j := range l.Jobs {
			w.denied[j.ID], w.heard[j.ID] = 0, true
		}
		for _, a := range l.Asked {
			w.heard[a.ID] = w.heard[a.ID] || a.Known != job.Unanswered
			switch a.Known {
			case job.Yes:
				w.denied[a.ID] = 0
			case job.No:
				w.denied[a.ID]++
			}
		}
	}
	q := w.v.Ask(l.Now, l.Reach, l.Jobs)
	for _, id := range q.Status {
		if w.v.jobs[id] == nil {
			t.Fatalf("asks about %s, which is not known", id)
		}
	}
	c := w.v.See(l)
	for _, r := range c.Reports {
		w.check(r)
	}
	for _, id := range c.Forgotten {
		if w.v.jobs[id] != nil {
			t.Fatalf("%s is forgotten and known", id)
		}
		r := w.stored[id]
		if !w.settled {
			r = w.waiting[id]
		}
		if r == nil || !Retirable(r) {
			t.Fatalf("forgotten: %+v", r)
		}
	}
	if again := w.v.See(l); len(again.Reports) != 0 || again.Beat != nil || len(again.Moved) != 0 || len(again.Forgotten) != 0 {
		t.Fatalf("the same look again changes %+v", again)
	}
	if d := w.v.Next(); d < 90*time.Millisecond || d > slowest*11/10 {
		t.Fatalf("the next look is in %s", d)
	}
	for r, before := range w.bytes {
		if !bytes.Equal(before, record.EncodeReport(*r)) {
			t.Fatalf("a report has changed after it was given out: %+v", r)
		}
	}
}

func (w *walk) check(r *evidence.Report) {
	t := w.t
	if r.Sequence != w.last+1 || r.Session != fmt.Sprint(w.session) {
		t.Fatalf("session %s, number %d after %d", r.Session, r.Sequence, w.last)
	}
	w.last = r.Sequence
	n := len(r.Transitions)
	if n == 0 || n > evidence.TransitionLimit {
		t.Fatalf("%d transitions", n)
	}
	for i := 1; i < n; i++ {
		if r.Transitions[i].Number != r.Transitions[i-1].Number+1 {
			t.Fatalf("a hole in the numbers: %v", numbers(r))
		}
	}
	newest := r.Transitions[n-1]
	if newest.State != r.State || newest.StartTime != r.StartTime {
		t.Fatalf("the report says %s of %s, its newest transition %s of %s", r.State, r.StartTime, newest.State, newest.StartTime)
	}
	// Once what was stored is adopted, numbers neither fall nor jump.
	if before := w.number[r.JobID]; w.settled {
		if newest.Number < before || r.Transitions[0].Number > before+1 {
			t.Fatalf("numbers %v after %d", numbers(r), before)
		}
		w.keep(r)
	} else {
		w.waiting[r.JobID] = r
	}
	if before := w.stored[r.JobID]; r.Known == job.No && w.denied[r.JobID] < 2 && (before == nil || before.Known != job.No) {
		t.Fatalf("denied after %d denials", w.denied[r.JobID])
	}
	if r.Reach == job.Fine && !w.heard[r.JobID] {
		t.Fatalf("vouches for a job that no JobManager has answered about: %+v", r)
	}
	if _, err := record.DecodeReport(who, r.JobID, record.EncodeReport(*r)); err != nil {
		t.Fatalf("the report does not read: %v", err)
	}
}

func TestWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &walk{
			t: t, stored: map[string]*evidence.Report{}, bytes: map[*evidence.Report][]byte{},
			number: map[string]int64{}, denied: map[string]int{},
		}
		w.begin()
		for range rapid.IntRange(1, 60).Draw(t, "looks") {
			switch rapid.IntRange(0, 9).Draw(t, "act") {
			case 0:
				w.begin()
			case 1:
				if len(w.v.jobs) > 0 {
					id := rapid.SampledFrom(ids).Draw(t, "retire")
					if w.settled && w.v.Retire(id) {
						delete(w.stored, id)
					}
				}
			}
			if !w.settled && rapid.Bool().Draw(t, "adopt") {
				w.adopt()
			}
			w.see()
		}
	})
}

// However a job behaves, the looks are not hasted for more than 30 s and a twentieth of the time beyond.
func TestBurstsAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := New(Options{Agent: who})
		stirring := rapid.SliceOfN(rapid.Bool(), 1, 20).Draw(t, "states")
		span := rapid.IntRange(1, 10).Draw(t, "seconds")
		var now, fast time.Duration
		for now < time.Hour {
			j := running()
			if stirring[int(now.Seconds())/span%len(stirring)] {
				j.State = job.Restarting
			}
			v.See(Look{Now: now, Reach: job.Fine, Jobs: []Job{j}})
			next := v.Next()
			if next < 500*time.Millisecond {
				fast += next
			}
			now += next
		}
		if fast > burstLimit+time.Hour/burstReturn+5*time.Second {
			t.Fatalf("%s of an hour are fast", fast)
		}
	})
}
