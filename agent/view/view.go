// Package view turns what an agent's rounds of questions saw into what the agent says: a report for each job, and a beat.
// It holds the agent's memory, and is pure: no I/O, no goroutine, no clock. It says what Flink said, and how a question
// ended; whether that settles anything is for package settle.
//
// A View is used by one goroutine. The reports and beats that it gives out are never changed afterwards.
package view

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

const (
	// JobLimit bounds the jobs in memory. Flink's own list, which the agent reads up to 32 MiB of, could hold more.
	JobLimit = 20_000
	// tasksEvery is the least time between two reports that differ in nothing but the counts of tasks.
	tasksEvery = 5 * time.Second
	// processEvery is how often a JobManager that answers is asked about itself, to notice one that was replaced unseen.
	processEvery = time.Minute
	// denyAfter is the least time between the two answers "could not find" that make a No. While a new leader has not
	// recovered its jobs it gives that answer too, and rounds may be a tenth of a second apart.
	denyAfter = time.Second
	// deniedEvery is how often a job that Flink denies is asked about again; if it is listed, it is back at once.
	deniedEvery = time.Minute
	// staleAfter is how long a job stays vouched for that the JobManager, which answers, leaves out of its list, and that
	// its turn to be asked about did not come to.
	staleAfter = 10 * time.Second
)

// Options say for whom a view speaks.
type Options struct {
	Agent evidence.Agent
	// Session names this life of the agent, Pod and Version are for people.
	Session, Pod, Version string
	// Poll is the time between two looks, Burst the time while something is about to happen. 0 means 1 s and 100 ms.
	Poll, Burst time.Duration
	// Seed makes the jitter of Next.
	Seed uint64
}

// View is what the agent knows.
type View struct {
	o        Options
	jobs     map[string]*known
	gone     tombs
	beat     *evidence.Beat
	process  Process
	doubt    bool          // the JobManager may be another process than process
	askedOf  time.Duration // when process was learnt
	round    uint32        // counts looks
	sequence int64         // of the newest report
	pace     pace
	out      Changes // of the look in work
}

// Changes are what a look changed. What is nil or empty did not change.
type Changes struct {
	Beat *evidence.Beat
	// Reports are to be written, in any order. The newest of a job replaces the earlier ones.
	Reports []*evidence.Report
	// Moved are those of Reports that carry a transition for the first time.
	Moved []*evidence.Report
	// Forgotten are the jobs that the view does not know any more, once their last report is written.
	Forgotten []string
	// Refused counts the jobs of the look that were not taken in because of JobLimit.
	Refused int
}

// New makes a view that knows nothing.
func New(o Options) *View {
	if o.Poll <= 0 {
		o.Poll = time.Second
	}
	if o.Burst <= 0 {
		o.Burst = 100 * time.Millisecond
	}
	return &View{
		o: o, jobs: map[string]*known{}, doubt: true,
		pace: pace{random: rand.New(rand.NewPCG(o.Seed, 0)), next: o.Poll},
		beat: &evidence.Beat{Agent: o.Agent, Session: o.Session, Version: o.Version, Pod: o.Pod},
	}
}

// Beat is what the agent says of itself and of the JobManager as a whole.
func (v *View) Beat() *evidence.Beat { return v.beat }

// Len is how many jobs the view knows.
func (v *View) Len() int { return len(v.jobs) }

// Ask says what the look in work has to ask after /jobs/overview ended with reach and listed. A job that is missing in the
// list is asked about, because Flink leaves a job out whose JobMaster is slow (FLINK-40602). One such JobMaster can also
// make the whole list hang, or fail; then every job is asked about. Those that have waited longest come first.
func (v *View) Ask(now time.Duration, reach job.Reach, listed []Job) Questions {
	q := Questions{Process: v.doubt || now-v.askedOf >= processEvery}
	missing := len(v.jobs)
	for i := range listed {
		j := &listed[i]
		k := v.jobs[j.ID]
		if k == nil && !v.takes(j) {
			continue
		}
		if k == nil || k.report.StartTime != j.StartTime {
			q.Process = true
		}
		if k != nil && k.mark != v.round+1 {
			k.mark = v.round + 1
			missing--
		}
		if v.WantsCause(now, j.ID, j.State, j.StartTime) {
			q.Causes = append(q.Causes, j.ID)
		}
	}
	slices.SortStableFunc(q.Causes, func(a, b string) int { return cmp.Compare(v.causeDue(a), v.causeDue(b)) })
	if missing == 0 || reach != job.Fine && reach != job.TimedOut && reach != job.Erred {
		return q
	}
	for id, k := range v.jobs {
		if k.mark != v.round+1 && now >= k.askDue {
			q.Status = append(q.Status, id)
		}
	}
	slices.SortFunc(q.Status, func(a, b string) int {
		return cmp.Or(cmp.Compare(v.jobs[a].asked, v.jobs[b].asked), cmp.Compare(a, b))
	})
	return q
}

