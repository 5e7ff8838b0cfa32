package settle

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/job"
)

// states reads a short form: one letter a state.
func states(letters string) []job.State {
	short := map[rune]job.State{
		'I': job.Initializing, 'C': job.Created, 'R': job.Running, 'r': job.Restarting, 'f': job.Failing, 'x': job.Cancelling,
		'S': job.Suspended, 'F': job.Failed,
	}
	var list []job.State
	for _, l := range letters {
		list = append(list, short[l])
	}
	return list
}

func TestFlaps(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, recent, next string
		want               bool
	}{
		{"nothing yet", "", "R", false},
		{"too short", "RrRrR", "r", false},
		{"two states", "RrRrRr", "R", true},
		{"two states, begun at the other", "rRrRrR", "r", true},
		{"three states in turn", "RrCRrC", "R", true},
		{"three states in no order", "RrCrRC", "r", true},
		{"a third that came once", "CRrRrR", "r", false},
		{"a third that comes now", "RrRrRr", "C", false},
		{"a third that came once before", "RrRrRC", "R", false},
		{"four states", "IRrCRr", "C", false},
		{"a third that comes for the second time", "CRrRrR", "C", true},
	} {
		if got := flaps(states(c.recent), states(c.next)[0]); got != c.want {
			t.Errorf("%s: %s then %s flaps: %v", c.name, c.recent, c.next, got)
		}
	}
}

// play enters states, one after another, and gives the history as it lies in the store.
func play(t *testing.T, letters string, change func(i int, v *job.Verdict)) (list []job.Transition, account job.Account) {
	t.Helper()
	core := &Core{}
	account.Verdict.Attempt.Number = 1
	for i, state := range states(letters) {
		j := judgement{core: core, entry: &entry{}, account: account}
		v := &j.account.Verdict
		v.State, v.Certainty, v.Over = state, job.Witnessed, job.No
		if state.Terminal() {
			v.Over = job.Yes
		}
		if change != nil {
			change(i, v)
		}
		before := account
		before.Books.Recent = append([]job.State(nil), account.Books.Recent...)
		j.enter(job.Stamp(fmt.Sprint(i)), false)
		if diff := cmp.Diff(before, account); diff != "" {
			t.Fatalf("the account that counts changed while another was judged: %s", diff)
		}
		account = j.account
		for _, entry := range j.entries {
			if n := len(list); n > 0 && list[n-1].Sequence == entry.Sequence {
				list[n-1] = entry
				continue
			}
			list = append(list, entry)
		}
	}
	for i, entry := range list {
		if entry.Sequence != int64(i+1) {
			t.Fatalf("entry %d has number %d", i+1, entry.Sequence)
		}
	}
	return list, account
}

func TestFolds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, states string
		hold         int // the state that is Held
		want         string
	}{
		{"no flap", "ICRrR", -1, "I C R r R"},
		{"the seventh begins a fold", "RrRrRrR", -1, "R r R r R r R×1"},
		{"a fold grows", "RrRrRrRrRr", -1, "R r R r R r r×4"},
		{"another state ends it", "RrRrRrRrfrR", -1, "R r R r R r r×2 f r R"},
		{"an end ends it", "RrRrRrRrF", -1, "R r R r R r r×2 F"},
		{"silence ends it", "RrRrRrRrRrR", 8, "R r R r R r r×2 R r R"},
		{"three states fold", "RrCRrCRrCR", -1, "R r C R r C R×4"},
		{"the same state again is no flap", "RrRrRrRR", -1, "R r R r R r R×1 R"},
		{"a flap after a flap", "RrRrRrRrf" + "RrRrRrRr", -1, "R r R r R r r×2 f R r R r R r r×2"},
	} {
		list, account := play(t, c.states, func(i int, v *job.Verdict) {
			if i == c.hold {
				v.Certainty = job.Held
			}
		})
		var got []string
		for _, entry := range list {
			letter := c.states[strings.IndexFunc(c.states, func(l rune) bool { return states(string(l))[0] == entry.State })]
			word := string(letter)
			if entry.Kind == job.Fold {
				word += fmt.Sprintf("×%d", entry.Count)
			}
			got = append(got, word)
		}
		if joined := strings.Join(got, " "); joined != c.want {
			t.Errorf("%s: %s gives %s, want %s", c.name, c.states, joined, c.want)
		}
		last := list[len(list)-1]
		if last.State != account.Verdict.State || last.Sequence != account.Books.Sequence {
			t.Errorf("%s: the history ends in %v, the verdict is %v", c.name, last, account.Verdict)
		}
		if len(account.Books.Recent) > job.RecentLimit {
			t.Errorf("%s: %d recent states", c.name, len(account.Books.Recent))
		}
	}
}

// A fold says when the flap began, and keeps saying it.
func TestFoldKeepsItsBeginning(t *testing.T) {
	t.Parallel()
	list, _ := play(t, "RrRrRrRrRrRr", nil)
	fold := list[len(list)-1]
	if fold.Since != "6" || fold.At != "11" || fold.Count != 6 || fold.Folded != job.StatesOf(job.Running, job.Restarting) {
		t.Errorf("the fold is %+v", fold)
	}
}

func TestBounded(t *testing.T) {
	t.Parallel()
	for n := range 6 {
		list := make([]int, n)
		for i := range list {
			list[i] = i
		}
		got := bounded(list, 3)
		if len(got) != min(n, 3) || n > 0 && got[len(got)-1] != n-1 {
			t.Errorf("of %d: %v", n, got)
		}
	}
}
