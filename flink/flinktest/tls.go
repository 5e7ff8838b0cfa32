package flinktest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// CertificateName is the host that the certificate of EnableTLS names: an advertised one, not the one to dial.
const CertificateName = "jobmanager.invalid"

// identity is a self-signed certificate.
type identity struct {
	config *tls.Config
	roots  *x509.CertPool
}

// EnableTLS makes the port speak TLS from now on, with a self-signed certificate for CertificateName; plain requests are
// redirected as Flink redirects them. It gives the roots to verify the certificate with. If clients is not nil,
// they must show a certificate of one of these roots.
func (jm *JobManager) EnableTLS(clients *x509.CertPool) (*x509.CertPool, error) {
	id, err := newIdentity()
	if err != nil {
		return nil, err
	}
	if clients != nil {
		id.config.ClientAuth, id.config.ClientCAs = tls.RequireAndVerifyClientCert, clients
	}
	jm.mu.Lock()
	defer jm.mu.Unlock()
	jm.secure = id
	jm.reopen()
	return id.roots, nil
}

// DisableTLS makes the port speak plain HTTP again.
func (jm *JobManager) DisableTLS() {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	jm.secure = nil
	jm.reopen()
}

// reopen breaks the connections that were made before a change. The caller holds mu.
func (jm *JobManager) reopen() {
	if jm.server != nil {
		jm.shut()
		_ = jm.open()
	}
}

func newIdentity() (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: CertificateName}, DNSNames: []string{CertificateName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the certificate back: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}},
	}
	return &identity{config: config, roots: roots}, nil
}

// sniffer gives connections that find out by their first byte whether the client speaks TLS, as Flink's port does. It
// knows its connections itself, since an http.Server that is closed while it accepts one forgets that one.
type sniffer struct {
	net.Listener
	identity *identity // nil without TLS
	accepted *atomic.Int64

	mu     sync.Mutex
	open   map[*sniffed]struct{}
	closed bool
}

func (l *sniffer) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	l.accepted.Add(1)
	c := &sniffed{Conn: conn, listener: l}
	l.open[c] = struct{}{}
	return c, nil
}

// breakAll closes the port and every connection that came through it.
func (l *sniffer) breakAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	_ = l.Listener.Close()
	for c := range l.open {
		_ = c.Conn.Close()
	}
	clear(l.open)
}

type sniffed struct {
	net.Conn
	listener *sniffer

	once   sync.Once
	inner  net.Conn // what to read from and write to, once known
	secure bool
	err    error
}

// Close closes the connection below, without TLS's farewell: Flink's ends are often as abrupt.
func (c *sniffed) Close() error {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	delete(c.listener.open, c)
	return c.Conn.Close()
}

func (c *sniffed) sniff() {
	c.inner = c.Conn
	if c.listener.identity == nil {
		return
	}
	first := make([]byte, 1)
	if _, c.err = io.ReadFull(c.Conn, first); c.err != nil {
		return
	}
	replayed := &replay{Conn: c.Conn, first: bytes.NewReader(first)}
	if c.inner = replayed; first[0] == 0x16 { // a TLS handshake record
		c.inner, c.secure = tls.Server(replayed, c.listener.identity.config), true
	}
}

func (c *sniffed) Read(p []byte) (int, error) {
	if c.once.Do(c.sniff); c.err != nil {
		return 0, c.err
	}
	return c.inner.Read(p)
}

func (c *sniffed) Write(p []byte) (int, error) {
	if c.once.Do(c.sniff); c.err != nil {
		return 0, c.err
	}
	return c.inner.Write(p)
}

// replay gives back the byte that was looked at.
type replay struct {
	net.Conn
	first *bytes.Reader
}

func (r *replay) Read(p []byte) (int, error) {
	if r.first.Len() > 0 {
		return r.first.Read(p)
	}
	return r.Conn.Read(p)
}

type connKey struct{}

func withConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

func overTLS(q *http.Request) bool {
	c, ok := q.Context().Value(connKey{}).(*sniffed)
	return ok && c.secure
}

// silence keeps net/http from writing to the test's output what the test provoked.
func silence() *log.Logger { return log.New(io.Discard, "", 0) }
