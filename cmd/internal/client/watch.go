package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"
)

// Kinds of events.
const (
	Put      = "put"
	Delete   = "delete"
	Bookmark = "bookmark"
	gone     = "gone"
)

// Event is one change, as the API tells it.
type Event struct {
	Type    string   `json:"type"`
	Version string   `json:"version"`
	Object  *Job     `json:"object"`
	Problem *Problem `json:"problem"`

	// Raw is the line as it came, without its end.
	Raw json.RawMessage `json:"-"`
}

// WatchOptions say what to watch and whom to tell.
type WatchOptions struct {
	// Filter has the API's own parameters.
	Filter url.Values
	// Job is watched alone, with its evidence, if it is not nil.
	Job *Job
	// OnEvent gets every event. An error ends the watch.
	OnEvent func(Event) error
	// OnLost is told why the connection was lost, OnFound that there is one again. Both may be nil.
	OnLost  func(error)
	OnFound func()

	// Connect bounds how long the server may take to begin an answer.
	Connect time.Duration
	// Silence is how long a connection may bring nothing, not even the bookmark that the server sends each 10 s, before it counts as
	// lost. 0 means 35 s.
	Silence time.Duration
	// Wait is the first wait before connecting again; each further one is twice as long, up to 20 times. 0 means 500 ms.
	Wait time.Duration
}

// Watch tells of all jobs first, and then of changes as they come, until ctx ends; then it returns nil. When the connection
// is lost it goes on from the last version. When the server cannot go on from there it tells of all jobs anew, and of a Delete
// for each that is no longer there. The first connection must come about; its error is returned, as is any
// refusal that time does not heal.
func (c *Client) Watch(ctx context.Context, o WatchOptions) error {
	if o.Silence == 0 {
		o.Silence = 35 * time.Second
	}
	if o.Wait == 0 {
		o.Wait = 500 * time.Millisecond
	}
	w := &watch{client: c, o: o, known: map[string]*Job{}}
	connected, wait := false, o.Wait
	for {
		began, err := w.connect(ctx)
		var p *Problem
		refused := errors.As(err, &p)
		switch {
		case ctx.Err() != nil:
			return nil
		case w.ended != nil:
			return w.ended
		case refused && p.Gone():
			w.version = ""
		case refused && !p.passing(), !connected && !began && !refused:
			return err
		case err != nil && !w.lost:
			w.lost = true
			if o.OnLost != nil {
				o.OnLost(err)
			}
		}
		if began {
			connected, wait = true, o.Wait
		}
		pause := wait/2 + rand.N(wait)
		if refused {
			pause = max(pause, p.retryAfter)
		}
		if !sleep(ctx, pause) {
			return nil
		}
		wait = min(wait*2, 20*o.Wait)
	}
}

type watch struct {
	client *Client
	o      WatchOptions
	// version is where to go on from; "" begins with all jobs.
	version string
	// known are the jobs that OnEvent was told of.
	known map[string]*Job
	// listed are the jobs of a beginning, until its end; nil while there is none.
	listed map[string]bool
	// lost: OnLost was told, and OnFound not yet.
	lost bool
	// ended is the error of OnEvent.
	ended error
}

// connect watches over one connection. It says whether the server began to answer. nil is the server's orderly end.
func (w *watch) connect(ctx context.Context) (began bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(w.o.Connect, func() { cancel(errConnect) })
	defer patience.Stop()

	path, query := "/api/v1/jobs", copied(w.o.Filter)
	if j := w.o.Job; j != nil {
		path += "/" + url.PathEscape(j.Site) + "/" + url.PathEscape(j.Namespace) + "/" + url.PathEscape(j.Cluster) + "/" + url.PathEscape(j.JobID)
	}
	query.Set("watch", "true")
	if w.version == "" {
		w.listed = map[string]bool{}
	} else {
		query.Set("version", w.version)
	}
	resp, err := w.client.open(ctx, path, query)
	if err != nil {
		return false, reason(ctx, err)
	}
	patience.Stop()
	defer resp.Body.Close()
	if !is(resp, "application/x-ndjson") {
		return false, w.client.foreign(resp)
	}
	if w.lost && w.o.OnFound != nil {
		w.o.OnFound()
	}
	w.lost = false
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, lineLimit)
	silence := time.AfterFunc(w.o.Silence, func() { cancel(errSilence) })
	defer silence.Stop()
	for ; lines.Scan(); silence.Reset(w.o.Silence) {
		if err := w.take(lines.Bytes()); err != nil {
			return true, err
		}
	}
	err = lines.Err()
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the server broke the connection off")
	}
	return true, reason(ctx, err)
}

var (
	errConnect = fmt.Errorf("%w: the server gave no answer in time: try again, or allow more with --timeout", ErrUnreachable)
	errSilence = errors.New("nothing came over the connection, although the server sends something each 10 s")
)

// reason is the cause of an error, where we ended the connection ourselves.
func reason(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && (errors.Is(cause, errConnect) || errors.Is(cause, errSilence)) {
		return cause
	}
	return err
}

// take takes one line.
func (w *watch) take(line []byte) error {
	e := Event{Raw: append(json.RawMessage(nil), line...)}
	if len(line) == 0 {
		return nil
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("a line of the watch cannot be read: %w", err)
	}
	if e.Type == gone {
		if e.Problem == nil {
			e.Problem = &Problem{}
		}
		e.Problem.Status = http.StatusGone
		return e.Problem
	}
	if e.Object != nil {
		if e.Type == Delete {
			delete(w.known, e.Object.Path())
		} else {
			w.known[e.Object.Path()] = e.Object
			if w.listed != nil {
				w.listed[e.Object.Path()] = true
			}
		}
	}
	if e.Type == Bookmark && w.listed != nil {
		if err := w.sweep(); err != nil {
			return err
		}
	}
	if err := w.tell(e); err != nil {
		return err
	}
	if e.Version != "" {
		w.version = e.Version
	}
	return nil
}

// sweep tells of the jobs that were known and did not come again in a beginning, and ends the beginning.
func (w *watch) sweep() error {
	for path, j := range w.known {
		if w.listed[path] {
			continue
		}
		delete(w.known, path)
		raw, err := json.Marshal(struct {
			Type   string `json:"type"`
			Object *Job   `json:"object"`
		}{Delete, j})
		if err != nil {
			return err
		}
		if err := w.tell(Event{Type: Delete, Object: j, Raw: raw}); err != nil {
			return err
		}
	}
	w.listed = nil
	return nil
}

func (w *watch) tell(e Event) error {
	if w.ended = w.o.OnEvent(e); w.ended != nil {
		return w.ended
	}
	return nil
}
