package faults

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/traffic"
)

// limited is a deployment whose jobs end after so long, on nodes with so many GPUs in all.
func limited(walltime string, replicas, gpus int, more ...string) string {
	return fmt.Sprintf(`apiVersion: penstock/v1
name: web
model: {id: %s}
engine: {kind: sim, args: [--speedup, "0.25"]}
roles: {mixed: {replicas: %d, gpus: 1}}
serving: {drainTimeout: 1s}
local: {walltime: %s, nodes: [{name: a, gpus: %d}]}
%s
`, traffic.Model, replicas, walltime, gpus, strings.Join(more, "\n"))
}

// event is what a test reads of an event.
type event struct{ Kind, Launch, Replica, Message string }

func (w *world) events(kind string) (found []event) {
	w.t.Helper()
	for line := range strings.Lines(w.must("events", "--json", "--tail", "0")) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			w.t.Fatalf("%v: %s", err, line)
		}
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

// tookOver counts the successors that served before their predecessors left, by replica, and those that came late.
func (w *world) tookOver() (inTime map[string]int, late int) {
	w.t.Helper()
	inTime = map[string]int{}
	for _, e := range w.events("handover") {
		switch {
		case strings.Contains(e.Message, "which it replaces, leaves"):
			inTime[e.Replica]++
		case strings.Contains(e.Message, "it serves in place of"):
			late++
		}
	}
	return inTime, late
}

// beforeLeaving waits for a successor that is ready: its predecessor leaves five seconds later.
func (w *world) beforeLeaving() {
	w.t.Helper()
	w.until("a successor is ready", func(st installation.Status) bool {
		d, _ := find(st, "web")
		ready := map[string]int{}
		for _, r := range d.Replicas {
			if r.State == "ready" {
				ready[r.Name]++
			}
		}
		return ready["mixed/0"] > 1 || ready["mixed/1"] > 1
	})
}

// TestWalltime: every job ends after a minute. Each replica is handed over three times in a row, under streams, some of which
// outlive the jobs they began on, and nobody notices.
func TestWalltime(t *testing.T) {
	w := start(t, limited("60s", 2, 8))
	tr := w.traffic(w.client)
	w.beforeLeaving()
	w.traffic(w.client) // with answers that are longer than what is left of the drain
	w.fault(func() {})
	for {
		inTime, late := w.tookOver()
		if late > 0 {
			t.Fatalf("%d successors came late: %+v", late, w.events("handover"))
		}
		if inTime["mixed/0"] >= 3 && inTime["mixed/1"] >= 3 {
			break
		}
		w.pause(1)
	}
	tr.Finished(w.ctx, traffic.Streams)
	if text := w.must("status"); !strings.Contains(text, "ends in") || !strings.Contains(text, "its successor") {
		t.Errorf("status does not tell of the end:\n%s", text)
	}
	if ended := append(w.events("failed"), w.events("engine-ended")...); len(ended) > 0 {
		t.Errorf("something has failed: %+v", ended)
	}
	r := w.finish(16, "walltime reached: three handovers in a row of each of 2 replicas")
	if r.downtime > 0 || r.refused > 0 {
		t.Errorf("no replica was ready for %s, %d requests were refused", r.downtime, r.refused)
	}
	t.Logf("%d streams were continued", r.continued) // how many are under way at the end of a drain is chance
}

// TestWalltimeWithoutRoom: there is no GPU for a successor beside its predecessor. The gap is announced, requests in it are
// refused clearly, and the chain goes on.
func TestWalltimeWithoutRoom(t *testing.T) {
	w := start(t, limited("30s", 1, 1))
	w.traffic(w.client)
	first := w.replicas("web")[0]
	w.fault(func() {})
	w.until("the gap is announced", func(st installation.Status) bool {
		d, _ := find(st, "web")
		return strings.Contains(d.Reason, "pass without it: there is no room for a successor beside it")
	})
	w.until("another one has taken its place", func(st installation.Status) bool {
		_, r := find(st, "web")
		return r.Launch != first.Launch && r.State == "ready"
	})
	if failed := w.events("failed"); len(failed) > 0 {
		t.Errorf("something has failed: %+v", failed)
	}
	r := w.finish(16, "walltime reached, no room for a successor: an announced gap")
	if r.downtime == 0 || r.downtime > 20*time.Second {
		t.Errorf("no replica was ready for %s", r.downtime)
	}
}

// TestIdleDeploymentIsStopped: a deployment that nobody asks anything of ends by itself, and applying its file starts it again.
func TestIdleDeploymentIsStopped(t *testing.T) {
	w := start(t, limited("1h", 1, 1, "lifetime: {idle: 5s}"))
	tr := w.traffic(w.client)
	w.fault(func() {})
	w.pause(7)
	if d, r := find(w.status(), "web"); r.State != "ready" {
		t.Errorf("it was stopped while requests came: %+v", d)
	}
	tr.End()
	w.until("it is stopped and says why", func(st installation.Status) bool {
		d, _ := find(st, "web")
		return d.State == "stopped" && strings.Contains(d.Reason, "lifetime.idle")
	})
	w.deploy("web", limited("1h", 1, 1, "lifetime: {idle: 5s}"))
	w.stopAll()
}
