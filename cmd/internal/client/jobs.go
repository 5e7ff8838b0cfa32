package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
)

// Job is one job as the API gives it.
type Job struct {
	Site      string      `json:"site"`
	Namespace string      `json:"namespace"`
	Cluster   string      `json:"cluster"`
	Pipeline  string      `json:"pipeline"`
	JobID     string      `json:"jobID"`
	Name      string      `json:"name"`
	State     string      `json:"state"`
	Possible  []string    `json:"possible"`
	Over      string      `json:"over"`
	Certainty string      `json:"certainty"`
	Reason    string      `json:"reason"`
	Message   string      `json:"message"`
	Since     string      `json:"since"`
	LastSeen  string      `json:"lastSeen"`
	Attempt   Attempt     `json:"attempt"`
	Tasks     Tasks       `json:"tasks"`
	Via       string      `json:"via"`
	Version   string      `json:"version"`
	Evidence  []Statement `json:"evidence"`

	// Raw is the job as it came, with fields that this client does not know.
	Raw json.RawMessage `json:"-"`
}

// Attempt is one life of a job.
type Attempt struct {
	Number    int    `json:"number"`
	StartTime string `json:"startTime"`
}

// Tasks counts a job's subtasks.
type Tasks struct {
	Total    int `json:"total"`
	Running  int `json:"running"`
	Finished int `json:"finished"`
	Failed   int `json:"failed"`
	Canceled int `json:"canceled"`
}

// Statement is one piece of evidence.
type Statement struct {
	Source  string `json:"source"`
	Subject string `json:"subject"`
	Says    string `json:"says"`
	At      string `json:"at"`
}

// Path tells the job from every other of its site: namespace/cluster/jobID.
func (j *Job) Path() string { return j.Namespace + "/" + j.Cluster + "/" + j.JobID }

// UnmarshalJSON reads a job and keeps its text.
func (j *Job) UnmarshalJSON(data []byte) error {
	type plain Job
	if err := json.Unmarshal(data, (*plain)(j)); err != nil {
		return err
	}
	j.Raw = bytes.Clone(data)
	return nil
}

// MarshalJSON writes the job as it came.
func (j Job) MarshalJSON() ([]byte, error) { return j.Raw, nil }

// Frozen says that conclusions about silent agents' jobs are suspended.
type Frozen struct {
	Source string `json:"source"`
	Why    string `json:"why"`
	Since  string `json:"since"`
}

// JobList is a list of jobs, all pages together.
type JobList = list[Job]

// list is all pages together.
type list[T any] struct {
	Items   []T     `json:"items"`
	Version string  `json:"version"`
	Frozen  *Frozen `json:"frozen"`
}

type page[T any] struct {
	list[T]
	Continue string `json:"continue"`
}

// pageSize is the API's largest.
const pageSize = 5000

// Jobs lists the jobs that pass a filter, which has the API's own parameters. The version is the one to watch from.
func (c *Client) Jobs(ctx context.Context, filter url.Values) (JobList, error) {
	return all[Job](ctx, c, "/api/v1/jobs", filter)
}

// all gets all pages of a list.
func all[T any](ctx context.Context, c *Client, path string, filter url.Values) (list[T], error) {
	out := list[T]{Items: []T{}}
	query := copied(filter)
	query.Set("limit", strconv.Itoa(pageSize))
	for first := true; ; first = false {
		var next page[T]
		if err := c.get(ctx, path, query, &next); err != nil {
			return list[T]{}, err
		}
		if first {
			out.Version = next.Version
		}
		out.Items = append(out.Items, next.Items...)
		out.Frozen = next.Frozen
		if next.Continue == "" {
			return out, nil
		}
		if next.Continue == query.Get("continue") {
			return list[T]{}, fmt.Errorf("%s gives the same page of %s again and again: upgrade it", c.base, path)
		}
		query.Set("continue", next.Continue)
	}
}

func copied(v url.Values) url.Values {
	out := make(url.Values, len(v)+2)
	for name, values := range v {
		out[name] = values
	}
	return out
}

// Job gives one job with its evidence.
func (c *Client) Job(ctx context.Context, j *Job) (Job, error) {
	var answer Job
	err := c.ofJob(ctx, j, "", &answer)
	return answer, err
}

// Transition is one entry of a history.
type Transition struct {
	Sequence  int64    `json:"sequence"`
	Kind      string   `json:"kind"`
	Attempt   Attempt  `json:"attempt"`
	State     string   `json:"state"`
	Possible  []string `json:"possible"`
	Over      string   `json:"over"`
	Certainty string   `json:"certainty"`
	Reason    string   `json:"reason"`
	Cause     string   `json:"cause"`
	Via       string   `json:"via"`
	At        string   `json:"at"`
	Since     string   `json:"since"`
	Count     int64    `json:"count"`
	Folded    []string `json:"folded"`

	// Correction: a witness put right what had been inferred.
	Correction bool `json:"correction"`
}

// History is what a job went through, newest last.
type History struct {
	Items      []Transition `json:"items"`
	Unreadable int          `json:"unreadable"`

	// Raw is the history as it came.
	Raw json.RawMessage `json:"-"`
}

// History reads the history of a job.
func (c *Client) History(ctx context.Context, j *Job) (History, error) {
	var history History
	if err := c.ofJob(ctx, j, "/history", &history.Raw); err != nil {
		return History{}, err
	}
	raw := history.Raw
	if err := json.Unmarshal(raw, &history); err != nil {
		return History{}, fmt.Errorf("the history that %s gives cannot be read (is the client older than the server?): %w", c.base, err)
	}
	return history, nil
}

// ofJob asks for something of one job.
func (c *Client) ofJob(ctx context.Context, j *Job, what string, answer any) error {
	path := "/api/v1/jobs/" + url.PathEscape(j.Site) + "/" + url.PathEscape(j.Namespace) + "/" +
		url.PathEscape(j.Cluster) + "/" + url.PathEscape(j.JobID) + what
	return c.get(ctx, path, nil, answer)
}
