package api

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/job"
)

// statuses are the codes with which the server answers. The counters of the usual ones are looked up once.
var statuses = [...]int{200, 304, 400, 404, 405, 408, 410, 413, 431, 500, 503}

// routeMetrics are the counters of one route.
type routeMetrics struct {
	codes    [len(statuses)]prometheus.Counter
	duration prometheus.Observer
}

// metrics are those of one server. The board's own are computed when they are asked for: there are none per job.
type metrics struct {
	server   *Server
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	// none counts the requests that fit no route.
	none    routeMetrics
	handler fasthttp.RequestHandler
	// registered are the collectors that the registry has taken.
	registered []prometheus.Collector

	jobs, clusters, watchers, revision, watchAge, leaderAge, frozen, weakened, unreadable *prometheus.Desc
}

// noRoute is the label of requests that fit no route; their paths are anybody's invention.
const noRoute = "none"

func newMetrics(s *Server) (*metrics, error) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("holdfast_"+name, help, labels, nil)
	}
	m := &metrics{
		server: s,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_http_requests_total", Help: "Requests answered, by route and status code.",
		}, []string{"route", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "holdfast_http_request_duration_seconds", Help: "How long answers took to make; of watches, to begin.",
			Buckets: []float64{.00001, .0001, .001, .005, .025, .1, .5, 1, 5},
		}, []string{"route"}),
		jobs:       desc("jobs", "Jobs, as this server serves them.", "state", "certainty", "over"),
		clusters:   desc("clusters", "Flink clusters as a whole, as this server serves them.", "condition", "certainty", "over"),
		watchers:   desc("watchers", "Watches that are open."),
		revision:   desc("board_revision", "The revision of etcd up to which the verdicts are known."),
		watchAge:   desc("watch_age_seconds", "Time since the watch of a prefix last proved to be alive; -1 if it never did.", "prefix"),
		leaderAge:  desc("leader_age_seconds", "Time since it was last proven that an aggregator leads; -1 if it never was."),
		frozen:     desc("frozen", "1 while conclusions about silent agents' jobs are frozen."),
		weakened:   desc("weakened", "1 while everything is served as Held, since this server cannot prove it to be fresh."),
		unreadable: desc("records_unreadable_total", "Records in etcd that could not be read, by what was wrong.", "kind"),
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m} {
		if err := s.o.Registry.Register(c); err != nil {
			// Only its own: a registry takes collectors of the same metrics for the same.
			m.unregister(s.o.Registry)
			return nil, fmt.Errorf("register the API's metrics: %w", err)
		}
		m.registered = append(m.registered, c)
	}
	for _, r := range s.routes {
		r.counts = m.of(r.pattern)
	}
	m.none = m.of(noRoute)
	m.handler = fasthttpadaptor.NewFastHTTPHandler(promhttp.HandlerFor(s.o.Registry, promhttp.HandlerOpts{
		// One metric that fails must not take all the others away.
		ErrorHandling: promhttp.ContinueOnError,
	}))
	return m, nil
}

func (m *metrics) unregister(from *prometheus.Registry) {
	for _, c := range m.registered {
		from.Unregister(c)
	}
}

func (m *metrics) of(route string) routeMetrics {
	counts := routeMetrics{duration: m.duration.WithLabelValues(route)}
	for i, code := range statuses {
		counts.codes[i] = m.requests.WithLabelValues(route, strconv.Itoa(code))
	}
	return counts
}

// served counts a request.
func (m *metrics) served(r *route, code int, took time.Duration) {
	counts, name := &m.none, noRoute
	if r != nil {
		counts, name = &r.counts, r.pattern
	}
	counts.duration.Observe(took.Seconds())
	for i, usual := range statuses {
		if code == usual {
			counts.codes[i].Inc()
			return
		}
	}
	m.requests.WithLabelValues(name, strconv.Itoa(code)).Inc()
}

// refused counts what was no readable request.
func (m *metrics) refused(code int) { m.requests.WithLabelValues(noRoute, strconv.Itoa(code)).Inc() }

// Describe is for the registry.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.jobs, m.clusters, m.watchers, m.revision, m.watchAge, m.leaderAge, m.frozen, m.weakened, m.unreadable} {
		to <- d
	}
}

// Collect is for the registry. It looks at every job and every cluster once.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	b := m.server.o.Board
	view := b.Snapshot().At(b.Now())
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}

	type kind struct {
		state     job.State
		certainty job.Certainty
		over      job.Answer
	}
	counts := make(map[kind]int)
	view.Ascend("", func(j *board.Job) bool {
		counts[kind{j.State(), view.Certainty(j), j.Over()}]++
		return true
	})
	for k, n := range counts {
		gauge(m.jobs, float64(n), k.state.String(), k.certainty.String(), k.over.String())
	}
	type clusterKind struct {
		condition job.Condition
		certainty job.Certainty
		over      job.Answer
	}
	clusters, lowered := make(map[clusterKind]int), view.ClusterWeakness().Holds()
	view.Clusters("", func(c *board.Cluster) bool {
		k := clusterKind{c.Condition, c.Certainty, c.Over}
		if lowered {
			k.certainty = job.Held
		}
		clusters[k]++
		return true
	})
	for k, n := range clusters {
		gauge(m.clusters, float64(n), k.condition.String(), k.certainty.String(), k.over.String())
	}
	gauge(m.watchers, float64(m.server.watchers.count()))
	gauge(m.revision, float64(view.Snapshot.Version().Revision))
	for _, f := range board.Feeds() {
		gauge(m.watchAge, age(view.Now(), view.Feed(f).Proven), f.String())
	}
	gauge(m.leaderAge, age(view.Now(), view.LeaderProven()))
	condition, _ := view.Condition()
	gauge(m.frozen, truth(condition.Frozen))
	gauge(m.weakened, truth(view.Weakness().Holds()))
	for why, n := range b.Unreadable() {
		to <- prometheus.MustNewConstMetric(m.unreadable, prometheus.CounterValue, float64(n), why.String())
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (s *Server) getMetrics(r *request) *Problem {
	s.metrics.handler(r.ctx)
	return nil
}
