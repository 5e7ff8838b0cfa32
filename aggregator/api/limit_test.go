package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestTheLongestWatchEndsInOrder(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxWatch, o.Bookmark = 100*time.Millisecond, time.Hour })
	c := w.watch("", "")
	bookmarks := 0
	for {
		e, ok := c.next()
		if !ok {
			break
		}
		if e.Type == "bookmark" {
			bookmarks++
		}
	}
	if c.lines.Err() != nil || bookmarks != 2 {
		t.Errorf("%d bookmarks, error %v; want one after the list and one at the end", bookmarks, c.lines.Err())
	}
}

func TestTooManyWatchers(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxWatchers = 2 })
	first, _ := w.watch("", ""), w.watch("", "")
	a := w.get("/api/v1/jobs?watch=true")
	w.wrong(a, 503, "2 watchers")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if a := w.get("/api/v1/jobs"); a.status != 200 {
		t.Errorf("a plain list is answered with %d", a.status)
	}
	first.disconnect()
	eventually(t, "the place of a client that went is free", func() bool { return w.server.watchers.count() == 1 })
	w.watch("", "").until("1.10")
}

// A client that goes is noticed at once, not by the next bookmark.
func TestAGoneClientIsNoticed(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Bookmark = time.Hour })
	c := w.watch("", "")
	c.until("1.10")
	c.disconnect()
	eventually(t, "the watch has ended", func() bool { return w.server.watchers.count() == 0 })
}

func TestCloseEndsWatchesInOrder(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Bookmark = time.Hour })
	c := w.watch("", "")
	c.until("1.10")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := w.server.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if e, ok := c.next(); !ok || e.Type != "bookmark" || e.Version != "1.10" {
		t.Errorf("the last event is %+v", e)
	}
	if _, ok := c.next(); ok || c.lines.Err() != nil {
		t.Errorf("the stream did not end in order: %v", c.lines.Err())
	}
}

// silent opens a watch and reads nothing of it, over a connection whose buffers are small.
func (w *world) silent() net.Conn {
	conn := w.dial()
	if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /api/v1/jobs?watch=true HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

func TestASilentClientIsCutOffAndCostsLittle(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.WriteTimeout = 3 * time.Second })
	w.fill(12_000) // a list of about 7 MB: more than the kernel takes for anybody
	const clients = 20
	runtime.GC()
	var before, during runtime.MemStats
	runtime.ReadMemStats(&before)
	for range clients {
		defer func(c net.Conn) { _ = c.Close() }(w.silent())
	}
	eventually(t, "all watch, and wait with little memory", func() bool {
		if w.server.watchers.count() != clients {
			return false
		}
		runtime.GC()
		runtime.ReadMemStats(&during)
		return int64(during.HeapAlloc)-int64(before.HeapAlloc) < clients*150<<10
	})
	if n := w.server.watchers.count(); n != clients {
		t.Errorf("only %d of %d were still there when the memory was measured", n, clients)
	}
	eventually(t, "all are cut off", func() bool { return w.server.watchers.count() == 0 })
	if !strings.Contains(w.log.String(), "cut off") {
		t.Error("the log does not tell of it")
	}
}

// A client that reads just enough for each write to succeed must not keep its snapshot for ever.
func TestATricklingClientEndsWithTheLongestWatch(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxWatch, o.WriteTimeout = 100*time.Millisecond, 2*time.Second })
	w.fill(60_000)
	conn := w.dial()
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /api/v1/jobs?watch=true HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it watches", func() bool { return w.server.watchers.count() == 1 })
	begin, buffer := time.Now(), make([]byte, 64<<10)
	for w.server.watchers.count() == 1 {
		if _, err := conn.Read(buffer); err != nil {
			break
		}
		time.Sleep(20 * time.Millisecond) // so that all of it would take some 12 s
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it was served for %s", took)
	}
}

func TestCloseCutsOffWhoDoesNotRead(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.WriteTimeout = time.Minute })
	w.fill(12_000)
	conn := w.silent()
	defer func() { _ = conn.Close() }()
	eventually(t, "it watches", func() bool { return w.server.watchers.count() == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := w.server.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if n := w.server.watchers.count(); n != 0 {
		t.Errorf("%d are still there", n)
	}
}

// A thousand watchers see the same changes, and cost no more than a thousand small stacks.
func TestAThousandWatchers(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Bookmark = time.Hour })
	w.put("orders")
	runtime.GC()
	var before, during runtime.MemStats
	runtime.ReadMemStats(&before)
	const clients = 1000
	conns := make([]net.Conn, clients)
	for i := range conns {
		conns[i] = w.dial()
		defer func(c net.Conn) { _ = c.Close() }(conns[i])
		if _, err := io.WriteString(conns[i], "GET /api/v1/jobs?watch=true HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all watch", func() bool { return w.server.watchers.count() == clients })
	for i := range 20 {
		w.put(fmt.Sprintf("orders-%d", i))
	}
	for _, conn := range conns {
		got, buffer := "", make([]byte, 64<<10)
		for !strings.Contains(got, `"version":"1.31"`) {
			n, err := conn.Read(buffer)
			if err != nil {
				t.Fatalf("after %d bytes: %v", len(got), err)
			}
			got += string(buffer[:n])
		}
		if n := strings.Count(got, `"type":"put"`); n != 21 {
			t.Fatalf("%d puts in %s", n, got)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&during)
	each := (int64(during.HeapAlloc+during.StackInuse) - int64(before.HeapAlloc+before.StackInuse)) / clients
	t.Logf("%d KiB a watcher", each>>10)
	if each > 48<<10 {
		t.Errorf("a watcher costs %d KiB", each>>10)
	}
}
