package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/pki"
)

var now = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

func authority(t *testing.T, life time.Duration) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority("test", now, life)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func verify(a *pki.Authority, leaf *x509.Certificate, host string, usage x509.ExtKeyUsage, at time.Time) error {
	roots := x509.NewCertPool()
	roots.AddCert(a.Certificate())
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// What an authority signs holds for what was asked, and for nothing else: not for another host, use, time or authority.
func TestSign(t *testing.T) {
	a := authority(t, 100*time.Hour)
	for _, c := range []struct {
		name  string
		ask   pki.Request
		by    *pki.Authority // who is trusted
		host  string
		usage x509.ExtKeyUsage
		at    time.Duration
		want  string // part of the error
	}{
		{name: "server", ask: pki.Request{Server: true}, host: "etcd.ns.svc"},
		{name: "wildcard", ask: pki.Request{Server: true}, host: "one.peers"},
		{name: "address", ask: pki.Request{Server: true}, host: "127.0.0.1"},
		{name: "address of the newer kind", ask: pki.Request{Server: true}, host: "::1"},
		{name: "another host", ask: pki.Request{Server: true}, host: "other.ns.svc", want: "not other.ns.svc"},
		{name: "a server for a client", ask: pki.Request{Server: true}, usage: x509.ExtKeyUsageClientAuth, want: "incompatible key usage"},
		{name: "a client for a server", ask: pki.Request{Client: true}, host: "etcd.ns.svc", want: "incompatible key usage"},
		{name: "both, as a client", ask: pki.Request{Client: true, Server: true}, usage: x509.ExtKeyUsageClientAuth},
		{name: "a clock that is behind", ask: pki.Request{Server: true}, at: -59 * time.Minute},
		{name: "a clock that is far behind", ask: pki.Request{Server: true}, at: -61 * time.Minute, want: "not yet valid"},
		{name: "to the end", ask: pki.Request{Server: true}, at: 9 * time.Hour},
		{name: "after the end", ask: pki.Request{Server: true}, at: 11 * time.Hour, want: "expired"},
		{name: "another authority", ask: pki.Request{Server: true}, by: authority(t, 100*time.Hour), want: "unknown authority"},
	} {
		c.ask.Name, c.ask.Hosts, c.ask.Life = "leaf", []string{"etcd.ns.svc", "*.peers", "127.0.0.1", "::1"}, 10*time.Hour
		if c.by == nil {
			c.by = a
		}
		if c.usage == 0 {
			c.usage = x509.ExtKeyUsageServerAuth
		}
		pair, err := a.Sign(c.ask, now)
		if err != nil {
			t.Fatal(err)
		}
		err = verify(c.by, pair.Leaf, c.host, c.usage, now.Add(c.at))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if pair.Leaf.IsCA {
			t.Errorf("%s: it may sign others", c.name)
		}
	}
	if _, err := a.Sign(pki.Request{Name: "x", Life: time.Hour}, now); err == nil {
		t.Error("a certificate for nobody")
	}
}

// A certificate ends with its authority, keeps a key that is given, and has a serial number of its own.
func TestSignBounds(t *testing.T) {
	a := authority(t, time.Hour)
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	one, err := a.Sign(pki.Request{Server: true, Life: 2 * time.Hour, Key: key}, now)
	if err != nil {
		t.Fatal(err)
	}
	two, err := a.Sign(pki.Request{Server: true, Life: time.Minute}, now)
	if err != nil {
		t.Fatal(err)
	}
	if !one.Leaf.NotAfter.Equal(a.Certificate().NotAfter) || !two.Leaf.NotAfter.Equal(now.Add(time.Minute)) {
		t.Errorf("valid until %s and %s", one.Leaf.NotAfter, two.Leaf.NotAfter)
	}
	if one.PrivateKey != key || two.PrivateKey == key {
		t.Error("the key is not the one that was asked for")
	}
	if one.Leaf.SerialNumber.Cmp(two.Leaf.SerialNumber) == 0 || one.Leaf.SerialNumber.Sign() <= 0 {
		t.Errorf("serial numbers %s and %s", one.Leaf.SerialNumber, two.Leaf.SerialNumber)
	}
	if k, is := two.PrivateKey.(*ecdsa.PrivateKey); !is || k.Curve != elliptic.P256() {
		t.Errorf("a key of kind %T", two.PrivateKey)
	}
	// What it signed may not sign.
	sub, err := pki.NewAuthority("sub", now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.Certificate().CheckSignatureFrom(a.Certificate()); err == nil {
		t.Error("one authority counts as signed by another")
	}
}

func TestAuthorityIsReadAsWritten(t *testing.T) {
	a := authority(t, time.Hour)
	cert, key, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := pki.ParseAuthority(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := b.Sign(pki.Request{Server: true, Hosts: []string{"h"}, Life: time.Minute}, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(a, leaf.Leaf, "h", x509.ExtKeyUsageServerAuth, now); err != nil {
		t.Error(err)
	}
	certPEM, keyPEM, err := pki.EncodePair(leaf)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pki.ParseCertificates(certPEM)
	if err != nil || !certs[0].Equal(leaf.Leaf) || !strings.Contains(string(keyPEM), "PRIVATE KEY") {
		t.Errorf("the pair is not read as written: %v", err)
	}
}

// An authority that others made is taken if it can do the work.
func TestParseAuthority(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	made := func(change func(*x509.Certificate)) []byte {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "openssl's"}, NotAfter: now.Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		change(template)
		der, err := x509.CreateCertificate(rand.Reader, template, template, rsaKey.Public(), rsaKey)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)})
	good := made(func(*x509.Certificate) {})
	ours, oursKey, err := authority(t, time.Hour).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"RSA", good, key, ""},
		{"no key usage is all usages", made(func(c *x509.Certificate) { c.KeyUsage = 0 }), key, ""},
		{"no authority", made(func(c *x509.Certificate) { c.IsCA = false }), key, "not one of an authority"},
		{"may not sign", made(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), key, "not one of an authority"},
		{"another's key", good, oursKey, "does not match"},
		{"two", append(append([]byte{}, good...), ours...), key, "2 certificates"},
		{"empty", nil, nil, "no certificate in PEM form"},
		{"a key for a certificate", key, key, "RSA PRIVATE KEY where only certificates belong"},
		{"no key", good, nil, "failed to find any PEM data in key"},
		{"half a key", good, key[:len(key)/2], "key"},
		{"damaged", []byte(strings.Replace(string(good), "MII", "AAA", 1)), key, "x509"},
	} {
		_, err := pki.ParseAuthority(c.cert, c.key)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestValidAt(t *testing.T) {
	c := authority(t, time.Hour).Certificate()
	for _, at := range []struct {
		when time.Duration
		want string
	}{
		{-2 * time.Hour, "is a clock wrong?"}, {-30 * time.Minute, ""}, {0, ""}, {59 * time.Minute, ""},
		{61 * time.Minute, "expired at 2026-02-03T05:05:06Z"},
	} {
		err := pki.ValidAt(c, now.Add(at.when))
		if at.want == "" && err != nil || at.want != "" && (err == nil || !strings.Contains(err.Error(), at.want)) {
			t.Errorf("%s: %v, want %q", at.when, err, at.want)
		}
	}
}
