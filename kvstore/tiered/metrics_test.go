package tiered

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/kvstore"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{host: 32 * size, below: 200 * size, idle: true, tier: Tier{QueueBytes: 4 * size}})
	for n := range 40 {
		if err := r.put(t, n, 1, kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Flush(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics()
	reg.MustRegister(m)
	if none, err := reg.Gather(); err != nil || len(none) != 0 {
		t.Errorf("%d metrics of nothing, %v", len(none), err)
	}
	m.Show(r.Store)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	l := r.lanes[0]
	for name, want := range map[string]float64{
		"penstock_kv_puts_total host": 40, "penstock_kv_budget_bytes below": 200 * size, "penstock_kv_available below": 1,
		"penstock_kv_moved_total below": float64(l.moved.Load()), "penstock_kv_dropped_total full below": float64(l.full.Load()),
		"penstock_kv_queue_bytes below": 0, "penstock_kv_blocks below": float64(l.moved.Load()),
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (%t), want %v", name, v, ok, want)
		}
	}
	for name := range got {
		if strings.Contains(name, "bandwidth") {
			t.Errorf("%s is told although nothing was read", name)
		}
	}
	if l.full.Load() == 0 || l.moved.Load() == 0 {
		t.Error("nothing was dropped or moved: the test sees nothing")
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
}
