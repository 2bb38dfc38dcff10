// Package front holds what all front doors of the block store have in common: their counters, and how long a client may take.
// A door is where an engine's connector reaches the store in a protocol that it speaks already: resp, s3.
package front

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Outcomes of a door's commands.
const (
	OK      = "ok"
	Miss    = "miss"
	Dropped = "dropped" // taken and not kept: no room
	Error   = "error"
)

// Metrics counts what goes through doors.
type Metrics struct {
	commands *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	refused  *prometheus.CounterVec
	open     *prometheus.GaugeVec
}

// NewMetrics registers the metrics of all doors of a process; a nil registerer leaves them unregistered.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_kv_door_commands_total",
			Help: "Commands of engines' connectors, by door (resp, s3), command and outcome (ok, miss, dropped, error).",
		}, []string{"door", "command", "outcome"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_kv_door_bytes_total",
			Help: "Bytes of values, by door and direction (in, out).",
		}, []string{"door", "direction"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_kv_door_refused_total",
			Help: "Connections and logins refused, by door and reason (too-many, login, protocol).",
		}, []string{"door", "reason"}),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "penstock_kv_door_connections",
			Help: "Connections open now, by door.",
		}, []string{"door"}),
	}
	if r != nil {
		r.MustRegister(m.commands, m.bytes, m.refused, m.open)
	}
	return m
}

// Door is one door's share of the metrics.
type Door struct {
	m       *Metrics
	name    string
	In, Out prometheus.Counter // bytes of values
	Open    prometheus.Gauge
}

// Door is the share of the door of that name.
func (m *Metrics) Door(name string) Door {
	return Door{m, name, m.bytes.WithLabelValues(name, "in"), m.bytes.WithLabelValues(name, "out"), m.open.WithLabelValues(name)}
}

// Command counts one command.
func (d Door) Command(command, outcome string) {
	d.m.commands.WithLabelValues(d.name, command, outcome).Inc()
}

// Refused counts a refusal: too-many, login, protocol.
func (d Door) Refused(reason string) { d.m.refused.WithLabelValues(d.name, reason).Inc() }

// slowest is the rate in bytes a second below which a client holds memory for too long.
const slowest = 4 << 20

// Allowance is how long n bytes may take on the wire: the stall that any client may have, and the time at 4 MiB/s.
func Allowance(stall time.Duration, n int64) time.Duration {
	return stall + time.Duration(n)*time.Second/slowest
}
