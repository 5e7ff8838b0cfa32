// Package etcdlocal is one etcd member inside this process: for holdfast local, for tests, and for etcd/member, which makes it one of
// several. It is the only package that links etcd's server.
//
// etcd ends its process, or panics, where it meets a data folder that it cannot use, and waits for ever for a folder that
// somebody else uses. Start finds out first and says what to do; what still goes wrong inside etcd (a full disk, above all)
// ends the server, with an error, and not the process. Such a server may leave goroutines and open files behind: the
// process can end in order, but should not go on.
package etcdlocal

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/holdfast-dev/holdfast/etcd"
)

// Options say where the data lies and where clients come in. The zero value is a store that lasts until Close.
type Options struct {
	// Dir is the data folder; it is created. "" means a temporary folder that Close removes, written without fsync.
	Dir string
	// Address is where clients connect: "host:port", where port 0 is a free one, or "unix:///path". "" means
	// "127.0.0.1:0". There is no TLS and no password: keep it on the loopback.
	Address string
	// Quota bounds the database, in bytes; 0 means etcd's default of 2 GiB. When it is reached, puts fail with
	// etcd.ErrNoSpace.
	Quota int64
	// Token makes the cluster id of a new data folder. "" means a random one, so that two stores that began empty are
	// told apart by their cluster id.
	Token string
	// Configure changes etcd's own configuration before it starts. The address, the token and the rest of the options are in it already.
	Configure func(*embed.Config) error `json:"-"`
	// Logger is told of etcd's warnings and errors. nil means nobody is.
	Logger *slog.Logger
}

// History older than this is compacted. A list that pages, or a watch that catches up, needs seconds of it.
const compactAfter = 10 * time.Minute

// stopBound bounds how long Close waits for a server that has failed, parts of which may never answer.
const stopBound = 5 * time.Second

// Server is a running etcd.
type Server struct {
	dir      string
	address  string
	embedded *embed.Etcd
	failure  *failure
	release  func()

	closing sync.Once
	closed  chan struct{}
}

// Start starts etcd and returns when it serves. Its errors say what to do: about a folder in use, of a newer version,
// damaged, without rights, on a full disk; about an address that is taken. ctx bounds how long it waits for etcd to elect
// itself; what comes before is not interrupted, and takes less than a second on a folder of ordinary size.
func Start(ctx context.Context, o Options) (*Server, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	dir, temporary := o.Dir, o.Dir == ""
	if temporary {
		var err error
		if dir, err = os.MkdirTemp("", "holdfast-etcd-"); err != nil {
			return nil, fmt.Errorf("etcd: make a temporary data folder: %w", err)
		}
	}
	unlock, err := claim(dir)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	release := func() {
		unlock()
		if temporary {
			os.RemoveAll(dir)
		}
	}
	s, err := start(ctx, o, dir, temporary)
	if err != nil {
		release()
		return nil, fmt.Errorf("etcd: %w", advice(err, dir, o.Address))
	}
	s.release = release
	go s.watch()
	return s, nil
}

func start(ctx context.Context, o Options, dir string, temporary bool) (*Server, error) {
	failure := newFailure()
	config, err := configure(o, dir, temporary)
	if err != nil {
		return nil, err
	}
	if o.Configure != nil {
		if err := o.Configure(config); err != nil {
			return nil, err
		}
	}
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(failure.logger(o.Logger))

	type result struct {
		embedded *embed.Etcd
		err      error
	}
	results := make(chan result, 1)
	go func() {
		// A fatal error inside etcd ends this goroutine, and is in failure.
		defer func() {
			if cause := recover(); cause != nil {
				results <- result{err: fmt.Errorf("etcd cannot use data folder %s: %v", dir, cause)}
			}
		}()
		embedded, err := embed.StartEtcd(config)
		results <- result{embedded, err}
	}()
	var r result
	select {
	case r = <-results:
	case <-failure.happened:
		return nil, failure.err()
	}
	if r.err != nil {
		return nil, r.err
	}
	s := &Server{
		dir: dir, embedded: r.embedded, failure: failure,
		release: func() {}, closed: make(chan struct{}),
	}
	select {
	case <-r.embedded.Server.ReadyNotify():
	case <-failure.happened:
		s.stop()
		return nil, failure.err()
	case <-ctx.Done():
		s.stop()
		return nil, fmt.Errorf("not ready in time: %w", ctx.Err())
	}
	if len(r.embedded.Clients) > 0 {
		s.address = endpoint(r.embedded.Clients[0].Addr())
	}
	return s, nil
}

