// Package api is what the world sees of an aggregator: jobs, their histories, watches, the server's own health and its
// metrics, over HTTP. It shows a board and reads histories; it changes nothing and decides nothing.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/job"
)

// History reads what is recorded of a job's transitions.
type History interface {
	// History returns the newest entries of a job, oldest first, at most limit of them. An error means that they could
	// not be asked for; a job without entries has none.
	History(ctx context.Context, key job.Key, limit int) (HistoryPage, error)
}

// HistoryPage is an answer of History.
type HistoryPage struct {
	Transitions []job.Transition
	// Unreadable counts the entries that are there and cannot be read.
	Unreadable int
	// Revision is the one of etcd at which the history was read.
	Revision int64
}

// Options say what a server shows and how much it allows. Zero values mean the defaults.
type Options struct {
	// Board is shown. Required.
	Board *board.Board
	// History reads histories. Required.
	History History
	// Registry gets the server's metrics, and is what /metrics shows. Required.
	Registry *prometheus.Registry
	// Sources gives the health of what the program knows things from, besides the board's own feeds. May be nil. It is
	// called for every request of the status, and must not block.
	Sources func() []Source
	// Version is the program's.
	Version string
	// Log tells of what went wrong inside the server. Default: nowhere.
	Log *slog.Logger

	// MaxWatchers bounds the watches at a time. Default 1 000.
	MaxWatchers int
	// MaxWatch is how long one watch may last. Default 1 h.
	MaxWatch time.Duration
	// Bookmark is how often a watcher hears that nothing has changed. Default 10 s.
	Bookmark time.Duration
	// WriteTimeout is how long a client may take to accept one write of a watch (at most 64 KiB), or a whole other
	// answer. Default 10 s.
	WriteTimeout time.Duration
	// ReadTimeout is how long a request may take to arrive. Default 10 s.
	ReadTimeout time.Duration
	// HistoryTimeout is how long reading a history may take. Default 3 s.
	HistoryTimeout time.Duration
}

// Bounds of what a request may be, in bytes: no route takes a body.
const (
	headerLimit = 8 << 10
	bodyLimit   = 4 << 10
)

// connectionLimit bounds the connections at a time, watches not counted.
const connectionLimit = 8192

// Server serves the API of one site.
type Server struct {
	o       Options
	http    *fasthttp.Server
	routes  []*route
	openAPI []byte
	metrics *metrics
	// requests and buffers spare an allocation a request, and a write of a watch.
	requests, buffers sync.Pool
	// ctx ends when the server closes.
	ctx      context.Context
	stop     context.CancelFunc
	watchers watchers
}

// New makes a server. The error says which option is missing, or which metric is already registered.
func New(o Options) (*Server, error) {
	if o.Board == nil || o.History == nil || o.Registry == nil {
		return nil, errors.New("an API server needs a board, a history and a metrics registry")
	}
	o = o.withDefaults()
	s := &Server{o: o, watchers: watchers{limit: o.MaxWatchers}}
	s.requests.New = func() any { return new(request) }
	s.buffers.New = func() any { return new([]byte) }
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.routes = routes()
	var err error
	if s.openAPI, err = document(s.routes, o.Version); err != nil {
		return nil, err
	}
	if s.metrics, err = newMetrics(s); err != nil {
		return nil, err
	}
	s.http = &fasthttp.Server{
		Handler: s.serve, ErrorHandler: s.refuse, Logger: quiet{o.Log}, NoDefaultServerHeader: true,
		ReadBufferSize: headerLimit, MaxRequestBodySize: bodyLimit, DisablePreParseMultipartForm: true,
		ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout, IdleTimeout: 2 * time.Minute,
		Concurrency: connectionLimit, TCPKeepalive: true, CloseOnShutdown: true, LazyRequestTime: true,
	}
	return s, nil
}

func (o Options) withDefaults() Options {
	if o.Sources == nil {
		o.Sources = func() []Source { return nil }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxWatchers <= 0 {
		o.MaxWatchers = 1000
	}
	for _, d := range [...]struct {
		value *time.Duration
		usual time.Duration
	}{
		{&o.MaxWatch, time.Hour}, {&o.Bookmark, 10 * time.Second}, {&o.WriteTimeout, 10 * time.Second},
		{&o.ReadTimeout, 10 * time.Second}, {&o.HistoryTimeout, 3 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
	return o
}

// Listen opens the address, such as ":7070", for Serve.
func Listen(address string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("another program already listens on %s: stop it, or choose another address with --listen: %w", address, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("this user may not listen on %s: choose a port above 1023 with --listen: %w", address, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %q, which must look like :7070 or 127.0.0.1:7070: %w", address, err)
	}
	return ln, nil
}

// Serve answers requests until Close, and then returns nil. It closes the listener.
func (s *Server) Serve(ln net.Listener) error {
	// fasthttp does not know of a Close that comes before its Serve.
	forget := context.AfterFunc(s.ctx, func() { _ = ln.Close() })
	defer forget()
	if err := s.http.Serve(ln); err != nil && s.ctx.Err() == nil {
		return fmt.Errorf("serve the API on %s: %w", ln.Addr(), err)
	}
	return nil
}

// Close stops the server: watches end with a last bookmark, and requests are answered. If ctx ends before, it cuts
// off what is left, and returns ctx's error.
func (s *Server) Close(ctx context.Context) error {
	s.stop()
	err := s.http.ShutdownWithContext(ctx)
	if errors.Is(err, net.ErrClosed) {
		err = nil // Serve was the faster to close the listener
	}
	if ended := s.watchers.wait(ctx); err == nil {
		err = ended
	}
	s.metrics.unregister(s.o.Registry)
	return err
}

// refuse answers what fasthttp could not read as a request.
func (s *Server) refuse(ctx *fasthttp.RequestCtx, err error) {
	var small *fasthttp.ErrSmallBuffer
	var timeout net.Error
	var p *Problem
	switch {
	case errors.As(err, &small):
		p = problem(fasthttp.StatusRequestHeaderFieldsTooLarge, kindHeaderLarge, "The request's head is too large",
			"the request line and the headers may have %d bytes together: shorten the query, or send fewer cookies", headerLimit)
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		p = problem(fasthttp.StatusRequestEntityTooLarge, kindBodyLarge, "The request has a large body",
			"no route takes a body: send the request without one")
	case errors.As(err, &timeout) && timeout.Timeout():
		p = problem(fasthttp.StatusRequestTimeout, kindTimeout, "The request came too slowly",
			"the whole request must arrive within %s: send it again", s.o.ReadTimeout)
	default:
		p = problem(fasthttp.StatusBadRequest, kindRequest, "This is no HTTP request that can be understood",
			"send a GET request of HTTP/1.1; its head or body could not be read")
	}
	p.write(ctx)
	s.metrics.refused(p.Status)
}

// quiet hands fasthttp's own messages, which tell of broken connections, to the log.
type quiet struct{ log *slog.Logger }

func (q quiet) Printf(format string, args ...any) {
	q.log.Debug("a connection failed", "error", fmt.Sprintf(format, args...))
}
