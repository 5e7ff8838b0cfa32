// Package look asks a JobManager one round of questions, for a view to see. It decides nothing, and keeps nothing but its buffers. The
// agent looks from inside the pod, and the aggregator from outside.
package look

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/agent/view"
	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/job"
)

const (
	// Bound bounds a look. The list of jobs gets listBound of it, so that there is time to ask each job by itself when
	// the list hangs; each other question gets askBound, whole or not at all, since a job must not be called slow for
	// having been asked last.
	Bound     = 3 * time.Second
	listBound = 2 * time.Second
	askBound  = 500 * time.Millisecond
	// askUntil is when the questions about single jobs end, so that those about causes and the process have their turn.
	askUntil = Bound - 750*time.Millisecond
	// askers is how many jobs are asked about at once. One that hangs holds one of them.
	askers = 4
)

// Flink is whom is asked. An error is never a No, except flink.ErrNotFound.
type Flink interface {
	Jobs(context.Context) (flink.Overview, error)
	Status(ctx context.Context, id string) (job.State, error)
	Detail(ctx context.Context, id string) (flink.Job, error)
	Cause(ctx context.Context, id string) (string, error)
	Config(context.Context) (flink.Config, error)
	JobManager(context.Context) (flink.JobManager, error)
}

// Looker looks at one JobManager for one view, one look at a time.
type Looker struct {
	// Flink, View and Log are required.
	Flink Flink
	View  *view.View
	Log   *slog.Logger
	// Born is when the view's clock began.
	Born time.Time

	listed  []view.Job // reused from look to look
	skipped int        // entries of the last overview that were not understood
}

// Look asks Flink one round of questions, in 3 s at most. A look that ctx ended says nothing.
func (l *Looker) Look(ctx context.Context) view.Look {
	began := time.Now()
	at := job.StampOf(began.UnixMilli())
	inner, cancel := context.WithDeadline(ctx, began.Add(Bound))
	defer cancel()

	seen := view.Look{At: at}
	seen.Jobs, seen.Reach = l.list(inner)
	q := l.View.Ask(l.since(), seen.Reach, seen.Jobs)
	seen.Asked = l.askEach(inner, began.Add(askUntil), q.Status)
	denied := slices.ContainsFunc(seen.Asked, func(one view.Asked) bool { return one.Known == job.No })
	if (q.Process || denied) && (seen.Reach == job.Fine || len(seen.Asked) > 0) {
		seen.Process = l.askProcess(inner)
	}
	for _, asked := range seen.Asked {
		if l.View.WantsCause(l.since(), asked.ID, asked.State, asked.StartTime) {
			q.Causes = append(q.Causes, asked.ID)
		}
	}
	seen.Causes = l.askCauses(inner, began.Add(Bound), q.Causes)

	if ctx.Err() != nil {
		seen.Reach = job.NotAsked
	}
	seen.Now, seen.Took = l.since(), time.Since(began)
	return seen
}

// since is the view's clock.
func (l *Looker) since() time.Duration { return time.Since(l.Born) }

// list asks for all jobs.
func (l *Looker) list(ctx context.Context) ([]view.Job, job.Reach) {
	ctx, cancel := context.WithTimeout(ctx, listBound)
	defer cancel()
	overview, err := l.Flink.Jobs(ctx)
	if err != nil {
		l.Log.Debug("list of jobs not answered", "error", err)
		return nil, flink.ReachOf(err)
	}
	if n := len(overview.Skipped) + overview.Unnamed; n != l.skipped {
		if n > l.skipped {
			l.Log.Warn("entries in Flink's list of jobs are not understood: upgrade Holdfast if Flink is newer",
				"entries", n, "first", overview.Skipped[0].ID, "error", overview.Skipped[0].Err)
		}
		l.skipped = n
	}
	l.listed = l.listed[:0]
	for i := range overview.Jobs {
		j := &overview.Jobs[i]
		l.listed = append(l.listed, view.Job{
			ID: j.ID, Name: j.Name, State: j.State, StartTime: j.StartTime, EndTime: j.EndTime, Tasks: j.Tasks,
		})
	}
	return l.listed, job.Fine
}

// askEach asks about single jobs, in their order, and begins no question later than until. Those that the time did not
// suffice for are not in the result.
func (l *Looker) askEach(ctx context.Context, until time.Time, ids []string) []view.Asked {
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
				one, ok := l.askJob(ctx, id)
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
func (l *Looker) askJob(ctx context.Context, id string) (one view.Asked, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, askBound)
	defer cancel()
	state, err := l.Flink.Status(ctx, id)
	switch {
	case errors.Is(err, flink.ErrNotFound):
		return view.Asked{ID: id, Known: job.No}, true
	case err != nil:
		return view.Asked{ID: id, Reach: flink.ReachOf(err)}, true
	case !l.View.NeedsAttempt(id, state):
		return view.Asked{ID: id, Known: job.Yes, State: state}, true
	}
	d, err := l.Flink.Detail(ctx, id)
	switch {
	case errors.Is(err, flink.ErrNotFound):
		return view.Asked{}, false
	case err != nil:
		return view.Asked{ID: id, Reach: flink.ReachOf(err)}, true
	}
	return view.Asked{ID: id, Known: job.Yes, State: state, StartTime: d.StartTime, EndTime: d.EndTime}, d.State == state
}

// askProcess asks the JobManager about itself.
func (l *Looker) askProcess(ctx context.Context) *view.Process {
	ctx, cancel := context.WithTimeout(ctx, askBound)
	defer cancel()
	jm, err := l.Flink.JobManager(ctx)
	if err != nil {
		l.Log.Debug("configuration of the JobManager not answered", "error", err)
		return nil
	}
	p := &view.Process{Incarnation: jm.Incarnation, HighAvailability: jm.HighAvailability, Application: jm.Application}
	if config, err := l.Flink.Config(ctx); err == nil {
		p.FlinkVersion = config.Version
	}
	return p
}

// askCauses asks for failures, in their order.
func (l *Looker) askCauses(ctx context.Context, end time.Time, ids []string) []view.Cause {
	var causes []view.Cause
	for _, id := range ids {
		if ctx.Err() != nil || time.Until(end) < askBound {
			break
		}
		one, cancel := context.WithTimeout(ctx, askBound)
		text, err := l.Flink.Cause(one, id)
		cancel()
		causes = append(causes, view.Cause{ID: id, Answered: err == nil, Text: text})
	}
	return causes
}
