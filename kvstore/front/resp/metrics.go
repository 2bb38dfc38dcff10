package resp

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what goes through a door.
type Metrics struct {
	commands *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	refused  *prometheus.CounterVec
	open     prometheus.Gauge
}

// NewMetrics registers the door's metrics; a nil registerer leaves them unregistered.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_kv_door_commands_total",
			Help: "Commands of engines' connectors, by command and outcome (ok, miss, dropped, error).",
		}, []string{"command", "outcome"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_kv_door_bytes_total",
			Help: "Bytes of values, by direction (in, out).",
		}, []string{"direction"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_kv_door_refused_total",
			Help: "Connections and logins refused, by reason (too-many, login, protocol).",
		}, []string{"reason"}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "penstock_kv_door_connections",
			Help: "Connections open now.",
		}),
	}
	if r != nil {
		r.MustRegister(m.commands, m.bytes, m.refused, m.open)
	}
	return m
}
