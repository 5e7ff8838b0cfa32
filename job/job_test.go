package job

import (
	"encoding"
	"testing"
)

// Every word of a closed list must survive its own text form, and a word outside of it must be refused with the word in
// the error: these texts lie in etcd for years.
func TestWordsRoundTrip(t *testing.T) {
	type word interface {
		encoding.TextMarshaler
		String() string
	}
	check := func(w word, back encoding.TextUnmarshaler, same func() bool) {
		t.Helper()
		text, err := w.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if err := back.UnmarshalText(text); err != nil || !same() {
			t.Errorf("%s does not survive its text form: %v", w, err)
		}
		if err := back.UnmarshalText([]byte("nonsense")); err == nil {
			t.Errorf("%T takes nonsense", w)
		}
	}
	for i := range numStates {
		var back State
		check(State(i), &back, func() bool { return back == State(i) })
	}
	for i := range answerNames {
		var back Answer
		check(Answer(i), &back, func() bool { return back == Answer(i) })
	}
	for i := range certaintyNames {
		var back Certainty
		check(Certainty(i), &back, func() bool { return back == Certainty(i) })
	}
	for i := range viaNames {
		var back Via
		check(Via(i), &back, func() bool { return back == Via(i) })
	}
	for _, r := range Reasons() {
		var back Reason
		check(r, &back, func() bool { return back == r })
	}
	for _, c := range Conditions() {
		var back Condition
		check(c, &back, func() bool { return back == c })
	}
	for i := range kindNames {
		var back Kind
		check(Kind(i), &back, func() bool { return back == Kind(i) })
	}
	for i := range numReaches {
		var back Reach
		check(Reach(i), &back, func() bool { return back == Reach(i) })
	}
}

// The zero values are the careful ones.
func TestZeroValuesClaimNothing(t *testing.T) {
	var v Verdict
	if v.State != Unknown || v.Over != Unanswered || v.Certainty != Held {
		t.Errorf("a zero verdict claims %s, over %s, %s", v.State, v.Over, v.Certainty)
	}
	var c Cluster
	if c.Condition != ClusterUnknown || c.Over != Unanswered || c.Certainty != Held {
		t.Errorf("a zero cluster claims %s, over %s, %s", c.Condition, c.Over, c.Certainty)
	}
	var r Reach
	if r == Fine {
		t.Error("a zero reach claims an answer")
	}
}

func TestStates(t *testing.T) {
	if got := AllStates.Len(); got != 11 {
		t.Errorf("all states: %d, want Flink's eleven", got)
	}
	for _, s := range AllStates.List() {
		terminal := s == Failed || s == Canceled || s == Finished
		if s.Terminal() != terminal {
			t.Errorf("%s terminal: %v", s, s.Terminal())
		}
		if s.Terminal() && s.Passing() {
			t.Errorf("%s is terminal and passing", s)
		}
	}
	if AllStates.Has(Unknown) {
		t.Error("UNKNOWN is among Flink's states")
	}
	set := StatesOf(Running, Failed)
	if !set.Has(Running) || !set.Has(Failed) || set.Has(Finished) || set.Len() != 2 {
		t.Errorf("set of RUNNING and FAILED is %s", set)
	}
	if got := set.String(); got != "RUNNING, FAILED" {
		t.Errorf("set reads %q", got)
	}
}
