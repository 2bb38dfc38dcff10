package nomad

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	calls    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	streams  *prometheus.CounterVec
	released prometheus.Counter
}

func newMetrics(r prometheus.Registerer) metrics {
	m := metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_nomad_calls_total", Help: "Calls of Nomad's API, by result: ok, failed (it said so), unanswered.",
		}, []string{"call", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "penstock_nomad_call_seconds", Help: "How long calls of Nomad's API took.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}, []string{"call"}),
		streams: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_nomad_event_streams_total", Help: "Ends of Nomad's event stream, by reason: closed (by Nomad), refused, unanswered.",
		}, []string{"end"}),
		released: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_nomad_gangs_released_total", Help: "Replicas over several nodes that were given back because not all of their members ran.",
		}),
	}
	if r != nil {
		r.MustRegister(m.calls, m.seconds, m.streams, m.released)
	}
	return m
}

// result is how a call ended, in one word.
func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case status(err) != 0:
		return "failed"
	}
	return "unanswered"
}

func (m metrics) called(call string, began time.Time, err error) {
	m.calls.WithLabelValues(call, result(err)).Inc()
	m.seconds.WithLabelValues(call).Observe(time.Since(began).Seconds())
}
