package flinktest

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/job"
)

const jsonType = "application/json; charset=UTF-8"

// reply is one answer.
type reply struct {
	status int
	body   []byte
}

func (r reply) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", jsonType)
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Content-Length", strconv.Itoa(len(r.body)))
	w.WriteHeader(r.status)
	_, _ = w.Write(r.body)
}

func (jm *JobManager) serve(w http.ResponseWriter, q *http.Request) {
	jm.mu.Lock()
	jm.requests[q.URL.Path]++
	r, secure := jm.rule(q.URL.Path), jm.secure != nil
	jm.mu.Unlock()
	if secure && !overTLS(q) {
		redirect(w, q, jm.port())
		return
	}
	switch r.behaviour {
	case Fine:
		jm.answer(q).write(w)
	case Truncated, CutJSON, Trickle:
		jm.misbehave(w, q, r, jm.answer(q))
	default:
		jm.misbehave(w, q, r, reply{})
	}
}

// answer is what Flink would say.
func (jm *JobManager) answer(q *http.Request) reply {
	jm.mu.Lock()
	about := jm
	if jm.standby {
		about = jm.leader
	}
	jm.mu.Unlock()
	if about == nil {
		return noLeader()
	}
	switch path := strings.TrimPrefix(q.URL.Path, "/v1"); {
	case q.Method == http.MethodGet && path == "/config":
		return jm.config()
	case q.Method == http.MethodGet && path == "/jobmanager/config":
		return jm.ownConfig()
	case q.Method == http.MethodGet && path == "/jobs":
		return about.list()
	case q.Method == http.MethodGet && path == "/jobs/overview":
		return about.overviewReply()
	case q.Method == http.MethodGet && path == "/overview":
		return about.clusterOverview()
	case strings.HasPrefix(path, "/jobs/"):
		id, question, _ := strings.Cut(strings.TrimPrefix(path, "/jobs/"), "/")
		return about.aboutJob(q, id, question)
	}
	return failed(http.StatusNotFound, "Not found: "+q.URL.Path)
}

func (jm *JobManager) aboutJob(q *http.Request, id, question string) reply {
	if !isID(id) {
		return failed(http.StatusBadRequest, "Bad request, could not parse parameters: "+
			"Cannot resolve path parameter (jobid) from value \""+id+"\".")
	}
	if q.Method == http.MethodPatch && question == "" {
		return jm.cancel(id)
	}
	if q.Method != http.MethodGet {
		return failed(http.StatusNotFound, "Not found: "+q.URL.Path)
	}
	jm.mu.Lock()
	defer jm.mu.Unlock()
	e, known := jm.jobs[id]
	switch {
	case question == "status" && !known:
		return internalError(notFound(id))
	case question == "status":
		return ok(map[string]string{"status": e.State.String()})
	case !known && (question == "" || question == "exceptions"):
		return failed(http.StatusNotFound, "org.apache.flink.runtime.rest.NotFoundException: Job "+id+" not found\n"+
			"\tat org.apache.flink.runtime.rest.handler.job.AbstractExecutionGraphHandler.lambda$handleRequest$1(AbstractExecutionGraphHandler.java:99)\n"+
			"\tat java.base/java.util.concurrent.CompletableFuture.uniExceptionally(Unknown Source)\n"+
			"Caused by: java.util.concurrent.CompletionException: "+notFound(id)+"\n\t... 2 more\n")
	case question == "":
		return reply{200, e.detailJSON(jm.version, time.Now())}
	case question == "exceptions":
		return reply{200, e.exceptionsJSON(jm.version)}
	}
	return failed(http.StatusNotFound, "Not found: "+q.URL.Path)
}

