package flink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/holdfast-dev/holdfast/job"
)

// Job is what Flink says of one job.
type Job struct {
	// ID is 32 lower-case hexadecimal digits.
	ID string
	// Name is the user's, made fit to show: at most job.NameLimit bytes, control characters replaced by U+FFFD.
	Name  string
	State job.State
	// StartTime is when this JobMaster began with the job. It jumps at each new JobMaster and tells attempts apart
	// (JobDetails.java, Dispatcher.java). EndTime is "" until the job is globally terminal, so also for SUSPENDED.
	StartTime, EndTime job.Stamp
	// LastModification is when the job or one of its tasks last changed. Only the overview has it.
	LastModification job.Stamp
	Tasks            job.Tasks
	// Type is "BATCH" or "STREAMING" and Scheduler "Default", "Adaptive" or "AdaptiveBatch", where Flink says it:
	// both from 2.3; Detail has Type from 1.20.
	Type, Scheduler string
}

// Overview is an answer of /jobs/overview.
type Overview struct {
	// Jobs are in Flink's order: the newest first from 2.1, in no order before.
	Jobs []Job
	// Skipped are the entries that could not be understood; their neighbours are unharmed.
	Skipped []Skipped
	// Unnamed counts the entries that were skipped beyond the first 1000, which are named.
	Unnamed int
}

// Skipped is an entry of an overview that could not be understood.
type Skipped struct {
	// ID is the job's id as Flink sent it, made fit to show, at most 64 bytes; "" if there was none.
	ID  string
	Err error
}

const maxSkipped = 1000

// Jobs asks /jobs/overview, which Flink computes afresh for each request. What is missing in it is not gone: Flink
// silently leaves out each job whose JobMaster does not answer its Dispatcher (Dispatcher.java, requestMultipleJobDetails;
// FLINK-40602). Ask Status of a job that is missed.
func (c *Client) Jobs(ctx context.Context) (Overview, error) {
	var o Overview
	err := c.ask(ctx, question{
		method: http.MethodGet, path: "/jobs/overview", limit: c.maxBody,
		read: func(a *answer) (err error) { o, err = readOverview(a); return err },
	})
	if err != nil {
		return Overview{}, err
	}
	return o, nil
}

// Status asks /jobs/ID/status, which Flink computes afresh, and which answers for jobs that the overview leaves out.
// ErrNotFound is returned only if Flink says in so many words that it could not find this very job.
func (c *Client) Status(ctx context.Context, id string) (job.State, error) {
	if err := checkID(id); err != nil {
		return job.Unknown, &failure{reach: job.NotAsked, err: err}
	}
	state := job.Unknown
	err := c.ask(ctx, question{
		method: http.MethodGet, path: "/jobs/" + id + "/status", id: id,
		read: func(a *answer) (err error) { state, err = readStatus(a); return err },
	})
	if err != nil {
		return job.Unknown, err
	}
	return state, nil
}

// overviewEntry has the fields of JobDetails.java that are used; the others, of which each release adds some, are not.
type overviewEntry struct {
	ID        string `json:"jid"`
	Name      string `json:"name"`
	State     string `json:"state"`
	Start     int64  `json:"start-time"`
	End       int64  `json:"end-time"`
	Modified  int64  `json:"last-modification"`
	Type      string `json:"jobType"`
	Scheduler string `json:"schedulerType"`
	Tasks     struct {
		Total    int64 `json:"total"`
		Running  int64 `json:"running"`
		Finished int64 `json:"finished"`
		Failed   int64 `json:"failed"`
		Canceled int64 `json:"canceled"`
	} `json:"tasks"`
}

func readOverview(a *answer) (Overview, error) {
	var o Overview
	listed := false
	err := a.object(func(key string) error {
		if key != "jobs" {
			return a.skip()
		}
		if listed {
			return errors.New("two lists of jobs")
		}
		listed = true
		var e overviewEntry // one for all, so that it escapes once
		return a.array(func() error {
			e = overviewEntry{Start: -1, End: -1, Modified: -1}
			err := a.decode(&e)
			var mistyped *json.UnmarshalTypeError
			if err != nil && !errors.As(err, &mistyped) {
				return err
			}
			o.add(e, err)
			return nil
		})
	})
	if err == nil && !listed {
		err = errors.New("no list of jobs")
	}
	return o, err
}

func (o *Overview) add(e overviewEntry, err error) {
	var state job.State
	if err == nil {
		err = checkID(e.ID)
	}
	if err == nil {
		state, err = parseState(e.State)
	}
	if err != nil {
		if len(o.Skipped) == maxSkipped {
			o.Unnamed++
			return
		}
		o.Skipped = append(o.Skipped, Skipped{ID: clean(e.ID, 64), Err: fmt.Errorf("entry %d: %s", o.entries()+1, clean(err.Error(), 300))})
		return
	}
	o.Jobs = append(o.Jobs, Job{
		ID: e.ID, Name: clean(e.Name, job.NameLimit), State: state,
		StartTime: stamp(e.Start), EndTime: stamp(e.End), LastModification: stamp(e.Modified),
		Tasks: job.Tasks{
			Total: count(e.Tasks.Total), Running: count(e.Tasks.Running), Finished: count(e.Tasks.Finished),
			Failed: count(e.Tasks.Failed), Canceled: count(e.Tasks.Canceled),
		},
		Type: clean(e.Type, 64), Scheduler: clean(e.Scheduler, 64),
	})
}

func (o *Overview) entries() int { return len(o.Jobs) + len(o.Skipped) + o.Unnamed }

func readStatus(a *answer) (job.State, error) {
	word := ""
	err := a.object(func(key string) error {
		if key != "status" {
			return a.skip()
		}
		return a.decode(&word)
	})
	if err != nil {
		return job.Unknown, err
	}
	return parseState(word)
}

// parseState takes Flink's own words only: UNKNOWN is Holdfast's.
func parseState(word string) (job.State, error) {
	if word == job.Unknown.String() {
		return job.Unknown, errors.New("UNKNOWN is not a state of Flink's")
	}
	return job.ParseState(word)
}
