package flinktest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const id = "5d2f6c6a8f4f4b7e9d1c0a3b2e4f6a80"

func get(t testing.TB, client *http.Client, url string) (int, []byte) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func newClient(t testing.TB) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// fields are the paths of all fields in a JSON value; lists count by their first element.
func fields(prefix string, v any) []string {
	var paths []string
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			paths = append(paths, prefix+"/"+key)
			paths = append(paths, fields(prefix+"/"+key, value)...)
		}
	case []any:
		if len(v) > 0 {
			paths = fields(prefix+"/0", v[0])
		}
	}
	slices.Sort(paths)
	return paths
}

// The scripted answers have the fields of the recorded shapes, no more and no less, where a client may look.
func TestAnswersHaveFlinksFields(t *testing.T) {
	jm, client := flinktest.New(t), newClient(t)
	jm.SetJob(flinktest.Job{ID: id, Name: "orders", State: job.Running, Stack: "java.lang.Error: x\n\tat y\n"})
	for release, text := range map[string]string{"1.20": "1.20.1", "2.3": "2.3.0"} {
		jm.SetVersion(text)
		for file, path := range map[string]string{
			"overview.json": "/jobs/overview", "status.json": "/jobs/" + id + "/status", "detail.json": "/jobs/" + id,
			"exceptions.json": "/jobs/" + id + "/exceptions", "config.json": "/config", "jobmanager-config.json": "/jobmanager/config",
		} {
			recorded, err := os.ReadFile(filepath.Join("..", "testdata", release, file))
			if err != nil {
				t.Fatal(err)
			}
			_, body := get(t, client, jm.URL()+path)
			var want, got any
			if err := json.Unmarshal(recorded, &want); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(body, &got); err != nil {
				t.Fatalf("%s %s: %v", release, path, err)
			}
			top := func(paths []string) []string {
				return slices.DeleteFunc(paths, func(p string) bool {
					for _, free := range []string{"/plan", "/timestamps", "/status-counts", "/vertices/0/metrics", "/stream-graph", "/all-exceptions", "/exceptionHistory/entries/0/failureLabels"} {
						if len(p) > len(free) && p[:len(free)+1] == free+"/" {
							return true
						}
					}
					return false
				})
			}
			if diff := cmp.Diff(top(fields("", want)), top(fields("", got))); diff != "" {
				t.Errorf("%s of %s:\n%s", path, release, diff)
			}
		}
	}
}

func TestRefuseKeepsThePort(t *testing.T) {
	jm, client := flinktest.New(t), newClient(t)
	url := jm.URL()
	for range 5 {
		get(t, client, url+"/config")
		jm.Behave("", flinktest.Refuse)
		if resp, err := client.Get(url + "/config"); err == nil {
			resp.Body.Close()
			t.Fatal("it answers")
		}
		jm.Behave("", flinktest.Fine)
		if jm.URL() != url {
			t.Fatalf("the port moved from %s to %s", url, jm.URL())
		}
	}
	get(t, client, url+"/config")
}

