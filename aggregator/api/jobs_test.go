package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

const ordersPath = "/api/v1/jobs/default/team-a/orders/a1"

func TestOneJob(t *testing.T) {
	w := newWorld(t)
	w.put("orders", func(v *job.Verdict) {
		v.Certainty, v.Reason, v.LastSeen = job.Held, job.AgentSilent, job.Stamp(time.Now().Add(-250*time.Second).UTC().Format(time.RFC3339))
	})
	a := w.get(ordersPath)
	got := into[Job](t, a)
	want := Job{
		Site: "default", Namespace: "team-a", Cluster: "orders", Pipeline: "orders", JobID: "a1", Name: "Orders", State: job.Running,
		Possible: []job.State{}, Over: job.No, Certainty: job.Held, Reason: job.AgentSilent,
		Message: "the agent has been silent for 4m10s; Flink said RUNNING before that",
		Since:   at, LastSeen: got.LastSeen, Attempt: job.Attempt{Number: 2, StartTime: at}, Tasks: job.Tasks{Total: 4, Running: 4},
		Via: job.ViaREST, Version: "1.11", Evidence: running().Evidence,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if head := w.do("HEAD", ordersPath); head.status != 200 || head.header.Get("Content-Length") != fmt.Sprint(len(a.body)) || len(head.body) != 0 {
		t.Errorf("HEAD: %d, %s bytes announced, %d sent", head.status, head.header.Get("Content-Length"), len(head.body))
	}
	if list := w.get("/api/v1/jobs"); strings.Contains(string(list.body), "evidence") {
		t.Errorf("a list has evidence: %s", list.body)
	}
}

// The JSON that package board writes has the fields of the type that the OpenAPI document is made from, in its order.
func TestTheBoardsJSONIsTheTypes(t *testing.T) {
	w := newWorld(t)
	w.put("orders", func(v *job.Verdict) {
		v.State, v.Possible, v.Cause = job.Unknown, job.StatesOf(job.Failed, job.Finished), "a \"cause\"\n\x01é\xff"
		v.Tasks = job.Tasks{Total: 9, Running: 1, Finished: 2, Failed: 3, Canceled: 4}
		v.Evidence = append(v.Evidence, job.Statement{Source: "pod", Subject: `a\b`, Says: "exit 0", At: at})
	})
	body := w.get(ordersPath).body
	var typed Job
	strict(t, body, &typed)
	again, err := json.Marshal(typed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(again), string(body)); diff != "" {
		t.Errorf("the board's JSON is not that of the type (-type +board):\n%s", diff)
	}
}

func TestThereIsNoSuchJob(t *testing.T) {
	w := newWorld(t)
	w.put("orders")
	w.wrong(w.get("/api/v1/jobs/default/team-a/orders/a2"), 404, "no job a2", "/api/v1/jobs lists")
	w.wrong(w.get("/api/v1/jobs/default/team-b/orders/a1/history"), 404, "namespace team-b")
	p := w.wrong(w.get("/api/v1/jobs/other/team-a/orders/a1"), 404, `site "default"`, `site "other"`)
	if p.Type != "urn:holdfast:problem:other-site" || p.Instance != "/api/v1/jobs/other/team-a/orders/a1" {
		t.Errorf("type %s, instance %s", p.Type, p.Instance)
	}
	w.wrong(w.get("/api/v1/jobs/other/team-a/orders/a1?watch=true"), 404, `site "default"`)
	w.wrong(w.get("/api/v1/jobs?site=other"), 404, `site "default"`)
	w.wrong(w.get("/api/v1/jobs/default/team%20a/orders/a1"), 400, "namespace")
}

func TestFilters(t *testing.T) {
	w := newWorld(t)
	w.put("team-a/orders", func(v *job.Verdict) { v.Pipeline = "o" })
	w.put("team-a-b/orders", func(v *job.Verdict) { v.State, v.Over = job.Failed, job.Yes })
	w.put("team-a/payments", func(v *job.Verdict) { v.Certainty, v.Reason = job.Held, job.AgentSilent })
	w.put("team-b/payments/b7", func(v *job.Verdict) {
		v.Pipeline, v.State, v.Over, v.Certainty, v.Reason = "p", job.Suspended, job.Unanswered, job.Inferred, job.JobMissing
	})
	all := []string{"team-a-b/orders", "team-a/orders", "team-a/payments", "team-b/payments/b7"}
	for query, want := range map[string][]string{
		"":                                    all,
		"site=default":                        all,
		"site=other,default":                  all,
		"namespace=team-a":                    all[1:3],
		"namespace=team-a-b,team-a":           all[:3],
		"namespace=team-a&namespace=team-a-b": all[:3],
		"namespace=team":                      {},
		"namespace=team-a,team-a":             all[1:3],
		"cluster=orders":                      all[:2],
		"cluster=orders,payments&namespace=team-b": all[3:],
		"pipeline=o":                    {"team-a/orders"},
		"pipeline=o,p":                  {"team-a/orders", "team-b/payments/b7"},
		"pipeline=orders":               {"team-a-b/orders", "team-a/payments"},
		"state=RUNNING":                 all[1:3],
		"state=FAILED,SUSPENDED":        {"team-a-b/orders", "team-b/payments/b7"},
		"state=UNKNOWN":                 {},
		"certainty=Witnessed":           all[:2],
		"certainty=Held":                {"team-a/payments"},
		"over=yes":                      {"team-a-b/orders"},
		"over=unknown":                  {"team-b/payments/b7"},
		"over=no,yes":                   all[:3],
		"reason=AgentSilent,JobMissing": all[2:],
		"state=RUNNING&certainty=Held":  {"team-a/payments"},
		"state=FAILED&certainty=Held":   {},
	} {
		if diff := cmp.Diff(append([]string{}, want...), append([]string{}, names(w.list(query).Items)...)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", query, diff)
		}
	}
}

// Filters are by what is served, not by what is stored.
func TestFiltersSeeTheWeakened(t *testing.T) {
	w := newWorld(t)
	w.put("orders")
	w.later(testHold + time.Second)
	if got := w.list("certainty=Witnessed").Items; len(got) != 0 {
		t.Errorf("witnessed: %v", names(got))
	}
	if got := w.list("certainty=Held&reason=StoreUnreachable").Items; len(got) != 1 {
		t.Errorf("held: %v", names(got))
	}
}

func TestWrongParameters(t *testing.T) {
	w := newWorld(t)
	for path, says := range map[string][]string{
		"/api/v1/jobs?stat=RUNNING":                       {`"stat"`, "did you mean state?", "namespace"},
		"/api/v1/jobs?state=running":                      {`"running"`, "did you mean RUNNING?", "FINISHED"},
		"/api/v1/jobs?state=":                             {"empty"},
		"/api/v1/jobs?state=RUNNING,":                     {"empty"},
		"/api/v1/jobs?certainty=Sure":                     {"Witnessed"},
		"/api/v1/jobs?over=maybe":                         {"yes"},
		"/api/v1/jobs?reason=AgentSilence":                {"did you mean AgentSilent?"},
		"/api/v1/jobs?namespace=a%2Fb":                    {"namespace"},
		"/api/v1/jobs?limit=0":                            {"1 to 5000"},
		"/api/v1/jobs?limit=5001":                         {"1 to 5000"},
		"/api/v1/jobs?limit=ten":                          {"1 to 5000"},
		"/api/v1/jobs?limit=1&limit=2":                    {"more than once"},
		"/api/v1/jobs?continue=%21":                       {"without continue"},
		"/api/v1/jobs?continue=":                          {"without continue"},
		"/api/v1/jobs?watch=maybe":                        {"true"},
		"/api/v1/jobs?version=1.2":                        {"watch=true"},
		"/api/v1/jobs?watch=true&version=x":               {"1.8123"},
		"/api/v1/jobs?watch=true&version=":                {"1.8123"},
		"/api/v1/jobs?watch=true&limit=5":                 {"limit"},
		ordersPath + "?limit=5":                           {`"limit"`, "watch, version"},
		ordersPath + "/history?limit=201":                 {"1 to 200"},
		ordersPath + "/history?watch=true":                {`"watch"`},
		"/api/v1/status?verbose":                          {`"verbose"`, "none"},
		"/api/v1/jobs?" + strings.Repeat("x", 200) + "=1": {"…"},
	} {
		p := w.wrong(w.get(path), 400, says...)
		if len(p.Detail) > 700 {
			t.Errorf("%s: a very long answer: %s", path, p.Detail)
		}
	}
}

// What a page gave as continue is a place between two jobs: jobs that stay are on exactly one page, whatever comes
// and goes around them.
func TestPages(t *testing.T) {
	w := newWorld(t)
	var stay []string
	for i := range 25 {
		name := fmt.Sprintf("team-a/stays-%02d", i)
		stay = append(stay, name)
		w.put(name)
	}
	first := w.list("limit=4")
	seen, next, pages := names(first.Items), first.Continue, 1
	for next != "" {
		w.put(fmt.Sprintf("team-a/comes-%d", pages))
		w.put("team-a/stays-00")
		w.remove(fmt.Sprintf("team-a/comes-%d", pages-1))
		page := w.list("limit=4&continue=" + next)
		if page.Version != first.Version {
			t.Errorf("page %d has version %s, the first one %s: a watch from it would miss changes", pages, page.Version, first.Version)
		}
		if len(page.Items) > 4 || len(page.Items) == 0 {
			t.Errorf("a page of %d", len(page.Items))
		}
		seen, next = append(seen, names(page.Items)...), page.Continue
		pages++
	}
	if diff := cmp.Diff(stay, seen); diff != "" || pages != 7 {
		t.Errorf("in %d pages (-want +got):\n%s", pages, diff)
	}
	if exact := w.list("limit=25&namespace=team-a"); len(exact.Items) != 25 || exact.Continue == "" {
		t.Errorf("%d jobs, continue %q", len(exact.Items), exact.Continue)
	}
	w.remove("team-a/comes-6")
	if exact := w.list("limit=25&namespace=team-a"); len(exact.Items) != 25 || exact.Continue != "" {
		t.Errorf("a list that fits exactly goes on: %d jobs, continue %q", len(exact.Items), exact.Continue)
	}
	other := base64.RawURLEncoding.EncodeToString([]byte("7.3/team-a/x/y"))
	w.wrong(w.get("/api/v1/jobs?continue="+other), 410, "epoch 7", "without continue")
}

// Pages through several namespaces, which are not sorted as their paths are.
func TestPagesThroughNamespaces(t *testing.T) {
	w := newWorld(t)
	want := []string{"a-b/x", "a-b/y", "a.c/x", "a/x", "a/y", "b/x"}
	for _, name := range want {
		w.put(name)
	}
	w.put("a-/x")
	var seen []string
	for next := ""; ; {
		query := "limit=1&namespace=a,b,a-b,a.c"
		if next != "" {
			query += "&continue=" + next
		}
		page := w.list(query)
		seen = append(seen, names(page.Items)...)
		if next = page.Continue; next == "" {
			break
		}
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWeakenedListsHaveMarkedVersions(t *testing.T) {
	w := newWorld(t)
	w.put("a/a")
	w.put("b/b")
	first := w.list("limit=1")
	if first.Version != "1.12" {
		t.Errorf("version %s", first.Version)
	}
	w.later(testHold + time.Second)
	second := w.list("limit=1&continue=" + first.Continue)
	if second.Version != "1.12.held" || second.Items[0].Certainty != job.Held || second.Items[0].Version != "1.12.held" {
		t.Errorf("version %s, job %+v", second.Version, second.Items[0])
	}
}

func TestEntityTags(t *testing.T) {
	w := newWorld(t)
	w.put("orders")
	paths := []string{ordersPath, "/api/v1/jobs", "/api/v1/jobs?state=RUNNING"}
	for _, change := range []struct {
		name    string
		happens func()
		changes []bool
	}{
		{"nothing", func() {}, []bool{false, false, false}},
		{"a proof of life", w.heard, []bool{false, false, false}},
		{"another job", func() { w.put("payments") }, []bool{false, true, true}},
		{"the job itself", func() { w.put("orders") }, []bool{true, true, true}},
		{"a freeze", func() { w.freeze(record.SiteCondition{Frozen: true, Source: "etcd"}) }, []bool{false, true, true}},
		{"weakness", func() { w.later(testHold + time.Second) }, []bool{true, true, true}},
		{"more weakness", func() { w.later(time.Minute) }, []bool{false, false, false}},
		{"its end", w.heard, []bool{true, true, true}},
	} {
		var tags []string
		for _, path := range paths {
			tags = append(tags, w.get(path).header.Get("ETag"))
		}
		change.happens()
		for i, path := range paths {
			a := w.get(path, "If-None-Match: "+`"x", `+tags[i])
			want := 304
			if change.changes[i] {
				want = 200
			}
			if a.status != want || !strings.HasPrefix(a.header.Get("ETag"), `W/"`) || (want == 304 && len(a.body) > 0) {
				t.Errorf("%s: %s is answered with %d, tag %s after %s; want %d", change.name, path, a.status, a.header.Get("ETag"), tags[i], want)
			}
		}
	}
	if a := w.get(ordersPath, "If-None-Match: *"); a.status != 304 {
		t.Errorf("any tag: %d", a.status)
	}
	if a := w.get(ordersPath, `If-None-Match: "`+strings.TrimPrefix(w.get(ordersPath).header.Get("ETag"), `W/"`)); a.status != 304 {
		t.Errorf("the same tag as a strong one: %d", a.status)
	}
}

func TestHistory(t *testing.T) {
	w := newWorld(t)
	w.put("orders")
	w.history.page = HistoryPage{Revision: 77, Unreadable: 2}
	for i := range 5 {
		w.history.page.Transitions = append(w.history.page.Transitions, job.Transition{
			Sequence: int64(i + 1), State: job.Running, Over: job.No, At: at, Attempt: job.Attempt{Number: 1, StartTime: at},
		})
	}
	w.history.page.Transitions[4].Kind, w.history.page.Transitions[4].Count = job.Fold, 12
	w.history.page.Transitions[4].Folded = job.StatesOf(job.Running, job.Restarting)
	w.history.page.Transitions[4].Correction = true
	list := into[TransitionList](t, w.get(ordersPath+"/history"))
	if len(list.Items) != 5 || list.Items[4].Sequence != 5 || list.Version != "1.77" || list.Unreadable != 2 {
		t.Errorf("%+v", list)
	}
	if last := list.Items[4]; !last.Correction || last.Kind != job.Fold || !slices.Equal(last.Folded, []job.State{job.Running, job.Restarting}) {
		t.Errorf("the fold: %+v", last)
	}
	if w.history.key != keyOf("orders") {
		t.Errorf("asked for %s", w.history.key)
	}
	if list := into[TransitionList](t, w.get(ordersPath+"/history?limit=2")); len(list.Items) != 2 || list.Items[1].Sequence != 5 {
		t.Errorf("the newest two: %+v", list.Items)
	}
	w.history.err = errors.New("no answer from 10.0.0.1")
	a := w.get(ordersPath + "/history")
	w.wrong(a, 503, "etcd", "try again")
	if a.header.Get("Retry-After") == "" || strings.Contains(string(a.body), "10.0.0.1") {
		t.Errorf("%v %s", a.header, a.body)
	}
}

func TestASlowHistoryEnds(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.HistoryTimeout = 20 * time.Millisecond })
	w.put("orders")
	w.history.wait = true
	w.wrong(w.get(ordersPath+"/history"), 503, "within 20ms")
}

func TestFrozenIsOnEveryList(t *testing.T) {
	w := newWorld(t)
	w.put("orders")
	if list := w.list(""); list.Frozen != nil {
		t.Errorf("frozen: %+v", list.Frozen)
	}
	w.freeze(record.SiteCondition{Frozen: true, Source: "etcd", Why: "it changed its leader", Since: at})
	want := &Frozen{Source: "etcd", Why: "it changed its leader", Since: at}
	if diff := cmp.Diff(want, w.list("").Frozen); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, into[TransitionList](t, w.get(ordersPath+"/history")).Frozen); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// Before everything was listed once, the server must not say that a job does not exist.
func TestNothingIsSaidBeforeTheBoardIsComplete(t *testing.T) {
	w := emptyWorld(t)
	steps := []func(){
		func() {},
		func() { w.apply(board.Verdicts, etcd.Listed, 10) },
		func() { w.apply(board.Condition, etcd.Listed, 10) },
		func() { w.lead() },
		func() { w.apply(board.Clusters, etcd.Listed, 10) },
		func() { w.apply(board.Identity, etcd.Listed, 10) },
	}
	for i, step := range steps {
		step()
		for _, path := range []string{"/api/v1/jobs", ordersPath, ordersPath + "/history", "/api/v1/jobs?watch=true", "/api/v1/clusters", "/readyz"} {
			a := w.get(path)
			w.wrong(a, 503, "/readyz?verbose")
			if a.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		}
		failing := 0
		for _, c := range w.wrong(w.get("/readyz?verbose"), 503).Checks {
			if !c.OK {
				failing++
				if c.Why == "" {
					t.Errorf("check %s does not say what is missing", c.Name)
				}
			}
		}
		if want := len(steps) - i; failing != want {
			t.Errorf("after step %d: %d checks fail, want %d", i, failing, want)
		}
		for _, path := range []string{"/livez", "/api/v1/status", "/metrics", "/openapi.json", "/"} {
			if a := w.get(path); a.status != 200 {
				t.Errorf("%s: %d %s", path, a.status, a.body)
			}
		}
	}
	w.apply(board.Identity, etcd.Listed, 11, etcd.Pair{Key: record.IdentityKey("default"), Value: record.EncodeIdentity(record.SiteIdentity{UID: "u", Epoch: 1}), ModRevision: 11})
	if ready := into[Readiness](t, w.get("/readyz?verbose")); !ready.Ready || len(ready.Checks) != 6 {
		t.Errorf("%+v", ready)
	}
	w.apply(board.Verdicts, etcd.Lost, 10)
	if a := w.get("/api/v1/jobs"); a.status != 200 {
		t.Errorf("a board that was complete and has lost its watch answers %d", a.status)
	}
}
