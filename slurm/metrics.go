package slurm

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	commands *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	vanished prometheus.Counter
}

func newMetrics(r prometheus.Registerer) metrics {
	m := metrics{
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_slurm_commands_total", Help: "Slurm's commands that were run, by result: ok, failed (it said so), unanswered.",
		}, []string{"command", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "penstock_slurm_command_seconds", Help: "How long Slurm's commands took.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 13),
		}, []string{"command"}),
		vanished: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_slurm_vanished_jobs_total", Help: "Jobs that Slurm forgot before it was seen how they ended.",
		}),
	}
	if r != nil {
		r.MustRegister(m.commands, m.seconds, m.vanished)
	}
	return m
}

func (m metrics) called(command string, began time.Time, err error) {
	result := "ok"
	if f := (*failure)(nil); errors.As(err, &f) {
		result = "failed"
	} else if err != nil {
		result = "unanswered"
	}
	m.commands.WithLabelValues(command, result).Inc()
	m.seconds.WithLabelValues(command).Observe(time.Since(began).Seconds())
}
