package api

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/holdfast-dev/holdfast/aggregator/board"
)

// stream writes events to one client, as JSON lines or as server-sent events. Between two writes it holds no buffer, so
// that a thousand watchers who wait cost little.
type stream struct {
	server *Server
	conn   net.Conn
	// events: server-sent events. chunked: the client speaks HTTP/1.1.
	events, chunked bool
	// buffer is what body is taken from, and body what is not sent yet; both nil if there is nothing.
	buffer *[]byte
	body   []byte
	failed error
	// until is when the watch is to be over. A client that takes just enough of a long list not to be cut off holds its whole
	// snapshot in memory, and must not do so for ever.
	until time.Time
	// gone is closed when the client has closed its side.
	gone chan struct{}
}

const (
	// streamFull is how much is gathered before it is written.
	streamFull = 32 << 10
	// bufferLimit bounds the buffers that are kept for reuse: one very long verdict must not stay.
	bufferLimit = 64 << 10
	// chunkHead is room for the length of a chunk, in hexadecimal. The standard allows leading zeros.
	chunkHead = "00000000\r\n"
)

func newStream(s *Server, ctx *fasthttp.RequestCtx) *stream {
	return &stream{
		server: s, events: wantsEvents(ctx), chunked: ctx.Request.Header.IsHTTP11(), gone: make(chan struct{}),
	}
}

func streamType(events bool) string {
	if events {
		return "text/event-stream"
	}
	return "application/x-ndjson"
}

// open sends the head of the answer, and begins to notice when the client goes. until is when the watch is to be over.
func (s *stream) open(conn net.Conn, until time.Time) {
	s.conn, s.until = conn, until
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + streamType(s.events) +
		"\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\nConnection: close\r\n"
	if s.chunked {
		head += "Transfer-Encoding: chunked\r\n"
	}
	s.write([]byte(head + "\r\n"))
	go func() {
		defer close(s.gone)
		var waste [64]byte
		for {
			if _, err := conn.Read(waste[:]); err != nil {
				return
			}
		}
	}()
}

// close ends the answer, unless that is no longer possible, and waits for the reader.
func (s *stream) close() {
	if s.chunked {
		s.write([]byte("0\r\n\r\n"))
	}
	s.release()
	// A deadline that has passed wakes the reader. If the connection is so broken that it takes none, its reads fail anyway.
	_ = s.conn.SetReadDeadline(time.Unix(1, 0))
	<-s.gone
}

// begin opens an event; its fields follow in body, each with a comma before it.
func (s *stream) begin(kind string, version board.Version) {
	if s.buffer == nil {
		s.buffer = s.server.buffers.Get().(*[]byte)
		s.body = (*s.buffer)[:0]
		if s.chunked {
			s.body = append(s.body, chunkHead...)
		}
	}
	if s.events {
		if version != noVersion {
			s.body = append(version.Append(append(s.body, "id: "...)), '\n')
		}
		s.body = append(append(append(s.body, "event: "...), kind...), "\ndata: "...)
	}
	s.body = append(append(append(s.body, `{"type":"`...), kind...), '"')
	if version != noVersion {
		s.body = append(version.Append(append(s.body, `,"version":"`...)), '"')
	}
}

func (s *stream) end() {
	s.body = append(s.body, "}\n"...)
	if s.events {
		s.body = append(s.body, '\n')
	}
}

func (s *stream) full() bool { return len(s.body) >= streamFull }

// flush writes what was gathered. The client has WriteTimeout to take it.
func (s *stream) flush() error {
	if s.buffer == nil {
		return s.failed
	}
	if s.chunked {
		const hex = "0123456789abcdef"
		for i, n := 7, len(s.body)-len(chunkHead); i >= 0; i, n = i-1, n>>4 {
			s.body[i] = hex[n&15]
		}
		s.body = append(s.body, "\r\n"...)
	}
	s.write(s.body)
	s.release()
	return s.failed
}

func (s *stream) release() {
	if s.buffer == nil {
		return
	}
	if cap(s.body) <= bufferLimit {
		*s.buffer = s.body
		s.server.buffers.Put(s.buffer)
	}
	s.buffer, s.body = nil, nil
}

func (s *stream) write(data []byte) {
	if s.failed != nil {
		return
	}
	now := time.Now()
	if s.until.Before(now) {
		now = s.until
	}
	if s.failed = s.conn.SetWriteDeadline(now.Add(s.server.o.WriteTimeout)); s.failed == nil {
		_, s.failed = s.conn.Write(data)
	}
	if s.failed != nil {
		s.failed = fmt.Errorf("write %d bytes to a watcher: %w", len(data), s.failed)
	}
}

// watchers counts the watches and can end them all.
type watchers struct {
	limit int
	mu    sync.Mutex
	open  int
	conns map[net.Conn]struct{}
	// empty is closed when the last one leaves; nil unless somebody waits.
	empty chan struct{}
}

// enter takes a place. It says no if none is free.
func (w *watchers) enter() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open >= w.limit {
		return false
	}
	w.open++
	return true
}

// note remembers the connection of one that has entered.
func (w *watchers) note(conn net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns == nil {
		w.conns = make(map[net.Conn]struct{})
	}
	w.conns[conn] = struct{}{}
}

func (w *watchers) leave(conn net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, conn)
	if w.open--; w.open == 0 && w.empty != nil {
		close(w.empty)
		w.empty = nil
	}
}

func (w *watchers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open
}

// wait waits until all have left. When ctx ends it cuts them off, and returns ctx's error.
func (w *watchers) wait(ctx context.Context) error {
	w.mu.Lock()
	if w.open == 0 {
		w.mu.Unlock()
		return nil
	}
	if w.empty == nil {
		w.empty = make(chan struct{})
	}
	empty := w.empty
	w.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	for conn := range w.conns {
		// The error is that of a connection that is closed already.
		_ = conn.SetDeadline(time.Unix(1, 0))
	}
	w.mu.Unlock()
	<-empty
	return ctx.Err()
}
