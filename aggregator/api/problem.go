package api

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/valyala/fasthttp"
)

// Problem is an error as RFC 9457 wants it: what was wrong, and what to do.
type Problem struct {
	// Type names the kind of problem for programs.
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail"`
	Instance string `json:"instance,omitempty"`
	// Checks are those that a server that is not ready has not passed yet.
	Checks []Check `json:"checks,omitempty"`

	// retryAfter, in seconds, and allow become headers.
	retryAfter int
	allow      string
}

const problemType = "application/problem+json"

// The kinds of problems: the last part of Type.
const (
	kindParameter   = "bad-parameter"
	kindVersion     = "version-gone"
	kindNotFound    = "not-found"
	kindOtherSite   = "other-site"
	kindMethod      = "method-not-allowed"
	kindNotReady    = "not-ready"
	kindStore       = "store-unreachable"
	kindBusy        = "too-many-watchers"
	kindRequest     = "bad-request"
	kindTimeout     = "request-timeout"
	kindBodyLarge   = "body-too-large"
	kindHeaderLarge = "headers-too-large"
	kindInternal    = "internal-error"
)

func problem(status int, kind, title, detail string, args ...any) *Problem {
	return &Problem{Type: "urn:holdfast:problem:" + kind, Title: title, Status: status, Detail: fmt.Sprintf(detail, args...)}
}

func badParameter(detail string, args ...any) *Problem {
	return problem(fasthttp.StatusBadRequest, kindParameter, "A parameter is wrong", detail, args...)
}

// write makes the problem the answer.
func (p *Problem) write(ctx *fasthttp.RequestCtx) {
	// A problem is made of strings and numbers, which always have a JSON form.
	body, _ := json.Marshal(p)
	ctx.Response.Reset()
	ctx.SetStatusCode(p.Status)
	ctx.SetContentType(problemType)
	if p.allow != "" {
		ctx.Response.Header.Set(fasthttp.HeaderAllow, p.allow)
	}
	if p.retryAfter > 0 {
		ctx.Response.Header.Set(fasthttp.HeaderRetryAfter, strconv.Itoa(p.retryAfter))
	}
	ctx.SetBody(body)
}
