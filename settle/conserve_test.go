package settle

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/job"
)

// Every verdict that can be followed by every other, by positive evidence and without it.
func TestConserveExhaustively(t *testing.T) {
	t.Parallel()
	var all []job.Verdict
	for number := range 3 {
		for state := job.Unknown; state <= job.Reconciling; state++ {
			for _, over := range []job.Answer{job.Unanswered, job.Yes, job.No} {
				for _, certainty := range []job.Certainty{job.Held, job.Inferred, job.Witnessed} {
					all = append(all, job.Verdict{
						State: state, Over: over, Certainty: certainty, Attempt: job.Attempt{Number: number},
						Reason: job.Reason(len(all) % len(job.Reasons())),
					})
				}
			}
		}
	}
	for _, previous := range all {
		for _, next := range all {
			for _, positive := range []bool{false, true} {
				got := conserve(previous, next, positive)
				if wrong := unconserved(previous, next, got, positive); wrong != "" {
					t.Fatalf("%s\nprevious %+v\nnext     %+v\npositive %v\ngives    %+v", wrong, previous, next, positive, got)
				}
			}
		}
	}
}

// unconserved says which promise of conserve a result breaks.
func unconserved(previous, next, got job.Verdict, positive bool) string {
	same := got.Attempt == previous.Attempt
	asked := cmp.Equal(got, next)
	switch {
	case previous.Attempt.Number == 0:
		if !asked {
			return "nothing stood, and the judgement was not taken"
		}
	case got.Attempt.Number < previous.Attempt.Number:
		return "the attempt number fell"
	case same && ended(previous) && !ended(got):
		return "a witnessed ending is none any more"
	case same && ended(previous) && got.State != previous.State:
		return "a witnessed ending became another"
	case !positive && (!same || got.State != previous.State || got.Over != previous.Over):
		return "without positive evidence something became another"
	case !positive && got.Certainty > previous.Certainty:
		return "without positive evidence the certainty rose"
	case !positive && got.Certainty != job.Held && !cmp.Equal(got, previous):
		return "without positive evidence the verdict is more than Held"
	case !positive && previous.Over == job.Yes && !cmp.Equal(got, previous):
		return "silence changed what is over"
	case !positive && previous.Over != job.Yes && !ended(previous) && next.Attempt == previous.Attempt && got.Reason != next.Reason:
		return "the reason why it is Held was lost"
	case positive && !asked:
		falls := next.Attempt.Number < previous.Attempt.Number
		reopens := next.Attempt == previous.Attempt && ended(previous) && (!ended(next) || next.State != previous.State)
		if !falls && !reopens {
			return "positive evidence was not taken"
		}
		if !cmp.Equal(got, previous) {
			return "what was refused changed something"
		}
	}
	return ""
}
