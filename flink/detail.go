package flink

import (
	"context"
	"errors"
	"net/http"

	"github.com/holdfast-dev/holdfast/job"
)

// Detail asks /jobs/ID. Flink answers from a cache that is up to web.refresh-interval old, 3 s unless configured
// (DefaultExecutionGraphCache.java), so Status may be ahead of it; and the answer has the job's whole plan. It
// is for a job whose start-time is not known while /jobs/overview does not answer. LastModification is "".
func (c *Client) Detail(ctx context.Context, id string) (Job, error) {
	if err := checkID(id); err != nil {
		return Job{}, &failure{reach: job.NotAsked, err: err}
	}
	var j Job
	err := c.ask(ctx, question{
		method: http.MethodGet, path: "/jobs/" + id, id: id,
		read: func(a *answer) (err error) {
			if j, err = readDetail(a); err == nil && j.ID != id {
				err = errors.New("an answer about another job")
			}
			return err
		},
	})
	if err != nil {
		return Job{}, err
	}
	return j, nil
}

// readDetail streams the fields of JobDetailsInfo.java that are used and passes over the plan, which may be large.
func readDetail(a *answer) (Job, error) {
	var (
		e     = overviewEntry{Start: -1, End: -1}
		tasks job.Tasks
	)
	err := a.object(func(key string) error {
		switch key {
		case "jid":
			return a.decode(&e.ID)
		case "name":
			return a.decode(&e.Name)
		case "state":
			return a.decode(&e.State)
		case "start-time":
			return a.decode(&e.Start)
		case "end-time":
			return a.decode(&e.End)
		case "job-type":
			return a.decode(&e.Type)
		case "schedulerType":
			return a.decode(&e.Scheduler)
		case "vertices":
			return readVertices(a, &tasks)
		}
		return a.skip()
	})
	if err != nil {
		return Job{}, err
	}
	if err := checkID(e.ID); err != nil {
		return Job{}, err
	}
	state, err := parseState(e.State)
	if err != nil {
		return Job{}, err
	}
	return Job{
		ID: e.ID, Name: clean(e.Name, job.NameLimit), State: state, StartTime: stamp(e.Start), EndTime: stamp(e.End),
		Tasks: tasks, Type: clean(e.Type, 64), Scheduler: clean(e.Scheduler, 64),
	}, nil
}

// readVertices adds the subtasks of all vertices up, which gives what the overview counts. The status-counts of the same
// answer count vertices (JobDetailsHandler.java).
func readVertices(a *answer, tasks *job.Tasks) error {
	return a.array(func() error {
		var vertex struct {
			Tasks map[string]int64 `json:"tasks"`
		}
		if err := a.decode(&vertex); err != nil {
			return err
		}
		for state, n := range vertex.Tasks {
			tasks.Total = count(int64(tasks.Total) + int64(count(n)))
			switch state {
			case "RUNNING":
				tasks.Running = count(int64(tasks.Running) + int64(count(n)))
			case "FINISHED":
				tasks.Finished = count(int64(tasks.Finished) + int64(count(n)))
			case "FAILED":
				tasks.Failed = count(int64(tasks.Failed) + int64(count(n)))
			case "CANCELED":
				tasks.Canceled = count(int64(tasks.Canceled) + int64(count(n)))
			}
		}
		return nil
	})
}
