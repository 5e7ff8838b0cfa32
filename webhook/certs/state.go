package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/pki"
)

// Keys of the Secret. What else is in there is left alone.
const (
	currentCert = "ca.crt"
	currentKey  = "ca.key"
	nextCert    = "next.crt"
	nextKey     = "next.key"
	// previousCerts are trusted until nobody can be serving what they signed. Their keys are gone.
	previousCerts = "previous.crt"
	// lastChange says what was done last, and when by the clock of who did it: for people, nobody reads it.
	lastChange = "last-change"
)

// state is what the Secret says: the authority that signs, the one that is being made known before it signs, and those that signed
// before. It is the whole state of a rotation, shared by all replicas.
type state struct {
	current, next *pki.Authority
	previous      []*x509.Certificate
}

// parse reads a Secret. wrong says what in it cannot be used, and was left out; nil for an empty one.
func parse(data map[string][]byte, usable func(*pki.Authority) error) (s state, wrong error) {
	read := func(cert, key string) (*pki.Authority, error) {
		if len(data[cert]) == 0 && len(data[key]) == 0 {
			return nil, nil
		}
		if len(data[cert]) == 0 || len(data[key]) == 0 {
			return nil, fmt.Errorf("%s and %s go together, and one is empty", cert, key)
		}
		a, err := pki.ParseAuthority(data[cert], data[key])
		if err == nil {
			err = usable(a)
		}
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", cert, key, err)
		}
		return a, nil
	}
	var errs [3]error
	s.current, errs[0] = read(currentCert, currentKey)
	s.next, errs[1] = read(nextCert, nextKey)
	if len(data[previousCerts]) > 0 {
		if s.previous, errs[2] = pki.ParseCertificates(data[previousCerts]); errs[2] != nil {
			errs[2] = fmt.Errorf("%s: %w", previousCerts, errs[2])
		}
	}
	return s, errors.Join(errs[:]...)
}

// encode gives the Secret's data for a state, with what else old held.
func (s state) encode(old map[string][]byte, change string) (map[string][]byte, error) {
	data := maps.Clone(old)
	if data == nil {
		data = map[string][]byte{}
	}
	for _, key := range []string{currentCert, currentKey, nextCert, nextKey, previousCerts} {
		delete(data, key)
	}
	for _, a := range []struct {
		authority *pki.Authority
		cert, key string
	}{{s.current, currentCert, currentKey}, {s.next, nextCert, nextKey}} {
		if a.authority == nil {
			continue
		}
		cert, key, err := a.authority.Encode()
		if err != nil {
			return nil, err
		}
		data[a.cert], data[a.key] = cert, key
	}
	if len(s.previous) > 0 {
		data[previousCerts] = pki.EncodeCertificates(s.previous...)
	}
	data[lastChange] = []byte(change)
	return data, nil
}

// bundle is what the API servers are to trust in this state.
func (s state) bundle() []byte {
	text := pki.EncodeCertificates(s.current.Certificate())
	if s.next != nil {
		text = append(text, pki.EncodeCertificates(s.next.Certificate())...)
	}
	return append(text, pki.EncodeCertificates(s.previous...)...)
}

// sight is what a replica has seen for itself when it decides about a state.
type sight struct {
	now time.Time // by the wall: certificates live by that
	// wrong is what parse left out.
	wrong error
	// trusted are the authorities that the API servers trust now by the live bundle and that may be ours: where the Secret does not
	// say any more who signed, replicas may still serve what they signed.
	trusted []*x509.Certificate
	// due: a third of the current authority's life is left, or less.
	due bool
	// nextIsKnown: the live bundle has been read to hold the next authority for the whole overlap.
	nextIsKnown bool
	// previousAreOld: they have been previous for longer than anything that they signed lives.
	previousAreOld bool
}

// change is one step of a state.
type change struct {
	what string // for people
	// rotation: an authority was made, or took its place. repair: the Secret did not hold what it must.
	rotation, repair bool
	// urgent: no overlap was possible for whoever has nothing else to serve.
	urgent bool
}

// step decides what is to be done next with a state; nil if nothing. Each step is one write of the Secret, made by whichever replica
// comes first, and each leaves a state from which any other replica can go on.
func (s state) step(saw sight, newAuthority func() (*pki.Authority, error)) (state, *change, error) {
	valid := func(a *pki.Authority) bool { return a != nil && pki.ValidAt(a.Certificate(), saw.now) == nil }
	kept := s.keep(saw)

	if !valid(s.current) {
		c := &change{rotation: true, repair: saw.wrong != nil, urgent: true}
		next := state{previous: append(kept, unknown(saw.trusted, s, kept)...)}
		switch {
		case saw.wrong != nil:
			c.what = "replaced what could not be used: " + saw.wrong.Error()
		case s.current == nil:
			c.what = "made the certificate authority"
		default:
			c.what = "replaced the certificate authority, which was " + pki.ValidAt(s.current.Certificate(), saw.now).Error()
		}
		if valid(s.next) {
			next.current = s.next
			return next, c, nil
		}
		a, err := newAuthority()
		if err != nil {
			return s, nil, err
		}
		next.current = a
		return next, c, nil
	}
	if saw.wrong != nil {
		s.previous = append(kept, unknown(saw.trusted, s, kept)...)
		return s, &change{what: "took out what could not be used: " + saw.wrong.Error(), repair: true}, nil
	}
	switch {
	case s.next != nil && !valid(s.next):
		s.next = nil
		return s, &change{what: "dropped the next authority, which is not valid"}, nil
	case len(kept) < len(s.previous):
		s.previous = kept
		return s, &change{what: "dropped previous authorities, which nothing can be signed by any more"}, nil
	case s.next != nil && saw.nextIsKnown:
		return state{current: s.next, previous: append(kept, s.current.Certificate())},
			&change{what: "put the next authority in its place", rotation: true}, nil
	case s.next == nil && saw.due:
		a, err := newAuthority()
		if err != nil {
			return s, nil, err
		}
		s.next = a
		return s, &change{what: "made the next authority, to be known before it signs", rotation: true}, nil
	}
	return s, nil, nil
}

// keep are the previous authorities that may still have signed something that is served.
func (s state) keep(saw sight) []*x509.Certificate {
	if saw.previousAreOld {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.previous), func(c *x509.Certificate) bool { return pki.ValidAt(c, saw.now) != nil })
}

// unknown are those that the API servers trust and that a state does not know.
func unknown(trusted []*x509.Certificate, s state, kept []*x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(trusted), func(c *x509.Certificate) bool {
		is := func(a *pki.Authority) bool { return a != nil && a.Certificate().Equal(c) }
		return is(s.current) || is(s.next) || contains(kept, c)
	})
}
