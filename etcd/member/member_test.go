package member

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/holdfast-dev/holdfast/pki"
)

// cluster is members on loopback addresses of their own, one port for all.
type cluster struct {
	t         *testing.T
	authority *pki.Authority
	ports     [2]int
	dir       string
	members   []Member
	logs      *logs

	mu    sync.Mutex
	begun bool
}

type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newCluster(t *testing.T, size int) *cluster {
	t.Helper()
	authority, err := pki.NewAuthority("test", time.Now(), time.Hour*24*365)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, authority: authority, dir: t.TempDir(), logs: &logs{}}
	// A net of 127/8 of its own, so that nothing else has these ports.
	third := 1 + rand.IntN(250)
	for i := range size {
		c.members = append(c.members, Member{Name: fmt.Sprintf("m-%d", i), Host: fmt.Sprintf("127.%d.%d.%d", 100+rand.IntN(100), third, i+1)})
	}
	listener, err := net.Listen("tcp", c.members[0].Host+":0")
	if err != nil {
		t.Skipf("no further loopback addresses on this machine: %v", err)
	}
	listener.Close()
	c.ports = [2]int{23790, 23800}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.logs)
		}
	})
	return c
}

// options are those of one of the first size members.
func (c *cluster) options(i, size int) *Options {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[i]
	return &Options{
		Name: m.Name, Members: c.members[:size], Token: "test", Data: filepath.Join(c.dir, m.Name, "data"), Certs: filepath.Join(c.dir, m.Name, "certs"),
		Persistent: true, Begun: c.begun, Listen: m.Host, ClientPort: c.ports[0], PeerPort: c.ports[1], Health: m.Host + ":23810",
		Authority: c.authority, Quota: 64 << 20, Retention: time.Hour,
		Begin: func(context.Context) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.begun = true
			return nil
		},
		Log: slog.New(slog.NewTextHandler(c.logs, nil)).With("member", m.Name),
	}
}

// run runs a member. stop ends it in order.
func (c *cluster) run(o *Options) (stop func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					c.t.Errorf("%s ends with %v", o.Name, err)
				}
			case <-time.After(30 * time.Second):
				c.t.Errorf("%s does not end", o.Name)
			}
		})
	}
	c.t.Cleanup(stop)
	return stop
}

// client knows the authority and nothing else, as agents do.
func (c *cluster) client(members ...int) *clientv3.Client {
	c.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(c.authority.Certificate())
	var endpoints []string
	for _, i := range members {
		endpoints = append(endpoints, fmt.Sprintf("https://%s:%d", c.members[i].Host, c.ports[0]))
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: &tls.Config{RootCAs: roots}, Logger: zap.NewNop()})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { client.Close() })
	return client
}

func (c *cluster) eventually(what string, ask func(ctx context.Context) error) {
	c.t.Helper()
	var last error
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		last = ask(ctx)
		cancel()
		if last == nil {
			return
		}
	}
	c.t.Fatalf("%s: %v", what, last)
}

func (c *cluster) put(client *clientv3.Client, value string) {
	c.t.Helper()
	c.eventually("put "+value, func(ctx context.Context) error { _, err := client.Put(ctx, "k", value); return err })
}

// has asks one member for what it has itself.
func (c *cluster) has(member int, value string) {
	c.t.Helper()
	client := c.client(member)
	c.eventually(fmt.Sprintf("member %d has %s", member, value), func(ctx context.Context) error {
		answer, err := client.Get(ctx, "k", clientv3.WithSerializable())
		if err == nil && (len(answer.Kvs) != 1 || string(answer.Kvs[0].Value) != value) {
			err = fmt.Errorf("it has %v", answer.Kvs)
		}
		return err
	})
}

