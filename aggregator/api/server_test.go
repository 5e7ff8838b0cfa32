package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

func TestOptionsAreChecked(t *testing.T) {
	w := newWorld(t)
	for name, o := range map[string]Options{
		"no board":    {History: w.history, Registry: prometheus.NewRegistry()},
		"no history":  {Board: w.board, Registry: prometheus.NewRegistry()},
		"no registry": {Board: w.board, History: w.history},
		"a registry that has the metrics already": {Board: w.board, History: w.history, Registry: w.registry},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if a := w.get("/metrics"); !strings.Contains(string(a.body), "holdfast_board_revision") {
		t.Error("a second server on the same registry has taken the metrics of the first one away")
	}
}

func TestServeAfterCloseEnds(t *testing.T) {
	w := newWorld(t)
	s, err := New(Options{Board: w.board, History: w.history, Registry: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(ln); err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestListenSaysWhatToDo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	if _, err := Listen(taken.Addr().String()); err == nil || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("a taken port: %v", err)
	}
	if _, err := Listen("nonsense"); err == nil || !strings.Contains(err.Error(), ":7070") {
		t.Errorf("no address: %v", err)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	w := newWorld(t)
	for path, says := range map[string]string{
		"/api/v1/job":                    "did you mean /api/v1/jobs?",
		"/api/v1/jobs/":                  "/openapi.json",
		"/api/v1/jobs/default/a/b":       "/openapi.json",
		"/api/v1/jobs/default/a/b/c/d":   "/openapi.json",
		"/api/v1/jobs/default/a/b/c/":    "/openapi.json",
		"/readyz/x":                      "/openapi.json",
		"/" + strings.Repeat("x/", 1000): "…",
	} {
		w.wrong(w.get(path), 404, says)
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"} {
		a := w.do(method, "/api/v1/jobs")
		w.wrong(a, 405, method, "GET")
		if a.header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: Allow is %q", method, a.header.Get("Allow"))
		}
	}
	w.wrong(w.do("POST", "/nowhere"), 404)
}

// over splits what came over a raw connection, checks that it is a problem, and gives its detail.
func over(t *testing.T, got string, status int) string {
	t.Helper()
	head, body, _ := strings.Cut(got, "\r\n\r\n")
	if !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", status)) || !strings.Contains(head, problemType) {
		t.Fatalf("want the problem %d, got %q", status, got)
	}
	var p Problem
	strict(t, []byte(body), &p)
	return p.Detail
}

func TestRequestsThatAreNone(t *testing.T) {
	w := newWorld(t)
	huge := "GET / HTTP/1.1\r\nHost: x\r\nCookie: " + strings.Repeat("x", 3*headerLimit) + "\r\n\r\n"
	if detail := over(t, w.raw(huge), 431); !strings.Contains(detail, "8192 bytes") {
		t.Error(detail)
	}
	if detail := over(t, w.raw("GET /"+strings.Repeat("x", 3*headerLimit)+" HTTP/1.1\r\nHost: x\r\n\r\n"), 431); !strings.Contains(detail, "shorten") {
		t.Error(detail)
	}
	over(t, w.raw("HELO there\r\n\r\n"), 400)
	body := strings.Repeat("x", bodyLimit+1)
	if detail := over(t, w.raw(fmt.Sprintf("GET /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)), 413); !strings.Contains(detail, "no route takes a body") {
		t.Error(detail)
	}
	small := w.raw("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")
	if !strings.HasPrefix(small, "HTTP/1.1 200") {
		t.Errorf("a small body that nobody wants: %q", small)
	}
	if text := string(w.get("/metrics").body); !strings.Contains(text, `holdfast_http_requests_total{code="431",route="none"} 2`) {
		t.Error("the refused requests were not counted")
	}
}

func TestSlowRequestsEnd(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.ReadTimeout = 100 * time.Millisecond })
	for name, send := range map[string]string{
		"a slow head": "GET /livez HTT",
		"a slow body": "GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhel",
	} {
		begin := time.Now()
		if detail := over(t, w.raw(send), 408); !strings.Contains(detail, "100ms") {
			t.Errorf("%s: %s", name, detail)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%s: took %s", name, took)
		}
	}
	// A client that sends a byte now and then gets no more time.
	conn := w.dial()
	defer func() { _ = conn.Close() }()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				if _, err := io.WriteString(conn, "x"); err != nil {
					return
				}
			}
		}
	}()
	got, _ := io.ReadAll(conn)
	close(stop)
	<-done
	if !strings.HasPrefix(string(got), "HTTP/1.1 408") {
		t.Errorf("%q", got)
	}
}

