package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/pki"
)

// published is what the configuration says at one moment.
type published struct {
	uid, version string
	entries      []entry
	// injected says that cert-manager has been told to write the caBundle.
	injected bool
	// writers are the field managers, besides our own, that own a caBundle.
	writers []string
}

// entry is one webhook of the configuration. A configuration has several, because a selector cannot say OR.
type entry struct {
	name   string
	bundle []byte
}

// live is what the API server trusts, as this replica last read it, and since when it has been so, by this replica's own clock.
type live struct {
	read    time.Time // zero: never yet
	gone    bool      // there was no configuration
	uid     string
	entries []liveEntry
	// lenient: an entry without a caBundle is checked by the API server against its own system's roots, which cannot be
	// known here, and somebody may have wanted just that.
	lenient bool
}

type liveEntry struct {
	name  string
	certs []*x509.Certificate
	wrong error // why there are none
	since map[pki.Fingerprint]time.Time
}

// see takes a reading in. What was in the last reading too has been there since then.
func (l live) see(p published, now time.Time) live {
	next := live{read: now, uid: p.uid}
	for _, e := range p.entries {
		seen := liveEntry{name: e.name, since: map[pki.Fingerprint]time.Time{}}
		if len(e.bundle) == 0 {
			seen.wrong = errors.New("empty")
		} else {
			seen.certs, seen.wrong = pki.ParseCertificates(e.bundle)
		}
		before := l.entry(e.name)
		for _, c := range seen.certs {
			since, known := before.since[pki.Of(c)]
			if !known || l.uid != p.uid {
				since = now
			}
			seen.since[pki.Of(c)] = since
		}
		next.entries = append(next.entries, seen)
	}
	return next
}

func (l live) entry(name string) liveEntry {
	for _, e := range l.entries {
		if e.name == name {
			return e
		}
	}
	return liveEntry{}
}

// trusts says whether every entry's caBundle leads to the certificate's issuer, and for how long that was read to be so.
func (l live) trusts(pair *tls.Certificate, host string, now time.Time) (time.Duration, error) {
	switch {
	case l.gone:
		return 0, errors.New("the configuration does not exist")
	case l.read.IsZero():
		return 0, errors.New("the configuration has not been read yet")
	case len(l.entries) == 0:
		return 0, errors.New("the configuration has no webhooks")
	}
	intermediates := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			intermediates.AddCert(c)
		}
	}
	latest := time.Time{}
	for _, e := range l.entries {
		if len(e.certs) == 0 {
			if l.lenient && e.wrong.Error() == "empty" {
				continue
			}
			return 0, fmt.Errorf("the caBundle of webhook %s cannot be used: %w", e.name, e.wrong)
		}
		roots := x509.NewCertPool()
		for _, c := range e.certs {
			roots.AddCert(c)
		}
		chains, err := pair.Leaf.Verify(x509.VerifyOptions{
			DNSName: host, Roots: roots, Intermediates: intermediates, CurrentTime: now,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		if err != nil {
			return 0, fmt.Errorf("the caBundle of webhook %s does not lead to the certificate's issuer: %w", e.name, err)
		}
		// Any chain will do, so the oldest counts; every entry must have one, so the youngest of those counts.
		since := e.since[pki.Of(last(chains[0]))]
		for _, chain := range chains[1:] {
			if other := e.since[pki.Of(last(chain))]; other.Before(since) {
				since = other
			}
		}
		if since.After(latest) {
			latest = since
		}
	}
	return l.read.Sub(latest), nil
}

// holds says for how long every entry's caBundle has been read to hold a certificate; false if one does not.
func (l live) holds(c *x509.Certificate) (time.Duration, bool) {
	if l.gone || l.read.IsZero() || len(l.entries) == 0 {
		return 0, false
	}
	latest := time.Time{}
	for _, e := range l.entries {
		since, there := e.since[pki.Of(c)]
		if !there {
			return 0, false
		}
		if since.After(latest) {
			latest = since
		}
	}
	return l.read.Sub(latest), true
}

// all are the certificates of all entries, each once.
func (l live) all() []*x509.Certificate {
	var certs []*x509.Certificate
	for _, e := range l.entries {
		for _, c := range e.certs {
			if !contains(certs, c) {
				certs = append(certs, c)
			}
		}
	}
	return certs
}

func contains(certs []*x509.Certificate, c *x509.Certificate) bool {
	return slices.ContainsFunc(certs, c.Equal)
}

func last(chain []*x509.Certificate) *x509.Certificate { return chain[len(chain)-1] }

// sameIssuer says whether two certificates were signed by one authority's key.
func sameIssuer(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawIssuer, b.RawIssuer) && len(a.AuthorityKeyId) > 0 && bytes.Equal(a.AuthorityKeyId, b.AuthorityKeyId)
}
