package flinkproc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/job"
)

// ErrNoJob is Flink's word that it does not know a job.
var ErrNoJob = errors.New("no such job, says Flink")

// A question is bounded, because a paused JobManager takes connections and never answers, and it is asked again. A command is
// not given twice, and on a busy machine the first job of a JobManager takes long to submit: its classes are loaded for it.
const (
	questionTimeout = 3 * time.Second
	commandTimeout  = 30 * time.Second
)

// JobInfo is one entry of Flink's /jobs/overview.
type JobInfo struct {
	ID    string    `json:"jid"`
	Name  string    `json:"name"`
	State job.State `json:"state"`
	// StartTime and EndTime are Flink's, in milliseconds of Unix time. EndTime is -1 unless State is terminal.
	StartTime int64     `json:"start-time"`
	EndTime   int64     `json:"end-time"`
	Tasks     job.Tasks `json:"tasks"`
}

// REST is the REST address of one JobManager. A Flink that runs elsewhere is asked through it, too.
type REST struct {
	url    string
	client *http.Client
}

// NewREST gives the REST address at a URL. The client may be nil.
func NewREST(url string, client *http.Client) *REST {
	if client == nil {
		client = restClient
	}
	return &REST{strings.TrimSuffix(url, "/"), client}
}

// Jobs, Job, State, Cancel, WaitState and WaitRunning are those of Cluster, asked of this JobManager alone.
func (r *REST) Jobs(ctx context.Context) ([]JobInfo, error) { return jobs(ctx, r) }

func (r *REST) Job(ctx context.Context, id string) (JobInfo, error) { return jobByID(ctx, r, id) }

func (r *REST) State(ctx context.Context, id string) (job.State, error) { return state(ctx, r, id) }

func (r *REST) Cancel(ctx context.Context, id string) error { return cancel(ctx, r, id) }

func (r *REST) WaitState(ctx context.Context, id string, want job.State) error {
	return waitState(ctx, r, id, want)
}

func (r *REST) WaitRunning(ctx context.Context, id string) error { return waitRunning(ctx, r, id) }

// Entered is when a job last came to a state, by the JobManager's clock, to the millisecond.
func (r *REST) Entered(ctx context.Context, id string, state job.State) (time.Time, error) {
	var details struct {
		Timestamps map[string]int64 `json:"timestamps"` // 0 if it never did
	}
	if err := r.ask(ctx, http.MethodGet, "/jobs/"+id, nil, &details); err != nil {
		return time.Time{}, err
	}
	at := details.Timestamps[state.String()]
	if at == 0 {
		return time.Time{}, fmt.Errorf("job %s never was %s, says Flink: %v", id, state, details.Timestamps)
	}
	return time.UnixMilli(at), nil
}

// Submit starts a job of the given distribution's jar and gives its id. It takes jobs with one source: Flink allows a program
// that comes over REST no second one.
func (r *REST) Submit(ctx context.Context, dist *Dist, spec Job) (id string, err error) {
	if len(spec.Sources) != 1 {
		return "", fmt.Errorf("submit a job: it has %d sources, not 1", len(spec.Sources))
	}
	jar, err := r.upload(ctx, dist.JobJar)
	if err != nil {
		return "", fmt.Errorf("upload the job's jar: %w", err)
	}
	request, err := json.Marshal(map[string]any{"entryClass": JobClass, "programArgsList": spec.Args()})
	if err != nil {
		return "", err
	}
	var answer struct {
		JobID string `json:"jobid"`
	}
	body := &payload{"application/json", request}
	if err := r.ask(ctx, http.MethodPost, "/jars/"+jar+"/run", body, &answer); err != nil {
		return "", fmt.Errorf("submit a job: %w", err)
	}
	return answer.JobID, nil
}

// asker is a JobManager, or several of which one is asked.
type asker interface {
	// ask puts a question and decodes the answer into answer, unless that is nil. The error is a *refusal if it came but was
	// not a success.
	ask(ctx context.Context, method, path string, body *payload, answer any) error
}

// Jobs asks Flink for all the jobs that it knows.
func (c *Cluster) Jobs(ctx context.Context) ([]JobInfo, error) { return jobs(ctx, c) }

// Job asks Flink for one job. The error is ErrNoJob if it is not among those that Flink knows.
func (c *Cluster) Job(ctx context.Context, id string) (JobInfo, error) { return jobByID(ctx, c, id) }