// takes says whether a listed job that is not known is to be known.
func (v *View) takes(j *Job) bool { return len(v.jobs) < JobLimit && !v.gone.settled(j) }

// NeedsAttempt says whether state, given without a start-time, is worth nothing until the attempt is asked for too. An attempt that has
// ended never runs again, and one that has begun never begins again, so either this is another one, or an attempt unseen may
// have ended; and a JobManager that may be another process than the one that ran the attempt may run another attempt.
func (v *View) NeedsAttempt(id string, state job.State) bool {
	k := v.jobs[id]
	switch {
	case k == nil, v.doubt, v.process.Incarnation != k.report.Incarnation:
		return true
	case state == k.report.State:
		return false
	}
	return state == job.Initializing || state.Terminal() || k.report.State.Terminal()
}

// WantsCause says whether to ask for the failure of a job that Flink just said is in state, in the attempt that began at start.
func (v *View) WantsCause(now time.Duration, id string, state job.State, start job.Stamp) bool {
	if state != job.Failed {
		return false
	}
	k := v.jobs[id]
	return k == nil || !k.at(state, start) || k.newest() != nil && k.newest().CauseAsked != job.Yes && now >= k.causeDue
}

func (v *View) causeDue(id string) time.Duration {
	if k := v.jobs[id]; k != nil {
		return k.causeDue
	}
	return 0
}

// See takes a look in and says what it changed. Looks are seen in the order in which they were made.
func (v *View) See(l Look) Changes {
	v.out = Changes{}
	if l.Reach == job.NotAsked {
		return v.out
	}
	v.round++
	reach := l.answered()
	v.hear(&l, reach)
	causes := l.causes()
	if l.Reach == job.Fine {
		for i := range l.Jobs {
			v.seeListed(&l, &l.Jobs[i], causes)
		}
	}
	if reach == job.Fine {
		for i := range l.Asked {
			v.seeAsked(&l, &l.Asked[i], causes)
		}
	}
	for id, k := range v.jobs {
		if k.round != v.round {
			v.seeNothing(&l, k, reach)
		}
		if k.report.Known == job.No && k.report.State.Terminal() && !k.assert {
			v.forget(id, k, false)
			v.out.Forgotten = append(v.out.Forgotten, id)
		}
	}
	v.pace.after(&l, reach, v)
	return v.out
}

// answered is how the JobManager as a whole could be asked: Fine if it answered anything.
func (l *Look) answered() job.Reach {
	for i := range l.Asked {
		if l.Asked[i].Known != job.Unanswered {
			return job.Fine
		}
	}
	return l.Reach
}

func (l *Look) causes() map[string]*Cause {
	if len(l.Causes) == 0 {
		return nil
	}
	all := make(map[string]*Cause, len(l.Causes))
	for i := range l.Causes {
		all[l.Causes[i].ID] = &l.Causes[i]
	}
	return all
}

// hear learns what the JobManager as a whole says. After a time in which it could not be asked it may be another process, and
// until it has said who it is, it is nobody known.
func (v *View) hear(l *Look, reach job.Reach) {
	before := v.process.Incarnation
	switch {
	case reach != job.Fine:
		v.doubt = true
	case l.Process != nil:
		v.process, v.doubt, v.askedOf = *l.Process, false, l.Now
	case v.doubt:
		v.process = Process{}
	}
	if v.process.Incarnation != before {
		for _, k := range v.jobs {
			k.denied, k.askDue = 0, 0 // what another process denied, this one has not
		}
	}
	b := *v.beat
	b.Incarnation, b.FlinkVersion = v.process.Incarnation, v.process.FlinkVersion
	b.HighAvailability, b.Application, b.Reach = v.process.HighAvailability, v.process.Application, reach
	if b == *v.beat {
		return
	}
	if b.Reach != v.beat.Reach {
		b.ReachSince = l.At
	}
	b.At = l.At
	v.beat = &b
	v.out.Beat = &b
}

// pipeline is what the owner of a job of this name calls "my job", and "" until Flink has told what the cluster is.
func (v *View) pipeline(name, before string) string {
	switch v.process.Application {
	case job.Yes:
		return v.o.Agent.Cluster
	case job.No:
		return name
	}
	return before
}
