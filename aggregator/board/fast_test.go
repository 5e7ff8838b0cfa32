package board

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

func accounts(t *rapid.T) job.Account {
	state := func(label string) job.State { return job.State(rapid.IntRange(0, 11).Draw(t, label)) }
	text := rapid.Custom(func(t *rapid.T) string {
		if rapid.IntRange(0, 200).Draw(t, "any text") == 0 {
			return rapid.String().Draw(t, "text")
		}
		return rapid.StringMatching(`[a-zA-Z0-9 :.äß-]{0,20}`).Draw(t, "text")
	})
	stamp := func(label string) job.Stamp { return job.Stamp(text.Draw(t, label)) }
	count := rapid.Custom(func(t *rapid.T) int {
		if rapid.IntRange(0, 200).Draw(t, "any number") == 0 {
			return rapid.Int().Draw(t, "number")
		}
		return rapid.IntRange(0, 1000).Draw(t, "number")
	})
	v := job.Verdict{
		Name: text.Draw(t, "name"), Pipeline: text.Draw(t, "pipeline"), State: state("state"),
		Possible: job.States(rapid.Uint16Range(0, 1<<12-1).Draw(t, "possible")), Over: job.Answer(rapid.IntRange(0, 2).Draw(t, "over")),
		Certainty: job.Certainty(rapid.IntRange(0, 2).Draw(t, "certainty")), Reason: rapid.SampledFrom(job.Reasons()).Draw(t, "reason"),
		Cause: text.Draw(t, "cause"), Since: stamp("since"), LastSeen: stamp("lastSeen"),
		Attempt: job.Attempt{Number: rapid.IntRange(0, 9).Draw(t, "attempt"), StartTime: stamp("start")},
		Tasks:   job.Tasks{Total: count.Draw(t, "total"), Running: count.Draw(t, "running"), Failed: count.Draw(t, "failed")},
		Via:     job.Via(rapid.IntRange(0, 6).Draw(t, "via")),
	}
	for range rapid.IntRange(0, 3).Draw(t, "statements") {
		v.Evidence = append(v.Evidence, job.Statement{Source: text.Draw(t, "source"), Subject: text.Draw(t, "subject"), Says: text.Draw(t, "says"), At: stamp("at")})
	}
	b := job.Books{Sequence: int64(rapid.IntRange(0, 9).Draw(t, "sequence"))}
	for range rapid.IntRange(0, 2).Draw(t, "marks") {
		b.Past = append(b.Past, stamp("past"))
		b.Marks = append(b.Marks, job.Mark{Witness: text.Draw(t, "witness"), Number: int64(count.Draw(t, "number"))})
		b.Recent = append(b.Recent, state("recent"))
	}
	if rapid.IntRange(0, 4).Draw(t, "fold") == 0 {
		b.Fold = &job.Transition{Sequence: 1, Kind: job.Fold}
	}
	return job.Account{Verdict: v, Books: b}
}

// Whatever the bytes are, the fast reader either says what package record says, or nothing.
func TestTheFastReaderNeverDisagrees(t *testing.T) {
	compare := func(t *rapid.T, data []byte) {
		f := fast{text: string(data)}
		got, ok := f.verdict()
		if !ok {
			return
		}
		want, err := record.DecodeAccount(orders, data)
		if err != nil {
			t.Fatalf("only the fast reader reads %s: %v", data, err)
		}
		if diff := cmp.Diff(want.Verdict, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s (-record +fast):\n%s", data, diff)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		whole := record.EncodeAccount(accounts(t))
		compare(t, whole)
		for range 30 {
			data := slices.Clone(whole)
			at := rapid.IntRange(0, len(data)-1).Draw(t, "at")
			switch rapid.IntRange(0, 3).Draw(t, "damage") {
			case 0:
				data[at] = rapid.Byte().Draw(t, "byte")
			case 1:
				data = slices.Delete(data, at, at+1)
			case 2:
				data = slices.Insert(data, at, rapid.SampledFrom([]byte(`{}[]",:0123456789 \nv`)).Draw(t, "insert"))
			case 3:
				end := rapid.IntRange(at, len(data)).Draw(t, "end")
				data = slices.Concat(data[:end], data[at:]) // a part comes twice
			}
			compare(t, data)
		}
	})
}

