package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestHealth(t *testing.T) {
	var certificate error
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "something_total", Help: "Something."})
	if err := registry.Register(counter); err != nil {
		t.Fatal(err)
	}
	h := NewHealth(registry, slog.New(slog.DiscardHandler), []Check{
		{Name: "certificate", Ask: func() error { return certificate }},
		{Name: "settings", Ask: func() error { return nil }},
	}, []Note{{Name: "breaker", Tell: func() string { return "open\nsince noon" }}})
	ln, err := Listen("127.0.0.1:0", "--metrics-listen")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(ln) }()
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + ln.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	for _, c := range []struct {
		path string
		err  error
		code int
		want string
	}{
		{"/livez", errors.New("x"), 200, "ok\n"},
		{"/readyz", nil, 200, "ok\n"},
		{"/readyz?verbose", nil, 200, "[+]certificate ok\n[+]settings ok\n[ ]breaker: open since noon\nreadyz check passed\n"},
		{"/readyz", errors.New("there is\nnone"), 503, "[-]certificate failed: there is none\n[+]settings ok\n[ ]breaker: open since noon\nreadyz check failed\n"},
		{"/mutate", nil, 404, "there are /livez, /readyz?verbose and /metrics\n"},
	} {
		certificate = c.err
		code, text := get(c.path)
		if diff := cmp.Diff(c.want, text); code != c.code || diff != "" {
			t.Errorf("%s with %v: %d, want %d; -want +got\n%s", c.path, c.err, code, c.code, diff)
		}
	}
	if code, text := get("/metrics"); code != 200 || !strings.Contains(text, "something_total 0") {
		t.Errorf("metrics: %d\n%s", code, text)
	}
	if resp, err := http.Post("http://"+ln.Addr().String()+"/readyz", "text/plain", strings.NewReader("x")); err == nil {
		resp.Body.Close()
		if resp.StatusCode == 200 {
			t.Error("a POST is answered")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
