package certs

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dev/holdfast/pki"
)

// holder has the certificate that is served, and decides when another takes its place.
type holder struct {
	host    string        // the name that the API server calls
	overlap time.Duration // how long an issuer must have been trusted before it is relied on
	serving atomic.Pointer[tls.Certificate]

	mu       sync.Mutex
	live     live
	renewals int64
}

// saw takes in what was read of the configuration. A question without an answer is not given here: it changes nothing.
func (h *holder) saw(p published, gone, lenient bool, now time.Time) live {
	h.mu.Lock()
	defer h.mu.Unlock()
	if gone {
		h.live = live{read: now, gone: true}
	} else {
		h.live = h.live.see(p, now)
		h.live.lenient = lenient && !p.injected
	}
	return h.live
}

// reading is the last one. It must not be changed.
func (h *holder) reading() live {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.live
}

// offer puts a certificate in service if that harms nobody: if there is none yet, if the one in service is of no use (any more), if
// both have the same issuer, or if the API servers have been told long enough ago to trust the new one's. It says whether the
// certificate is in service.
func (h *holder) offer(pair *tls.Certificate, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	serving := h.serving.Load()
	if serving == pair {
		return true
	}
	if serving != nil && !sameIssuer(serving.Leaf, pair.Leaf) && pki.ValidAt(serving.Leaf, now) == nil {
		_, old := h.live.trusts(serving, h.host, now)
		known, err := h.live.trusts(pair, h.host, now)
		if err != nil || old == nil && known < h.overlap {
			return false
		}
	}
	h.serving.Store(pair)
	h.renewals++
	return true
}

// ready says why the API server cannot trust what is served; nil when it can.
func (h *holder) ready(now time.Time) error {
	pair := h.serving.Load()
	if pair == nil {
		return errNone
	}
	if err := pki.ValidAt(pair.Leaf, now); err != nil {
		return fmt.Errorf("the certificate is %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.live.trusts(pair, h.host, now)
	return err
}

func (h *holder) facts() Facts {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := Facts{Renewals: h.renewals}
	if pair := h.serving.Load(); pair != nil {
		f.LeafExpires = pair.Leaf.NotAfter
	}
	return f
}

// errLater: somebody else was faster, or came in between. Look again.
var errLater = errors.New("somebody else was faster")
