package record

import (
	"fmt"
	"slices"

	"github.com/holdfast-dev/holdfast/job"
)

type verdict struct {
	V         int             `json:"v"`
	Name      string          `json:"name"`
	Pipeline  string          `json:"pipeline"`
	State     job.State       `json:"state"`
	Possible  []job.State     `json:"possible,omitempty"`
	Over      job.Answer      `json:"over"`
	Certainty job.Certainty   `json:"certainty"`
	Reason    job.Reason      `json:"reason"`
	Cause     string          `json:"cause,omitempty"`
	Since     job.Stamp       `json:"since"`
	LastSeen  job.Stamp       `json:"lastSeen"`
	Attempt   job.Attempt     `json:"attempt"`
	Tasks     job.Tasks       `json:"tasks"`
	Via       job.Via         `json:"via"`
	Evidence  []job.Statement `json:"evidence,omitempty"`
	Sequence  int64           `json:"sequence"`
	Past      []job.Stamp     `json:"past,omitempty"`
	Marks     []mark          `json:"marks,omitempty"`
	Recent    []job.State     `json:"recent,omitempty"`
	Fold      *transition     `json:"fold,omitempty"`
	Weighed   int64           `json:"weighed,omitempty"`
	OverAt    int64           `json:"overAt,omitempty"`
	Workload  *job.Workload   `json:"workload,omitempty"`
}

type mark struct {
	Witness string `json:"witness"`
	Number  int64  `json:"number"`
}

type transition struct {
	V          int           `json:"v,omitempty"`
	Sequence   int64         `json:"sequence"`
	Kind       job.Kind      `json:"kind"`
	Attempt    job.Attempt   `json:"attempt"`
	State      job.State     `json:"state"`
	Possible   []job.State   `json:"possible,omitempty"`
	Over       job.Answer    `json:"over"`
	Certainty  job.Certainty `json:"certainty"`
	Reason     job.Reason    `json:"reason"`
	Cause      string        `json:"cause,omitempty"`
	Via        job.Via       `json:"via"`
	At         job.Stamp     `json:"at"`
	Since      job.Stamp     `json:"since,omitempty"`
	Count      int64         `json:"count,omitempty"`
	Folded     []job.State   `json:"folded,omitempty"`
	Correction bool          `json:"correction,omitempty"`
}

// EncodeAccount gives the record of a verdict with its books.
func EncodeAccount(a job.Account) []byte {
	v, b := a.Verdict, a.Books
	out := verdict{
		V: Version, Name: v.Name, Pipeline: v.Pipeline, State: v.State, Possible: v.Possible.List(), Over: v.Over,
		Certainty: v.Certainty, Reason: v.Reason, Cause: v.Cause, Since: v.Since, LastSeen: v.LastSeen,
		Attempt: v.Attempt, Tasks: v.Tasks, Via: v.Via, Evidence: v.Evidence,
		Sequence: b.Sequence, Past: b.Past, Recent: b.Recent, Weighed: b.Weighed, OverAt: b.OverAt,
		Workload: b.Workload,
	}
	for _, m := range b.Marks {
		out.Marks = append(out.Marks, mark(m))
	}
	if b.Fold != nil {
		fold := fromTransition(*b.Fold)
		out.Fold = &fold
	}
	return encode(out)
}

// DecodeAccount reads the record of a verdict that lay at the job's key.
func DecodeAccount(key job.Key, data []byte) (job.Account, error) {
	var in verdict
	if err := decode(data, &in, &in.V); err != nil {
		return job.Account{}, fmt.Errorf("verdict on %s: %w", key, err)
	}
	if in.Sequence < 1 || in.Attempt.Number < 1 {
		return job.Account{}, fmt.Errorf("verdict on %s: sequence %d, attempt %d: %w", key, in.Sequence, in.Attempt.Number, ErrCorrupt)
	}
	out := job.Account{
		Key: key,
		Verdict: job.Verdict{
			Name: clip(in.Name), Pipeline: clip(in.Pipeline), State: in.State, Possible: job.StatesOf(in.Possible...),
			Over: in.Over, Certainty: in.Certainty, Reason: in.Reason, Cause: clip(in.Cause), Since: in.Since,
			LastSeen: in.LastSeen, Attempt: in.Attempt, Tasks: in.Tasks, Via: in.Via, Evidence: in.Evidence,
		},
		Books: job.Books{Sequence: in.Sequence, Past: newest(in.Past, job.PastLimit), Recent: newest(in.Recent, job.RecentLimit), Weighed: in.Weighed, OverAt: in.OverAt},
	}
	for _, m := range newest(in.Marks, job.MarkLimit) {
		out.Books.Marks = append(out.Books.Marks, job.Mark(m))
	}
	if w := in.Workload; w != nil {
		out.Books.Workload = &job.Workload{Kind: clip(w.Kind), Name: clip(w.Name), UID: clip(w.UID)}
	}
	if in.Fold != nil {
		fold := in.Fold.transition()
		out.Books.Fold = &fold
	}
	return out, nil
}

// EncodeTransition gives the record of one entry of a history.
func EncodeTransition(t job.Transition) []byte {
	r := fromTransition(t)
	r.V = Version
	return encode(r)
}

// DecodeTransition reads the record of one entry of a history.
func DecodeTransition(key job.Key, data []byte) (job.Transition, error) {
	var r transition
	if err := decode(data, &r, &r.V); err != nil {
		return job.Transition{}, fmt.Errorf("history of %s: %w", key, err)
	}
	return r.transition(), nil
}

func fromTransition(t job.Transition) transition {
	return transition{
		Sequence: t.Sequence, Kind: t.Kind, Attempt: t.Attempt, State: t.State, Possible: t.Possible.List(), Over: t.Over,
		Certainty: t.Certainty, Reason: t.Reason, Cause: t.Cause, Via: t.Via, At: t.At, Since: t.Since, Count: t.Count,
		Folded: t.Folded.List(), Correction: t.Correction,
	}
}

func (r transition) transition() job.Transition {
	return job.Transition{
		Sequence: r.Sequence, Kind: r.Kind, Attempt: r.Attempt, State: r.State, Possible: job.StatesOf(r.Possible...),
		Over: r.Over, Certainty: r.Certainty, Reason: r.Reason, Cause: clip(r.Cause), Via: r.Via, At: r.At, Since: r.Since,
		Count: r.Count, Folded: job.StatesOf(r.Folded...), Correction: r.Correction,
	}
}

func newest[T any](list []T, limit int) []T {
	if extra := len(list) - limit; extra > 0 {
		return slices.Clone(list[extra:])
	}
	return list
}