func TestAPanicIsAnAnswerWithoutItsCause(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Sources = func() []Source { panic("secret") } })
	a := w.get("/api/v1/status")
	w.wrong(a, 500, "log")
	if strings.Contains(string(a.body), "secret") || !strings.Contains(w.log.String(), "secret") {
		t.Errorf("answer %s\nlog %s", a.body, w.log)
	}
	if a := w.get("/api/v1/jobs"); a.status != 200 {
		t.Errorf("after a panic: %d", a.status)
	}
}

func TestStatus(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.Sources = func() []Source { return []Source{{Name: "kubernetes/pods", Age: 1.5, Why: "forbidden"}} }
	})
	w.put("orders")
	w.freeze(record.SiteCondition{Frozen: true, Source: "etcd", Why: "paused", Since: at, Expected: 7, Beating: 2})
	w.apply(board.Leader, etcd.Lost, 12)
	w.later(10 * time.Second)
	got := into[Status](t, w.get("/api/v1/status"))
	if got.Site != "default" || got.Program != "1.2.3" || got.Epoch != 1 || got.Version != "1.11" || got.Jobs != 1 {
		t.Errorf("%+v", got)
	}
	if l := got.Leader; !l.Leads || l.Name != "aggregator-0" || l.Address != "10.0.0.7:7070" || l.Age < 10 || l.Age > 15 {
		t.Errorf("leader %+v", l)
	}
	if got.Agents != (Agents{7, 2}) || got.Frozen == nil || got.Frozen.Why != "paused" || got.Weakened != nil {
		t.Errorf("%+v", got)
	}
	var sources []string
	for _, s := range got.Sources {
		sources = append(sources, fmt.Sprint(s.Name, " ", s.Healthy, " ", s.Why))
		if s.Age < 1.5 || s.Age > 15 {
			t.Errorf("%s has the age %v", s.Name, s.Age)
		}
	}
	want := []string{
		"etcd/verdicts true ", "etcd/condition true ", "etcd/identity true ", "etcd/leader false no answer", "etcd/clusters true ",
		"kubernetes/pods false forbidden",
	}
	if diff := cmp.Diff(want, sources); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
	w.later(testHold)
	if got := into[Status](t, w.get("/api/v1/status")); got.Weakened == nil || got.Weakened.Reason != job.StoreUnreachable {
		t.Errorf("weakened %+v", got.Weakened)
	}
	if got := into[Status](t, emptyWorld(t).get("/api/v1/status")); got.Leader.Age != -1 || got.Sources[0].Age != -1 || got.Sources[0].Why == "" {
		t.Errorf("before anything is known: %+v", got)
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	w.put("a")
	w.put("b")
	w.put("c", failed)
	w.putCluster("a", job.Cluster{Condition: job.ClusterReady, Over: job.No, Certainty: job.Witnessed})
	w.putCluster("b", job.Cluster{Condition: job.ClusterReady, Over: job.No, Certainty: job.Witnessed})
	w.putCluster("gone", job.Cluster{Condition: job.ClusterDown, Over: job.Yes, Certainty: job.Inferred})
	w.apply(board.Verdicts, etcd.Changed, w.next(), etcd.Pair{Key: record.VerdictKey("default", keyOf("d")), Value: []byte(`{"v":9}`), ModRevision: w.revision})
	w.freeze(record.SiteCondition{Frozen: true})
	w.get(ordersPath)
	w.get("/api/v1/jobs")
	w.get("/nowhere")
	w.watch("", "").until("1.17")
	text := string(w.get("/metrics").body)
	for _, want := range []string{
		`holdfast_jobs{certainty="Witnessed",over="no",state="RUNNING"} 2`,
		`holdfast_jobs{certainty="Witnessed",over="yes",state="FAILED"} 1`,
		`holdfast_jobs{certainty="Held",over="unknown",state="UNKNOWN"} 1`,
		`holdfast_clusters{certainty="Witnessed",condition="Ready",over="no"} 2`,
		`holdfast_clusters{certainty="Inferred",condition="JobManagerDown",over="yes"} 1`,
		`holdfast_records_unreadable_total{kind="newer"} 1`,
		`holdfast_records_unreadable_total{kind="corrupt"} 0`,
		`holdfast_watchers 1`, `holdfast_board_revision 17`, `holdfast_frozen 1`, `holdfast_weakened 0`,
		`holdfast_watch_age_seconds{prefix="verdicts"}`, `holdfast_leader_age_seconds`,
		`holdfast_http_requests_total{code="404",route="/api/v1/jobs/{site}/{namespace}/{cluster}/{jobID}"} 1`,
		`holdfast_http_requests_total{code="200",route="/api/v1/jobs"} 2`,
		`holdfast_http_requests_total{code="404",route="none"} 1`,
		`holdfast_http_request_duration_seconds_count{route="/api/v1/jobs"} 2`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %s", want)
		}
	}
	if strings.Contains(text, "team-a") {
		t.Error("a metric is labelled with a job")
	}
	w.later(testHold + time.Second)
	if text := string(w.get("/metrics").body); !strings.Contains(text, `certainty="Held",over="no",state="RUNNING"} 2`) ||
		!strings.Contains(text, `holdfast_clusters{certainty="Held",condition="Ready",over="no"} 2`) || !strings.Contains(text, "holdfast_weakened 1") {
		t.Error("the metrics do not know of S13")
	}
}

