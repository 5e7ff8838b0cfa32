// Package flink asks one JobManager's REST API and says how each question ended. It concludes nothing from silence:
// a nil error is Flink's answer, ErrNotFound is its only No, and everything else means that it could not be asked;
// ReachOf says how it could not. Whether a job is over is for others to settle.
//
// Facts of Flink are of its source, releases 1.16 to 2.3; the Java class is named where one matters.
package flink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/holdfast-dev/holdfast/job"
)

// Client asks one JobManager. It is safe for concurrent use. Asked by one caller, it keeps one connection.
type Client struct {
	hosts   []string // each with its port
	findTLS bool     // the scheme is found out
	prefix  string   // path before Flink's own paths, "" or "/some/prefix"
	timeout time.Duration
	maxBody int64
	header  http.Header
	http    *retryablehttp.Client

	mu     sync.Mutex
	at     int  // the host that answered last
	secure bool // it speaks TLS
}

func newClient(o Options) *Client {
	c := &Client{
		findTLS: o.Scheme == "",
		secure:  o.Scheme == "https",
		timeout: o.Timeout,
		maxBody: o.MaxBody,
		header:  http.Header{"Accept": {"application/json"}, "User-Agent": {"holdfast"}},
	}
	inPod := true
	for _, host := range o.Hosts {
		c.hosts = append(c.hosts, hostPort(host, o.Port))
		inPod = inPod && podAddress(host)
	}
	config := o.TLS.Clone()
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: inPod}
	}
	c.http = &retryablehttp.Client{
		HTTPClient: &http.Client{
			Transport: transport(o.Timeout, len(c.hosts), config),
			// The host of a redirect is not the one that was asked.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		RetryMax:     o.Retries,
		RetryWaitMin: 50 * time.Millisecond,
		RetryWaitMax: 500 * time.Millisecond,
		Backoff:      retryablehttp.DefaultBackoff,
		CheckRetry:   brokenGet,
		// An answer is never asked for again, and whatever comes is passed on as it is: the default handler would throw
		// the body of a 500 away, and the only No of /jobs/ID/status is a 500.
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	return c
}

// transport is net/http's with no proxy, since a JobManager is asked directly or not at all, and with no decompression,
// since a compressed answer has no bound that is known before.
func transport(timeout time.Duration, hosts int, config *tls.Config) *http.Transport {
	// A host that swallows packets must leave time for the next.
	dialer := &net.Dialer{Timeout: timeout / time.Duration(hosts), KeepAlive: 15 * time.Second}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    timeout,
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // Flink speaks HTTP/1.1
		DisableCompression:     true,
		MaxIdleConns:           2,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// brokenGet asks again what changes nothing, if the connection broke before an answer came.
func brokenGet(ctx context.Context, _ *http.Response, err error) (bool, error) {
	var u *url.Error
	if err == nil || ctx.Err() != nil || !errors.As(err, &u) || u.Op != "Get" {
		return false, nil
	}
	return classify(u.Err) == job.Closed, nil
}

// Address is the base URL in use, without a slash at the end. It changes when another host answers.
func (c *Client) Address() string {
	at, secure := c.place()
	return scheme(secure) + "://" + c.hosts[at] + c.prefix
}

// Close closes idle connections. The client stays usable.
func (c *Client) Close() { c.http.HTTPClient.CloseIdleConnections() }

func (c *Client) place() (at int, secure bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at, c.secure
}

func (c *Client) remember(at int, secure bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.secure = at, secure
}

func (c *Client) forgetTLS() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secure = false
}

// question is one request. Its answer is streamed through read.
type question struct {
	method string
	path   string
	query  string
	limit  int64
	// id is the job that is asked about, or "" where a No is not among the answers.
	id   string
	read func(*answer) error
}

// ask asks the host that answered last, then the others while none can be reached.
func (c *Client) ask(ctx context.Context, q question) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if q.limit == 0 {
		q.limit = min(c.maxBody, singleMaxBody)
	}
	first, _ := c.place()
	err := c.askHost(ctx, first, q)
	if !neverReached(err) || len(c.hosts) == 1 {
		return err
	}
	reach, all := ReachOf(err), []string{err.Error()}
	for at := range c.hosts {
		if at == first || ctx.Err() != nil {
			continue
		}
		if err = c.askHost(ctx, at, q); !neverReached(err) {
			return err
		}
		all = append(all, err.Error())
	}
	return &failure{reach: reach, unreached: true, err: errors.New(strings.Join(all, "; "))}
}

