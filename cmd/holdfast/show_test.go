package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/aggregator/api"
	"github.com/holdfast-dev/holdfast/job"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew; read the difference before you commit it")

// noon is the moment of every golden file.
var noon = time.Date(2026, 8, 6, 12, 0, 0, 0, time.UTC)

// script is an API that answers from a table.
type script struct {
	*httptest.Server
	mu       sync.Mutex
	answers  map[string]http.HandlerFunc
	requests []string
}

func newScript(t *testing.T) *script {
	s := &script{answers: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, q.URL.RequestURI())
		answer := s.answers[q.URL.Path]
		s.mu.Unlock()
		if answer == nil {
			answer = refuse(404, "There is nothing at this path", "no route fits")
		}
		answer(w, q)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *script) on(path string, answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[path] = answer
}

func (s *script) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func answer(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
}

func refuse(status int, title, detail string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(api.Problem{Status: status, Title: title, Detail: detail})
	}
}

// run runs a command against the script.
func (s *script) run(args ...string) (code int, out, errs string) {
	return run(map[string]string{"HOLDFAST_SERVER": s.URL}, args...)
}

func run(env map[string]string, args ...string) (code int, out, errs string) {
	var stdout, stderr bytes.Buffer
	p := newProgram(&stdout, &stderr, env)
	code = p.run(context.Background(), args)
	return code, stdout.String(), stderr.String()
}

func newProgram(out, errs io.Writer, env map[string]string) *program {
	env = maps.Clone(env)
	return &program{
		out: out, err: errs, now: func() time.Time { return noon }, zone: time.FixedZone("CEST", 2*60*60),
		lookup: func(name string) (string, bool) { v, found := env[name]; return v, found },
	}
}

// golden compares a text with a file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: -want +got\n%s", name, diff)
	}
}

func ago(d time.Duration) job.Stamp { return job.StampOf(noon.Add(-d).UnixMilli()) }

// The jobs of the script: one of each kind that is shown differently.
func jobs() []api.Job {
	base := api.Job{
		Site: "local", Namespace: "default", Cluster: "orders", Possible: []job.State{}, Over: job.No,
		Certainty: job.Witnessed, Reason: job.FlinkSaid, Via: job.ViaREST, LastSeen: ago(0), Version: "1.10",
		Attempt: job.Attempt{Number: 1, StartTime: ago(3 * time.Hour)}, Tasks: job.Tasks{Total: 4, Running: 4},
	}
	running, held, failed, unknown, evil := base, base, base, base, base

	running.JobID, running.Name, running.Pipeline = "a1b2c3d4e5f60718293a4b5c6d7e8f90", "orders", "orders"
	running.State, running.Since, running.Message = job.Running, ago(2*time.Hour), "Flink says RUNNING"
	running.Evidence = []job.Statement{{Source: "agent", Subject: "pod/local-orders", Says: "RUNNING", At: ago(0)}}

	held.Cluster, held.JobID, held.Name, held.Pipeline = "billing", "b0000000000000000000000000000001", "invoices", "billing"
	held.State, held.Since, held.Certainty, held.Reason = job.Running, ago(26*time.Hour), job.Held, job.JobManagerUnreachable
	held.LastSeen = ago(4*time.Minute + 10*time.Second)
	held.Message = "the agent lives, but has had no answer from the JobManager beside it for 4m10s; Flink said RUNNING before that"
	held.Evidence = []job.Statement{
		{Source: "agent", Subject: "pod/local-billing", Says: "RUNNING", At: held.LastSeen},
		{Source: "agent", Subject: "pod/local-billing", Says: "timed out", At: ago(4 * time.Minute)},
	}

	failed.JobID, failed.Name, failed.Pipeline = "a1b2ffffffffffffffffffffffffffff", "returns", "returns"
	failed.State, failed.Over, failed.Since, failed.LastSeen = job.Failed, job.Yes, ago(90*time.Second), ago(90*time.Second)
	failed.Message = "Flink said FAILED: java.lang.ArithmeticException: / by zero"
	failed.Tasks = job.Tasks{Total: 4, Failed: 1, Canceled: 3}

	unknown.JobID, unknown.Name, unknown.Pipeline = "c000000000000000000000000000000c", "audit", "audit"
	unknown.State, unknown.Possible = job.Unknown, []job.State{job.Canceled, job.Finished}
	unknown.Over, unknown.Certainty, unknown.Reason, unknown.Via = job.Yes, job.Inferred, job.Vanished, job.ViaNone
	unknown.Since, unknown.Message = ago(time.Hour), "this attempt cannot run again, and nobody saw how it ended; it may have been CANCELED, FINISHED"
	unknown.LastSeen = ""

	evil.Namespace, evil.JobID = "team-a", "d000000000000000000000000000000d"
	evil.Name = "\x1b[2J\u202einsert-into_default_catalog.default_database.a_table_with_a_long_name"
	evil.Pipeline, evil.State, evil.Since, evil.Message = evil.Name, job.Restarting, ago(3*time.Second), "Flink says RESTARTING"
	return []api.Job{held, running, failed, unknown, evil}
}

