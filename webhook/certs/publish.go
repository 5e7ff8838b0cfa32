package certs

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"time"
)

// publisher keeps the entries' caBundle what it should be.
type publisher struct {
	cluster cluster
	log     *slog.Logger

	// last is what was last found, or made, right: by entry, of the configuration with this uid. What differs from it was overwritten.
	last map[string][]byte
	uid  string
	// Whoever writes into the field all the time cannot be outdone by being faster.
	repaired, next time.Time
	backoff        time.Duration
	repairs        int64
}

const (
	minRepairPause = time.Second
	maxRepairPause = time.Minute
)

// write writes bundles, one for each entry of p, where they differ, and says whether it did.
func (w *publisher) write(ctx context.Context, p published, bundles [][]byte, now time.Time) (wrote bool, err error) {
	differ, overwritten := "", ""
	for i, e := range p.entries {
		if bytes.Equal(e.bundle, bundles[i]) {
			continue
		}
		differ = e.name
		if last, known := w.last[e.name]; known && w.uid == p.uid && !bytes.Equal(e.bundle, last) {
			overwritten = e.name
		}
	}
	if overwritten != "" && now.Before(w.next) {
		return false, fmt.Errorf("the caBundle of webhook %s is overwritten again and again (fields of others: %v): "+
			"whoever renders the configuration must leave that field out", overwritten, p.writers)
	}
	if differ != "" {
		if err := w.cluster.publish(ctx, p, bundles); err != nil {
			return false, err
		}
	}
	w.uid, w.last = p.uid, make(map[string][]byte, len(p.entries))
	for i, e := range p.entries {
		w.last[e.name] = bundles[i]
	}
	switch {
	case overwritten != "":
		w.count(now)
		w.log.Warn("a caBundle was overwritten, and has been put right: whoever renders the configuration must leave that field out",
			"webhook", overwritten, "fields-of-others", p.writers)
	case differ != "":
		w.log.Info("published who signs the webhook's certificate", "webhooks", len(p.entries))
	}
	return differ != "", nil
}

// count counts a repair, and sets the pause until the next one: longer each time, until nobody has disturbed for a while.
func (w *publisher) count(now time.Time) {
	w.repairs++
	if now.Sub(w.repaired) > 2*maxRepairPause {
		w.backoff = minRepairPause
	} else {
		w.backoff = min(2*w.backoff, maxRepairPause)
	}
	w.repaired, w.next = now, now.Add(w.backoff)
}
