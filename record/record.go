package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// Version is the version of the records written here.
const Version = 1

// ErrNewer is wrapped by the error for a record of a later version. What it says is not known, which is not the same as that it
// is not there.
var ErrNewer = errors.New("written by a newer Holdfast")

// ErrCorrupt is wrapped by the error for a record that cannot be read.
var ErrCorrupt = errors.New("corrupt record")

type beat struct {
	V                int        `json:"v"`
	Session          string     `json:"session"`
	Version          string     `json:"version"`
	Pod              string     `json:"pod,omitempty"`
	Incarnation      string     `json:"incarnation"`
	FlinkVersion     string     `json:"flinkVersion,omitempty"`
	HighAvailability job.Answer `json:"highAvailability"`
	Application      job.Answer `json:"application"`
	Reach            job.Reach  `json:"reach"`
	ReachSince       job.Stamp  `json:"reachSince,omitempty"`
	Goodbye          bool       `json:"goodbye,omitempty"`
	At               job.Stamp  `json:"at"`
}

// EncodeBeat gives the record of a beat. The agent's names are in the key.
func EncodeBeat(b evidence.Beat) []byte {
	return encode(beat{
		V: Version, Session: b.Session, Version: b.Version, Pod: b.Pod, Incarnation: b.Incarnation,
		FlinkVersion: b.FlinkVersion, HighAvailability: b.HighAvailability, Application: b.Application,
		Reach: b.Reach, ReachSince: b.ReachSince, Goodbye: b.Goodbye, At: b.At,
	})
}

// DecodeBeat reads the record of a beat that lay at the agent's key.
func DecodeBeat(agent evidence.Agent, data []byte) (evidence.Beat, error) {
	var r beat
	if err := decode(data, &r, &r.V); err != nil {
		return evidence.Beat{}, fmt.Errorf("beat of %s: %w", agent, err)
	}
	if r.Session == "" {
		return evidence.Beat{}, fmt.Errorf("beat of %s: no session: %w", agent, ErrCorrupt)
	}
	return evidence.Beat{
		Agent: agent, Session: r.Session, Version: r.Version, Pod: r.Pod, Incarnation: r.Incarnation,
		FlinkVersion: r.FlinkVersion, HighAvailability: r.HighAvailability, Application: r.Application,
		Reach: r.Reach, ReachSince: r.ReachSince, Goodbye: r.Goodbye, At: r.At,
	}, nil
}

type report struct {
	V           int                `json:"v"`
	Session     string             `json:"session"`
	Pod         string             `json:"pod,omitempty"`
	Sequence    int64              `json:"sequence"`
	Incarnation string             `json:"incarnation"`
	Name        string             `json:"name"`
	Pipeline    string             `json:"pipeline,omitempty"`
	StartTime   job.Stamp          `json:"startTime"`
	EndTime     job.Stamp          `json:"endTime,omitempty"`
	State       job.State          `json:"state"`
	Tasks       job.Tasks          `json:"tasks"`
	Via         job.Via            `json:"via"`
	Reach       job.Reach          `json:"reach"`
	LastAnswer  job.Stamp          `json:"lastAnswer"`
	Known       job.Answer         `json:"known"`
	Denier      string             `json:"denier,omitempty"`
	Transitions []reportTransition `json:"transitions"`
}

type reportTransition struct {
	Number     int64      `json:"number"`
	State      job.State  `json:"state"`
	StartTime  job.Stamp  `json:"startTime"`
	At         job.Stamp  `json:"at"`
	Cause      string     `json:"cause,omitempty"`
	CauseAsked job.Answer `json:"causeAsked,omitempty"`
	Via        job.Via    `json:"via"`
}