func (jm *JobManager) cancel(id string) reply {
	jm.mu.Lock()
	e, known := jm.jobs[id]
	terminal := known && e.State.Terminal()
	jm.mu.Unlock()
	switch {
	case !known:
		return failed(http.StatusNotFound, "org.apache.flink.runtime.rest.handler.RestHandlerException: Job could not be found.\n"+
			"\tat org.apache.flink.runtime.rest.handler.job.JobCancellationHandler.lambda$handleRequest$0(JobCancellationHandler.java:114)\n"+
			"Caused by: "+notFound(id)+"\n")
	case terminal:
		return failed(http.StatusConflict, "org.apache.flink.runtime.rest.handler.RestHandlerException: "+
			"Job cancellation failed because the job has already reached another terminal state.\n")
	}
	jm.SetState(id, job.Canceled)
	return reply{http.StatusAccepted, []byte("{}")}
}

func (jm *JobManager) list() reply {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	type one struct {
		ID     string `json:"id"`
		Status string `json:"status"`
	}
	jobs := []one{}
	for _, id := range jm.order {
		if e := jm.jobs[id]; !e.hidden {
			jobs = append(jobs, one{id, e.State.String()})
		}
	}
	return ok(map[string]any{"jobs": jobs})
}

func (jm *JobManager) overviewReply() reply {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	if jm.overview == nil {
		jm.overview = jm.renderOverview(time.Now())
	}
	return reply{200, jm.overview}
}

func (jm *JobManager) clusterOverview() reply {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	count := map[string]any{
		"taskmanagers": 1, "slots-total": 4, "slots-available": 2, "flink-version": jm.version.text, "flink-commit": "0000000",
	}
	var running, finished, canceled, failed int
	for _, e := range jm.jobs {
		switch e.State {
		case job.Finished:
			finished++
		case job.Canceled:
			canceled++
		case job.Failed:
			failed++
		default:
			running++
		}
	}
	count["jobs-running"], count["jobs-finished"], count["jobs-cancelled"], count["jobs-failed"] = running, finished, canceled, failed
	return ok(count)
}

func (jm *JobManager) config() reply {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	return ok(map[string]any{
		"refresh-interval": 3000, "timezone-name": "Coordinated Universal Time", "timezone-offset": 0,
		"flink-version": jm.version.text, "flink-revision": "0000000 @ 2026-01-01T00:00:00+0000",
		"features": map[string]bool{"web-submit": true, "web-cancel": true, "web-rescale": true, "web-history": false},
	})
}

func (jm *JobManager) port() string {
	_, port := jm.HostPort()
	return strconv.Itoa(port)
}

// redirect is RedirectingSslHandler.java's: to the advertised host, which need not be the one that was asked.
func redirect(w http.ResponseWriter, q *http.Request, port string) {
	w.Header().Set("Location", "https://jobmanager.invalid:"+port+q.URL.RequestURI())
	w.WriteHeader(http.StatusMovedPermanently)
}

func noLeader() reply {
	return failed(http.StatusServiceUnavailable,
		"Service temporarily unavailable due to an ongoing leader election. Please refresh.")
}

// internalError is the 500 of AbstractHandler.java.
func internalError(exception string) reply {
	return failed(http.StatusInternalServerError, "Internal server error.", "<Exception on server side:\n"+exception+
		"\n\tat java.base/java.util.concurrent.CompletableFuture.postComplete(Unknown Source)\n\nEnd of exception on server side>")
}

func notFound(id string) string {
	return "org.apache.flink.runtime.messages.FlinkJobNotFoundException: Could not find Flink job (" + id + ")\n" +
		"\tat org.apache.flink.runtime.dispatcher.Dispatcher.getJobMasterGateway(Dispatcher.java:1512)"
}

func failed(status int, texts ...string) reply {
	r := ok(map[string][]string{"errors": texts})
	r.status = status
	return r
}

func ok(v any) reply {
	body, err := json.Marshal(v)
	if err != nil {
		// Maps of strings and numbers always marshal.
		return reply{http.StatusInternalServerError, nil}
	}
	return reply{http.StatusOK, body}
}

func isID(id string) bool {
	return len(id) == 32 && strings.Trim(id, "0123456789abcdef") == ""
}
