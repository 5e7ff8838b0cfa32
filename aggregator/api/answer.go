package api

import (
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// The types below are the API's answers: the OpenAPI document is made from them. Every field is always there, unless it
// is marked omitempty. Job is written by package board, byte by byte; a test compares the two.

// Job is one job, as this server can vouch for it.
type Job struct {
	Site      string        `json:"site"`
	Namespace string        `json:"namespace"`
	Cluster   string        `json:"cluster"`
	Pipeline  string        `json:"pipeline" doc:"What its owner calls the job; its name, where nobody called it anything."`
	JobID     string        `json:"jobID"`
	Name      string        `json:"name"`
	State     job.State     `json:"state" doc:"Flink's JobStatus, or UNKNOWN."`
	Possible  []job.State   `json:"possible" doc:"The states that the job may be in; empty unless state is UNKNOWN."`
	Over      job.Answer    `json:"over" doc:"Whether this attempt will never run again."`
	Certainty job.Certainty `json:"certainty" doc:"How the state is known."`
	Reason    job.Reason    `json:"reason"`
	Message   string        `json:"message" doc:"Why, as a sentence for people. Do not parse it."`
	Since     job.Stamp     `json:"since" doc:"When the job came into its state."`
	LastSeen  job.Stamp     `json:"lastSeen" doc:"When somebody last vouched for the state."`
	Attempt   job.Attempt   `json:"attempt" doc:"Which life of the job this is, and Flink's start-time of it."`
	Tasks     job.Tasks     `json:"tasks"`
	Via       job.Via       `json:"via" doc:"By which road the state came."`
	Version   string        `json:"version" doc:"Changes with every change of the job. Opaque."`
	// Evidence is in the answer about one job only.
	Evidence []job.Statement `json:"evidence,omitempty" doc:"Who said what; only where one job is asked for."`
}

// Frozen says that conclusions about silent agents' jobs are suspended.
type Frozen struct {
	Source string    `json:"source" doc:"The source that is sick."`
	Why    string    `json:"why"`
	Since  job.Stamp `json:"since"`
}

// JobList is one page of jobs.
type JobList struct {
	Items    []Job   `json:"items"`
	Version  string  `json:"version" doc:"Where to begin a watch that misses nothing: the version of the list's first page. Opaque."`
	Continue string  `json:"continue" doc:"What to give as continue for the next page; empty on the last one."`
	Frozen   *Frozen `json:"frozen" doc:"Null unless conclusions are frozen."`
}

// Cluster is one Flink cluster as a whole. Where main() throws there is no job id, and this is all that can be said.
type Cluster struct {
	Site      string          `json:"site"`
	Namespace string          `json:"namespace"`
	Cluster   string          `json:"cluster"`
	Condition job.Condition   `json:"condition" doc:"Ready: a JobManager answers, and has a job or can take one. NoJob: that of an application answers and has none. JobManagerDown: none runs. CrashLoop, ImagePull: none runs, for that reason."`
	Over      job.Answer      `json:"over" doc:"Whether what makes its JobManagers is gone."`
	Certainty job.Certainty   `json:"certainty" doc:"How the condition is known."`
	Reason    job.Reason      `json:"reason"`
	Message   string          `json:"message" doc:"Why, as a sentence for people. Do not parse it."`
	Since     job.Stamp       `json:"since" doc:"When the condition was first seen."`
	LastSeen  job.Stamp       `json:"lastSeen" doc:"When somebody last vouched for it."`
	Workload  string          `json:"workload" doc:"What makes its JobManagers, as Kind/name; empty where that is not known."`
	Pods      []job.PodStatus `json:"pods" doc:"The JobManagers' pods, and what each says."`
	Version   string          `json:"version" doc:"Changes with every change of the cluster. Opaque."`
	// Jobs and JobCount are in the answer about one cluster only.
	Jobs     []ClusterJob `json:"jobs,omitempty" doc:"Its jobs, the first 500; only where one cluster is asked for. /api/v1/jobs?cluster= has all."`
	JobCount int          `json:"jobCount,omitempty" doc:"How many jobs it has; only where one cluster is asked for."`
}

// ClusterJob is a job of a cluster, in short.
type ClusterJob struct {
	JobID     string        `json:"jobID"`
	Pipeline  string        `json:"pipeline"`
	State     job.State     `json:"state"`
	Over      job.Answer    `json:"over"`
	Certainty job.Certainty `json:"certainty"`
}

// ClusterList is one page of clusters.
type ClusterList struct {
	Items    []Cluster `json:"items"`
	Version  string    `json:"version" doc:"Opaque."`
	Continue string    `json:"continue" doc:"What to give as continue for the next page; empty on the last one."`
	Frozen   *Frozen   `json:"frozen" doc:"Null unless conclusions are frozen."`
}

// Transition is one entry of a job's history.
type Transition struct {
	Sequence   int64         `json:"sequence" doc:"Numbers the entries of a job, from 1."`
	Kind       job.Kind      `json:"kind" doc:"A transition; a fold, which stands for a flap; or a gap: transitions that nobody recorded."`
	Attempt    job.Attempt   `json:"attempt"`
	State      job.State     `json:"state"`
	Possible   []job.State   `json:"possible"`
	Over       job.Answer    `json:"over"`
	Certainty  job.Certainty `json:"certainty"`
	Reason     job.Reason    `json:"reason"`
	Cause      string        `json:"cause,omitempty" doc:"Flink's word for why the job failed."`
	Via        job.Via       `json:"via"`
	At         job.Stamp     `json:"at"`
	Since      job.Stamp     `json:"since,omitempty" doc:"When a fold began."`
	Count      int64         `json:"count,omitempty" doc:"How many transitions a fold stands for, or a gap misses."`
	Folded     []job.State   `json:"folded,omitempty" doc:"The states of a fold."`
	Correction bool          `json:"correction,omitempty" doc:"A witness put right what had been inferred."`
}

// TransitionList is a job's history, newest last.
type TransitionList struct {
	Items      []Transition `json:"items"`
	Unreadable int          `json:"unreadable" doc:"How many entries are there and could not be read by this server."`
	Version    string       `json:"version"`
	Continue   string       `json:"continue" doc:"Always empty: a history is short."`
	Frozen     *Frozen      `json:"frozen"`
}

// Status is how well the server itself knows what it says.
type Status struct {
	Site     string   `json:"site"`
	Program  string   `json:"program" doc:"The version of the program that answers."`
	Epoch    int64    `json:"epoch" doc:"Counts the lives of the store; 0 as long as it is not known."`
	Version  string   `json:"version"`
	Jobs     int      `json:"jobs"`
	Watchers int      `json:"watchers"`
	Leader   Leader   `json:"leader"`
	Agents   Agents   `json:"agents"`
	Frozen   *Frozen  `json:"frozen"`
	Weakened *Weak    `json:"weakened" doc:"Null unless everything is shown as Held, since this server cannot prove it to be fresh."`
	Sources  []Source `json:"sources"`
}

// Leader is the aggregator that settles.
type Leader struct {
	Leads   bool      `json:"leads" doc:"Whether anybody leads."`
	Name    string    `json:"name"`
	Address string    `json:"address"`
	Since   job.Stamp `json:"since"`
	Age     float64   `json:"age" doc:"Seconds since it was last proven that somebody leads; -1 if it never was."`
}

// Agents counts the site's agents.
type Agents struct {
	Expected int `json:"expected" doc:"Those whose silence would be noticed."`
	Beating  int `json:"beating" doc:"Those that are heard."`
}

// Weak says why and since when everything is shown as Held.
type Weak struct {
	Reason job.Reason `json:"reason"`
	Since  job.Stamp  `json:"since"`
}

// Source is the health of something that the server knows things from.
type Source struct {
	Name    string  `json:"name"`
	Healthy bool    `json:"healthy"`
	Age     float64 `json:"age" doc:"Seconds since it last proved to be alive; -1 if it never did."`
	Why     string  `json:"why" doc:"Why it is not healthy."`
}

// Check is one condition of being ready.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Why  string `json:"why" doc:"What is missing."`
}

