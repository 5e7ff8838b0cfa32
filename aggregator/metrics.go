package aggregator

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dev/holdfast/etcd"
)

// metrics are those of the leader's work. The API has its own.
type metrics struct {
	unreadable *prometheus.CounterVec
	writes     *prometheus.CounterVec
	writeTime  prometheus.Histogram
	leading    prometheus.Gauge
	reigns     prometheus.Counter
	checks     *prometheus.CounterVec
	// differences are what the checks found. It is to stay 0.
	differences *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		unreadable: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_settler_records_unreadable_total",
			Help: "Records that the settler could not read, by kind: corrupt, newer, foreign.",
		}, []string{"kind"}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_settler_writes_total",
			Help: "Transactions of the settler, by outcome: done, refused, unknown, failed.",
		}, []string{"outcome"}),
		writeTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "holdfast_settler_write_seconds", Help: "How long a transaction of the settler took.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "holdfast_leading", Help: "1 while this replica leads.",
		}),
		reigns: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "holdfast_reigns_total", Help: "How often this replica was elected.",
		}),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_checks_total",
			Help: "Checks of what is remembered against etcd, by memory (board, settler) and outcome: done, given up.",
		}, []string{"memory", "outcome"}),
		differences: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_check_differences_total",
			Help: "Records that were remembered otherwise than they lay in etcd, found and mended by a check, by memory (board, settler). More than 0 is a bug of Holdfast.",
		}, []string{"memory"}),
	}
	for _, memory := range []string{boardMemory, settlerMemory} {
		m.differences.WithLabelValues(memory)
		for _, outcome := range []string{checkDone, checkGivenUp} {
			m.checks.WithLabelValues(memory, outcome)
		}
	}
	for _, c := range []prometheus.Collector{m.unreadable, m.writes, m.writeTime, m.leading, m.reigns, m.checks, m.differences} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) wrote(err error, took time.Duration) {
	outcome := "failed"
	switch {
	case err == nil:
		outcome = "done"
	case errors.Is(err, etcd.ErrRefused):
		outcome = "refused"
	case errors.Is(err, etcd.ErrUnknown):
		outcome = "unknown"
	}
	m.writes.WithLabelValues(outcome).Inc()
	m.writeTime.Observe(took.Seconds())
}
