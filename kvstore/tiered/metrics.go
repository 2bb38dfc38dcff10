package tiered

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/kvstore"
)

// Metrics are a composition's, read when somebody asks. They are a prometheus.Collector and may be registered before there
// is a composition: until Show they have no values.
type Metrics struct {
	store  atomic.Pointer[Store]
	stored []storeMetric
	lanes  []laneMetric
	drops  *prometheus.Desc
}

// storeMetric is one of what every store counts itself. What a store does not know is left out.
type storeMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(kvstore.Stats) int64
}

// laneMetric is one of what is known of the way to a tier.
type laneMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*lane) (float64, bool)
}

var _ prometheus.Collector = (*Metrics)(nil)

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// Show has the metrics tell of a composition from now on; nil = of none.
func (m *Metrics) Show(s *Store) { m.store.Store(s) }

// NewMetrics makes metrics without a composition.
func NewMetrics() *Metrics {
	desc := func(name, help string, more ...string) *prometheus.Desc {
		return prometheus.NewDesc("penstock_kv_"+name, help, append([]string{"tier"}, more...), nil)
	}
	type stats = kvstore.Stats
	return &Metrics{
		stored: []storeMetric{
			{desc("blocks", "Blocks held."), gauge, func(s stats) int64 { return s.Blocks }},
			{desc("bytes", "Bytes of blocks held."), gauge, func(s stats) int64 { return s.Bytes }},
			{desc("budget_bytes", "Bytes that may be held; 0 = no bound."), gauge, func(s stats) int64 { return s.Budget }},
			{desc("pinned_bytes", "Bytes that readers and writers hold."), gauge, func(s stats) int64 { return s.Pinned }},
			{desc("hits_total", "Reads that found their block."), counter, func(s stats) int64 { return s.Hits }},
			{desc("misses_total", "Reads that did not."), counter, func(s stats) int64 { return s.Misses }},
			{desc("puts_total", "Blocks stored."), counter, func(s stats) int64 { return s.Puts }},
			{desc("refused_total", "Blocks that the tier itself did not take."), counter, func(s stats) int64 { return s.Drops }},
			{desc("evicted_total", "Blocks forgotten to make room."), counter, func(s stats) int64 { return s.Evicted }},
			{desc("deleted_total", "Blocks deleted."), counter, func(s stats) int64 { return s.Deleted }},
			{desc("corrupt_total", "Blocks that failed their check; each was a miss."), counter, func(s stats) int64 { return s.Corrupt }},
			{desc("errors_total", "Errors of the medium; each was a miss or a drop."), counter, func(s stats) int64 { return s.Errors }},
			{desc("read_bytes_total", "Bytes read."), counter, func(s stats) int64 { return s.ReadBytes }},
			{desc("written_bytes_total", "Bytes written."), counter, func(s stats) int64 { return s.WrittenBytes }},
		},
		lanes: []laneMetric{
			{desc("moved_total", "Blocks written to the tier in the background or by a flush."), counter, always(func(l *lane) int64 { return l.moved.Load() })},
			{desc("moved_bytes_total", "Bytes of them."), counter, always(func(l *lane) int64 { return l.movedBytes.Load() })},
			{desc("there_total", "Blocks on their way down that the tier had already."), counter, always(func(l *lane) int64 { return l.there.Load() })},
			{desc("promotions_total", "Blocks of the tier that went up to the first."), counter, always(func(l *lane) int64 { return l.promoted.Load() })},
			{desc("queue_blocks", "Blocks and checks that wait for the tier."), gauge, always(func(l *lane) int64 { n, _ := l.waiting(); return int64(n) })},
			{desc("queue_bytes", "Bytes that wait to be written to the tier."), gauge, always(func(l *lane) int64 { _, n := l.waiting(); return n })},
			{desc("available", "1, or 0 while the tier is left alone after failures."), gauge, always(func(l *lane) int64 {
				if l.breaker.open() {
					return 0
				}
				return 1
			})},
			{desc("read_bandwidth_bytes_per_second", "Measured bandwidth of one read of the tier."), gauge, func(l *lane) (float64, bool) {
				s := l.meter.speed()
				return s.Bandwidth, s.Known()
			}},
			{desc("read_latency_seconds", "Measured time before a read's first byte."), gauge, func(l *lane) (float64, bool) {
				s := l.meter.speed()
				return s.Latency.Seconds(), s.Known()
			}},
		},
		drops: desc("dropped_total", "Blocks on their way down that did not arrive, by cause: full, failed, corrupt, ended.", "cause"),
	}
}

func always(f func(*lane) int64) func(*lane) (float64, bool) {
	return func(l *lane) (float64, bool) { return float64(f(l)), true }
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range m.stored {
		to <- d.desc
	}
	for _, d := range m.lanes {
		to <- d.desc
	}
	to <- m.drops
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	s := m.store.Load()
	if s == nil {
		return
	}
	m.collectStore(to, s.name, s.first.Stats())
	for _, l := range s.lanes {
		m.collectStore(to, l.tier.Name, l.tier.Store.Stats())
		for _, d := range m.lanes {
			if v, ok := d.value(l); ok {
				to <- prometheus.MustNewConstMetric(d.desc, d.kind, v, l.tier.Name)
			}
		}
		for cause, n := range map[string]int64{"full": l.full.Load(), "failed": l.failed.Load(), "corrupt": l.corrupt.Load(), "ended": l.ended.Load()} {
			to <- prometheus.MustNewConstMetric(m.drops, counter, float64(n), l.tier.Name, cause)
		}
	}
}

func (m *Metrics) collectStore(to chan<- prometheus.Metric, tier string, s kvstore.Stats) {
	for _, d := range m.stored {
		if v := d.value(s); v != kvstore.Unknown {
			to <- prometheus.MustNewConstMetric(d.desc, d.kind, float64(v), tier)
		}
	}
}
