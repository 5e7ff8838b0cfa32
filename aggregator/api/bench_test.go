package api

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"
)

// bare is a fasthttp server with the same settings that sends the same bytes from memory: as fast as it gets.
func bare(t testing.TB, w *world, path string, ln net.Listener) {
	t.Helper()
	a := w.get(path)
	if a.status != 200 {
		t.Fatalf("%s: %d %s", path, a.status, a.body)
	}
	tag := a.header.Get("ETag")
	s := &fasthttp.Server{
		Handler: func(ctx *fasthttp.RequestCtx) {
			ctx.Response.Header.SetContentType(jsonType)
			ctx.Response.Header.SetCanonical(etagHeader, []byte(tag))
			ctx.Response.SetBodyRaw(a.body)
		},
		NoDefaultServerHeader: true, ReadBufferSize: headerLimit, MaxRequestBodySize: bodyLimit,
		ReadTimeout: w.server.o.ReadTimeout, WriteTimeout: w.server.o.WriteTimeout, IdleTimeout: w.server.http.IdleTimeout,
		Concurrency: connectionLimit,
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.ShutdownWithContext(ctx); err != nil {
			t.Error(err)
		}
		<-served
	})
}

// callers are clients that each send requests over a connection of their own and read the answers. Calling them gives the
// number of requests that were answered within a time.
func callers(t testing.TB, dial func(string) (net.Conn, error), path string, connections int) func(time.Duration) float64 {
	t.Helper()
	client := &fasthttp.HostClient{Addr: "x", Dial: dial, MaxConns: connections, MaxIdleConnDuration: time.Second}
	t.Cleanup(client.CloseIdleConnections)
	requests, responses := make([]fasthttp.Request, connections), make([]fasthttp.Response, connections)
	for i := range requests {
		requests[i].SetRequestURI("http://x" + path)
	}
	return func(turn time.Duration) float64 {
		var all sync.WaitGroup
		var n atomic.Int64
		begin := time.Now()
		for i := range connections {
			all.Go(func() {
				for time.Since(begin) < turn {
					for range 16 {
						if err := client.Do(&requests[i], &responses[i]); err != nil || responses[i].StatusCode() != 200 {
							t.Errorf("status %d: %v", responses[i].StatusCode(), err)
							return
						}
					}
					n.Add(16)
				}
			})
		}
		all.Wait()
		return float64(n.Load()) / time.Since(begin).Seconds()
	}
}

// rates measures both servers in turns, so that whatever else the machine does meets both, and gives the median number of
// requests a second of each, and of the ratio of neighbouring turns.
func rates(t testing.TB, path string, connections int, overTCP bool) (board, memory, ratio float64) {
	t.Helper()
	w := newWorld(t)
	w.fill(100_000)
	lns := make([]net.Listener, 2)
	dials := make([]func(string) (net.Conn, error), 2)
	for i := range lns {
		if overTCP {
			ln, err := Listen("127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			lns[i], dials[i] = ln, func(string) (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) }
		} else {
			ln := fasthttputil.NewInmemoryListener()
			lns[i], dials[i] = ln, func(string) (net.Conn, error) { return ln.Dial() }
		}
	}
	go func() { _ = w.server.http.Serve(lns[0]) }() // ends with the world's own server
	bare(t, w, path, lns[1])
	calls := []func(time.Duration) float64{
		callers(t, dials[0], path, connections), callers(t, dials[1], path, connections),
	}

	const turns, turn = 40, 50 * time.Millisecond
	var all [2][]float64
	var ratios []float64
	for i := range turns {
		var got [2]float64
		for k := range calls {
			which := (i + k) % 2
			got[which] = calls[which](turn)
		}
		if i == 0 {
			continue // warm now
		}
		all[0], all[1] = append(all[0], got[0]), append(all[1], got[1])
		ratios = append(ratios, got[0]/got[1])
	}
	return median(all[0]), median(all[1]), median(ratios)
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// The budget: one job at 90 % of what fasthttp does with the same bytes from memory. The two servers take turns in one
// run; the bounds of the test are lower than the budget, since a busy machine is no regression.
func TestOneJobIsServedAlmostAsFastAsFromMemory(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("it measures for some seconds, and means nothing under the race detector")
	}
	one := fmt.Sprintf("/api/v1/jobs/default/team-a/orders-%06d/%032x", 77_777, 77_777)
	for _, c := range []struct {
		name, path  string
		connections int
		overTCP     bool
		least       float64
	}{
		{"one job, loopback", one, 1, true, 0.75},
		{"one job, loopback, 32 connections", one, 32, true, 0.7},
		{"one job, in memory", one, 1, false, 0.6},
		{"a page of 100, loopback", "/api/v1/jobs?limit=100", 1, true, 0.3},
	} {
		board, memory, ratio := rates(t, c.path, c.connections, c.overTCP)
		t.Logf("%s: %.0f/s, from memory %.0f/s: %.1f %%", c.name, board, memory, 100*ratio)
		if ratio < c.least {
			t.Errorf("%s: %.1f %% of the speed from memory", c.name, 100*ratio)
		}
	}
}

func BenchmarkOneJob(b *testing.B) {
	w := newWorld(b)
	w.fill(100_000)
	var request fasthttp.Request
	request.SetRequestURI(fmt.Sprintf("http://x/api/v1/jobs/default/team-a/orders-%06d/%032x", 77_777, 77_777))
	var ctx fasthttp.RequestCtx
	ctx.Init(&request, nil, nil)
	b.ReportAllocs()
	for b.Loop() {
		w.server.serve(&ctx)
		ctx.Response.Reset()
	}
}
