package job

import (
	"fmt"
	"math/bits"
	"strings"
)

// State is one of Flink's eleven JobStatus values, or Unknown. The zero value is Unknown.
type State uint8

const (
	Unknown State = iota
	Initializing
	Created
	Running
	Failing
	Failed
	Cancelling
	Canceled
	Finished
	Restarting
	Suspended
	Reconciling

	numStates
)

// Spelled as Flink spells them (JobStatus.java, the same from 1.16 to 2.3).
var stateNames = [numStates]string{
	"UNKNOWN", "INITIALIZING", "CREATED", "RUNNING", "FAILING", "FAILED", "CANCELLING", "CANCELED", "FINISHED",
	"RESTARTING", "SUSPENDED", "RECONCILING",
}

// AllStates are Flink's own eleven; not Unknown.
const AllStates States = 1<<numStates - 2

// TerminalStates are those that Flink calls globally terminal: the attempt never runs again.
const TerminalStates States = 1<<Failed | 1<<Canceled | 1<<Finished

// Terminal says whether Flink calls the state globally terminal. SUSPENDED is not: it ends a JobMaster, not a job.
func (s State) Terminal() bool { return TerminalStates.Has(s) }

// Passing says whether the state usually lasts for seconds only, so that it is worth looking more often.
func (s State) Passing() bool {
	return s == Failing || s == Cancelling || s == Restarting || s == Initializing || s == Created || s == Reconciling
}

func (s State) String() string {
	if s < numStates {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// ParseState reads Flink's spelling. A word that Flink does not use, or does not use yet, is an error.
func ParseState(word string) (State, error) {
	for s, name := range stateNames {
		if name == word {
			return State(s), nil
		}
	}
	return Unknown, fmt.Errorf("unknown job state %q: Flink's are %s", clip(word), AllStates)
}

func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s *State) UnmarshalText(text []byte) (err error) {
	*s, err = ParseState(string(text))
	return err
}

// States is a set of states.
type States uint16

// StatesOf makes a set.
func StatesOf(states ...State) (set States) {
	for _, s := range states {
		set |= 1 << s
	}
	return set
}

// Has says whether s is in the set.
func (set States) Has(s State) bool { return set&(1<<s) != 0 }

// Len is the number of states in the set.
func (set States) Len() int { return bits.OnesCount16(uint16(set)) }

// List gives the states of the set in the order of their declaration.
func (set States) List() []State {
	list := make([]State, 0, set.Len())
	for s := range numStates {
		if set.Has(s) {
			list = append(list, s)
		}
	}
	return list
}

func (set States) String() string {
	words := make([]string, 0, set.Len())
	for _, s := range set.List() {
		words = append(words, s.String())
	}
	return strings.Join(words, ", ")
}

func clip(word string) string {
	if len(word) > 64 {
		return word[:64] + "…"
	}
	return word
}
