package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/agent/slots"
	"github.com/penstock/penstock/kvstore/front"
	"github.com/penstock/penstock/kvstore/tiered"
	"github.com/penstock/penstock/scheduler/accept"
)

// metrics are the agent's own. The engine's are read by agent/engine and go out in reports.
type metrics struct {
	requests *prometheus.CounterVec
	open     prometheus.Gauge
	cut      prometheus.Counter
	starts   prometheus.Counter
	failures prometheus.Counter
	phase    prometheus.Gauge
	messages *prometheus.CounterVec
	connects prometheus.Counter
	refused  *accept.Refusals
	slots    *slots.Metrics
	doors    *front.Metrics
	kv       *tiered.Metrics
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_agent_requests_total", Help: "Requests at the data port, by status of the answer.",
		}, []string{"code"}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "penstock_agent_open_requests", Help: "Requests that are with the engine now.",
		}),
		cut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_agent_cut_answers_total", Help: "Answers that broke off after their first byte.",
		}),
		starts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_agent_engine_starts_total", Help: "Starts of the engine in this run.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_agent_engine_failures_total", Help: "Ends of the engine that nobody asked for.",
		}),
		phase: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "penstock_agent_phase", Help: "Phase of the run, numbered as in penstock.v1.Phase.",
		}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_agent_report_messages_total", Help: "Messages to the controller, by kind: full, delta, again.",
		}, []string{"kind"}),
		connects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_agent_report_connects_total", Help: "Report streams that were opened.",
		}),
		refused: accept.NewRefusals(r),
		slots:   slots.NewMetrics(r),
		doors:   front.NewMetrics(r),
		kv:      tiered.NewMetrics(),
	}
	r.MustRegister(m.requests, m.open, m.cut, m.starts, m.failures, m.phase, m.messages, m.connects, m.kv)
	return m
}
