package certs

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/pki"
)

func signed(t *testing.T, a *pki.Authority, now time.Time, life time.Duration) *tls.Certificate {
	t.Helper()
	pair, err := a.Sign(pki.Request{Name: host, Hosts: []string{host}, Server: true, Life: life}, now)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// A certificate takes another's place when that harms nobody, and not before.
func TestOffer(t *testing.T) {
	now := time.Now()
	a, b := authority(t, time.Hour), authority(t, time.Hour)
	both := pki.EncodeCertificates(a.Certificate(), b.Certificate())
	onlyA, onlyB := pki.EncodeCertificates(a.Certificate()), pki.EncodeCertificates(b.Certificate())
	type reading struct {
		ago     time.Duration
		bundles [][]byte // of the entries; nil: there is no configuration
		uid     string
	}
	at := func(ago time.Duration, bundles ...[]byte) reading { return reading{ago, bundles, "1"} }
	for _, c := range []struct {
		name     string
		expired  bool // is the certificate in service
		renewal  bool // is of the same issuer
		readings []reading
		want     bool
	}{
		{name: "nothing is known", want: false},
		{name: "nothing is known, and it is a renewal", renewal: true, want: true},
		{name: "nothing is known, and the one in service is expired", expired: true, want: true},
		{name: "known for long", readings: []reading{at(time.Hour, both, both), at(0, both, both)}, want: true},
		{name: "known for long, but not read since", readings: []reading{at(time.Hour, both)}, want: false},
		{name: "known for a moment", readings: []reading{at(time.Hour, onlyA), at(time.Minute, both), at(0, both)}, want: false},
		{name: "known, not known, and known for a moment",
			readings: []reading{at(time.Hour, both), at(time.Minute, onlyA), at(0, both)}, want: false},
		{name: "one entry knows it for a moment",
			readings: []reading{at(time.Hour, both, onlyA), at(time.Minute, both, both), at(0, both, both)}, want: false},
		{name: "another entry knows it for a moment",
			readings: []reading{at(time.Hour, onlyA, both), at(time.Minute, both, both), at(0, both, both)}, want: false},
		{name: "one entry does not know it", readings: []reading{at(time.Hour, both, onlyA), at(0, both, onlyA)}, want: false},
		{name: "known by another configuration of the name",
			readings: []reading{at(time.Hour, both), {time.Minute, [][]byte{both}, "2"}, {0, [][]byte{both}, "2"}}, want: false},
		{name: "not known", readings: []reading{at(time.Hour, onlyA), at(0, onlyA)}, want: false},
		{name: "known for a moment, and the one in service is not trusted", readings: []reading{at(0, onlyB)}, want: true},
		{name: "neither is trusted", readings: []reading{at(0, []byte("x"))}, want: false},
		{name: "the configuration is gone", readings: []reading{at(time.Hour, both), {0, nil, ""}}, want: false},
	} {
		h := &holder{host: host, overlap: 10 * time.Minute}
		serving, offered := signed(t, a, now, time.Hour), signed(t, b, now, time.Hour)
		if c.expired {
			serving = signed(t, a, now, -time.Minute)
		}
		if c.renewal {
			offered = signed(t, a, now, time.Hour)
		}
		if !h.offer(serving, now) {
			t.Fatalf("%s: the first certificate was not taken", c.name)
		}
		for _, r := range c.readings {
			p := published{uid: r.uid}
			for i, b := range r.bundles {
				p.entries = append(p.entries, entry{name: string(rune('a' + i)), bundle: b})
			}
			h.saw(p, r.bundles == nil, false, now.Add(-r.ago))
		}
		if got := h.offer(offered, now); got != c.want {
			t.Errorf("%s: taken %t, want %t", c.name, got, c.want)
		}
		if got, _ := h.getCertificate(nil); (got == offered) != c.want {
			t.Errorf("%s: serves the other one", c.name)
		}
	}
}

func TestReadySaysWhyNot(t *testing.T) {
	now := time.Now()
	a, b := authority(t, time.Hour), authority(t, time.Hour)
	of := func(bundles ...[]byte) published {
		p := published{uid: "1"}
		for i, b := range bundles {
			p.entries = append(p.entries, entry{name: string(rune('a' + i)), bundle: b})
		}
		return p
	}
	good, other := pki.EncodeCertificates(a.Certificate()), pki.EncodeCertificates(b.Certificate())
	for _, c := range []struct {
		name    string
		leaf    *tls.Certificate
		p       published
		gone    bool
		lenient bool
		want    string // "" for ready
	}{
		{name: "good", leaf: signed(t, a, now, time.Minute), p: of(good, good)},
		{name: "among others", leaf: signed(t, a, now, time.Minute), p: of(append(other[:len(other):len(other)], good...))},
		{name: "nothing", p: of(good), want: "no certificate yet"},
		{name: "expired", leaf: signed(t, a, now, -time.Minute), p: of(good), want: "the certificate is expired at"},
		{name: "not valid yet", leaf: signed(t, a, now.Add(2*time.Hour), time.Hour), p: of(good), want: "is a clock wrong?"},
		{name: "gone", leaf: signed(t, a, now, time.Minute), gone: true, want: "does not exist"},
		{name: "no entries", leaf: signed(t, a, now, time.Minute), want: "has no webhooks"},
		{name: "empty", leaf: signed(t, a, now, time.Minute), p: of(good, nil), want: "the caBundle of webhook b cannot be used: empty"},
		{name: "garbage", leaf: signed(t, a, now, time.Minute), p: of([]byte("x")), want: "webhook a cannot be used: no certificate in PEM"},
		{name: "another's", leaf: signed(t, a, now, time.Minute), p: of(good, other), want: "webhook b does not lead to the certificate's"},
		{name: "empty, and meant so", leaf: signed(t, a, now, time.Minute), p: of(nil), lenient: true},
		{name: "empty, and not yet injected", leaf: signed(t, a, now, time.Minute),
			p: published{entries: []entry{{name: "a"}}, injected: true}, lenient: true, want: "cannot be used: empty"},
		{name: "garbage is never meant", leaf: signed(t, a, now, time.Minute), p: of([]byte("x")), lenient: true, want: "cannot be used"},
	} {
		h := &holder{host: host, overlap: time.Minute}
		h.saw(c.p, c.gone, c.lenient, now)
		if c.leaf != nil {
			h.offer(c.leaf, now)
		}
		err := h.ready(now)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	h := &holder{host: host}
	h.offer(signed(t, a, now, time.Minute), now)
	if err := h.ready(now); err == nil || !strings.Contains(err.Error(), "has not been read yet") {
		t.Errorf("before the first reading: %v", err)
	}
}