func TestLongestPrefixCounts(t *testing.T) {
	jm, client := flinktest.New(t), newClient(t)
	jm.SetJob(flinktest.Job{ID: id, State: job.Running})
	jm.Behave("", flinktest.NoLeader)
	jm.Answer("/jobs/overview", 418, "teapot")
	jm.Behave("/jobs/"+id, flinktest.Fine)
	for path, want := range map[string]int{"/config": 503, "/jobs/overview": 418, "/jobs/" + id + "/status": 200} {
		if got, _ := get(t, client, jm.URL()+path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	jm.Behave("", flinktest.Fine)
	if got, _ := get(t, client, jm.URL()+"/jobs/overview"); got != 200 {
		t.Errorf("Fine for all leaves something behind: %d", got)
	}
	if n := jm.Requests()["/jobs/overview"]; n != 2 {
		t.Errorf("%d requests counted", n)
	}
}

func TestRestart(t *testing.T) {
	jm := flinktest.New(t)
	kept, ended, lost := flinktest.NewID(), flinktest.NewID(), flinktest.NewID()
	start := time.Now().Truncate(time.Millisecond)
	jm.SetJob(flinktest.Job{ID: kept, State: job.Running, Start: start})
	jm.SetJob(flinktest.Job{ID: ended, State: job.Finished, Start: start})
	jm.SetJob(flinktest.Job{ID: lost, State: job.Running, Start: start})
	before, url := jm.Incarnation(), jm.URL()
	jm.Restart(kept, ended)
	if jm.Incarnation() == before || jm.URL() != url {
		t.Errorf("incarnation %s, URL %s", jm.Incarnation(), jm.URL())
	}
	_, body := get(t, newClient(t), url+"/jobs/overview")
	var o struct {
		Jobs []struct {
			ID    string `json:"jid"`
			State string `json:"state"`
			Start int64  `json:"start-time"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(body, &o); err != nil || len(o.Jobs) != 2 {
		t.Fatalf("%v: %s", err, body)
	}
	if o.Jobs[0].State != "INITIALIZING" || o.Jobs[0].Start == start.UnixMilli() {
		t.Errorf("a kept job begins anew: %+v", o.Jobs[0])
	}
	if o.Jobs[1].State != "FINISHED" || o.Jobs[1].Start != start.UnixMilli() {
		t.Errorf("an ended job stays as it is: %+v", o.Jobs[1])
	}
}

func TestChangesAreTimed(t *testing.T) {
	jm := flinktest.New(t)
	jm.SetJob(flinktest.Job{ID: id, State: job.Created})
	before := time.Now()
	at := jm.SetState(id, job.Running)
	if at.Before(before) || at.After(time.Now()) {
		t.Errorf("changed at %s", at)
	}
	if !jm.SetState(flinktest.NewID(), job.Running).IsZero() {
		t.Error("a job that is not there was changed")
	}
	jm.Remove(id)
	var got []string
	for _, c := range jm.Changes() {
		got = append(got, c.State.String())
	}
	if diff := cmp.Diff([]string{"CREATED", "RUNNING", "UNKNOWN"}, got); diff != "" {
		t.Error(diff)
	}
	if jm.Changes()[1].At != at {
		t.Error("the change and its moment differ")
	}
}

func TestHugeIsWellFormed(t *testing.T) {
	jm := flinktest.New(t)
	jm.Behave("", flinktest.Huge)
	resp, err := newClient(t).Get(jm.URL() + "/jobs/overview")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var head, tail bytes.Buffer
	if _, err := io.CopyN(&head, resp.Body, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, flinktest.HugeSize-2*4096); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(&tail, resp.Body); err != nil || n != 4096 {
		t.Fatalf("%d bytes left: %v", n, err)
	}
	// The first jobs and the last ones make an overview when the middle is cut out between two of them.
	first := head.Bytes()[:bytes.LastIndex(head.Bytes(), []byte(`,{"jid"`))+1]
	last := tail.Bytes()[bytes.Index(tail.Bytes(), []byte(`{"jid"`)):]
	if joined := append(slices.Clone(first), last...); !json.Valid(joined) {
		t.Errorf("not JSON: …%s", joined[max(len(joined)-500, 0):])
	}
}

// Benches ask for 10 000 jobs: the overview is written once, and again only after a change.
func TestTenThousandJobsAreQuick(t *testing.T) {
	jm := flinktest.New(t)
	for i := range 10_000 {
		jm.SetJob(flinktest.Job{ID: fmt.Sprintf("%032x", i), Name: "one of many", State: job.Running})
	}
	client := newClient(t)
	_, before := get(t, client, jm.URL()+"/jobs/overview")
	_, same := get(t, client, jm.URL()+"/jobs/overview")
	if !bytes.Equal(before, same) {
		t.Error("written anew without a change")
	}
	jm.SetState(fmt.Sprintf("%032x", 9_999), job.Failed)
	if _, after := get(t, client, jm.URL()+"/jobs/overview"); bytes.Equal(before, after) || !bytes.Contains(after, []byte(`"FAILED"`)) {
		t.Error("a change is not seen")
	}
}

// For the race detector.
func TestConcurrentUse(t *testing.T) {
	jm := flinktest.New(t)
	jm.SetJob(flinktest.Job{ID: id, State: job.Running})
	client := newClient(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 20 {
				switch i {
				case 0:
					jm.SetState(id, job.AllStates.List()[n%11])
				case 1:
					jm.Hide(id)
					jm.Show(id)
					jm.SetHA(n%2 == 0)
				case 2:
					jm.Restart(id)
				default:
					if resp, err := client.Get(jm.URL() + "/jobs/overview"); err == nil {
						resp.Body.Close()
					}
				}
			}
		})
	}
	wg.Wait()
	jm.Close()
	jm.Close()
}
