package record

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// add writes golden files that are not there yet. What is there never changes: agents and stores of that age are out there.
var add = flag.Bool("add", false, "write the golden files that are missing")

var (
	agent = evidence.Agent{Namespace: "team-a", Cluster: "orders", PodUID: "0b9c6f1e-1d7c-4a57-9f2e-3f1f6a0d8c11"}
	jobID = "a1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4"
	key   = job.Key{Namespace: "team-a", Cluster: "orders", ID: jobID}
)

const at, later job.Stamp = "2026-11-22T23:24:00.123Z", "2026-11-22T23:30:00.000Z"

// kinds are all kinds of records, each with a full example of it.
var kinds = []struct {
	name   string
	value  any
	encode func(any) []byte
	decode func([]byte) (any, error)
}{
	{
		"beat",
		evidence.Beat{
			Agent: agent, Session: "s1", Version: "v0.1.0", Pod: "orders-7d", Incarnation: "i1", FlinkVersion: "1.20.1",
			HighAvailability: job.Yes, Application: job.No, Reach: job.TimedOut, ReachSince: at, Goodbye: true, At: later,
		},
		func(v any) []byte { return EncodeBeat(v.(evidence.Beat)) },
		func(data []byte) (any, error) { return DecodeBeat(agent, data) },
	},
	{
		"report",
		evidence.Report{
			Agent: agent, JobID: jobID, Session: "s1", Pod: "orders-7d", Sequence: 7, Incarnation: "i1", Name: "orders",
			Pipeline: "orders", StartTime: at, EndTime: later, State: job.Failed,
			Tasks: job.Tasks{Total: 4, Running: 1, Finished: 1, Failed: 1, Canceled: 1}, Via: job.ViaREST, Reach: job.Fine,
			LastAnswer: later, Known: job.No, Denier: "i2",
			Transitions: []evidence.Transition{
				{Number: 3, State: job.Running, StartTime: at, At: at, Via: job.ViaREST},
				{Number: 4, State: job.Failed, StartTime: at, At: later, Cause: "java.lang.Exception: no", CauseAsked: job.Yes, Via: job.ViaREST},
			},
		},
		func(v any) []byte { return EncodeReport(v.(evidence.Report)) },
		func(data []byte) (any, error) { return DecodeReport(agent, jobID, data) },
	},
	{
		"verdict",
		job.Account{
			Key: key,
			Verdict: job.Verdict{
				Name: "orders", Pipeline: "orders", State: job.Unknown, Possible: job.StatesOf(job.Failed, job.Finished),
				Over: job.Yes, Certainty: job.Inferred, Reason: job.Replaced, Cause: "c", Since: at, LastSeen: later,
				Attempt: job.Attempt{Number: 2, StartTime: at}, Tasks: job.Tasks{Total: 4, Running: 4}, Via: job.ViaREST,
				Evidence: []job.Statement{{Source: "agent", Subject: "pod/orders-7d", Says: "RUNNING", At: at}},
			},
			Books: job.Books{
				Sequence: 12, Past: []job.Stamp{"p1", "p2"}, Marks: []job.Mark{{Witness: "u1", Number: 4}},
				Recent: []job.State{job.Running, job.Restarting}, Weighed: 4711, OverAt: 1790000000000,
				Fold: &job.Transition{
					Sequence: 12, Kind: job.Fold, Attempt: job.Attempt{Number: 2, StartTime: at}, State: job.Running, Over: job.No,
					Certainty: job.Witnessed, Via: job.ViaREST, At: later, Since: at, Count: 9,
					Folded: job.StatesOf(job.Running, job.Restarting),
				},
			},
		},
		func(v any) []byte { return EncodeAccount(v.(job.Account)) },
		func(data []byte) (any, error) { return DecodeAccount(key, data) },
	},
	{
		"history",
		job.Transition{
			Sequence: 3, Kind: job.Change, Attempt: job.Attempt{Number: 1, StartTime: at}, State: job.Failed, Over: job.Yes,
			Certainty: job.Witnessed, Reason: job.FlinkSaid, Cause: "c", Via: job.ViaREST, At: later, Correction: true,
		},
		func(v any) []byte { return EncodeTransition(v.(job.Transition)) },
		func(data []byte) (any, error) { return DecodeTransition(key, data) },
	},
	{
		"history-gap",
		job.Transition{
			Sequence: 4, Kind: job.Gap, Attempt: job.Attempt{Number: 1, StartTime: at}, State: job.Unknown,
			Possible: job.TerminalStates, Certainty: job.Held, Reason: job.AgentSilent, At: later, Count: 5,
		},
		func(v any) []byte { return EncodeTransition(v.(job.Transition)) },
		func(data []byte) (any, error) { return DecodeTransition(key, data) },
	},
	{
		"identity", SiteIdentity{UID: "u", Epoch: 3},
		func(v any) []byte { return EncodeIdentity(v.(SiteIdentity)) },
		func(data []byte) (any, error) { return DecodeIdentity(data) },
	},
	{
		"condition",
		SiteCondition{Frozen: true, Source: "etcd", Why: "500 of 500 agents fell silent together", Since: at, Expected: 500, Beating: 1},
		func(v any) []byte { return EncodeCondition(v.(SiteCondition)) },
		func(data []byte) (any, error) { return DecodeCondition(data) },
	},
	{
		"leader", SiteLeader{Name: "aggregator-0", Address: "10.0.0.1:7070", Since: at},
		func(v any) []byte { return EncodeLeader(v.(SiteLeader)) },
		func(data []byte) (any, error) { return DecodeLeader(data) },
	},
	{
		"leader-fresh", SiteLeader{Name: "aggregator-0", Since: at, Ticked: later, Fresh: true},
		func(v any) []byte { return EncodeLeader(v.(SiteLeader)) },
		func(data []byte) (any, error) { return DecodeLeader(data) },
	},
	{
		"leader-ticked", SiteLeader{Name: "aggregator-0", Since: at, Ticked: later},
		func(v any) []byte { return EncodeLeader(v.(SiteLeader)) },
		func(data []byte) (any, error) { return DecodeLeader(data) },
	},
	{
		"cluster",
		job.Cluster{
			Key: key.ClusterKey(), Condition: job.ClusterCrashLoop, Over: job.No, Certainty: job.Inferred, Reason: job.JobManagerDown,
			Since: at, LastSeen: later, Sequence: 7, IdleAt: 1795389840123,
			Pods: []job.PodStatus{
				{Name: "orders-7d", Running: job.No, Restarts: 4, ExitCode: &exitCode, Waiting: "CrashLoopBackOff", Message: "back-off 40s", Reach: job.Refused},
				{Name: "orders-8e", Running: job.Yes, Reach: job.Fine},
			},
			Workload: job.Workload{Kind: "FlinkDeployment", Name: "orders", UID: "u1"},
		},
		func(v any) []byte { return EncodeCluster(v.(job.Cluster)) },
		func(data []byte) (any, error) { return DecodeCluster(key.ClusterKey(), data) },
	},
	{
		"cluster-ready",
		job.Cluster{
			Key: key.ClusterKey(), Condition: job.ClusterReady, Over: job.No, Certainty: job.Witnessed, Reason: job.FlinkSaid, Since: at,
			LastSeen: later, Sequence: 1,
		},
		func(v any) []byte { return EncodeCluster(v.(job.Cluster)) },
		func(data []byte) (any, error) { return DecodeCluster(key.ClusterKey(), data) },
	},
}

