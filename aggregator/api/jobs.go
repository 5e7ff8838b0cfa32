package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"unsafe"

	"github.com/valyala/fasthttp"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

const jsonType = "application/json"

// text looks at bytes as a string without copying them. It is valid as long as nobody changes the bytes: what
// outlives the request is to be copied.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// getJob answers about one job.
func (s *Server) getJob(r *request) *Problem {
	if p := r.checkSite(); p != nil {
		return p
	}
	if r.query.on("watch") {
		return s.watchJob(r)
	}
	if p := r.versionWithoutWatch(); p != nil {
		return p
	}
	j := r.view.Get(r.path)
	if j == nil {
		return r.noJob()
	}
	var scratch [64]byte
	tag := append(scratch[:0], `W/"`...)
	tag = append(r.view.JobVersion(j).Append(tag), '"')
	if r.unchanged(tag) {
		return nil
	}
	body := r.ctx.Response.SwapBody(nil)[:0]
	r.ctx.Response.SwapBody(r.view.AppendJob(body, j, true))
	r.ctx.Response.Header.SetContentType(jsonType)
	return nil
}

// checkSite refuses keys of other sites, and names that cannot be part of a key.
func (r *request) checkSite() *Problem {
	if r.names[0] != r.view.Site() {
		return otherSite(r.names[0], r.view.Site())
	}
	return nil
}

func (r *request) noJob() *Problem {
	for i, what := range [...]string{"namespace", "cluster", "job id"} {
		if err := record.CheckSegment(what, shorten(r.names[i+1])); err != nil {
			return badParameter("%v", err)
		}
	}
	return problem(fasthttp.StatusNotFound, kindNotFound, "There is no such job",
		"the site %q has no job %s in the cluster %s of the namespace %s: /api/v1/jobs lists those that it has; jobs that are over are kept for some days",
		r.view.Site(), shorten(r.names[3]), shorten(r.names[2]), shorten(r.names[1]))
}

func (r *request) versionWithoutWatch() *Problem {
	if r.query.has("version") {
		return badParameter("version is only for a watch: add watch=true, or leave it out")
	}
	return nil
}

// unchanged sets the entity tag of the answer, and says whether the client has that answer already. Tags are weak: ages
// and proofs of life in the answer go on while a job stays what it is.
func (r *request) unchanged(tag []byte) bool {
	r.ctx.Response.Header.SetCanonical(etagHeader, tag)
	known := r.ctx.Request.Header.PeekBytes(ifNoneMatchHeader)
	if len(known) == 0 || !holds(known, tag) {
		return false
	}
	r.ctx.SetStatusCode(fasthttp.StatusNotModified)
	return true
}

var (
	etagHeader        = []byte(fasthttp.HeaderETag)
	ifNoneMatchHeader = []byte(fasthttp.HeaderIfNoneMatch)
)

// holds says whether a list of entity tags has one, as RFC 9110 compares for If-None-Match: weakly.
func holds(list, tag []byte) bool {
	tag = bytes.TrimPrefix(tag, []byte("W/"))
	for one := range bytes.SplitSeq(list, []byte(",")) {
		one = bytes.TrimPrefix(bytes.TrimSpace(one), []byte("W/"))
		if bytes.Equal(one, tag) || string(one) == "*" {
			return true
		}
	}
	return false
}

// listJobs answers with a page of jobs.
func (s *Server) listJobs(r *request) *Problem {
	f, p := newFilter(&r.query, r.view.Site())
	if p != nil {
		return p
	}
	if r.query.on("watch") {
		return s.watchJobs(r, f)
	}
	if p := r.versionWithoutWatch(); p != nil {
		return p
	}
	from := place{Version: r.view.Version()}
	if r.query.has("continue") {
		if from, p = r.readPlace(); p != nil {
			return p
		}
	}
	condition, changedAt := r.view.Condition()
	if r.unchanged(r.listTag(changedAt)) {
		return nil
	}

	limit := r.query.number("limit")
	body := append(r.ctx.Response.SwapBody(nil)[:0], `{"items":[`...)
	n, last, more := 0, "", false
	f.each(&r.view, from.After, func(j *board.Job) bool {
		if n == limit {
			more = true
			return false
		}
		if n > 0 {
			body = append(body, ',')
		}
		body = r.view.AppendJob(body, j, false)
		last = j.Path()
		n++
		return true
	})
	body = from.Version.Append(append(body, `],"version":"`...))
	body = append(body, `","continue":"`...)
	if more {
		body = place{Version: from.Version, After: last}.append(body)
	}
	body = append(body, `","frozen":`...)
	body = append(appendJSON(body, frozen(condition)), '}')
	r.ctx.Response.SwapBody(body)
	r.ctx.Response.Header.SetContentType(jsonType)
	return nil
}

// listTag is the entity tag of a list: it changes with any job, with S13 and with the freeze.
func (r *request) listTag(condition int64) []byte {
	version := r.view.Version()
	version.Revision = r.view.LastChange()
	tag := version.Append([]byte(`W/"`))
	tag = board.Version{Epoch: 0, Revision: condition}.Append(append(tag, '-'))
	return append(tag, '"')
}

// place is where the next page of a list begins. Every page shows the jobs as they are when it is asked for. So a job
// that is there all the time is on exactly one page, and one that comes or goes meanwhile may be on none; a watch from the
// version, which is the first page's on every page, makes up for that.
type place struct {
	Version board.Version
	After   string
}

func (p place) append(dst []byte) []byte {
	return base64.RawURLEncoding.AppendEncode(dst, []byte(p.Version.String()+"/"+p.After))
}

// readPlace reads the parameter continue.
func (r *request) readPlace() (place, *Problem) {
	token := r.query.word("continue")
	data, err := base64.RawURLEncoding.DecodeString(token)
	version, after, found := strings.Cut(string(data), "/")
	v, wrong := board.ParseVersion(version)
	if err != nil || wrong != nil || !found {
		return place{}, badParameter("continue %q is not what a page gave: begin with the first page, without continue", shorten(token))
	}
	if now := r.view.Version(); v.Epoch != now.Epoch {
		return place{}, versionGone("the pages before are of epoch %d of the store, now it is epoch %d: begin with the first page, without continue", v.Epoch, now.Epoch)
	}
	// If any page was lowered by S13, a watch from here has to show those jobs anew.
	v.Lowered = v.Lowered || r.view.Weakness().Holds()
	return place{Version: v, After: after}, nil
}

func versionGone(detail string, args ...any) *Problem {
	return problem(fasthttp.StatusGone, kindVersion, "The version is gone", detail, args...)
}

// appendJSON appends a value of this package's own types, which always have a JSON form.
func appendJSON(dst []byte, v any) []byte {
	data, _ := json.Marshal(v)
	return append(dst, data...)
}

// sendJSON answers with a value.
func (r *request) sendJSON(v any) {
	r.ctx.Response.Header.SetContentType(jsonType)
	r.ctx.Response.SwapBody(appendJSON(r.ctx.Response.SwapBody(nil)[:0], v))
}

// key is the key that the path names. Unlike the path it may be kept.
func (r *request) key() job.Key {
	return job.Key{
		Namespace: strings.Clone(r.names[1]), Cluster: strings.Clone(r.names[2]), ID: strings.Clone(r.names[3]),
	}
}