// configure is etcd's configuration for a single member that no peer can reach.
func configure(o Options, dir string, temporary bool) (*embed.Config, error) {
	listen, err := listenURL(o.Address)
	if err != nil {
		return nil, err
	}
	token := o.Token
	if token == "" {
		random := make([]byte, 16)
		rand.Read(random)
		token = hex.EncodeToString(random)
	}
	c := embed.NewConfig()
	c.Name = "holdfast"
	c.Dir = dir
	c.ListenPeerUrls = nil // a single member has no peers; its advertised peer URL is only its name
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.InitialClusterToken = token
	c.ListenClientUrls = []url.URL{listen}
	c.AdvertiseClientUrls = []url.URL{listen}
	c.EnableGRPCGateway = false
	c.QuotaBackendBytes = o.Quota
	c.AutoCompactionMode = embed.CompactorModePeriodic
	c.AutoCompactionRetention = compactAfter.String()
	c.UnsafeNoFsync = temporary
	return c, nil
}

// listenURL turns an address into etcd's form of it.
func listenURL(address string) (url.URL, error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		if !filepath.IsAbs(path) {
			return url.URL{}, fmt.Errorf("address %q: a socket needs an absolute path, as in unix:///run/etcd.sock", address)
		}
		return url.URL{Scheme: "unix", Path: path}, nil
	}
	if address == "" {
		address = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return url.URL{}, fmt.Errorf("address %q: a host and a port are needed, such as 127.0.0.1:2379", address)
	}
	if host == "localhost" { // etcd listens on addresses only
		address = strings.Replace(address, host, "127.0.0.1", 1)
	}
	return url.URL{Scheme: "http", Host: address}, nil
}

func endpoint(a net.Addr) string {
	if a.Network() == "unix" {
		return "unix://" + a.String()
	}
	return "http://" + a.String()
}

// advice adds what to do to errors that etcd leaves bare.
func advice(err error, dir, address string) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("address %s is taken: choose another, or port 0 for a free one: %w", address, err)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("the disk of data folder %s is full: etcd needs at least 200 MB: %w", dir, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("no right to use data folder %s: change its owner, or choose another: %w", dir, err)
	}
	return err
}

// Endpoint is where clients connect, in the form that etcd.Options takes.
func (s *Server) Endpoint() string { return s.address }

// Client makes a client of this server. The caller closes it.
func (s *Server) Client(ctx context.Context) (*clientv3.Client, error) {
	return etcd.Dial(ctx, etcd.Options{Endpoints: []string{s.Endpoint()}})
}

// Done is closed when the server has stopped, by Close or by a failure. Err says which.
func (s *Server) Done() <-chan struct{} { return s.closed }

// Err is why the server stopped by itself; nil while it runs and after a mere Close.
func (s *Server) Err() error {
	if err := s.failure.err(); err != nil {
		return fmt.Errorf("etcd: %w", advice(err, s.dir, s.address))
	}
	return nil
}

// Close stops the server, and returns when it has stopped. Streams of clients do not keep it; a call that is just being answered may, for
// 7 s at most (etcd's own time for a request, embed.Etcd.Close). A temporary data folder is removed.
func (s *Server) Close() {
	s.closing.Do(func() {
		s.stop()
		s.release()
		close(s.closed)
	})
	<-s.closed
}

// watch stops the server when something inside of it has failed.
func (s *Server) watch() {
	select {
	case <-s.failure.happened:
		s.Close()
	case <-s.closed:
	}
}

func (s *Server) stop() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.embedded.Close()
	}()
	select {
	case <-done:
		return
	case <-s.failure.happened:
	}
	select {
	case <-done:
	case <-time.After(stopBound):
	}
}
