package etcd

import (
	"testing"
	"time"
)

func TestBackoffDoublesAndSpreads(t *testing.T) {
	b := backoff{min: 250 * time.Millisecond, max: 10 * time.Second}
	for _, ceiling := range []time.Duration{250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000} {
		ceiling *= time.Millisecond
		low, high := time.Hour, time.Duration(0)
		for range 200 {
			copied := b
			d := copied.next()
			low, high = min(low, d), max(high, d)
		}
		if low <= 0 || high > ceiling || low > ceiling/4 || high < ceiling*3/4 {
			t.Errorf("waits from %v to %v under a ceiling of %v", low, high, ceiling)
		}
		b.next()
	}
	b.reset()
	if d := b.next(); d > 250*time.Millisecond {
		t.Errorf("%v after a success", d)
	}
}
