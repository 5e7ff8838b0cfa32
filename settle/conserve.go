package settle

import "github.com/holdfast-dev/holdfast/job"

// conserve has the last word of every judgement: what stands is kept unless something positively says otherwise. Next is
// the judgement; positive says whether the evidence that decided it was an answer, yes or no, rather than the lack of one.
//
// A witnessed ending leaves only by a new attempt. Attempt numbers never fall. Without positive evidence the state,
// the attempt and whether it is over stay as they are, and the certainty does not rise.
func conserve(previous, next job.Verdict, positive bool) job.Verdict {
	switch {
	case previous.Attempt.Number == 0:
		return next
	case next.Attempt.Number < previous.Attempt.Number,
		next.Attempt.Number == previous.Attempt.Number && ended(previous) && !ended(next),
		next.Attempt.Number == previous.Attempt.Number && ended(previous) && next.State != previous.State:
		return previous
	case positive:
		return next
	}
	kept := previous
	if previous.Over == job.Yes || ended(previous) {
		return kept
	}
	kept.Certainty = min(previous.Certainty, next.Certainty, job.Held)
	kept.Reason, kept.LastSeen, kept.Evidence = next.Reason, next.LastSeen, next.Evidence
	return kept
}

// ended says whether Flink said that the attempt has ended.
func ended(v job.Verdict) bool { return v.State.Terminal() && v.Certainty == job.Witnessed }
