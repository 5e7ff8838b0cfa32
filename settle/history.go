package settle

import (
	"slices"
	"strings"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// enter puts the verdict as it is now into the history. A flap, the same two or three states over and over, becomes one
// entry that grows in place.
func (j *judgement) enter(at job.Stamp, correction bool) {
	v, b := &j.account.Verdict, &j.account.Books
	j.own()
	entry := job.Transition{
		Kind: job.Change, Attempt: v.Attempt, State: v.State, Possible: v.Possible, Over: v.Over, Certainty: v.Certainty,
		Reason: v.Reason, Cause: v.Cause, Via: v.Via, At: at, Correction: correction,
	}
	same := len(b.Recent) > 0 && b.Recent[len(b.Recent)-1] == v.State
	if b.Fold != nil {
		same = b.Fold.State == v.State
	}
	if same || v.Certainty != job.Witnessed || v.Over == job.Yes {
		// Not a change of Flink's state from one passing state to another: a flap ends here.
		b.Recent, b.Fold = nil, nil
	}
	switch {
	case b.Fold != nil && b.Fold.Folded.Has(v.State):
		entry.Sequence, entry.Kind, entry.Folded = b.Fold.Sequence, job.Fold, b.Fold.Folded
		entry.Since, entry.Count = b.Fold.Since, b.Fold.Count+1
	case b.Fold == nil && flaps(b.Recent, v.State):
		entry.Sequence, entry.Kind, entry.Folded = b.Sequence+1, job.Fold, job.StatesOf(b.Recent...)|job.StatesOf(v.State)
		entry.Since, entry.Count = at, 1
	default:
		if b.Fold != nil {
			b.Recent, b.Fold = nil, nil // another state ends a flap
		}
		entry.Sequence = b.Sequence + 1
		b.Recent = bounded(append(b.Recent, v.State), job.RecentLimit)
	}
	if entry.Kind == job.Fold {
		fold := entry
		b.Fold = &fold
	}
	b.Sequence = entry.Sequence
	j.add(entry)
}

// flaps says whether a state goes on with the two or three states that have come over and over: each of them twice at least.
func flaps(recent []job.State, next job.State) bool {
	if len(recent) < job.RecentLimit || (job.StatesOf(recent...)|job.StatesOf(next)).Len() > 3 || !slices.Contains(recent, next) {
		return false
	}
	for i, state := range recent {
		if state != next && !slices.Contains(recent[:i], state) && !slices.Contains(recent[i+1:], state) {
			return false
		}
	}
	return true
}

// gap notes that transitions are missing, and how many.
func (j *judgement) gap(missed int64) {
	v, b := &j.account.Verdict, &j.account.Books
	j.own()
	b.Sequence++
	b.Fold, b.Recent = nil, nil
	j.add(job.Transition{
		Sequence: b.Sequence, Kind: job.Gap, Attempt: v.Attempt, State: v.State, Possible: v.Possible, Over: v.Over,
		Certainty: v.Certainty, Reason: v.Reason, Via: v.Via, At: job.StampOf(j.core.wall), Count: missed,
	})
}

func (j *judgement) add(t job.Transition) {
	if n := len(j.entries); n > 0 && j.entries[n-1].Sequence == t.Sequence {
		j.entries[n-1] = t // a fold that grew
		return
	}
	j.entries = append(j.entries, t)
}

// own makes the books' lists the judgement's, so that the account that counts stays as it is.
func (j *judgement) own() {
	if j.owned {
		return
	}
	j.owned = true
	b := &j.account.Books
	b.Past, b.Marks, b.Recent = slices.Clone(b.Past), slices.Clone(b.Marks), slices.Clone(b.Recent)
	if b.Fold != nil {
		fold := *b.Fold
		b.Fold = &fold
	}
}

// describe takes over what a report says beside the state.
func (j *judgement) describe(r *evidence.Report) {
	v := &j.account.Verdict
	v.Name, v.Pipeline = r.Name, j.core.pipeline(j.entry, r)
	if r.StartTime != v.Attempt.StartTime {
		return
	}
	v.Tasks = r.Tasks
	if n := len(r.Transitions); n > 0 && v.State == job.Failed && r.State == job.Failed {
		v.Cause = r.Transitions[n-1].Cause
	}
	if v.State.Terminal() && r.State == v.State && r.EndTime != "" {
		v.Since = r.EndTime
	}
}

func (j *judgement) mark(s *sight) (number int64, known bool) {
	for _, m := range j.account.Books.Marks {
		if m.Witness == s.name() {
			return m.Number, true
		}
	}
	return 0, false
}

// setMark notes that what the witness saw is in the history, up to a number. The one listened to last stands last; the oldest falls out.
func (j *judgement) setMark(s *sight, number int64) {
	if number == 0 {
		return
	}
	j.own()
	b := &j.account.Books
	name := s.name()
	b.Marks = slices.DeleteFunc(b.Marks, func(m job.Mark) bool { return m.Witness == name })
	b.Marks = bounded(append(b.Marks, job.Mark{Witness: name, Number: number}), job.MarkLimit)
}

// name tells the witness from others in the books: by its pod, and for a probe by its session, too. The transitions of an agent are numbered over
// all its sessions, those of a probe in each anew.
func (s *sight) name() string {
	if s.by.agent.Probe {
		return s.by.agent.PodUID + "/" + s.report.Session
	}
	return s.by.agent.PodUID
}

// toldOf says whether a pod's JobManager is one of which the books know that it told of the job.
func toldOf(b *job.Books, podUID string) bool {
	return slices.ContainsFunc(b.Marks, func(m job.Mark) bool {
		pod, _, _ := strings.Cut(m.Witness, "/")
		return pod == podUID
	})
}

func bounded[T any](list []T, limit int) []T {
	if extra := len(list) - limit; extra > 0 {
		return slices.Delete(list, 0, extra)
	}
	return list
}
