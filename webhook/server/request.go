package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	path     = "/mutate"
	jsonType = "application/json"
)

// problem is why a request is no review. The API server shows the text to nobody but its own log, since its webhook's failures are ignored.
type problem struct {
	status int
	text   string
	// ends says that nothing that comes on the connection can be understood any more.
	ends bool
}

func problemf(status int, text string, args ...any) *problem {
	return &problem{status: status, text: fmt.Sprintf(text, args...)}
}

func (p *problem) write(ctx *fasthttp.RequestCtx) {
	ends := p.ends || ctx.Response.ConnectionClose()
	ctx.Response.Reset()
	ctx.SetStatusCode(p.status)
	if p.status == fasthttp.StatusMethodNotAllowed {
		ctx.Response.Header.Set(fasthttp.HeaderAllow, fasthttp.MethodPost)
	}
	ctx.SetContentType("text/plain; charset=utf-8")
	ctx.SetBodyString(p.text + "\n")
	if ends {
		ctx.SetConnectionClose()
	}
}

// checkHead refuses what cannot be a review, before its body is read.
func checkHead(ctx *fasthttp.RequestCtx) *problem {
	if string(ctx.Path()) != path {
		return problemf(fasthttp.StatusNotFound, "there is nothing here but %s, for the API server", path)
	}
	if !ctx.IsPost() {
		return problemf(fasthttp.StatusMethodNotAllowed, "an admission review is sent by POST")
	}
	kind, _, _ := bytes.Cut(ctx.Request.Header.ContentType(), []byte(";"))
	if !bytes.EqualFold(bytes.TrimSpace(kind), []byte(jsonType)) {
		return problemf(fasthttp.StatusUnsupportedMediaType, "an admission review is sent as %s, not %.100q", jsonType, kind)
	}
	if encoding := ctx.Request.Header.ContentEncoding(); len(encoding) > 0 {
		return problemf(fasthttp.StatusUnsupportedMediaType, "an admission review is sent without a content encoding, not as %.100q", encoding)
	}
	if n := ctx.Request.Header.ContentLength(); n > bodyLimit {
		return &problem{status: fasthttp.StatusRequestEntityTooLarge, text: tooLarge, ends: true}
	}
	return nil
}

var tooLarge = fmt.Sprintf("an admission review may have %d MiB: the API server takes no pod that is larger", bodyLimit>>20)

// body reads the request's body, once there is room for it. The body is valid until release.
func (s *Server) body(ctx *fasthttp.RequestCtx) (body []byte, release func(), p *problem) {
	weight := int64(bodyLimit) // of a body whose length is not known
	if n := ctx.Request.Header.ContentLength(); n >= 0 {
		weight = int64(n)
	}
	room := s.small
	if weight > smallBody {
		room = s.large
	}
	wait, cancel := context.WithTimeout(s.ctx, bodiesWait)
	defer cancel()
	if room.Acquire(wait, weight) != nil {
		return nil, nil, &problem{status: fasthttp.StatusServiceUnavailable, text: "there are too many reviews at a time: try again", ends: true}
	}
	buffer := s.buffers.Get().(*[]byte)
	release = func() {
		// A buffer that had to grow for a rare review is not kept.
		if cap(*buffer) <= 64<<10 {
			s.buffers.Put(buffer)
		}
		room.Release(weight)
	}
	var err error
	if known := ctx.Request.Header.ContentLength(); known > 0 {
		*buffer = slices.Grow((*buffer)[:0], known+1)
	}
	if *buffer, err = readAll((*buffer)[:0], ctx.RequestBodyStream(), int(weight)); err != nil {
		release()
		return nil, nil, s.unread(err)
	}
	return *buffer, release, nil
}

var errTooLarge = errors.New("too large")

// readAll appends what comes to b, limit bytes at most.
func readAll(b []byte, from io.Reader, limit int) ([]byte, error) {
	if from == nil {
		return b, nil
	}
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := from.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case len(b) > limit:
			return b, errTooLarge
		case err == io.EOF:
			return b, nil
		case err != nil:
			return b, err
		}
	}
}

// unread says why a request could not be read.
func (s *Server) unread(err error) *problem {
	var (
		small   *fasthttp.ErrSmallBuffer
		timeout net.Error
	)
	p := &problem{status: fasthttp.StatusBadRequest, text: "this is no request of HTTP/1.1 that can be understood", ends: true}
	switch {
	case errors.As(err, &small):
		p.status, p.text = fasthttp.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("the request line and the headers may have %d bytes together", headerLimit)
	case errors.Is(err, fasthttp.ErrBodyTooLarge) || errors.Is(err, errTooLarge):
		p.status, p.text = fasthttp.StatusRequestEntityTooLarge, tooLarge
	case errors.As(err, &timeout) && timeout.Timeout():
		p.status, p.text = fasthttp.StatusRequestTimeout, fmt.Sprintf("the whole request must arrive within %s", requestTimeout)
	}
	return p
}

// distrustAgain is how long nothing more is logged of clients that do not trust the certificate.
const distrustAgain = time.Minute

// refuse answers what fasthttp could not read as a request.
func (s *Server) refuse(ctx *fasthttp.RequestCtx, err error) {
	// What crypto/tls says of an alert of the other side, of which it has no exported name.
	var remote *net.OpError
	if errors.As(err, &remote) && remote.Op == "remote error" {
		s.metrics.distrusted.Inc()
		now, last := time.Now().UnixNano(), s.distrusted.Load()
		if now-last >= int64(distrustAgain) && s.distrusted.CompareAndSwap(last, now) {
			s.o.Log.Warn("a client refuses the certificate: if it is the API server, pods start without an agent", "from", ctx.RemoteAddr(), "error", err)
		}
		return
	}
	// fasthttp set the deadline for writing when it began the handshake, so for a request that came too slowly it is over.
	_ = ctx.Conn().SetWriteDeadline(time.Now().Add(requestTimeout)) // on a connection that is broken, the answer is lost anyway
	s.fail(ctx, s.unread(err))
}
