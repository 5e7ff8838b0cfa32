package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/aggregator/api"
	"github.com/holdfast-dev/holdfast/job"
)

// stream is the script of a watch: a list, two changes, and on the next connection a job as it was before.
func stream(w http.ResponseWriter, q *http.Request, stop func()) {
	all := jobs()
	put := func(j api.Job, version string) api.Event { return api.Event{Type: "put", Version: version, Object: &j} }
	var events []api.Event
	switch q.URL.Query().Get("version") {
	case "":
		events = []api.Event{put(all[0], ""), put(all[1], ""), put(all[4], ""), {Type: "bookmark", Version: "1.10"}}
		held := all[1]
		held.Certainty, held.Reason, held.Version = job.Held, job.AgentSilent, "1.11"
		held.Message = "the agent has been silent for 31s; Flink said RUNNING before that"
		events = append(events, put(held, "1.11"), api.Event{Type: "delete", Version: "1.12", Object: &all[0]})
	case "1.12":
		events = []api.Event{put(all[4], ""), {Type: "bookmark", Version: "1.13"}} // the same version again is no change
	default:
		stop()
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	for _, e := range events {
		_ = json.NewEncoder(w).Encode(e)
	}
}

func runWatch(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := scripted(t)
	list := s.answers["/api/v1/jobs"]
	s.on("/api/v1/jobs", func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Query().Get("watch") == "" {
			list(w, q)
			return
		}
		stream(w, q, cancel)
	})
	var stdout, stderr bytes.Buffer
	code = newProgram(&stdout, &stderr, map[string]string{"HOLDFAST_SERVER": s.URL}).run(ctx, args)
	for _, asked := range s.asked() {
		if strings.Contains(asked, "pipeline=orders") && strings.Contains(asked, "cluster=orders") {
			stdout.WriteString("(of the pipeline)\n")
			break
		}
	}
	return code, stdout.String(), stderr.String()
}

func TestWatch(t *testing.T) {
	for file, args := range map[string][]string{
		"watch.txt": {"watch"}, "watch-wide.txt": {"get", "--watch", "-o", "wide"},
	} {
		code, out, errs := runWatch(t, args...)
		if code != 0 || errs != "" {
			t.Errorf("%v: exit code %d, said %q", args, code, errs)
		}
		golden(t, file, out)
	}
}

func TestWatchAsJSON(t *testing.T) {
	code, out, errs := runWatch(t, "watch", "-o", "json")
	if code != 0 || errs != "" {
		t.Errorf("exit code %d, said %q", code, errs)
	}
	var kinds []string
	for line := range strings.SplitSeq(strings.TrimSpace(out), "\n") {
		var e api.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		kinds = append(kinds, e.Type)
	}
	if got, want := strings.Join(kinds, " "), "put put put bookmark put delete put bookmark"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	if _, out, _ := runWatch(t, "watch", "-o", "yaml"); strings.Count(out, "---\n") != 8 {
		t.Errorf("as YAML:\n%s", out)
	}
}

// The next job of a pipeline has another id, so a job that is named by its pipeline is watched by it.
func TestWatchFollowsThePipeline(t *testing.T) {
	if code, out, errs := runWatch(t, "watch", "orders"); code != 0 || !strings.Contains(out, "(of the pipeline)") {
		t.Errorf("exit code %d; the pipeline is not watched: %s%s", code, out, errs)
	}
}