// EncodeReport gives the record of a report. The agent's names and the job id are in the key.
func EncodeReport(r evidence.Report) []byte {
	out := report{
		V: Version, Session: r.Session, Pod: r.Pod, Sequence: r.Sequence, Incarnation: r.Incarnation, Name: r.Name,
		Pipeline: r.Pipeline, StartTime: r.StartTime, EndTime: r.EndTime, State: r.State, Tasks: r.Tasks, Via: r.Via,
		Reach: r.Reach, LastAnswer: r.LastAnswer, Known: r.Known, Denier: r.Denier,
		Transitions: make([]reportTransition, len(r.Transitions)),
	}
	for i, t := range r.Transitions {
		out.Transitions[i] = reportTransition(t)
	}
	return encode(out)
}

// DecodeReport reads the record of a report that lay at the agent's key for the job. More transitions than the limit are cut
// from the old end, as an agent would.
func DecodeReport(agent evidence.Agent, jobID string, data []byte) (evidence.Report, error) {
	var in report
	err := decode(data, &in, &in.V)
	if err == nil {
		err = in.check()
	}
	if err != nil {
		return evidence.Report{}, fmt.Errorf("report of %s on %s: %w", agent, jobID, err)
	}
	if extra := len(in.Transitions) - evidence.TransitionLimit; extra > 0 {
		in.Transitions = in.Transitions[extra:]
	}
	out := evidence.Report{
		Agent: agent, JobID: jobID, Session: in.Session, Pod: in.Pod, Sequence: in.Sequence, Incarnation: in.Incarnation,
		Name: clip(in.Name), Pipeline: clip(in.Pipeline), StartTime: in.StartTime, EndTime: in.EndTime, State: in.State,
		Tasks: in.Tasks, Via: in.Via, Reach: in.Reach, LastAnswer: in.LastAnswer, Known: in.Known, Denier: in.Denier,
		Transitions: make([]evidence.Transition, len(in.Transitions)),
	}
	for i, t := range in.Transitions {
		out.Transitions[i] = evidence.Transition(t)
		out.Transitions[i].Cause = clip(t.Cause)
	}
	return out, nil
}

// check refuses what no agent writes: a half of such a report might be taken for evidence.
func (r *report) check() error {
	if r.Session == "" {
		return fmt.Errorf("no session: %w", ErrCorrupt)
	}
	last := int64(0)
	for _, t := range r.Transitions {
		if t.Number <= last {
			return fmt.Errorf("transition %d after %d: %w", t.Number, last, ErrCorrupt)
		}
		last = t.Number
	}
	if n := len(r.Transitions); n > 0 {
		if newest := r.Transitions[n-1]; newest.State != r.State || newest.StartTime != r.StartTime {
			return fmt.Errorf("the newest transition says %s, the report %s: %w", newest.State, r.State, ErrCorrupt)
		}
	}
	return nil
}

func encode(r any) []byte {
	// Every record is made of strings, numbers and words of closed lists, all of which have a JSON form.
	data, _ := json.Marshal(r)
	return data
}

// decode reads JSON into r, whose field version it is told of. Fields that it does not know are ignored: a newer writer may have added some. A
// version that it does not know is refused before anything else is believed.
func decode(data []byte, r any, version *int) error {
	err := json.Unmarshal(data, r)
	if err != nil {
		// A word that this version does not know may come before the version that explains it.
		var only struct {
			V int `json:"v"`
		}
		if json.Unmarshal(data, &only) == nil {
			*version = only.V
		}
	}
	if *version > Version {
		return fmt.Errorf("version %d, this program reads up to %d: %w; upgrade it", *version, Version, ErrNewer)
	}
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%w: %v at byte %d", ErrCorrupt, err, syntax.Offset)
	case err != nil:
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	case *version < 1:
		return fmt.Errorf("%w: no version", ErrCorrupt)
	}
	return nil
}

// clip bounds a text that somebody else may have made too long. job.NameLimit and job.CauseLimit are the same.
func clip(s string) string {
	if len(s) <= job.NameLimit {
		return s
	}
	end := job.NameLimit
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}
