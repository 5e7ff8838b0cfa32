package flinktest

import (
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/job"
)

type version struct {
	major, minor int
	text         string
}

func parseVersion(text string) version {
	v := version{text: text}
	parts := strings.SplitN(text, ".", 3)
	v.major, _ = strconv.Atoi(parts[0])
	if len(parts) > 1 {
		v.minor, _ = strconv.Atoi(parts[1])
	}
	return v
}

func (v version) atLeast(major, minor int) bool {
	return v.major > major || v.major == major && v.minor >= minor
}

// renderOverview writes /jobs/overview (JobDetails.java). It is written by hand since benches ask for 10 000 jobs that
// change. The caller holds mu.
func (jm *JobManager) renderOverview(now time.Time) []byte {
	entries := make([]*entry, 0, len(jm.order))
	for _, id := range jm.order {
		if e := jm.jobs[id]; !e.hidden {
			entries = append(entries, e)
		}
	}
	if jm.version.atLeast(2, 1) {
		slices.SortStableFunc(entries, func(a, b *entry) int { return b.Start.Compare(a.Start) })
	}
	body := make([]byte, 0, 16+512*len(entries))
	body = append(body, `{"jobs":[`...)
	for i, e := range entries {
		if i > 0 {
			body = append(body, ',')
		}
		body = e.overviewJSON(body, jm.version, now)
	}
	return append(body, `]}`...)
}

func (e *entry) overviewJSON(b []byte, v version, now time.Time) []byte {
	tasks := e.tasks()
	member := func(name string, n int64) {
		b = append(append(b, name...), strconv.FormatInt(n, 10)...)
	}
	b = append(b, `{"jid":`...)
	b = appendString(b, e.ID)
	b = append(b, `,"name":`...)
	b = appendString(b, e.Name)
	member(`,"start-time":`, milli(e.Start))
	member(`,"end-time":`, e.end())
	member(`,"duration":`, e.duration(now))
	b = append(b, `,"state":`...)
	b = appendString(b, e.State.String())
	member(`,"last-modification":`, milli(e.Modified))
	member(`,"tasks":{"running":`, int64(tasks.Running))
	b = append(b, `,"canceling":0`...)
	member(`,"canceled":`, int64(tasks.Canceled))
	member(`,"total":`, int64(tasks.Total))
	b = append(b, `,"created":0,"scheduled":0,"deploying":0,"reconciling":0`...)
	member(`,"finished":`, int64(tasks.Finished))
	member(`,"initializing":`, int64(e.waiting(tasks)))
	member(`,"failed":`, int64(tasks.Failed))
	b = append(b, '}')
	if v.atLeast(2, 0) {
		b = append(b, `,"pending-operators":0`...)
	}
	if v.atLeast(2, 3) {
		b = append(b, `,"jobType":"STREAMING","schedulerType":"Default"`...)
	}
	return append(b, '}')
}

// detailJSON writes /jobs/ID (JobDetailsInfo.java).
func (e *entry) detailJSON(v version, now time.Time) []byte {
	tasks := e.tasks()
	timestamps := map[string]int64{}
	for _, s := range job.AllStates.List() {
		timestamps[s.String()] = 0
	}
	timestamps["INITIALIZING"], timestamps[e.State.String()] = milli(e.Start), milli(e.Modified)
	subtasks := map[string]int{
		"CREATED": 0, "SCHEDULED": 0, "DEPLOYING": 0, "INITIALIZING": e.waiting(tasks), "RUNNING": tasks.Running,
		"FINISHED": tasks.Finished, "CANCELING": 0, "CANCELED": tasks.Canceled, "FAILED": tasks.Failed, "RECONCILING": 0,
	}
	vertex := map[string]any{
		"id": "cbc357ccb763df2852fee8c4fc7d55f2", "name": "Source: in -> out", "maxParallelism": 128,
		"parallelism": tasks.Total, "status": "RUNNING", "start-time": milli(e.Start), "end-time": -1,
		"duration": e.duration(now), "tasks": subtasks, "metrics": map[string]any{"read-bytes": 0, "read-bytes-complete": true},
	}
	detail := map[string]any{
		"jid": e.ID, "name": e.Name, "isStoppable": false, "state": e.State.String(), "start-time": milli(e.Start),
		"end-time": e.end(), "duration": e.duration(now), "maxParallelism": -1, "now": milli(now), "timestamps": timestamps,
		"vertices":      []any{vertex},
		"status-counts": map[string]int{"CREATED": 0, "RUNNING": 1, "FINISHED": 0},
		"plan":          map[string]any{"jid": e.ID, "name": e.Name, "type": "STREAMING", "nodes": []any{}},
	}
	if v.atLeast(1, 20) {
		detail["job-type"] = "STREAMING"
		vertex["slotSharingGroupId"] = "a2f51a9b1a3ee7c8ea9ea6c8a5e9f8e1"
	}
	if v.atLeast(2, 0) {
		detail["pending-operators"], detail["stream-graph"] = 0, nil
	}
	if v.atLeast(2, 3) {
		detail["schedulerType"], detail["application-id"] = "Default", nil
	}
	return ok(detail).body
}

