package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/agent/view"
	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/job"
)

const (
	// lookBound bounds a look. The list of jobs gets listBound of it, so that there is time to ask each job by itself when
	// the list hangs; each other question gets askBound, whole or not at all, since a job must not be called slow for
	// having been asked last.
	lookBound = 3 * time.Second
	listBound = 2 * time.Second
	askBound  = 500 * time.Millisecond
	// askUntil is when the questions about single jobs end, so that those about causes and the process have their turn.
	askUntil = lookBound - 750*time.Millisecond
	// askers is how many jobs are asked about at once. One that hangs holds one of them.
	askers = 4
)

// questions are what an agent asks Flink. An error is never a No, except flink.ErrNotFound.
type questions interface {
	Jobs(context.Context) (flink.Overview, error)
	Status(ctx context.Context, id string) (job.State, error)
	Detail(ctx context.Context, id string) (flink.Job, error)
	Cause(ctx context.Context, id string) (string, error)
	Config(context.Context) (flink.Config, error)
	JobManager(context.Context) (flink.JobManager, error)
}

// look asks Flink one round of questions, in 3 s at most. A look that ctx ended says nothing.
func (a *Agent) look(ctx context.Context) view.Look {
	began, at := time.Now(), stamp(time.Now())
	a.lookIsDue(0)
	inner, cancel := context.WithDeadline(ctx, began.Add(lookBound))
	defer cancel()

	l := view.Look{At: at}
	l.Jobs, l.Reach = a.list(inner)
	q := a.view.Ask(a.since(), l.Reach, l.Jobs)
	l.Asked = a.askEach(inner, began.Add(askUntil), q.Status)
	denied := slices.ContainsFunc(l.Asked, func(one view.Asked) bool { return one.Known == job.No })
	if (q.Process || denied) && (l.Reach == job.Fine || len(l.Asked) > 0) {
		l.Process = a.askProcess(inner)
	}
	for _, asked := range l.Asked {
		if a.view.WantsCause(a.since(), asked.ID, asked.State, asked.StartTime) {
			q.Causes = append(q.Causes, asked.ID)
		}
	}
	l.Causes = a.askCauses(inner, began.Add(lookBound), q.Causes)

	if ctx.Err() != nil {
		l.Reach = job.NotAsked
	}
	l.Now, l.Took = a.since(), time.Since(began)
	return l
}

// list asks for all jobs.
func (a *Agent) list(ctx context.Context) ([]view.Job, job.Reach) {
	ctx, cancel := context.WithTimeout(ctx, listBound)
	defer cancel()
	overview, err := a.flink.Jobs(ctx)
	if err != nil {
		a.log.Debug("list of jobs not answered", "error", err)
		return nil, flink.ReachOf(err)
	}
	if n := len(overview.Skipped) + overview.Unnamed; n != a.skipped {
		if n > a.skipped {
			a.log.Warn("entries in Flink's list of jobs are not understood: upgrade Holdfast if Flink is newer",
				"entries", n, "first", overview.Skipped[0].ID, "error", overview.Skipped[0].Err)
		}
		a.skipped = n
	}
	a.listed = a.listed[:0]
	for i := range overview.Jobs {
		j := &overview.Jobs[i]
		a.listed = append(a.listed, view.Job{
			ID: j.ID, Name: j.Name, State: j.State, StartTime: j.StartTime, EndTime: j.EndTime, Tasks: j.Tasks,
		})
	}
	return a.listed, job.Fine
}

// askEach asks about single jobs, in their order, and begins no question later than until. Those that the time did not
// suffice for are not in the result.
func (a *Agent) askEach(ctx context.Context, until time.Time, ids []string) []view.Asked {
	if len(ids) == 0 {
		return nil
	}
	var (
		mu    sync.Mutex
		next  int
		asked []view.Asked
		all   sync.WaitGroup
	)
	take := func() (string, bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == len(ids) || ctx.Err() != nil || !time.Now().Before(until) {
			return "", false
		}
		next++
		return ids[next-1], true
	}
	for range min(askers, len(ids)) {
		all.Go(func() {
			for id, ok := take(); ok; id, ok = take() {
				one, ok := a.askJob(ctx, id)
				if ok {
					mu.Lock()
					asked = append(asked, one)
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return asked
}

// askJob asks for the state of one job, and where the state alone is worth nothing for its attempt too. ok is false if Flink's two
// answers do not agree: the second comes from a cache and may be 3 s old.
func (a *Agent) askJob(ctx context.Context, id string) (one view.Asked, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, askBound)
	defer cancel()
	state, err := a.flink.Status(ctx, id)
	switch {
	case errors.Is(err, flink.ErrNotFound):
		return view.Asked{ID: id, Known: job.No}, true
	case err != nil:
		return view.Asked{ID: id, Reach: flink.ReachOf(err)}, true
	case !a.view.NeedsAttempt(id, state):
		return view.Asked{ID: id, Known: job.Yes, State: state}, true
	}
	d, err := a.flink.Detail(ctx, id)
	switch {
	case errors.Is(err, flink.ErrNotFound):
		return view.Asked{}, false
	case err != nil:
		return view.Asked{ID: id, Reach: flink.ReachOf(err)}, true
	}
	return view.Asked{ID: id, Known: job.Yes, State: state, StartTime: d.StartTime, EndTime: d.EndTime}, d.State == state
}

// askProcess asks the JobManager about itself.
func (a *Agent) askProcess(ctx context.Context) *view.Process {
	ctx, cancel := context.WithTimeout(ctx, askBound)
	defer cancel()
	jm, err := a.flink.JobManager(ctx)
	if err != nil {
		a.log.Debug("configuration of the JobManager not answered", "error", err)
		return nil
	}
	p := &view.Process{Incarnation: jm.Incarnation, HighAvailability: jm.HighAvailability}
	if config, err := a.flink.Config(ctx); err == nil {
		p.FlinkVersion = config.Version
	}
	return p
}

// askCauses asks for failures, in their order.
func (a *Agent) askCauses(ctx context.Context, end time.Time, ids []string) []view.Cause {
	var causes []view.Cause
	for _, id := range ids {
		if ctx.Err() != nil || time.Until(end) < askBound {
			break
		}
		one, cancel := context.WithTimeout(ctx, askBound)
		text, err := a.flink.Cause(one, id)
		cancel()
		causes = append(causes, view.Cause{ID: id, Answered: err == nil, Text: text})
	}
	return causes
}