// scripted serves the jobs.
func scripted(t *testing.T) *script {
	s := newScript(t)
	all := jobs()
	list := make([]api.Job, len(all))
	for i, j := range all {
		s.on("/api/v1/jobs/local/"+j.Namespace+"/"+j.Cluster+"/"+j.JobID, answer(j))
		j.Evidence = nil
		list[i] = j
	}
	s.on("/api/v1/jobs", answer(api.JobList{Items: list, Version: "1.10"}))
	return s
}

func TestGet(t *testing.T) {
	s := scripted(t)
	for file, args := range map[string][]string{
		"get.txt":      {"get"},
		"get-wide.txt": {"get", "jobs", "-o", "wide"},
		"get-one.txt":  {"get", "invoices"},
		"get-json.txt": {"get", "invoices", "-o", "json"},
		"get-yaml.txt": {"get", "job", "invoices", "-o", "yaml"},
	} {
		code, out, errs := s.run(args...)
		if code != 0 || errs != "" {
			t.Errorf("%v: exit code %d, complained %q", args, code, errs)
		}
		golden(t, file, out)
	}
}

func TestGetJSONIsTheWholeList(t *testing.T) {
	_, out, _ := scripted(t).run("get", "-o", "json")
	var got api.JobList
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	want := jobs()
	for i := range want {
		want[i].Evidence = nil
	}
	if diff := cmp.Diff(api.JobList{Items: want, Version: "1.10"}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// A client must not lose what a newer server adds.
func TestGetJSONKeepsUnknownFields(t *testing.T) {
	s := newScript(t)
	s.on("/api/v1/jobs", answer(map[string]any{"items": []any{map[string]any{
		"jobID": "x", "state": "HIBERNATING", "certainty": "Dreamt", "novelty": []int{1, 2},
	}}, "version": "1.1"}))
	_, out, _ := s.run("get", "-o", "json")
	if !strings.Contains(out, `"novelty": [`) {
		t.Errorf("a field was lost: %s", out)
	}
	code, out, errs := s.run("get")
	if code != 0 || !strings.Contains(out, "HIBERNATING") || !strings.Contains(out, "Dreamt") {
		t.Errorf("exit code %d; words of a newer server are not shown: %s%s", code, out, errs)
	}
}

func TestGetAllPages(t *testing.T) {
	s := newScript(t)
	all := jobs()
	s.on("/api/v1/jobs", func(w http.ResponseWriter, q *http.Request) {
		page := api.JobList{Items: all[:2], Version: "1.10", Continue: "second"}
		if q.URL.Query().Get("continue") == "second" {
			page = api.JobList{Items: all[2:], Version: "1.12"}
		}
		answer(page)(w, q)
	})
	_, out, errs := s.run("get", "-o", "json")
	var got api.JobList
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	if len(got.Items) != len(all) || got.Version != "1.10" {
		t.Errorf("%d jobs of version %s, want %d of the first page's version 1.10", len(got.Items), got.Version, len(all))
	}
}

func TestFiltersReachTheAPI(t *testing.T) {
	s := scripted(t)
	s.run("get", "-n", "a,b", "--cluster", "c", "--pipeline", "p q", "--state", "running,FAILED", "--certainty", "held",
		"--over", "No", "--reason", "AgentSilent")
	want := []string{"/api/v1/jobs?certainty=Held&cluster=c&limit=5000&namespace=a&namespace=b&over=no&pipeline=p+q&reason=AgentSilent&state=RUNNING&state=FAILED"}
	if diff := cmp.Diff(want, s.asked()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestGetNothing(t *testing.T) {
	s := newScript(t)
	s.on("/api/v1/jobs", answer(api.JobList{Items: []api.Job{}, Frozen: &api.Frozen{Source: "agents", Why: "3 of 4 agents are lost", Since: ago(time.Minute)}}))
	code, out, errs := s.run("get")
	want := "There are no jobs yet.\nConclusions about silent agents' jobs are frozen since 2026-08-06 13:59:00 (1m ago): 3 of 4 agents are lost (agents).\n"
	if code != 0 || out != "" || errs != want {
		t.Errorf("exit code %d, out %q, said %q; want %q", code, out, errs, want)
	}
	if _, _, errs := s.run("get", "-n", "x"); !strings.HasPrefix(errs, "No job passes these flags.") {
		t.Errorf("with a filter: said %q", errs)
	}
}

func TestWhy(t *testing.T) {
	s := scripted(t)
	for file, meant := range map[string]string{
		"why-running.txt": "orders", "why-held.txt": "billing", "why-failed.txt": "a1b2ffff", "why-unknown.txt": "audit",
		"why-evil.txt": "d000000000000000000000000000000d",
	} {
		code, out, errs := s.run("why", meant)
		if code != 0 || errs != "" {
			t.Errorf("why %s: exit code %d, complained %q", meant, code, errs)
		}
		golden(t, file, out)
	}
}

// Every reason that there is has a word on what would change it.
func TestEveryReasonIsExplained(t *testing.T) {
	for _, r := range job.Reasons() {
		if r == job.FlinkSaid {
			continue
		}
		if waitsFor[r.String()] == "" {
			t.Errorf("%s is not explained", r)
		}
	}
}

func TestHistory(t *testing.T) {
	s := scripted(t)
	first := job.Attempt{Number: 1, StartTime: ago(3 * time.Hour)}
	second := job.Attempt{Number: 2, StartTime: ago(time.Hour)}
	witnessed := api.Transition{Attempt: first, Over: job.No, Certainty: job.Witnessed, Reason: job.FlinkSaid, Via: job.ViaREST, Possible: []job.State{}}
	entry := func(n int64, state job.State, at time.Duration) api.Transition {
		e := witnessed
		e.Sequence, e.State, e.At = n, state, ago(at)
		return e
	}
	fold := entry(2, job.Restarting, 70*time.Minute)
	fold.Kind, fold.Count, fold.Since, fold.Folded = job.Fold, 412, ago(2*time.Hour), []job.State{job.Running, job.Restarting}
	gap := entry(3, job.Running, 65*time.Minute)
	gap.Kind, gap.Count = job.Gap, 7
	held := entry(5, job.Running, 50*time.Minute)
	held.Attempt, held.Certainty, held.Reason = second, job.Held, job.AgentSilent
	unknown := entry(6, job.Unknown, 40*time.Minute)
	unknown.Attempt, unknown.Certainty, unknown.Reason, unknown.Via = second, job.Inferred, job.Vanished, job.ViaNone
	unknown.Possible, unknown.Over = []job.State{job.Failed, job.Finished}, job.Yes
	failed := entry(7, job.Failed, time.Minute)
	failed.Attempt, failed.Correction, failed.Cause, failed.Via = second, true, "java.io.IOException: No space left\non device", job.ViaArchive
	failed.Over = job.Yes
	started := entry(4, job.Running, time.Hour)
	started.Attempt = second
	s.on("/api/v1/jobs/local/default/orders/a1b2c3d4e5f60718293a4b5c6d7e8f90/history", answer(api.TransitionList{
		Items: []api.Transition{entry(1, job.Running, 3*time.Hour), fold, gap, started, held, unknown, failed}, Unreadable: 2, Version: "1.12",
	}))
	code, out, errs := s.run("history", "orders")
	if want := "2 entries are there that the server could not read; upgrading it may help.\n"; code != 0 || errs != want {
		t.Errorf("exit code %d, said %q, want %q", code, errs, want)
	}
	golden(t, "history.txt", out)
	if _, out, _ := s.run("history", "orders", "-o", "json"); !strings.Contains(out, `"count": 412`) {
		t.Errorf("as JSON: %s", out)
	}
}

func TestStatus(t *testing.T) {
	s := newScript(t)
	s.on("/api/v1/status", answer(api.Status{
		Site: "local", Program: "v1.2.3", Epoch: 1, Version: "1.9", Jobs: 5, Watchers: 1,
		Leader: api.Leader{Leads: true, Name: "laptop-42", Address: "127.0.0.1:7070", Since: ago(time.Hour), Age: 0.4},
		Agents: api.Agents{Expected: 2, Beating: 1},
		Frozen: &api.Frozen{Source: "agents", Why: "half of the agents are lost", Since: ago(time.Minute)},
		Sources: []api.Source{
			{Name: "etcd/verdicts", Healthy: true, Age: 1.5}, {Name: "etcd/leader", Age: -1, Why: "it has not been listed yet"},
		},
	}))
	code, out, errs := s.run("status", "--server", s.URL)
	if code != 0 || errs != "" {
		t.Errorf("exit code %d, complained %q", code, errs)
	}
	golden(t, "status.txt", strings.Replace(out, s.URL, "http://127.0.0.1:7070", 1))

	s.on("/api/v1/status", answer(api.Status{Weakened: &api.Weak{Reason: job.NoSettler, Since: ago(time.Minute)}}))
	_, out, _ = s.run("status")
	for _, want := range []string{"none: nothing new is settled", "everything is shown as Held since 2026-08-06 13:59:00 (1m ago): NoSettler"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
