// Package etcd is the part of etcd's client that Holdfast trusts: leases whose every loss has a reason (Lease), a
// list-then-watch that never resumes from a guess (Follow), guarded transactions that keep "no" apart from "could not
// ask" (Commit), and an election on one key (Lead). It knows nothing of jobs, agents or verdicts.
//
// It is linked into the agent, so it imports the client, its API, gRPC and zap's no-op logger, and nothing else: not the
// server, not clientv3/concurrency. The facts about etcd that the comments state were read in, or measured on, etcd 3.7.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
)

// Options say where etcd is and who asks.
type Options struct {
	// Endpoints are etcd's client addresses, as "host:port", "http://host:port", "https://host:port" or
	// "unix:///path". All of one scheme. Each client shuffles them, because the balancer connects to all of them and a
	// fleet with one order would lean on the first.
	Endpoints []string
	// TLS is used for "https" and for addresses without a scheme.
	TLS *tls.Config
	// DialTimeout bounds one attempt to connect, and the call that turns a password into a token. 0 means 5 s.
	DialTimeout time.Duration
	// Username and Password go together. They are presented with the first call, not by Dial.
	Username, Password string
}

const (
	defaultDialTimeout = 5 * time.Second
	// A client that reconnects after gRPC's default of up to 2 minutes outlives its own lease. Three seconds are a
	// fraction of any lease time in use, and 5 000 clients at that rate are 1 700 refused connections a second.
	maxReconnect = 3 * time.Second
	minReconnect = 250 * time.Millisecond
	// A connection that swallows packets is only noticed by asking. Below 10 s gRPC raises the interval, and below 5 s
	// etcd answers with too_many_pings. Agents write more often than that, so they never ping.
	pingEvery   = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// Dial makes a client. It connects in the background, so it succeeds while etcd is down: an error means that o itself
// cannot work, and says which part of it. The client never logs, and outlives ctx; the caller closes it.
//
// The client makes each call once. etcd's own default is up to 100 attempts, among them transactions that the server
// gave up waiting for, which may have been carried out.
func Dial(ctx context.Context, o Options) (*clientv3.Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	timeout := o.DialTimeout
	if timeout <= 0 {
		timeout = defaultDialTimeout
	}
	endpoints := make([]string, 0, len(o.Endpoints))
	for _, endpoint := range o.Endpoints {
		endpoints = append(endpoints, withPort(endpoint))
	}
	rand.Shuffle(len(endpoints), func(i, j int) { endpoints[i], endpoints[j] = endpoints[j], endpoints[i] })

	config := clientv3.Config{
		Endpoints:            endpoints,
		TLS:                  o.TLS,
		DialTimeout:          timeout,
		DialKeepAliveTime:    pingEvery,
		DialKeepAliveTimeout: pingTimeout,
		MaxUnaryRetries:      1,
		Logger:               zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: minReconnect, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnect},
			MinConnectTimeout: timeout,
		})},
	}
	// With a user name in its configuration clientv3.New asks etcd for a token and fails when etcd is down. Given a
	// token it asks nobody; the first call is then refused for that token, and the client fetches a real one with the
	// name and password set below.
	if o.Username != "" {
		config.Token = "none"
	}
	c, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("etcd client for %s: %w", strings.Join(o.Endpoints, ","), err)
	}
	if o.Username != "" {
		c.Token, c.Username, c.Password = "", o.Username, o.Password
	}
	return c, nil
}

// check finds what can never work, whatever etcd does.
func (o Options) check() error {
	if len(o.Endpoints) == 0 {
		return errors.New("no endpoints: name at least one, such as http://127.0.0.1:2379")
	}
	scheme := ""
	for i, endpoint := range o.Endpoints {
		s, err := schemeOf(endpoint)
		if err != nil {
			return err
		}
		if i > 0 && s != scheme {
			return fmt.Errorf("endpoints %q and %q differ in scheme, but the client uses one for all: use the same",
				o.Endpoints[0], endpoint)
		}
		scheme = s
	}
	if o.TLS != nil && scheme == "http" {
		return fmt.Errorf("endpoint %q would be used in plain text although TLS is configured: write https://", o.Endpoints[0])
	}
	if (o.Username == "") != (o.Password == "") {
		return errors.New("a user name and a password go together: give both or neither")
	}
	return nil
}

// withPort adds the port that a URL without one has by its scheme, as for every other client: clientv3 would ask for one.
func withPort(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil || u.Port() != "" {
		return endpoint
	}
	switch u.Scheme {
	case "http":
		u.Host = net.JoinHostPort(u.Hostname(), "80")
	case "https":
		u.Host = net.JoinHostPort(u.Hostname(), "443")
	default:
		return endpoint
	}
	return u.String()
}

// schemeOf returns an endpoint's scheme, "" for a plain "host:port".
func schemeOf(endpoint string) (string, error) {
	if strings.HasPrefix(endpoint, "unix:") || strings.HasPrefix(endpoint, "unixs:") {
		scheme, _, _ := strings.Cut(endpoint, ":")
		return scheme, nil
	}
	text := endpoint
	if !strings.Contains(endpoint, "://") {
		text = "plain://" + endpoint
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", fmt.Errorf("endpoint %q: %w", endpoint, err)
	}
	if u.Hostname() == "" || u.Port() == "" && u.Scheme == "plain" {
		return "", fmt.Errorf("endpoint %q: a host and a port are needed, such as http://127.0.0.1:2379", endpoint)
	}
	switch u.Scheme {
	case "http", "https":
		return u.Scheme, nil
	case "plain":
		return "", nil
	}
	return "", fmt.Errorf("endpoint %q: scheme %q is not one of http, https, unix, unixs", endpoint, u.Scheme)
}
