package api

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/holdfast-dev/holdfast/aggregator/board"
)

// A watch keeps a client's copy of a list the same as the list. What holds at every moment: the client has been shown
// all changes before position, lowered by S13 as shown says. Weakening is not a change of the store, so it is in no
// ring: when it comes or goes, the jobs that it concerns are shown anew, between two bookmarks. Versions that were given out
// while it held are marked, so that a watch that goes on from one of them, here or on another server, shows
// those jobs anew as well.
type watch struct {
	server   *Server
	stream   *stream
	filter   filter
	evidence bool

	// position is up to where the ring has been read.
	position uint64
	// epoch is the one in which the watch began: it cannot outlive it.
	epoch int64
	shown board.Weakness
	// unsure says that the client may have been shown any job lowered or not.
	unsure bool
}

// errGone ends a watch that cannot go on.
var errGone = errors.New("the watch cannot go on")

// watchJob begins the watch of one job.
func (s *Server) watchJob(r *request) *Problem {
	f := filter{path: r.key().String()}
	if j := r.view.Get(f.path); j == nil && !r.resumes() {
		return r.noJob()
	}
	return s.beginWatch(r, f, true)
}

// watchJobs begins the watch of all jobs that pass a filter.
func (s *Server) watchJobs(r *request, f filter) *Problem {
	for _, p := range pageParameters {
		if r.query.has(p.name) {
			return badParameter("%s is not for a watch: leave it out", p.name)
		}
	}
	return s.beginWatch(r, f, false)
}

// lastEventID is where a browser says up to where it has read a stream of server-sent events. It counts more than the
// version in the address, which stays what it was when the stream began.
const lastEventID = "Last-Event-ID"

func (r *request) resumes() bool {
	return r.query.has("version") || len(r.ctx.Request.Header.Peek(lastEventID)) > 0
}

func (s *Server) beginWatch(r *request, f filter, evidence bool) *Problem {
	w := &watch{server: s, filter: f, evidence: evidence}
	resumes := r.resumes()
	if resumes {
		if p := w.resume(r); p != nil {
			return p
		}
	}
	if r.ctx.IsHead() {
		r.ctx.SetContentType(streamType(wantsEvents(r.ctx)))
		return nil
	}
	if !s.watchers.enter() {
		p := problem(fasthttp.StatusServiceUnavailable, kindBusy, "There are too many watchers",
			"this server has %d watchers, which is its limit: try again later, or another replica", s.o.MaxWatchers)
		p.retryAfter = 10
		return p
	}
	w.stream = newStream(s, r.ctx)
	// A hijacked connection has one goroutine, which writes with its own deadlines; fasthttp's streams copy through a pipe,
	// under one deadline for all of it.
	r.ctx.HijackSetNoResponse(true)
	r.ctx.Hijack(func(conn net.Conn) {
		defer s.watchers.leave(conn)
		s.watchers.note(conn)
		w.serve(conn, resumes)
	})
	return nil
}

// resume goes on from the version that the client names.
func (w *watch) resume(r *request) *Problem {
	asked := string(r.ctx.Request.Header.Peek(lastEventID))
	if asked == "" {
		asked = r.query.word("version")
	}
	v, err := board.ParseVersion(asked)
	if err != nil {
		return badParameter("version %q is none: %v; take it from a list or from an event, or leave it out to begin with all jobs", shorten(asked), err)
	}
	w.unsure, w.epoch = v.Lowered, v.Epoch
	w.position, err = w.server.o.Board.Resume(v)
	if errors.Is(err, board.ErrTooOld) && w.filter.path != "" {
		// Nothing is missed of a job that has not changed since, however long ago that was.
		if j := r.view.Get(w.filter.path); j != nil && j.Revision() <= v.Revision {
			w.position, err = r.view.Position(), nil
		}
	}
	if err != nil {
		return versionGone("nothing can be sent from version %s on: %v; begin again without version, or with that of a new list", v, err)
	}
	return nil
}

