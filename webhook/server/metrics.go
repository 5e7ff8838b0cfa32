package server

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those of one server.
type metrics struct {
	decisions, dryRuns, refusals, configMaps *prometheus.CounterVec
	unknown, distrusted                      prometheus.Counter
	inFlight                                 prometheus.Gauge
	duration                                 prometheus.Histogram
}

func newMetrics(o Options) (*metrics, error) {
	name := func(name string) string { return "holdfast_webhook_" + name }
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: name("decisions_total"), Help: "Pods decided upon, by decision (inject, skip) and reason. Dry runs are counted apart.",
		}, []string{"decision", "reason"}),
		dryRuns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: name("dry_runs_total"), Help: "Pods of dry runs decided upon, by decision and reason.",
		}, []string{"decision", "reason"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: name("refused_requests_total"), Help: "Requests that were no admission reviews, by status code.",
		}, []string{"code"}),
		configMaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: name("configmap_reads_total"), Help: "ConfigMaps read for a decision, by outcome: read, failed, busy (too many at a time).",
		}, []string{"outcome"}),
		unknown: prometheus.NewCounter(prometheus.CounterOpts{
			Name: name("breaker_unknown_total"), Help: "Decisions for which nobody could tell whether agents can start.",
		}),
		distrusted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: name("distrusted_total"), Help: "Connections whose client refused the certificate.",
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: name("requests_in_flight"), Help: "Requests that are being answered."}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name("request_duration_seconds"), Help: "How long answers to reviews took, from the request's head on.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: name("build_info"), Help: "1, and the program's version.", ConstLabels: prometheus.Labels{"version": o.Version},
	})
	build.Set(1)
	for _, c := range []prometheus.Collector{
		m.decisions, m.dryRuns, m.refusals, m.configMaps, m.unknown, m.distrusted, m.inFlight, m.duration, build,
		newCertificateMetrics(o.Certificates),
	} {
		if err := o.Registry.Register(c); err != nil {
			return nil, fmt.Errorf("register the webhook's metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) refused(status int) { m.refusals.WithLabelValues(strconv.Itoa(status)).Inc() }

// certificateMetrics are computed when they are asked for.
type certificateMetrics struct {
	certificates                                                                Certificates
	leaf, authority, trusted, renewals, rotations, secretRepairs, bundleRepairs *prometheus.Desc
}

func newCertificateMetrics(c Certificates) *certificateMetrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("holdfast_webhook_"+name, help, nil, nil)
	}
	return &certificateMetrics{
		certificates:  c,
		leaf:          desc("certificate_expiry_timestamp_seconds", "When the certificate that is served expires; 0 while there is none."),
		authority:     desc("authority_expiry_timestamp_seconds", "When the authority that signs it expires; 0 while it is not known."),
		trusted:       desc("certificate_trusted", "1 while the certificate is valid and the live caBundle leads to its issuer. Otherwise no agents are injected."),
		renewals:      desc("certificate_renewals_total", "How often another certificate was taken into service."),
		rotations:     desc("authority_rotations_total", "How often this replica made an authority, or put the next one in its place."),
		secretRepairs: desc("authority_repairs_total", "How often this replica had to mend the authority's Secret."),
		bundleRepairs: desc("ca_bundle_repairs_total", "How often this replica found a caBundle changed by somebody else, and put it right."),
	}
}

// Describe is for the registry.
func (m *certificateMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.leaf, m.authority, m.trusted, m.renewals, m.rotations, m.secretRepairs, m.bundleRepairs} {
		to <- d
	}
}

// Collect is for the registry.
func (m *certificateMetrics) Collect(to chan<- prometheus.Metric) {
	facts := m.certificates.Facts()
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64) {
		to <- prometheus.MustNewConstMetric(d, kind, value)
	}
	trusted := 0.0
	if m.certificates.Ready() == nil {
		trusted = 1
	}
	send(m.leaf, prometheus.GaugeValue, seconds(facts.LeafExpires))
	send(m.authority, prometheus.GaugeValue, seconds(facts.AuthorityExpires))
	send(m.trusted, prometheus.GaugeValue, trusted)
	send(m.renewals, prometheus.CounterValue, float64(facts.Renewals))
	send(m.rotations, prometheus.CounterValue, float64(facts.Rotations))
	send(m.secretRepairs, prometheus.CounterValue, float64(facts.SecretRepairs))
	send(m.bundleRepairs, prometheus.CounterValue, float64(facts.BundleRepairs))
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
