package slots

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what the store has saved llama-server from reading again.
type Metrics struct {
	reused, restored, fetched, stored, passed prometheus.Counter
	failed                                    *prometheus.CounterVec
}

// NewMetrics registers the metrics; a nil registerer leaves them unregistered.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &Metrics{
		reused:   counter("penstock_slots_reused_tokens_total", "Prompt tokens that the chosen slot of llama-server held already."),
		restored: counter("penstock_slots_restored_tokens_total", "Prompt tokens restored from the KV store into a slot of llama-server."),
		fetched:  counter("penstock_slots_fetched_tokens_total", "Tokens whose KV came from the agent of a prefill replica."),
		stored:   counter("penstock_slots_stored_tokens_total", "Tokens whose KV was taken from a slot of llama-server into the KV store."),
		passed:   counter("penstock_slots_passed_requests_total", "Requests that went to llama-server without the KV store: images, several answers, or no token ids."),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_slots_failures_total",
			Help: "Slots that could not be restored or saved, by step (restore, save, fetch). The request went on without.",
		}, []string{"step"}),
	}
	if r != nil {
		r.MustRegister(m.reused, m.restored, m.fetched, m.stored, m.passed, m.failed)
	}
	return m
}
