// Package server is the webhook as the API server sees it: admission reviews over HTTPS, and its health and metrics over plain HTTP for
// those who look after it. What is decided of a pod is package webhook's; this package asks, and answers. It never denies anything: a pod
// is created with an agent or without one.
package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"
	"golang.org/x/sync/semaphore"

	"github.com/holdfast-dev/holdfast/webhook"
	"github.com/holdfast-dev/holdfast/webhook/breaker"
	"github.com/holdfast-dev/holdfast/webhook/certs"
)

// Breaker says whether agents may be injected just now, as breaker.Breaker does.
type Breaker interface {
	// Ask says whether one more pod may have an agent. claim says that it will get it.
	Ask(claim bool) breaker.Answer
}

// Certificates are where the certificate comes from: certs.Own or certs.Files.
type Certificates interface {
	// GetCertificate is asked at each handshake, and does not wait.
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Ready is nil, or says why the API server cannot trust the certificate.
	Ready() error
	Facts() certs.Facts
}

// ConfigMaps reads a ConfigMap's data. An error means that it is not known, whatever the cause.
type ConfigMaps func(ctx context.Context, namespace, name string) (map[string]string, error)

// Options say what a server answers with. Certificates, Breaker and Registry are required.
type Options struct {
	Certificates Certificates
	Breaker      Breaker
	// ConfigMaps reads what webhook.ConfigMapNeeded names. May be nil: then no ConfigMap is known.
	ConfigMaps ConfigMaps
	// Limits says what a namespace allows its pods, as far as it is known, without waiting. May be nil: then nothing is.
	Limits func(namespace string) webhook.Limits
	// Registry gets the server's metrics.
	Registry prometheus.Registerer
	// Version is the program's.
	Version string
	Log     *slog.Logger

	// slow is for tests whose hundreds of clients share the machine's processors: the requestTimeout instead.
	slow time.Duration
}

// Bounds of what the server takes and holds.
const (
	// headerLimit bounds a request's head, in bytes.
	headerLimit = 8 << 10
	// bodyLimit bounds a review, in bytes. The API server takes no pod above 3 MiB (its limit for a request's body), etcd none above 1.5 MiB.
	bodyLimit = 4 << 20
	// bodiesLimit bounds the reviews that are in memory at a time, in bytes, and bodiesWait how long one waits for room. Those that are
	// larger than smallBody, as hardly any pod is, have as much for themselves, so that others need not wait behind them.
	bodiesLimit = 16 << 20
	bodiesWait  = 2 * time.Second
	smallBody   = 256 << 10
	// connectionLimit bounds the connections at a time. An API server keeps up to 25 idle ones open, and opens one for each review that is
	// under way beyond them. Where idle ones take all the room, the oldest gives way; otherwise more wait in the kernel.
	connectionLimit = 512
	// requestTimeout is how long a request may take to arrive, and an answer to leave: the API server waits 5 s altogether.
	requestTimeout = 5 * time.Second
	// idleTimeout is longer than the 90 s after which the API server's client closes an idle connection. Were it shorter, the server
	// could close one just as a review is sent on it, and that pod would silently go without an agent.
	idleTimeout = 5 * time.Minute
	// configMapTimeout is how long reading a ConfigMap may take, and configMapLimit how many are read at a time.
	configMapTimeout = 500 * time.Millisecond
	configMapLimit   = 16
)

// Server answers admission reviews on POST /mutate.
type Server struct {
	o        Options
	http     *fasthttp.Server
	metrics  *metrics
	settings atomic.Pointer[webhook.Settings]
	// decide is webhook.Decide.
	decide func(webhook.Settings, webhook.Request) webhook.Decision

	doorman *doorman
	// small and large are the room for bodies.
	small, large *semaphore.Weighted
	buffers      sync.Pool
	// processors bounds the decisions that are taken at a time, and so the memory that they need.
	processors chan struct{}
	configMaps chan struct{}
	told       told
	// distrusted is when it was last logged that a client does not trust the certificate.
	distrusted atomic.Int64

	leaving atomic.Bool
	ctx     context.Context
	stop    context.CancelFunc
}