// State asks Flink for the state of one job. The error is ErrNoJob if Flink says that it does not know it, and any other if
// there is no answer.
func (c *Cluster) State(ctx context.Context, id string) (job.State, error) { return state(ctx, c, id) }

// Cancel tells Flink to cancel a job. That it is accepted does not mean that the job is CANCELED yet.
func (c *Cluster) Cancel(ctx context.Context, id string) error { return cancel(ctx, c, id) }

func jobs(ctx context.Context, flink asker) ([]JobInfo, error) {
	var overview struct {
		Jobs []JobInfo `json:"jobs"`
	}
	err := flink.ask(ctx, http.MethodGet, "/jobs/overview", nil, &overview)
	return overview.Jobs, err
}

func jobByID(ctx context.Context, flink asker, id string) (JobInfo, error) {
	jobs, err := jobs(ctx, flink)
	if err != nil {
		return JobInfo{}, err
	}
	for _, info := range jobs {
		if info.ID == id {
			return info, nil
		}
	}
	return JobInfo{}, fmt.Errorf("job %s: %w", id, ErrNoJob)
}

func state(ctx context.Context, flink asker, id string) (job.State, error) {
	var status struct {
		Status job.State `json:"status"`
	}
	err := flink.ask(ctx, http.MethodGet, "/jobs/"+id+"/status", nil, &status)
	// Flink says so with a 500 (JobStatusHandler does not map FlinkJobNotFoundException).
	if refused := (*refusal)(nil); errors.As(err, &refused) && strings.Contains(refused.body, "Could not find Flink job") {
		return job.Unknown, fmt.Errorf("job %s: %w", id, ErrNoJob)
	}
	return status.Status, err
}

func cancel(ctx context.Context, flink asker, id string) error {
	return flink.ask(ctx, http.MethodPatch, "/jobs/"+id+"?mode=cancel", nil, nil)
}

// Submit starts a job in a session cluster, at the JobManager that leads, and gives its id: see REST.Submit.
func (c *Cluster) Submit(ctx context.Context, spec Job) (id string, err error) {
	// Uploaded each time: a JobManager forgets its jars when it ends. And to the one that is then asked to run it: a jar
	// is a file of the JobManager that took it.
	jobManager, err := c.Leader(ctx)
	if err != nil {
		return "", fmt.Errorf("submit a job: %w", err)
	}
	return jobManager.rest.Submit(ctx, c.dist, spec)
}

func (r *REST) upload(ctx context.Context, file string) (id string, err error) {
	jar, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var form bytes.Buffer
	writer := multipart.NewWriter(&form)
	part, err := writer.CreateFormFile("jarfile", "job.jar")
	if err != nil {
		return "", err
	}
	part.Write(jar) // to memory, as is what Close writes
	writer.Close()
	var answer struct {
		Filename string `json:"filename"`
	}
	err = r.ask(ctx, http.MethodPost, "/jars/upload", &payload{writer.FormDataContentType(), form.Bytes()}, &answer)
	return answer.Filename[strings.LastIndexByte(answer.Filename, '/')+1:], err
}

// payload is the body of a request.
type payload struct {
	contentType string
	content     []byte
}

// refusal is an answer of Flink that is not a success.
type refusal struct {
	status int
	body   string
}

func (r *refusal) Error() string {
	body := r.body
	if len(body) > 300 {
		body = body[:300] + "…"
	}
	return fmt.Sprintf("HTTP %d: %s", r.status, body)
}

// ask puts a question to the first JobManager that answers it, whatever the answer is.
func (c *Cluster) ask(ctx context.Context, method, path string, body *payload, answer any) error {
	err := error(ErrNotRunning)
	for _, jobManager := range c.jobManagers {
		if !jobManager.Running() {
			continue
		}
		err = jobManager.rest.ask(ctx, method, path, body, answer)
		if refused := (*refusal)(nil); err == nil || errors.As(err, &refused) {
			return err
		}
	}
	return err
}

func (r *REST) ask(ctx context.Context, method, path string, body *payload, answer any) error {
	timeout := questionTimeout
	if method != http.MethodGet {
		timeout = commandTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body.content)
	}
	request, err := http.NewRequestWithContext(ctx, method, r.url+path, content)
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", body.contentType)
	}
	response, err := r.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return &refusal{response.StatusCode, string(text)}
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("read the answer to %s %s: %w", method, path, err)
	}
	return nil
}

// Connections are not kept: processes are killed and started anew on the same port.
var restClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