// exceptionsJSON writes /jobs/ID/exceptions (JobExceptionsInfoWithHistory.java); 2.0 dropped the older half of it.
func (e *entry) exceptionsJSON(v version) []byte {
	entries := []any{}
	if e.Stack != "" {
		class, _, _ := strings.Cut(e.Stack, ":")
		failure := map[string]any{
			"exceptionName": class, "stacktrace": e.Stack, "timestamp": milli(e.Modified), "taskName": nil, "endpoint": nil,
			"taskManagerId": nil, "failureLabels": map[string]string{}, "concurrentExceptions": []any{},
		}
		if !v.atLeast(2, 0) {
			failure["location"] = nil
		}
		entries = append(entries, failure)
	}
	body := map[string]any{"exceptionHistory": map[string]any{"entries": entries, "truncated": false}}
	if !v.atLeast(2, 0) {
		body["all-exceptions"], body["truncated"] = []any{}, false
		if e.Stack != "" {
			body["root-exception"], body["timestamp"] = e.Stack, milli(e.Modified)
		}
	}
	return ok(body).body
}

// ownConfig writes /jobmanager/config (ConfigurationInfo.java).
func (jm *JobManager) ownConfig() reply {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	host, port, err := net.SplitHostPort(jm.address)
	if err != nil {
		return failed(http.StatusInternalServerError, err.Error())
	}
	settings := map[string]string{
		"web.tmpdir":             "/tmp/flink-web-" + jm.incarnation,
		"jobmanager.rpc.address": host,
		"jobmanager.rpc.port":    "6123",
		"rest.port":              port,
		"s3.secret-key":          "******",
	}
	maps.Copy(settings, jm.settings)
	list := []map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		list = append(list, map[string]string{"key": key, "value": settings[key]})
	}
	return ok(list)
}

// tasks gives one task that goes with the state, where the test gave none.
func (e *entry) tasks() job.Tasks {
	if e.Tasks != (job.Tasks{}) {
		return e.Tasks
	}
	switch e.State {
	case job.Running:
		return job.Tasks{Total: 1, Running: 1}
	case job.Finished:
		return job.Tasks{Total: 1, Finished: 1}
	case job.Failed:
		return job.Tasks{Total: 1, Failed: 1}
	case job.Canceled:
		return job.Tasks{Total: 1, Canceled: 1}
	}
	return job.Tasks{Total: 1}
}

// waiting are the tasks that are in no other state.
func (e *entry) waiting(t job.Tasks) int {
	return max(t.Total-t.Running-t.Finished-t.Failed-t.Canceled, 0)
}

func (e *entry) end() int64 {
	if e.End.IsZero() {
		return -1
	}
	return milli(e.End)
}

func (e *entry) duration(now time.Time) int64 {
	if !e.End.IsZero() {
		now = e.End
	}
	return max(now.Sub(e.Start).Milliseconds(), 0)
}

func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil {
				return append(b, `""`...) // strings always marshal
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