// askHost asks one host, and once more with TLS if that is what it turns out to speak. A plain request to Flink's TLS
// port is answered before anything is done with it, so asking again is safe for every method.
func (c *Client) askHost(ctx context.Context, at int, q question) error {
	_, secure := c.place()
	err := c.askOnce(ctx, at, secure, q)
	if errors.Is(err, errWantsTLS) && c.findTLS && !secure {
		err = c.askOnce(ctx, at, true, q)
	}
	return err
}

func (c *Client) askOnce(ctx context.Context, at int, secure bool, q question) error {
	u := &url.URL{Scheme: scheme(secure), Host: c.hosts[at], Path: c.prefix + q.path, RawQuery: q.query}
	fail := func(reach job.Reach, err error) *failure {
		return &failure{reach: reach, question: q.method + " " + u.String(), err: err}
	}
	plain := (&http.Request{
		Method: q.method, URL: u, Host: u.Host, Header: c.header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	req, err := retryablehttp.FromRequest(plain)
	if err != nil {
		return fail(job.NotAsked, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if c.findTLS && secure {
			c.forgetTLS() // a JobManager that comes back may come back without
		}
		return c.unanswered(err, fail)
	}
	defer resp.Body.Close()
	if wantsTLS(resp) && !secure {
		return fail(job.Malformed, fmt.Errorf("%w: use https", errWantsTLS))
	}
	c.remember(at, secure)
	return c.take(resp, q, fail)
}

// take reads what came back.
func (c *Client) take(resp *http.Response, q question, fail func(job.Reach, error) *failure) error {
	a := newAnswer(resp.Body, q.limit)
	switch code := resp.StatusCode; {
	case code < 200:
		// The body of a 101 is the connection itself, which no deadline ends.
		return fail(job.Malformed, fmt.Errorf("%w: status %d", errForeign, code))
	case code >= 300 && code < 400:
		return fail(job.Malformed, fmt.Errorf("%w: a redirect (%d), which Flink does not send here", errForeign, code))
	case code >= 400:
		return c.refusal(code, a, q, fail)
	}
	err := q.read(a)
	if err == nil {
		err = a.end()
	}
	switch {
	case err == nil:
		return nil
	case a.broken():
		return c.unanswered(a.err, fail)
	}
	return fail(job.Malformed, fmt.Errorf("%w: %w; is this Flink's REST port?", errForeign, err))
}

// unanswered names a question whose connection gave no answer, or not all of it.
func (c *Client) unanswered(err error, fail func(job.Reach, error) *failure) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // its text repeats the question
	}
	reach := classify(err)
	switch reach {
	case job.TimedOut:
		err = fmt.Errorf("no answer in time (at most %s): %w", c.timeout, err)
	case job.Closed:
		err = fmt.Errorf("the connection ended without a whole answer: %w", err)
	case job.Malformed:
		err = fmt.Errorf("%w; is this Flink's REST port, with or without TLS as configured?", err)
	}
	f := fail(reach, err)
	f.unreached = dialed(err)
	return f
}

// refusal reads an error answer: {"errors":["…"]} (ErrorResponseBody.java).
func (c *Client) refusal(code int, a *answer, q question, fail func(job.Reach, error) *failure) error {
	texts, err := readErrors(a)
	if err != nil {
		if a.broken() {
			return c.unanswered(a.err, fail)
		}
		return fail(job.Erred, fmt.Errorf("%w: status %d without Flink's error body", errForeign, code))
	}
	switch {
	case q.id != "" && (code == http.StatusNotFound || code == http.StatusInternalServerError) && saysNotFound(texts, q.id):
		return fmt.Errorf("%w: job %s, says the JobManager at %s", ErrNotFound, q.id, c.Address())
	case code == http.StatusServiceUnavailable && saysNoLeader(texts):
		return fail(job.NoLeader, fmt.Errorf("status 503: %s", gist(texts)))
	}
	return fail(job.Erred, fmt.Errorf("status %d: %s", code, gist(texts)))
}

// wantsTLS recognises RedirectingSslHandler.java: 301 to https.
func wantsTLS(resp *http.Response) bool {
	return resp.StatusCode == http.StatusMovedPermanently && strings.HasPrefix(resp.Header.Get("Location"), "https://")
}

func scheme(secure bool) string {
	if secure {
		return "https"
	}
	return "http"
}

// dialed says whether err ended the dial, so that nothing was asked.
func dialed(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