func TestOddRecordsAreLeftToPackageRecord(t *testing.T) {
	const usual = `{"v":1,"name":"n","pipeline":"p","state":"RUNNING","over":"no","certainty":"Held","reason":"FlinkSaid",` +
		`"since":"","lastSeen":"","attempt":{"number":1,"startTime":""},"tasks":{"total":0,"running":0},"via":"","sequence":1}`
	if f := (fast{text: usual}); func() bool { _, ok := f.verdict(); return !ok }() {
		t.Fatal("the usual record is odd")
	}
	for name, change := range map[string][2]string{
		"an escape":            {`"n"`, `"a\u0041"`},
		"a bare control sign":  {`"n"`, "\"a\nb\""},
		"no UTF-8":             {`"n"`, "\"\xff\""},
		"a very long name":     {`"n"`, `"` + strings.Repeat("n", job.NameLimit+1) + `"`},
		"a field twice":        {`"name":"n"`, `"name":"n","name":"m"`},
		"a struct twice":       {`"via":""`, `"via":"","attempt":{"number":2}`},
		"a field of later":     {`"via":""`, `"via":"","color":"red"`},
		"a field in capitals":  {`"name"`, `"NAME"`},
		"a newer version":      {`"v":1`, `"v":2`},
		"no version":           {`"v":1,`, ``},
		"a space":              {`"v":1`, `"v": 1`},
		"null":                 {`"n"`, `null`},
		"a word of later":      {`RUNNING`, `DREAMING`},
		"no attempt":           {`"number":1`, `"number":0`},
		"no sequence":          {`"sequence":1`, `"sequence":0`},
		"a negative number":    {`"total":0`, `"total":-1`},
		"a leading zero":       {`"total":0`, `"total":01`},
		"a fraction":           {`"total":0`, `"total":0.5`},
		"a very large number":  {`"total":0`, `"total":9223372036854775808`},
		"something behind":     {`"sequence":1}`, `"sequence":1} `},
		"a comma too many":     {`"sequence":1}`, `"sequence":1,}`},
		"an end too early":     {`"sequence":1}`, `"sequence":1`},
		"a bad book":           {`"via":""`, `"via":"","recent":["DREAMING"]`},
		"a fold":               {`"via":""`, `"via":"","fold":{}`},
		"an empty list":        {`"via":""`, `"via":"","evidence":[]`},
		"a statement of later": {`"via":""`, `"via":"","evidence":[{"color":"red"}]`},
	} {
		text := strings.Replace(usual, change[0], change[1], 1)
		f := fast{text: text}
		if v, ok := f.verdict(); ok {
			t.Errorf("%s: read as %+v", name, v)
		}
		want, err := record.DecodeAccount(orders, []byte(text))
		got, gotErr := readVerdict(orders, []byte(text))
		if diff := cmp.Diff(want.Verdict, got); diff != "" || (err == nil) != (gotErr == nil) {
			t.Errorf("%s: error %v, want %v (-record +board):\n%s", name, gotErr, err, diff)
		}
	}
}

// The usual records are read fast: otherwise a restart takes several times as long, and nothing else would show it.
func TestUsualRecordsAreReadFast(t *testing.T) {
	unknown := running()
	unknown.State, unknown.Possible, unknown.Certainty, unknown.Reason = job.Unknown, job.TerminalStates, job.Inferred, job.Vanished
	failed := running()
	failed.State, failed.Over, failed.Cause, failed.Name = job.Failed, job.Yes, "java.lang.OutOfMemoryError: Größe", ""
	for _, v := range []job.Verdict{running(), unknown, failed} {
		f := fast{text: string(verdict(orders, 11, v).Value)}
		got, ok := f.verdict()
		if !ok {
			t.Errorf("%s is left to package record", f.text)
		} else if diff := cmp.Diff(v, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	for _, pair := range fleet(10) {
		f := fast{text: string(pair.Value)}
		if _, ok := f.verdict(); !ok {
			t.Errorf("%s is left to package record", pair.Value)
		}
	}
}

func BenchmarkReadVerdict(b *testing.B) {
	data := fleet(1)[0].Value
	b.ReportAllocs()
	for b.Loop() {
		if _, err := readVerdict(orders, data); err != nil {
			b.Fatal(err)
		}
	}
}