// The answers must not change while they are sent, though fasthttp uses its buffers again and the board goes on.
func TestManyRequestsAtOnce(t *testing.T) {
	w := newWorld(t)
	for i := range 50 {
		w.put(fmt.Sprintf("job-%d", i))
	}
	stop, changed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(changed)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				w.put(fmt.Sprintf("job-%d", i%50))
				time.Sleep(100 * time.Microsecond)
			}
		}
	}()
	failures := make(chan error, 8)
	for g := range cap(failures) {
		go func() {
			failures <- func() error {
				for i := range 200 {
					name := fmt.Sprintf("job-%d", (i*7+g)%50)
					response, err := http.Get("http://" + w.address + "/api/v1/jobs/default/team-a/" + name + "/a1")
					if err != nil {
						return err
					}
					body, err := io.ReadAll(response.Body)
					_ = response.Body.Close()
					if err != nil || !strings.Contains(string(body), `"cluster":"`+name+`"`) || !strings.HasSuffix(string(body), `}]}`) {
						return fmt.Errorf("%s: %v: %s", name, err, body)
					}
				}
				return nil
			}()
		}()
	}
	for range cap(failures) {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-changed
	http.DefaultClient.CloseIdleConnections()
}

func TestThePageSaysWhereTheAPIIs(t *testing.T) {
	w := newWorld(t)
	a := w.get("/")
	if a.status != 200 || !strings.Contains(string(a.body), "/api/v1/jobs") || !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := w.get("/livez"); string(a.body) != "ok\n" {
		t.Errorf("%s", a.body)
	}
}

func TestTheLogOfFasthttpIsQuiet(t *testing.T) {
	var log buffer
	quiet{slog.New(slog.NewTextHandler(&log, nil))}.Printf("error %d", 5)
	if log.String() != "" {
		t.Errorf("a broken connection is worth a line: %s", log.String())
	}
}
