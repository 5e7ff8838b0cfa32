package board

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/job"
)

// messageOf gives the message of a verdict, ago after it was last seen, under a weakness.
func messageOf(t *testing.T, v job.Verdict, ago time.Duration, w Weakness) string {
	t.Helper()
	seen, err := time.Parse(time.RFC3339, "2026-01-02T15:04:05.000Z")
	if err != nil {
		t.Fatal(err)
	}
	view := newBoard(t, Options{}).Snapshot().At(seen.Add(ago)).Under(w)
	var out struct{ Message string }
	if err := json.Unmarshal(view.AppendJob(nil, pack(orders, v, 11, Readable), false), &out); err != nil {
		t.Fatal(err)
	}
	return out.Message
}

func TestMessages(t *testing.T) {
	with := func(change func(*job.Verdict)) job.Verdict {
		v := running()
		change(&v)
		return v
	}
	held := func(r job.Reason) job.Verdict {
		return with(func(v *job.Verdict) { v.Certainty, v.Reason = job.Held, r })
	}
	ended := func(s job.State, via job.Via, cause string) job.Verdict {
		return with(func(v *job.Verdict) { v.State, v.Over, v.Via, v.Cause = s, job.Yes, via, cause })
	}
	since := time.Date(2026, 1, 2, 15, 4, 0, 0, time.UTC)
	for _, c := range []struct {
		verdict  job.Verdict
		weakness Weakness
		want     string
	}{
		{running(), Weakness{}, "Flink says RUNNING"},
		{with(func(v *job.Verdict) { v.Via = job.ViaProbe }), Weakness{}, "Flink, asked from outside its pod, says RUNNING"},
		{ended(job.Finished, job.ViaREST, ""), Weakness{}, "Flink said FINISHED"},
		{ended(job.Failed, job.ViaArchive, `no "space" left`), Weakness{}, `Flink's archive said FAILED: no "space" left`},
		{ended(job.Canceled, job.ViaLastWords, ""), Weakness{}, "Flink, by the agent's last words, said CANCELED"},
		{ended(job.Failed, job.ViaExitCode, ""), Weakness{}, "the JobManager's exit code said FAILED"},
		{held(job.AgentSilent), Weakness{}, "the agent has been silent for 4m10s; Flink said RUNNING before that"},
		{held(job.AgentLeft), Weakness{}, "the agent said goodbye, and nobody has spoken of this job for 4m10s; Flink said RUNNING before that"},
		{held(job.JobManagerUnreachable), Weakness{}, "the agent lives, but has had no answer from the JobManager beside it for 4m10s; Flink said RUNNING before that"},
		{
			with(func(v *job.Verdict) { *v = held(job.JobManagerUnreachable); v.Via = job.ViaProbe }), Weakness{},
			"the JobManager, asked from outside its pod, has not answered for 4m10s; Flink, asked from outside its pod, said RUNNING before that",
		},
		{with(func(v *job.Verdict) { v.Certainty, v.Reason, v.LastSeen = job.Held, job.AgentSilent, "" }), Weakness{}, "the agent is silent; Flink said RUNNING before that"},
		{with(func(v *job.Verdict) {
			v.Reason, v.Certainty, v.LastSeen = job.AgentSilent, job.Held, "2027-01-01T00:00:00Z"
		}), Weakness{}, "the agent is silent; Flink said RUNNING before that"},
		{
			with(func(v *job.Verdict) {
				v.State, v.Over, v.Reason, v.Certainty = job.Unknown, job.Yes, job.Vanished, job.Inferred
				v.Possible = job.StatesOf(job.Finished, job.Canceled)
			}), Weakness{}, "this attempt cannot run again, and nobody saw how it ended; it may have been CANCELED, FINISHED",
		},
		{with(func(v *job.Verdict) { v.State, v.Reason = job.Unknown, job.Replaced }), Weakness{}, "its pipeline runs a newer job, and nobody saw how this one ended"},
		{with(func(v *job.Verdict) { v.State, v.Reason, v.Certainty = job.Unknown, job.AgentSilent, job.Held }), Weakness{}, "the agent has been silent for 4m10s; the state was not known before that"},
		{with(func(v *job.Verdict) {
			v.State, v.Reason, v.Certainty, v.Via = job.Suspended, job.JobManagerDown, job.Inferred, job.ViaWorkload
		}), Weakness{}, "no JobManager of its cluster runs; one that comes may take the job up again"},
		{with(func(v *job.Verdict) {
			v.State, v.Over, v.Reason, v.Certainty, v.Via = job.Failed, job.Yes, job.ContainerExited, job.Inferred, job.ViaExitCode
		}), Weakness{}, "nobody saw how it ended; the exit code of the JobManager says FAILED"},
		{with(func(v *job.Verdict) {
			v.State, v.Over, v.Reason, v.Certainty, v.Via = job.Unknown, job.Yes, job.ContainerExited, job.Inferred, job.ViaExitCode
			v.Possible = job.StatesOf(job.Finished, job.Canceled)
		}), Weakness{}, "nobody saw how it ended, and the JobManager's exit code does not tell; it may have been CANCELED, FINISHED"},
		{
			running(), Weakness{job.StoreUnreachable, since},
			"this server has been cut off from etcd for 4m15s, since 2026-01-02T15:04:00Z; Flink said RUNNING before that",
		},
		{
			ended(job.Failed, job.ViaREST, "out of memory"), Weakness{job.NoSettler, since},
			"no aggregator has judged for 4m15s, since 2026-01-02T15:04:00Z; Flink said FAILED before that: out of memory",
		},
		{held(job.AgentSilent), Weakness{job.NoSettler, since}, "the agent has been silent for 4m10s; Flink said RUNNING before that"},
	} {
		if got := messageOf(t, c.verdict, 4*time.Minute+10*time.Second, c.weakness); got != c.want {
			t.Errorf("%s %s:\n got %s\nwant %s", c.verdict.State, c.verdict.Reason, got, c.want)
		}
	}
}

