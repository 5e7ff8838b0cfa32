// Package certs has the webhook's certificate, wherever it comes from, and sees to it that the API server trusts it.
//
// Own is an authority of the webhook's own, kept in one Secret and shared by all replicas. Files reads what somebody else
// renews: a mounted Secret, cert-manager's or one that was given. Both are used alike:
//
//	GetCertificate  for tls.Config; it never waits
//	Ready           nil, or why the API server cannot trust what GetCertificate gives
//	Facts           numbers for metrics
//	Run             keeps all this true until its context ends
//
// What the API server trusts is the caBundle of each entry in a MutatingWebhookConfiguration. It is read back before anything relies on
// it, and written under a field manager of its own, one field at a time: whoever renders the configuration must leave that field out.
//
// The package decides nothing about pods, and serves nothing.
package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// FieldManager owns the caBundle of the configuration's entries, in Kubernetes' books.
const FieldManager = "holdfast-webhook-certs"

// Facts are numbers for metrics. Counts are of this process alone.
type Facts struct {
	// LeafExpires and AuthorityExpires are when the certificate that is served ends, and its issuer; zero while not known.
	LeafExpires, AuthorityExpires time.Time
	// Renewals is how often another certificate was taken into service.
	Renewals int64
	// Rotations is how often this replica made an authority, the first one included, or put the next one in its place.
	Rotations int64
	// SecretRepairs is how often this replica had to mend what the Secret holds.
	SecretRepairs int64
	// BundleRepairs is how often this replica found a caBundle changed by somebody else, and put it right.
	BundleRepairs int64
}

const (
	// tick is how long this package relies on being told of changes before it looks by itself. Expiry is a matter of wall
	// clocks, and timers stand still while a machine sleeps: so this is also how late an expiry may be noticed.
	tick = 30 * time.Second
	// callBound bounds one question to the API server.
	callBound = 10 * time.Second
)

// errNone is why Ready says no before there is anything to serve.
var errNone = errors.New("there is no certificate yet")

// getCertificate is GetCertificate of both providers.
func (h *holder) getCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if pair := h.serving.Load(); pair != nil {
		return pair, nil
	}
	return nil, errNone
}

// trouble is what stands in the way at the moment.
type trouble struct {
	mu   sync.Mutex
	err  error
	told string
}

// tell logs an error once, until there is another. That somebody else was faster is no trouble.
func (t *trouble) tell(log *slog.Logger, err error, ready bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if errors.Is(err, errLater) {
		err = nil
	} else if err == nil {
		t.told = ""
	}
	t.err = err
	if err != nil && err.Error() != t.told {
		t.told = err.Error()
		log.Warn("certificates are not as they should be, and this will be tried again", "error", err, "ready", ready)
	}
}

// explain adds the trouble to an error, which may be because of it.
func (t *trouble) explain(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil || t.err == nil {
		return err
	}
	return fmt.Errorf("%w; %w", err, t.err)
}

// pause waits until something is heard of, or d has passed. false means that ctx ended.
func pause(ctx context.Context, heard <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-heard:
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	return ctx.Err() == nil
}