// Readiness says that the server is ready.
type Readiness struct {
	Ready  bool    `json:"ready"`
	Checks []Check `json:"checks" doc:"Empty unless asked for with verbose."`
}

// Event is one line of a watch.
type Event struct {
	Type string `json:"type" enum:"put,delete,bookmark,gone" doc:"put: this is how the job is now. delete: the job is gone, or does not pass the filter any more; object is how it was last known. bookmark: nothing else changed up to version. gone: the watch cannot go on, problem says why; list again."`
	// Version is missing inside a series of events that only make sense together.
	Version string   `json:"version,omitempty" doc:"Where to go on after a disconnection. An event without one is no place to go on from: keep the one before."`
	Object  *Job     `json:"object,omitempty"`
	Problem *Problem `json:"problem,omitempty"`
}

func frozen(c record.SiteCondition) *Frozen {
	if !c.Frozen {
		return nil
	}
	return &Frozen{Source: c.Source, Why: c.Why, Since: c.Since}
}

func transition(t job.Transition) Transition {
	out := Transition{
		Sequence: t.Sequence, Kind: t.Kind, Attempt: t.Attempt, State: t.State, Possible: t.Possible.List(), Over: t.Over,
		Certainty: t.Certainty, Reason: t.Reason, Cause: t.Cause, Via: t.Via, At: t.At, Since: t.Since, Count: t.Count, Correction: t.Correction,
	}
	if t.Folded != 0 {
		out.Folded = t.Folded.List()
	}
	return out
}
