package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const host = "holdfast-webhook.holdfast.svc"

// memory is a cluster in memory: what an API server does with one Secret and one configuration.
type memory struct {
	mu       sync.Mutex
	data     map[string][]byte
	entries  []entry
	uid      int
	version  int
	noSecret bool
	noConfig bool
	injected bool
	down     error         // answered to everything
	latency  time.Duration // of every answer, up to this
	heard    []chan<- struct{}
	readers  []func([]entry) // told of every change of the configuration, under mu
	saves    int
	patches  int
}

func newMemory(names ...string) *memory {
	m := &memory{uid: 1, version: 1}
	for _, name := range names {
		m.entries = append(m.entries, entry{name: name})
	}
	return m
}

func (m *memory) answer(ctx context.Context) error {
	m.mu.Lock()
	latency, down := m.latency, m.down
	m.mu.Unlock()
	if latency > 0 && !pause(ctx, nil, rand.N(latency)) {
		return ctx.Err()
	}
	return down
}

func (m *memory) secret(ctx context.Context) (*corev1.Secret, error) {
	if err := m.answer(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.noSecret {
		return nil, fmt.Errorf("Secret %w", errGone)
	}
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{ResourceVersion: fmt.Sprint(m.version)}, Data: maps.Clone(m.data)}, nil
}

func (m *memory) save(ctx context.Context, s *corev1.Secret) error {
	if err := m.answer(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.ResourceVersion != fmt.Sprint(m.version) {
		return errLater
	}
	m.data = maps.Clone(s.Data)
	m.saves++
	m.changed()
	return nil
}

func (m *memory) configuration(ctx context.Context) (published, error) {
	if err := m.answer(ctx); err != nil {
		return published{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.noConfig {
		return published{}, fmt.Errorf("configuration %w", errGone)
	}
	return published{uid: fmt.Sprint(m.uid), version: fmt.Sprint(m.version), entries: slices.Clone(m.entries), injected: m.injected,
		writers: []string{"somebody"}}, nil
}

func (m *memory) publish(ctx context.Context, p published, bundles [][]byte) error {
	if err := m.answer(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.version != fmt.Sprint(m.version) {
		return errLater
	}
	for i := range m.entries {
		m.entries[i].bundle = bundles[i]
	}
	m.patches++
	m.changed()
	return nil
}

func (m *memory) watch(ctx context.Context, heard chan<- struct{}) {
	m.mu.Lock()
	m.heard = append(m.heard, heard)
	m.mu.Unlock()
	<-ctx.Done()
}

// changed is called under mu. One version for both objects is stricter than what Kubernetes does.
func (m *memory) changed() {
	m.version++
	for _, heard := range m.heard {
		hear(heard)
	}
	var entries []entry
	if !m.noConfig {
		entries = slices.Clone(m.entries)
	}
	for _, read := range m.readers {
		read(entries)
	}
}

// edit changes the cluster as somebody else would.
func (m *memory) edit(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	m.changed()
}

func (m *memory) snapshot() (data map[string][]byte, entries []entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.data), slices.Clone(m.entries)
}

// replica is a webhook's replica.
type replica struct {
	*Own
	log  *journal
	stop func()
}

// fast are options at which a rotation takes hours instead of months.
func fast() OwnOptions {
	return OwnOptions{
		Namespace: "holdfast", Secret: "ca", Configuration: "holdfast", Hosts: []string{host, "127.0.0.1"},
		AuthorityLife: 6 * time.Hour, LeafLife: time.Hour, Overlap: 10 * time.Minute,
	}
}

func run(t *testing.T, c cluster, o OwnOptions) *replica {
	t.Helper()
	log := &journal{}
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	own, err := newOwn(o, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- own.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return &replica{Own: own, log: log, stop: stop}
}

// journal is a log that a test reads.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// apiServerView is an API server that hears of the configuration late, as its informer does, and in order.
type apiServerView struct {
	mu      sync.Mutex
	entries []entry
}

func (m *memory) view(t *testing.T, delay time.Duration) *apiServerView {
	v := &apiServerView{}
	type told struct {
		entries []entry
		at      time.Time
	}
	news := make(chan told, 1000)
	m.mu.Lock()
	v.entries = slices.Clone(m.entries)
	m.readers = append(m.readers, func(e []entry) { news <- told{e, time.Now().Add(rand.N(delay + 1))} })
	m.mu.Unlock()
	go func() {
		for {
			select {
			case n := <-news:
				if !pause(t.Context(), nil, time.Until(n.at)) {
					return
				}
				v.mu.Lock()
				v.entries = n.entries
				v.mu.Unlock()
			case <-t.Context().Done():
				return
			}
		}
	}()
	return v
}

type provider interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Ready() error
	Facts() Facts
	Run(context.Context) error
}

var _, _ provider = (*Own)(nil), (*Files)(nil)

// admit calls the webhook as an API server does for one of its entries: a new connection, trusting that entry's caBundle alone.
func (v *apiServerView) admit(p provider) error {
	v.mu.Lock()
	entries := v.entries
	v.mu.Unlock()
	if len(entries) == 0 {
		return errors.New("the API server knows no webhook")
	}
	e := entries[rand.N(len(entries))]
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(e.bundle)
	if err := handshake(p, roots); err != nil {
		return fmt.Errorf("webhook %s: %w", e.name, err)
	}
	return nil
}

func handshake(p provider, roots *x509.CertPool) error {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	// A pipe has no buffer, so two who refuse one another at once would wait for ever. In the bubble a handshake takes no time.
	for _, c := range []net.Conn{ours, theirs} {
		if err := c.SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
			return err
		}
	}
	served := make(chan error, 1)
	go func() {
		s := tls.Server(theirs, &tls.Config{GetCertificate: p.GetCertificate, SessionTicketsDisabled: true})
		served <- s.Handshake()
		theirs.Close()
	}()
	c := tls.Client(ours, &tls.Config{RootCAs: roots, ServerName: host, CurvePreferences: []tls.CurveID{tls.X25519}}) // the cheapest
	err := c.Handshake()
	ours.Close()
	<-served
	return err
}

// eventually waits, in the bubble's time, for something that Kubernetes' own latencies allow to take seconds.
func eventually(t *testing.T, within time.Duration, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		synctest.Wait()
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func authorityOf(t *testing.T, r *replica) string {
	t.Helper()
	pair, err := r.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", pair.Leaf.AuthorityKeyId)
}