var exitCode = 1

// What the first version wrote is written and read the same for ever.
func TestGolden(t *testing.T) {
	for _, k := range kinds {
		path := filepath.Join("testdata", "v1", k.name+".json")
		if _, err := os.Stat(path); *add && errors.Is(err, os.ErrNotExist) {
			if err := os.WriteFile(path, append(k.encode(k.value), '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		golden := strings.TrimSpace(string(data))
		if diff := cmp.Diff(golden, string(k.encode(k.value))); diff != "" {
			t.Errorf("%s is written otherwise now (-golden +now):\n%s", k.name, diff)
		}
		got, err := k.decode([]byte(golden))
		if err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
		if diff := cmp.Diff(k.value, got); diff != "" {
			t.Errorf("%s is read otherwise now (-golden +now):\n%s", k.name, diff)
		}
	}
}

// A later version may add fields: they are ignored. A record of a later version is not read, and is not called corrupt; damage is.
func TestWhatCannotBeRead(t *testing.T) {
	for _, k := range kinds {
		data := string(k.encode(k.value))
		more := strings.Replace(data, `{"v":1,`, `{"v":1,"invented later":{"v":[2,{}]},`, 1)
		if got, err := k.decode([]byte(more)); err != nil {
			t.Errorf("%s with an unknown field: %v", k.name, err)
		} else if diff := cmp.Diff(k.value, got); diff != "" {
			t.Errorf("%s with an unknown field: %s", k.name, diff)
		}
		for _, newer := range []string{
			strings.Replace(data, `"v":1`, `"v":2`, 1), `{"v":2}`, `{"v":3,"state":"MELTED","session":[]}`, `{"state":"MELTED","v":2}`,
		} {
			if _, err := k.decode([]byte(newer)); !errors.Is(err, ErrNewer) || errors.Is(err, ErrCorrupt) {
				t.Errorf("%s of a later version %s: %v", k.name, newer, err)
			}
		}
		for _, damaged := range []string{
			"", "null", "[]", "0", `"x"`, "{}", data[:len(data)/2], data + "}", "\xff\xfe", strings.Replace(data, `"v":1`, `"v":0`, 1),
			strings.Replace(data, `"v":1`, `"v":"1"`, 1),
		} {
			if _, err := k.decode([]byte(damaged)); !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewer) {
				t.Errorf("%s, damaged as %.40q: %v", k.name, damaged, err)
			}
		}
	}
}

func TestHalfAReportIsNone(t *testing.T) {
	for name, spoil := range map[string]func(*evidence.Report){
		"no session":                    func(r *evidence.Report) { r.Session = "" },
		"numbers that do not grow":      func(r *evidence.Report) { r.Transitions[1].Number = r.Transitions[0].Number },
		"a number of zero":              func(r *evidence.Report) { r.Transitions[0].Number = 0 },
		"another state than its last":   func(r *evidence.Report) { r.State = job.Running },
		"another attempt than its last": func(r *evidence.Report) { r.StartTime = later },
	} {
		r := kinds[1].value.(evidence.Report)
		r.Transitions = append([]evidence.Transition(nil), r.Transitions...)
		spoil(&r)
		if _, err := DecodeReport(agent, jobID, EncodeReport(r)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, spoil := range map[string]func(*job.Account){
		"no sequence": func(a *job.Account) { a.Books.Sequence = 0 },
		"no attempt":  func(a *job.Account) { a.Verdict.Attempt.Number = 0 },
	} {
		a := kinds[2].value.(job.Account)
		spoil(&a)
		if _, err := DecodeAccount(key, EncodeAccount(a)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAClusterWithoutASequenceIsNone(t *testing.T) {
	if _, err := DecodeCluster(key.ClusterKey(), []byte(`{"v":1,"condition":"Ready"}`)); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

// What somebody made too long is cut, from the old end where it has one.
func TestBounds(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	r := evidence.Report{Agent: agent, JobID: jobID, Session: "s", Name: long, Pipeline: long}
	for n := range int64(100) {
		r.Transitions = append(r.Transitions, evidence.Transition{Number: n + 1, Cause: long})
	}
	got, err := DecodeReport(agent, jobID, EncodeReport(r))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Name) > job.NameLimit || len(got.Pipeline) > job.NameLimit || len(got.Transitions) != evidence.TransitionLimit ||
		got.Transitions[0].Number != 69 || len(got.Transitions[0].Cause) > job.CauseLimit {
		t.Errorf("a name of %d, a pipeline of %d, %d transitions from %d", len(got.Name), len(got.Pipeline), len(got.Transitions), got.Transitions[0].Number)
	}
	a := kinds[2].value.(job.Account)
	a.Books.Past, a.Books.Marks, a.Books.Recent = nil, nil, nil
	for i := range 100 {
		a.Books.Past = append(a.Books.Past, job.Stamp(fmt.Sprint(i)))
		a.Books.Marks = append(a.Books.Marks, job.Mark{Witness: fmt.Sprint(i), Number: 1})
		a.Books.Recent = append(a.Books.Recent, job.Running)
	}
	account, err := DecodeAccount(key, EncodeAccount(a))
	if err != nil {
		t.Fatal(err)
	}
	b := account.Books
	if len(b.Past) != job.PastLimit || len(b.Marks) != job.MarkLimit || len(b.Recent) != job.RecentLimit || b.Past[0] != job.Stamp(fmt.Sprint(100-job.PastLimit)) {
		t.Errorf("%d past, from %s, %d marks, %d recent", len(b.Past), b.Past[0], len(b.Marks), len(b.Recent))
	}
	c := job.Cluster{Key: key.ClusterKey(), Sequence: 1}
	for range 100 {
		c.Pods = append(c.Pods, job.PodStatus{Name: long, Waiting: long, Message: long})
	}
	cluster, err := DecodeCluster(c.Key, EncodeCluster(c))
	if err != nil {
		t.Fatal(err)
	}
	if p := cluster.Pods; len(p) != job.PodsLimit || len(p[7].Name) > job.NameLimit || len(p[7].Message) > job.CauseLimit {
		t.Errorf("%d pods, the last of a name of %d", len(p), len(p[7].Name))
	}
}

func TestKeys(t *testing.T) {
	site := "default"
	for path, want := range map[string]Place{
		IdentityKey(site):             {Kind: Identity},
		LeaderKey(site):               {Kind: Leader},
		ConditionKey(site):            {Kind: Condition},
		BeatKey(site, agent):          {Kind: Beat, Agent: agent},
		ReportKey(site, agent, jobID): {Kind: Report, Agent: agent, Job: key},
		VerdictKey(site, key):         {Kind: Verdict, Job: key},
		HistoryKey(site, key, 17):     {Kind: History, Job: key, Sequence: 17},

		ClusterKey(site, key.ClusterKey()): {Kind: Cluster, Job: job.Key{Namespace: key.Namespace, Cluster: key.Cluster}},
		// As it is promised, for others who write it without padding.
		HistoryPrefix(site, key) + "17": {Kind: History, Job: key, Sequence: 17},
	} {
		got, err := ParseKey(site, path)
		if err != nil || got != want {
			t.Errorf("%s is %+v, %v", path, got, err)
		}
		if !strings.HasPrefix(path, SitePrefix(site)) {
			t.Errorf("%s is not below the site", path)
		}
		if _, err := ParseKey("def", path); !errors.Is(err, ErrForeign) {
			t.Errorf("%s is taken for a key of another site: %v", path, err)
		}
	}
	for _, foreign := range []string{
		"", "/", "/holdfast/v1/default", "/holdfast/v1/default/", "/holdfast/v2/default/identity", "/holdfast/v1/default/identity/x",
		"/holdfast/v1/default/agents/a/b/c", "/holdfast/v1/default/agents/a/b/c/beat/x", "/holdfast/v1/default/agents/a//c/beat",
		"/holdfast/v1/default/agents/a/b/c/jobs/", "/holdfast/v1/default/agents/a/b/c/jobs/j/k", "/holdfast/v1/default/verdicts/a/b",
		"/holdfast/v1/default/verdicts/a/b/c/d", "/holdfast/v1/default/history/a/b/c", "/holdfast/v1/default/history/a/b/c/x",
		"/holdfast/v1/default/history/a/b/c/0", "/holdfast/v1/default/clusters/a", "/holdfast/v1/default/clusters/a/b/c", "/holdfast/v1/default/history/a/b/c/-1", "/holdfast/v1/default/" + strings.Repeat("a/", 1000),
	} {
		if place, err := ParseKey(site, foreign); !errors.Is(err, ErrForeign) {
			t.Errorf("%.60q is %+v, %v", foreign, place, err)
		}
	}
	if a, b := HistoryKey(site, key, 9), HistoryKey(site, key, 10); a >= b {
		t.Errorf("etcd lists %s after %s", a, b)
	}
}

func TestSegments(t *testing.T) {
	for _, good := range []string{"a", "team-a", "Orders_2.x", strings.Repeat("a", SegmentLimit)} {
		if err := CheckSegment("site", good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", "a b", "ä", "a\n", "a\x00", "$(x)", strings.Repeat("a", SegmentLimit+1)} {
		if err := CheckSegment("site", bad); err == nil || !strings.HasPrefix(err.Error(), "site ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Whatever is written is read back as it was, whatever texts there are in it.
func TestReportsRoundTrip(t *testing.T) {
	text := rapid.StringN(0, 40, 400)
	rapid.Check(t, func(t *rapid.T) {
		state := rapid.SampledFrom(append(job.AllStates.List(), job.Unknown))
		answer := rapid.SampledFrom([]job.Answer{job.Unanswered, job.Yes, job.No})
		r := evidence.Report{
			Agent: agent, JobID: jobID, Session: rapid.StringN(1, 20, 80).Draw(t, "session"), Sequence: rapid.Int64().Draw(t, "sequence"),
			Name: text.Draw(t, "name"), Known: answer.Draw(t, "known"), Transitions: []evidence.Transition{},
		}
		for n := range rapid.Int64Range(0, evidence.TransitionLimit).Draw(t, "transitions") {
			tr := evidence.Transition{
				Number: n + 1, State: state.Draw(t, "state"), StartTime: job.Stamp(text.Draw(t, "start")), Cause: text.Draw(t, "cause"),
				CauseAsked: answer.Draw(t, "asked"),
			}
			r.Transitions = append(r.Transitions, tr)
			r.State, r.StartTime = tr.State, tr.StartTime
		}
		got, err := DecodeReport(agent, jobID, EncodeReport(r))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

// No bytes break a reader, and whatever one takes it writes so that it takes it again.
func FuzzDecode(f *testing.F) {
	for _, k := range kinds {
		f.Add(k.encode(k.value))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, k := range kinds {
			first, err := k.decode(data)
			if err != nil {
				if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) {
					t.Fatalf("%s: %v", k.name, err)
				}
				continue
			}
			second, err := k.decode(k.encode(first))
			if err != nil {
				t.Fatalf("%s takes %q and not what it makes of it: %v", k.name, data, err)
			}
			if diff := cmp.Diff(first, second); diff != "" {
				t.Fatalf("%s: %s", k.name, diff)
			}
		}
	})
}