// serve runs the watch until the client, the server or the time ends it.
func (w *watch) serve(conn net.Conn, resumes bool) {
	s := w.server
	defer func() {
		if cause := recover(); cause != nil {
			s.o.Log.Error("a watch ended in a panic", "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
		}
	}()
	end := time.NewTimer(s.o.MaxWatch)
	defer end.Stop()
	w.stream.open(conn, time.Now().Add(s.o.MaxWatch))
	defer w.stream.close()

	if err := w.run(end.C, resumes); err != nil {
		s.o.Log.Debug("a watch was cut off", "client", conn.RemoteAddr().String(), "error", err)
	}
}

func (w *watch) run(end <-chan time.Time, resumes bool) error {
	b := w.server.o.Board
	view := b.Snapshot().At(b.Now())
	if w.unsure || !resumes {
		w.shown = view.Weakness()
	}
	if !resumes {
		w.position, w.epoch = view.Position(), view.Snapshot.Version().Epoch
		if err := w.showAll(&view); err != nil {
			return err
		}
	}
	bookmark := time.NewTicker(w.server.o.Bookmark)
	defer bookmark.Stop()
	for {
		if err := w.catchUp(&view); err != nil {
			return w.give(err)
		}
		if err := w.stream.flush(); err != nil {
			return err
		}
		sent := time.Now()
		weakens := w.alarm(&view)
		select {
		case <-view.Changed():
			// One change goes out at once. Of a storm of them a client gets many at a time, and all the watchers together cost
			// no more than they must.
			time.Sleep(time.Until(sent.Add(pace)))
		case <-weakens:
		case <-bookmark.C:
			w.bookmark(&view)
		case <-end:
			return w.finish(&view)
		case <-w.server.ctx.Done():
			return w.finish(&view)
		case <-w.stream.gone:
			return nil
		}
		view = b.Snapshot().At(b.Now())
	}
}

// pace is the least time between two writes of changes. It is far below what a change takes to be seen by an agent.
const pace = 10 * time.Millisecond

// alarm fires when the passing of time alone changes what is to be shown.
func (w *watch) alarm(view *board.View) <-chan time.Time {
	if at := view.WeakensAt(view.Now()); !at.IsZero() {
		return time.After(at.Sub(view.Now()))
	}
	return nil
}

// finish ends a watch in order.
func (w *watch) finish(view *board.View) error {
	w.bookmark(view)
	return w.stream.flush()
}

// give tells the client why the watch cannot go on, if that is what the error says.
func (w *watch) give(err error) error {
	if !errors.Is(err, errGone) {
		return err
	}
	p := versionGone("the watch cannot go on: %v; begin again without version", err)
	w.stream.begin("gone", noVersion)
	w.stream.body = appendJSON(append(w.stream.body, `,"problem":`...), p)
	w.stream.end()
	return w.stream.flush()
}

// version is what the client may go on from after having seen everything up to a revision.
func (w *watch) version(revision int64) board.Version {
	return board.Version{Epoch: w.epoch, Revision: revision, Lowered: w.unsure || w.shown.Holds()}
}

// noVersion marks an event that is no place to go on from.
var noVersion board.Version

// bookmark says that the client has seen everything up to the view.
func (w *watch) bookmark(view *board.View) {
	w.stream.begin("bookmark", w.version(view.Snapshot.Version().Revision))
	w.stream.end()
}

// show sends one job, as it is or as it was last.
func (w *watch) show(kind string, version board.Version, view *board.View, j *board.Job) error {
	w.stream.begin(kind, version)
	w.stream.body = view.AppendJob(append(w.stream.body, `,"object":`...), j, w.evidence)
	w.stream.end()
	if w.stream.full() {
		return w.stream.flush()
	}
	return nil
}

// showAll sends all jobs, as a client without any needs them.
func (w *watch) showAll(view *board.View) (err error) {
	w.filter.each(view, "", func(j *board.Job) bool {
		err = w.show("put", noVersion, view, j)
		return err == nil
	})
	w.bookmark(view)
	return err
}

// changesAtOnce is how many changes are taken out of the ring at a time.
const changesAtOnce = 64

// catchUp sends what has changed up to the view.
func (w *watch) catchUp(view *board.View) error {
	// Whatever has changed is shown as everything else has been, and then all of it is lowered or raised together.
	as := view.Under(w.shown)
	var changes [changesAtOnce]board.Change
	for w.position < view.Position() {
		n, err := w.server.o.Board.Changes(w.position, view.Position(), changes[:])
		if err != nil {
			return fmt.Errorf("%w: %w", errGone, err)
		}
		for i := range changes[:n] {
			if err := w.showChange(&as, &changes[i]); err != nil {
				return err
			}
		}
		w.position += uint64(n)
	}
	if w.unsure || w.shown != view.Weakness() {
		return w.showWeakness(view)
	}
	return nil
}

// showChange sends one change, if it concerns what the client is shown.
func (w *watch) showChange(as *board.View, c *board.Change) error {
	version := noVersion
	if c.Last {
		version = w.version(c.Revision)
	}
	switch {
	case c.New != nil && w.filter.match(as, c.New):
		return w.show("put", version, as, c.New)
	case c.Old == nil || !w.had(as, c.Old):
		return nil
	case c.New != nil:
		return w.show("delete", version, as, c.New)
	}
	return w.show("delete", version, as, c.Old)
}

// had says whether the client may have been shown a job, under the weakness of a view.
func (w *watch) had(as *board.View, j *board.Job) bool {
	return w.filter.matchKnown(j) && (w.unsure || w.filter.matchShown(as, j))
}

// showWeakness shows anew what S13 lowers, or no longer lowers. The bookmark before it says that from now on the client
// may have some of it and some not.
func (w *watch) showWeakness(view *board.View) (err error) {
	before := view.Under(w.shown)
	if !w.unsure && !w.shown.Holds() {
		w.unsure = true
		w.bookmark(view)
		w.unsure = false
	}
	w.filter.eachKnown(view.Snapshot, "", func(j *board.Job) bool {
		switch {
		case !j.Lowerable():
		case w.filter.matchShown(view, j):
			err = w.show("put", noVersion, view, j)
		case w.had(&before, j):
			err = w.show("delete", noVersion, view, j)
		}
		return err == nil
	})
	w.shown, w.unsure = view.Weakness(), false
	w.bookmark(view)
	return err
}

func wantsEvents(ctx *fasthttp.RequestCtx) bool {
	return bytes.Contains(ctx.Request.Header.Peek(fasthttp.HeaderAccept), []byte("text/event-stream"))
}
