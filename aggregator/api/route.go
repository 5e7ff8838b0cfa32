package api

import (
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/holdfast-dev/holdfast/aggregator/board"
)

// route is one kind of request. The table of them is what requests are dispatched by, what the OpenAPI document is made
// from, and what metrics are labelled with.
type route struct {
	// pattern is the path, with names in braces for what varies.
	pattern string
	// prefix is the pattern up to its first name, suffix what comes after its last, and names are those between.
	prefix, suffix string
	names          []string
	summary        string
	// parameters are those that the query may have.
	parameters []parameter
	// answer is a value of the type of the answer in JSON; nil if content is something else.
	answer  any
	content string
	// watched says whether watch=true streams Events.
	watched bool
	// early says whether the route answers before the board is complete.
	early  bool
	handle func(*Server, *request) *Problem
	counts routeMetrics
}

func routes() []*route {
	const jobPattern = "/api/v1/jobs/{site}/{namespace}/{cluster}/{jobID}"
	table := []*route{
		{
			pattern: jobPattern, summary: "One job, with its evidence.", answer: Job{},
			parameters: watchParameters, watched: true, handle: (*Server).getJob,
		},
		{
			pattern: "/api/v1/jobs", summary: "Jobs, sorted by namespace, cluster and job id.", answer: JobList{},
			parameters: concat(filterParameters, pageParameters, watchParameters), watched: true, handle: (*Server).listJobs,
		},
		{
			pattern: jobPattern + "/history", summary: "What a job went through, newest last.", answer: TransitionList{},
			parameters: historyParameters, handle: (*Server).getHistory,
		},
		{
			pattern: "/api/v1/clusters/{site}/{namespace}/{cluster}", summary: "One Flink cluster as a whole, with its jobs.", answer: Cluster{},
			handle: (*Server).getCluster,
		},
		{
			pattern: "/api/v1/clusters", summary: "Flink clusters as a whole, sorted by namespace and cluster.", answer: ClusterList{},
			parameters: concat(clusterParameters, pageParameters), handle: (*Server).listClusters,
		},
		{
			pattern: "/api/v1/status", summary: "How well this server knows what it says.", answer: Status{},
			early: true, handle: (*Server).getStatus,
		},
		{pattern: "/metrics", summary: "Metrics for Prometheus.", content: "text/plain", early: true, handle: (*Server).getMetrics},
		{pattern: "/livez", summary: "Whether the process lives.", content: "text/plain", early: true, handle: (*Server).getLive},
		{
			pattern: "/readyz", summary: "Whether the server has seen all of its site.", answer: Readiness{},
			parameters: readyParameters, early: true, handle: (*Server).getReady,
		},
		{pattern: "/openapi.json", summary: "This document.", content: "application/json", early: true, handle: (*Server).getOpenAPI},
		{pattern: "/", summary: "Where the API is.", content: "text/html", early: true, handle: (*Server).getPage},
	}
	for _, r := range table {
		r.parse()
	}
	return table
}

func (r *route) parse() {
	rest, varies := "", false
	if r.prefix, rest, varies = strings.Cut(r.pattern, "{"); !varies {
		return
	}
	end := strings.LastIndexByte(rest, '}')
	r.suffix, r.names = rest[end+1:], strings.Split(rest[:end], "}/{")
}

func concat(lists ...[]parameter) (all []parameter) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// request is one request while it is answered. Its strings are valid as long: fasthttp uses their bytes again.
type request struct {
	ctx *fasthttp.RequestCtx
	// begin is when it began, by the board's clock.
	begin time.Time
	route *route
	// names are what the braces of the pattern stand for.
	names [4]string
	// path is the path from the second name on: a job's path on the board.
	path  string
	query query
	view  board.View
}

// match says whether the path fits the route, and takes the names out of it.
func (r *request) match(route *route, path string) bool {
	if route.names == nil {
		return path == route.pattern
	}
	rest, fits := strings.CutPrefix(path, route.prefix)
	if fits && route.suffix != "" {
		rest, fits = strings.CutSuffix(rest, route.suffix)
	}
	if !fits {
		return false
	}
	for i := range route.names {
		if i == 1 {
			r.path = rest
		}
		end := strings.IndexByte(rest, '/')
		if last := i == len(route.names)-1; last != (end < 0) {
			return false
		} else if last {
			end = len(rest)
		}
		if end == 0 {
			return false
		}
		r.names[i] = rest[:end]
		rest = rest[min(end+1, len(rest)):]
	}
	return true
}

// serve answers one request.
func (s *Server) serve(ctx *fasthttp.RequestCtx) {
	r := s.requests.Get().(*request)
	*r = request{ctx: ctx, begin: s.o.Board.Now()}
	defer s.finish(r)
	if p := s.dispatch(r); p != nil {
		p.Instance = string(ctx.Path())
		p.write(ctx)
	}
}

// finish turns a panic into an answer and counts the request.
func (s *Server) finish(r *request) {
	if cause := recover(); cause != nil {
		s.o.Log.Error("a request ended in a panic", "path", string(r.ctx.Path()), "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
		problem(fasthttp.StatusInternalServerError, kindInternal, "Something went wrong inside the server",
			"the server's log has the cause: please report it").write(r.ctx)
	}
	s.metrics.served(r.route, r.ctx.Response.StatusCode(), s.o.Board.Now().Sub(r.begin))
	*r = request{}
	s.requests.Put(r)
}

func (s *Server) dispatch(r *request) *Problem {
	path := text(r.ctx.Path())
	if path == "" {
		path = "/"
	}
	for _, route := range s.routes {
		if r.match(route, path) {
			r.route = route
			break
		}
	}
	if r.route == nil {
		return s.notFound(path)
	}
	if !r.ctx.IsGet() && !r.ctx.IsHead() {
		p := problem(fasthttp.StatusMethodNotAllowed, kindMethod, "Only reading is possible",
			"%s is not allowed on %s: use GET or HEAD", shorten(string(r.ctx.Method())), r.route.pattern)
		p.allow = "GET, HEAD"
		return p
	}
	if p := r.query.parse(r.ctx.QueryArgs(), r.route.parameters); p != nil {
		return p
	}
	snapshot := s.o.Board.Snapshot()
	if !r.route.early {
		if p := unready(snapshot); p != nil {
			return p
		}
	}
	r.view = snapshot.At(r.begin)
	return r.route.handle(s, r)
}

// notFound answers a path that no route has.
func (s *Server) notFound(path string) *Problem {
	patterns := make([]string, len(s.routes))
	for i, route := range s.routes {
		patterns[i] = route.pattern
	}
	return problem(fasthttp.StatusNotFound, kindNotFound, "There is nothing at this path",
		"no route fits %q%s; /openapi.json lists them all", shorten(path), suggest(path, patterns))
}
