package reconcile

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/plan"
)

// metrics of the loop, under penstock_reconcile_.
type metrics struct {
	cycles   prometheus.Histogram
	actions  *prometheus.CounterVec   // verb
	waits    *prometheus.GaugeVec     // cause
	launches *prometheus.GaugeVec     // phase
	calls    *prometheus.HistogramVec // cluster, call, result
	probes   *prometheus.CounterVec   // result

	handovers *prometheus.CounterVec // result
	gaps      prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) (metrics, error) {
	const ns, sub = "penstock", "reconcile"
	m := metrics{
		cycles: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "cycle_seconds", Help: "Time to see and plan once.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 12),
		}),
		actions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "actions_total", Help: "Actions begun, by verb.",
		}, []string{"verb"}),
		waits: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "waits", Help: "Things that the last plan waits for, by cause.",
		}, []string{"cause"}),
		launches: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "launches", Help: "Launches in the ledger, by phase.",
		}, []string{"phase"}),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "cluster_call_seconds", Help: "Calls to clusters, by cluster, call and result (ok, refused, unknown).",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"cluster", "call", "result"}),
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "probes_total", Help: "Probes of replicas, by result (ok, failed).",
		}, []string{"result"}),
		handovers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "handovers_total",
			Help: "Replicas that left since their job was about to end, by result (handed-over: a successor served; late: none did).",
		}, []string{"result"}),
		gaps: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "handover_gap_seconds",
			Help:    "Time between a replica's leaving and its successor's readiness; 0 where the successor was ready first.",
			Buckets: append([]float64{0}, prometheus.ExponentialBuckets(1, 4, 8)...),
		}),
	}
	for _, result := range []plan.Cause{plan.HandedOver, plan.Late} {
		m.handovers.WithLabelValues(string(result))
	}
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.cycles, m.actions, m.waits, m.launches, m.calls, m.probes, m.handovers, m.gaps} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m metrics) called(kind jobspecs.ClusterKind, call string, began time.Time, err error) {
	result := "ok"
	switch {
	case errors.Is(err, cluster.ErrRefused):
		result = "refused"
	case err != nil:
		result = "unknown"
	}
	m.calls.WithLabelValues(string(kind), call, result).Observe(time.Since(began).Seconds())
}

func (m metrics) probed(err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.probes.WithLabelValues(result).Inc()
}

// planned records a cycle.
func (m metrics) planned(began time.Time, launches []cluster.Launch, actions []plan.Action) {
	m.cycles.Observe(time.Since(began).Seconds())
	phases := map[cluster.LaunchPhase]int{cluster.Intended: 0, cluster.Submitted: 0, cluster.Draining: 0, cluster.Ended: 0}
	for i := range launches {
		phases[launches[i].Phase]++
	}
	for phase, n := range phases {
		m.launches.WithLabelValues(string(phase)).Set(float64(n))
	}
	m.waits.Reset()
	for _, a := range actions {
		if a.Verb == plan.Wait {
			m.waits.WithLabelValues(string(a.Cause)).Inc()
		}
	}
}
