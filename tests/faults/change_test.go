package faults

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/traffic"
)

// TestDrain: a replica is drained; its streams outlive the deadline and go on elsewhere.
func TestDrain(t *testing.T) {
	w := start(t, deployment())
	tr := w.traffic(w.client)
	victim := w.busiest()
	w.fault(func() { w.must("drain", "web", victim.Name, "--deadline", "2s") })
	w.gone(victim.Launch)
	w.replaced("web", 2, victim)
	tr.Finished(w.ctx, 2*traffic.Streams)
	w.atLeastHalf(w.finish(12, "drain with streams that outlive the deadline"))
}

// TestScaleDown: fewer replicas are wanted while all of them have streams.
func TestScaleDown(t *testing.T) {
	w := start(t, strings.Replace(deployment("serving: {drainTimeout: 2s}"), "replicas: 2", "replicas: 3", 1))
	tr := w.traffic(w.client)
	w.fault(func() { w.must("scale", "web", "mixed=1") })
	w.until("one replica is left", ready("web", 1))
	tr.Finished(w.ctx, 2*traffic.Streams)
	w.atLeastHalf(w.finish(13, "scale down from 3 to 1"))
}

// TestRollingChange: a new revision replaces all replicas, one after the other.
func TestRollingChange(t *testing.T) {
	w := start(t, deployment("serving: {drainTimeout: 2s}"))
	tr := w.traffic(w.client)
	old := w.runs("web")
	next := strings.Replace(deployment("serving: {drainTimeout: 2s}"), "engine: {kind: sim,", "engine: {kind: sim, env: {OMP_NUM_THREADS: \"1\"},", 1)
	w.fault(func() { w.deploy("web", next) })
	w.until("all replicas are of the new revision", func(st installation.Status) bool {
		d, _ := find(st, "web")
		for _, r := range d.Replicas {
			if r.Revision != 2 {
				return false
			}
		}
		return ready("web", 2)(st)
	})
	tr.Finished(w.ctx, 2*traffic.Streams)
	for name, run := range w.runs("web") {
		if old[name] == run {
			t.Errorf("%s was not replaced: %s", name, run)
		}
	}
	w.atLeastHalf(w.finish(13, "new revision, one replica after the other"))
}

// pause lets seconds pass: the fault itself takes so long.
func (w *world) pause(seconds int) {
	w.t.Helper()
	select {
	case <-w.ctx.Done():
		w.t.Fatal(w.ctx.Err())
	case <-time.After(time.Duration(seconds) * time.Second):
	}
}
