// Package client asks the API of an aggregator, as package aggregator/api serves it. It reads words it does not know as
// they come: a client that is older than its server shows what it gets. It prints nothing.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// DefaultServer is where "holdfast local" serves.
const DefaultServer = "http://127.0.0.1:7070"

// Bounds of what is read of one answer, of one line of a watch, and of the answer that explains an error, in bytes.
const (
	answerLimit  = 64 << 20
	lineLimit    = 4 << 20
	problemLimit = 64 << 10
)

// Client asks one server. It is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
}

// New makes a client for a URL such as http://127.0.0.1:7070, or a host with a port. It asks nothing yet.
func New(server string) (*Client, error) {
	text := server
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("server %q is not an address of the API: give one such as %s", server, DefaultServer)
	}
	return &Client{
		base: u.Scheme + "://" + u.Host + strings.TrimRight(u.Path, "/"),
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                 http.ProxyFromEnvironment,
				DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
				TLSHandshakeTimeout:   5 * time.Second,
				ResponseHeaderTimeout: 30 * time.Second,
				MaxIdleConnsPerHost:   2,
				IdleConnTimeout:       time.Minute,
			},
		},
	}, nil
}

// Server is the base URL that is asked.
func (c *Client) Server() string { return c.base }

// Close closes idle connections. The client stays usable.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// ErrUnreachable is wrapped by the error for a server that could not be connected to.
var ErrUnreachable = errors.New("the API cannot be reached")

// Problem is a refusal of the API, as RFC 9457 has it.
type Problem struct {
	Status int    `json:"status"`
	Type   string `json:"type"`
	Title  string `json:"title"`
	Detail string `json:"detail"`

	// retryAfter is how long the server wants to be left alone; 0 if it did not say.
	retryAfter time.Duration
}

func (p *Problem) Error() string {
	switch {
	case p.Detail != "":
		return p.Detail
	case p.Title != "":
		return p.Title
	}
	return fmt.Sprintf("the server answered with status %d and no word of why", p.Status)
}

// Gone says whether a version, or a page, can no longer be gone on from.
func (p *Problem) Gone() bool { return p.Status == http.StatusGone }

// NotFound says that the server answered that there is no such thing.
func (p *Problem) NotFound() bool { return p.Status == http.StatusNotFound }

// passing says whether the same question may be answered a little later.
func (p *Problem) passing() bool {
	return p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests
}

// get asks for a path and decodes the answer. A server that is not ready yet is asked again for as long as ctx lasts.
func (c *Client) get(ctx context.Context, path string, query url.Values, answer any) error {
	for {
		err := c.getOnce(ctx, path, query, answer)
		var p *Problem
		if !errors.As(err, &p) || !p.passing() || !sleep(ctx, max(p.retryAfter, 200*time.Millisecond)) {
			return err
		}
	}
}

// sleep says whether the time passed before ctx's did, and does not begin to wait for what ctx does not have.
func sleep(ctx context.Context, d time.Duration) bool {
	if end, bounded := ctx.Deadline(); bounded && time.Until(end) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *Client) getOnce(ctx context.Context, path string, query url.Values, answer any) error {
	resp, err := c.open(ctx, path, query)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if !is(resp, "application/json") {
		return c.foreign(resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit+1))
	switch {
	case err != nil:
		return c.failed(ctx, err)
	case len(body) > answerLimit:
		return fmt.Errorf("the answer of %s is longer than %d MiB: narrow the question with a filter", c.base, answerLimit>>20)
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("the answer of %s to %s cannot be read (is the client older than the server?): %w", c.base, path, err)
	}
	return nil
}

// open sends a question. The error is a Problem if the server refused it.
func (c *Client) open(ctx context.Context, path string, query url.Values) (*http.Response, error) {
	address := c.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/x-ndjson")
	req.Header.Set("User-Agent", "holdfast")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.failed(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.refusal(resp)
}

// refusal reads why the server refused.
func (c *Client) refusal(resp *http.Response) error {
	if !is(resp, "application/problem+json") {
		return c.foreign(resp)
	}
	p := &Problem{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, problemLimit)).Decode(p); err != nil {
		return c.foreign(resp)
	}
	p.Status = resp.StatusCode
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		p.retryAfter = time.Duration(min(seconds, 60)) * time.Second
	}
	return p
}

// foreign is the error for an answer that is none of the API's.
func (c *Client) foreign(resp *http.Response) error {
	return fmt.Errorf("%s answers, but not as Holdfast's API does (status %d, %q): give the API's address with --server or HOLDFAST_SERVER",
		c.base, resp.StatusCode, resp.Header.Get("Content-Type"))
}

func is(resp *http.Response, kind string) bool {
	got, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return err == nil && got == kind
}

// failed says in one sentence why there is no answer.
func (c *Client) failed(ctx context.Context, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // its text repeats the question
	}
	var netError net.Error
	var lookup *net.DNSError
	var dial *net.OpError
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.As(err, &netError) && netError.Timeout():
		return fmt.Errorf("%w: %s gave no answer in time: try again, or allow more with --timeout", ErrUnreachable, c.base)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nothing listens at %s: start it with 'holdfast local', or give another address with --server or HOLDFAST_SERVER",
			ErrUnreachable, c.base)
	case errors.As(err, &lookup):
		return fmt.Errorf("%w: there is no host %q: give the API's address with --server or HOLDFAST_SERVER", ErrUnreachable, lookup.Name)
	case errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("%w at %s: %v: give another address with --server or HOLDFAST_SERVER", ErrUnreachable, c.base, err)
	}
	return fmt.Errorf("the connection to %s broke before the whole answer came: try again: %w", c.base, err)
}
