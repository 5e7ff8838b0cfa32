package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"
)

// Check is one thing that must be well before the webhook is ready.
type Check struct {
	Name string
	// Ask gives nil, or what is missing. It must not wait.
	Ask func() error
}

// Note is something that is told beside the checks, and hinders nothing.
type Note struct {
	Name string
	Tell func() string
}

// Health answers /livez, /readyz and /metrics over plain HTTP: it is asked by the kubelet and by Prometheus, and says nothing that is secret.
type Health struct {
	checks  []Check
	notes   []Note
	http    *fasthttp.Server
	metrics fasthttp.RequestHandler
	ctx     context.Context
	stop    context.CancelFunc
}

// NewHealth makes it.
func NewHealth(registry prometheus.Gatherer, log *slog.Logger, checks []Check, notes []Note) *Health {
	h := &Health{checks: checks, notes: notes}
	// One metric that fails must not take all the others away.
	h.metrics = fasthttpadaptor.NewFastHTTPHandler(promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	h.ctx, h.stop = context.WithCancel(context.Background())
	h.http = &fasthttp.Server{
		Handler: h.serve, Logger: quiet{log}, NoDefaultServerHeader: true, ReadBufferSize: headerLimit, MaxRequestBodySize: 4 << 10, GetOnly: true,
		ReadTimeout: requestTimeout, WriteTimeout: 2 * requestTimeout, IdleTimeout: 2 * time.Minute, Concurrency: 256, CloseOnShutdown: true,
	}
	return h
}

// Serve answers until Close, and then returns nil. It closes the listener.
func (h *Health) Serve(ln net.Listener) error {
	forget := context.AfterFunc(h.ctx, func() { _ = ln.Close() })
	defer forget()
	if err := h.http.Serve(ln); err != nil && h.ctx.Err() == nil {
		return fmt.Errorf("serve health and metrics on %s: %w", ln.Addr(), err)
	}
	return nil
}

// Close stops, within ctx.
func (h *Health) Close(ctx context.Context) error {
	h.stop()
	if err := h.http.ShutdownWithContext(ctx); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (h *Health) serve(ctx *fasthttp.RequestCtx) {
	ctx.SetContentType("text/plain; charset=utf-8")
	switch string(ctx.Path()) {
	case "/livez":
		// Whether anybody else answers is no reason to restart this program.
		ctx.SetBodyString("ok\n")
	case "/readyz":
		h.ready(ctx)
	case "/metrics":
		h.metrics(ctx)
	default:
		ctx.SetStatusCode(fasthttp.StatusNotFound)
		ctx.SetBodyString("there are /livez, /readyz?verbose and /metrics\n")
	}
}

// ready answers as Kubernetes' own programs do.
func (h *Health) ready(ctx *fasthttp.RequestCtx) {
	var text strings.Builder
	well := true
	for _, c := range h.checks {
		if err := c.Ask(); err != nil {
			well = false
			fmt.Fprintf(&text, "[-]%s failed: %s\n", c.Name, oneLine(err.Error()))
		} else {
			fmt.Fprintf(&text, "[+]%s ok\n", c.Name)
		}
	}
	for _, n := range h.notes {
		fmt.Fprintf(&text, "[ ]%s: %s\n", n.Name, oneLine(n.Tell()))
	}
	switch {
	case !well:
		ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
		text.WriteString("readyz check failed\n")
	case ctx.QueryArgs().Has("verbose"):
		text.WriteString("readyz check passed\n")
	default:
		text.Reset()
		text.WriteString("ok\n")
	}
	ctx.SetBodyString(text.String())
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
