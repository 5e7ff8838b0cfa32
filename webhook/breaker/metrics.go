package breaker

import "github.com/prometheus/client_golang/prometheus"

// metrics are computed when they are asked for.
type metrics struct {
	breaker                                    *Breaker
	state, stuck, watched, openings, tries, up *prometheus.Desc
}

func newMetrics(b *Breaker) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("holdfast_webhook_"+name, help, labels, nil)
	}
	return &metrics{
		breaker:  b,
		state:    desc("breaker_state", "1 for the breaker's state: closed, open (no agents are injected) or half-open (one is tried).", "state"),
		stuck:    desc("stuck_pods", "Injected pods whose agent cannot start."),
		watched:  desc("injected_pods", "Pods with the agent that is injected now, as the breaker's watch sees them."),
		openings: desc("breaker_openings_total", "How often the breaker opened, or stayed open since a try failed."),
		tries:    desc("breaker_tries_total", "Pods that this replica let through while the breaker was open, to see whether agents start again."),
		up:       desc("breaker_watch_up", "1 while the injected pods are watched. Otherwise agents are injected, and nobody notices if they cannot start."),
	}
}

// Describe is for the registry.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.state, m.stuck, m.watched, m.openings, m.tries, m.up} {
		to <- d
	}
}

// Collect is for the registry.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	status := m.breaker.Status()
	m.breaker.mu.Lock()
	agents, openings, retries := len(m.breaker.circuit.agents), m.breaker.circuit.openings, m.breaker.circuit.retries
	m.breaker.mu.Unlock()
	for s := range stateNames {
		to <- prometheus.MustNewConstMetric(m.state, prometheus.GaugeValue, truth(State(s) == status.State), stateNames[s])
	}
	to <- prometheus.MustNewConstMetric(m.stuck, prometheus.GaugeValue, float64(len(status.Stuck)))
	to <- prometheus.MustNewConstMetric(m.watched, prometheus.GaugeValue, float64(agents))
	to <- prometheus.MustNewConstMetric(m.openings, prometheus.CounterValue, float64(openings))
	to <- prometheus.MustNewConstMetric(m.tries, prometheus.CounterValue, float64(retries))
	to <- prometheus.MustNewConstMetric(m.up, prometheus.GaugeValue, truth(status.Watch == nil))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