// New makes a server. It injects nothing before it has settings. The error says which option is missing, or which metric is already
// registered.
func New(o Options) (*Server, error) {
	if o.Certificates == nil || o.Breaker == nil || o.Registry == nil {
		return nil, errors.New("a webhook server needs a certificate, a breaker and a metrics registry")
	}
	if o.Limits == nil {
		o.Limits = func(string) webhook.Limits { return webhook.Limits{} }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		o: o, decide: webhook.Decide, doorman: newDoorman(connectionLimit), buffers: sync.Pool{New: func() any { return new([]byte) }},
		small: semaphore.NewWeighted(bodiesLimit), large: semaphore.NewWeighted(bodiesLimit),
		processors: make(chan struct{}, 2*runtime.GOMAXPROCS(0)), configMaps: make(chan struct{}, configMapLimit),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	var err error
	if s.metrics, err = newMetrics(o); err != nil {
		return nil, err
	}
	s.http = &fasthttp.Server{
		Handler: s.serve, ErrorHandler: s.refuse, Logger: quiet{o.Log}, NoDefaultServerHeader: true,
		ReadBufferSize: headerLimit, MaxRequestBodySize: bodyLimit, DisablePreParseMultipartForm: true,
		// The body is read by the handler, once there is room for it.
		StreamRequestBody: true,
		ReadTimeout:       cmp.Or(o.slow, requestTimeout), WriteTimeout: cmp.Or(o.slow, requestTimeout), IdleTimeout: idleTimeout,
		Concurrency: 2 * connectionLimit, TCPKeepalive: true, CloseOnShutdown: true, ConnState: s.doorman.heard,
	}
	return s, nil
}

// Set takes the settings that count from now on.
func (s *Server) Set(settings webhook.Settings) { s.settings.Store(&settings) }

// Listen opens an address for Serve. flag is the flag that it comes from, for the error.
func Listen(address, flag string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("another program already listens on %s: stop it, or choose another address with %s: %w", address, flag, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("this user may not listen on %s: choose a port above 1023 with %s: %w", address, flag, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %q, which must look like :10250 or 127.0.0.1:10250, with %s: %w", address, flag, err)
	}
	return ln, nil
}

// Serve answers reviews over TLS until Close, and then returns nil. It closes the listener.
func (s *Server) Serve(ln net.Listener) error {
	// fasthttp does not know of a Close that comes before its Serve.
	forget := context.AfterFunc(s.ctx, func() { _ = ln.Close() })
	defer forget()
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.o.Certificates.GetCertificate, NextProtos: []string{"http/1.1"}}
	if err := s.http.Serve(tls.NewListener(s.doorman.at(ln), config)); err != nil && s.ctx.Err() == nil {
		return fmt.Errorf("serve reviews on %s: %w", ln.Addr(), err)
	}
	return nil
}

// Leave begins the end: each answer from now on closes its connection, so that the API server makes new ones, to other replicas.
func (s *Server) Leave() { s.leaving.Store(true) }

// Close stops the server when the requests that it has are answered. If ctx ends before, it cuts off what is left, and returns ctx's error.
func (s *Server) Close(ctx context.Context) error {
	s.Leave()
	s.stop()
	err := s.http.ShutdownWithContext(ctx)
	if errors.Is(err, net.ErrClosed) {
		return nil // Serve was the faster to close the listener
	}
	return err
}

// serve answers one request.
func (s *Server) serve(ctx *fasthttp.RequestCtx) {
	begin := time.Now()
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()
	if s.leaving.Load() {
		ctx.SetConnectionClose()
	}
	defer func() {
		// fasthttp lets a panic end the program.
		if v := recover(); v != nil {
			s.o.Log.Error("a review failed: please report this", "error", v, "stack", string(debug.Stack()))
			s.fail(ctx, problemf(fasthttp.StatusInternalServerError, "the webhook has failed"))
		}
	}()
	if p := s.mutate(ctx); p != nil {
		s.fail(ctx, p)
		return
	}
	s.metrics.duration.Observe(time.Since(begin).Seconds())
}

// fail answers with a problem.
func (s *Server) fail(ctx *fasthttp.RequestCtx, p *problem) {
	p.write(ctx)
	s.metrics.refused(p.status)
	s.o.Log.Debug("a request was refused", "status", p.status, "because", p.text, "from", ctx.RemoteAddr())
}

// mutate answers one review, or says why it is none.
func (s *Server) mutate(ctx *fasthttp.RequestCtx) *problem {
	if p := checkHead(ctx); p != nil {
		return p
	}
	body, release, p := s.body(ctx)
	if p != nil {
		return p
	}
	defer release()
	answer, p := s.review(body)
	if p != nil {
		return p
	}
	ctx.SetContentType(jsonType)
	ctx.SetBody(answer)
	return nil
}

// quiet hands fasthttp's own messages, which tell of broken connections, to the log.
type quiet struct{ log *slog.Logger }

func (q quiet) Printf(format string, args ...any) {
	q.log.Debug("a connection failed", "error", fmt.Sprintf(format, args...))
}