// A reason that is added to package job needs a sentence here.
func TestEveryReasonHasASentence(t *testing.T) {
	seen := map[string]job.Reason{}
	for _, reason := range job.Reasons() {
		v := running()
		v.Certainty, v.Reason = job.Held, reason
		text := messageOf(t, v, time.Hour, Weakness{})
		if strings.Contains(text, reason.String()) {
			t.Errorf("%s has no sentence of its own: %s", reason, text)
		}
		if other, twice := seen[text]; twice {
			t.Errorf("%s and %s have the same sentence: %s", reason, other, text)
		}
		seen[text] = reason
	}
}

func TestAges(t *testing.T) {
	for age, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59*time.Second + 999*time.Millisecond: "59s", time.Minute: "1m0s", 4*time.Minute + 10*time.Second: "4m10s",
		time.Hour: "1h0m", 23*time.Hour + 59*time.Minute: "23h59m", 24 * time.Hour: "1d0h", 100*24*time.Hour + 3*time.Hour: "100d3h",
	} {
		if got := string(appendAge(nil, age)); got != want {
			t.Errorf("%s is said as %q, want %q", age, got, want)
		}
	}
}

func TestNamesFallBack(t *testing.T) {
	for _, c := range []struct{ name, pipeline, wantName, wantPipeline string }{
		{"n", "p", "n", "p"}, {"n", "", "n", "n"}, {"", "", "a1", "a1"}, {"", "p", "a1", "p"}, {"n", `a "b"`, "n", `a "b"`},
	} {
		v := running()
		v.Name, v.Pipeline = c.name, c.pipeline
		j := pack(orders, v, 11, Readable)
		view := newBoard(t, Options{}).Snapshot().At(time.Now())
		var out struct{ Name, Pipeline string }
		if err := json.Unmarshal(view.AppendJob(nil, j, false), &out); err != nil {
			t.Fatal(err)
		}
		if out.Name != c.wantName || out.Pipeline != c.wantPipeline || j.Pipeline() != c.wantPipeline {
			t.Errorf("%+v: name %q, pipeline %q and %q", c, out.Name, out.Pipeline, j.Pipeline())
		}
	}
}

// Whatever bytes a name has, the JSON says them, but for what is no text at all.
func TestAnyTextBecomesJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "text")
		var got string
		quoted := append(appendEscaped([]byte{'"'}, text), '"')
		if err := json.Unmarshal(quoted, &got); err != nil {
			t.Fatalf("%q became %s: %v", text, quoted, err)
		}
		var want strings.Builder
		for _, r := range text { // each byte that is no text is one replacement character
			want.WriteRune(r)
		}
		if got != want.String() || !utf8.Valid(quoted) {
			t.Fatalf("%q became %s", text, quoted)
		}
	})
}

func TestVersions(t *testing.T) {
	for _, text := range []string{"1.8123", "0.0", "12.9223372036854775807", "1.5.held"} {
		v, err := ParseVersion(text)
		if err != nil || v.String() != text {
			t.Errorf("%s is read as %s, %v", text, v, err)
		}
	}
	for _, text := range []string{"", "1", ".", "1.", ".1", "1.-1", "-1.1", "+1.1", "1.1.1", "1.1.held.held", "1.1 ", "a.b", "1.9223372036854775808", "1.0x10"} {
		if v, err := ParseVersion(text); err == nil {
			t.Errorf("%q is read as %s", text, v)
		}
	}
}