func TestThreeMembers(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	stops := make([]func(), 3)
	for i := range stops {
		stops[i] = c.run(c.options(i, 3))
	}
	all := c.client(0, 1, 2)
	c.put(all, "first")
	c.has(2, "first")
	c.eventually("health", func(ctx context.Context) error {
		request, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.members[1].Host+":23810/readyz", nil)
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				err = fmt.Errorf("HTTP %d", response.StatusCode)
			}
		}
		return err
	})

	// One loses its data: it is another member from then on, and has all that the others have.
	before := c.ids(all)
	stops[1]()
	if err := os.RemoveAll(c.options(1, 3).Data); err != nil {
		t.Fatal(err)
	}
	c.put(all, "second")
	stops[1] = c.run(c.options(1, 3))
	c.has(1, "second")
	after := c.ids(all)
	if len(after) != 3 || after["m-1"] == before["m-1"] || after["m-0"] != before["m-0"] {
		t.Errorf("members were %v and are %v", before, after)
	}

	// All are stopped, in whatever order, and go on with what they had.
	for _, stop := range stops {
		stop()
	}
	for i := range stops {
		c.run(c.options(2-i, 3))
	}
	c.has(0, "second")
	c.put(c.client(0, 1, 2), "third")
	c.has(1, "third")
}

func (c *cluster) ids(client *clientv3.Client) map[string]uint64 {
	c.t.Helper()
	all := map[string]uint64{}
	c.eventually("members", func(ctx context.Context) error {
		list, err := client.MemberList(ctx)
		if err == nil {
			clear(all)
			for _, m := range list.Members {
				all[m.Name] = m.ID
			}
		}
		return err
	})
	return all
}

// One member becomes three by nothing but another number of replicas.
func TestOneBecomesThree(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	stop := c.run(c.options(0, 1))
	c.put(c.client(0), "alone")
	c.eventually("the beginning is noted", func(context.Context) error {
		if !c.options(0, 1).Begun {
			return errors.New("not yet")
		}
		return nil
	})
	c.run(c.options(1, 3))
	c.run(c.options(2, 3))
	stop()
	c.run(c.options(0, 3))
	for i := range 3 {
		c.has(i, "alone")
	}
	if ids := c.ids(c.client(0, 1, 2)); len(ids) != 3 {
		t.Errorf("members: %v", ids)
	}
}

// A cluster that has had data is not begun again by one that has none, while the others are merely away.
func TestNobodyBeginsAgain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.begun = true
	stop := c.run(c.options(0, 3))
	c.eventually("it says what it waits for", func(context.Context) error {
		if !strings.Contains(c.logs.String(), "waiting for the others: this member has no data, and the cluster has had some") {
			return fmt.Errorf("it says %s", c.logs)
		}
		return nil
	})
	time.Sleep(2 * askAgain) // it asks the others again meanwhile, and must not begin
	if _, err := os.Stat(filepath.Join(c.options(0, 3).Data, "member")); !os.IsNotExist(err) {
		t.Errorf("it has begun: %v", err)
	}
	stop()
}

// A renewed certificate is served without a restart.
func TestCertificatesAreRenewed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	o := c.options(0, 1)
	c.run(o)
	c.put(c.client(0), "x")
	first := c.served(0)
	if err := o.certify(time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if second := c.served(0); second.Equal(first) {
		t.Error("the old certificate is still served")
	} else if err := second.VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
	c.put(c.client(0), "y")
}

func (c *cluster) served(member int) *x509.Certificate {
	c.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(c.authority.Certificate())
	address := fmt.Sprintf("%s:%d", c.members[member].Host, c.ports[0])
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}})
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

func TestWrongOptions(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	o := c.options(0, 3)
	o.Name = "other"
	if err := Run(t.Context(), *o); err == nil || !strings.Contains(err.Error(), `member "other" is none of`) {
		t.Errorf("an unknown name: %v", err)
	}
	o = c.options(0, 3)
	if err := os.MkdirAll(filepath.Dir(o.Data), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.Data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), *o); err == nil || !strings.Contains(err.Error(), o.Data) {
		t.Errorf("a file instead of the data folder: %v", err)
	}
}
