package faults

import (
	"fmt"
	"maps"
	"syscall"
	"testing"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/traffic"
)

// TestControllerKilled: streams through another gateway go on undisturbed, those through the controller's own end in an
// error, and the next controller finds everything as it was.
func TestControllerKilled(t *testing.T) {
	w := start(t, deployment())
	other := w.gateway("other")
	own, others := w.traffic(w.client), w.traffic(other.Client)
	before := w.runs("web")
	controller := w.process("", "serve")
	w.fault(func() {
		own.Dead.Store(true)
		w.signal(syscall.SIGKILL, controller)
	})
	others.Finished(w.ctx, 2*traffic.Streams) // without a controller
	w.serve()
	w.until("the replicas are found again", ready("web", 2))
	others.Finished(w.ctx, traffic.Streams)
	w.same("web", before)
	r := w.finish(4, "SIGKILL of the controller")
	if r.broken != traffic.Streams {
		t.Errorf("%d requests ended with the controller's own gateway, not %d", r.broken, traffic.Streams)
	}
	if r.cut > 0 {
		t.Errorf("%d streams through the other gateway were disturbed", r.cut)
	}
}

// TestControllerAndAgentKilled: what dies while there is no controller is replaced by the next one, and nothing else is.
func TestControllerAndAgentKilled(t *testing.T) {
	w := start(t, deployment())
	other := w.gateway("other")
	others := w.traffic(other.Client)
	before := w.runs("web")
	victim := w.busiest()
	agent, controller := w.process(victim.Launch, "agent"), w.process("", "serve")
	w.fault(func() {
		w.signal(syscall.SIGKILL, controller)
		w.signal(syscall.SIGKILL, agent)
	})
	w.gone(victim.Launch)
	others.Finished(w.ctx, traffic.Streams)
	w.serve()
	w.replaced("web", 2, victim)
	others.Finished(w.ctx, traffic.Streams)
	for name, run := range w.runs("web") {
		if name != victim.Name && run != before[name] {
			t.Errorf("%s: before %s, now %s", name, before[name], run)
		}
	}
	w.atLeastHalf(w.finish(4, "SIGKILL of the controller and an agent at once"))
}

// TestControllerRestarted: a clean restart is nothing to those who go through another gateway.
func TestControllerRestarted(t *testing.T) {
	w := start(t, deployment())
	other := w.gateway("other")
	others := w.traffic(other.Client)
	before := w.runs("web")
	w.fault(func() {
		w.must("serve", "--stop")
		w.serve()
	})
	w.until("the replicas are found again", ready("web", 2))
	others.Finished(w.ctx, 2*traffic.Streams)
	w.same("web", before)
	if r := w.finish(6, "controller restarted"); r.cut > 0 {
		t.Errorf("%d streams were disturbed", r.cut)
	}
}

// TestGatewayKilled: its own streams end in an error, nobody else notices.
func TestGatewayKilled(t *testing.T) {
	w := start(t, deployment())
	victim := w.gateway("victim")
	own, others := w.traffic(victim.Client), w.traffic(w.client)
	before := w.runs("web")
	w.fault(func() {
		own.Dead.Store(true)
		_ = victim.cmd.Process.Kill()
	})
	<-victim.ended
	others.Finished(w.ctx, 2*traffic.Streams)
	w.until("its requests run no more, those of others do", func(st installation.Status) bool {
		running := 0
		for _, e := range w.engines {
			running += w.running(e)
		}
		return running <= traffic.Streams
	})
	w.same("web", before)
	r := w.finish(5, "SIGKILL of a gateway")
	if r.broken != traffic.Streams || r.cut > 0 {
		t.Errorf("%d requests ended with the gateway, not %d; %d others were disturbed", r.broken, traffic.Streams, r.cut)
	}
}

// runs describes what runs for a deployment: launch, epoch and engine process of each replica.
func (w *world) runs(name string) map[string]string {
	w.t.Helper()
	out := map[string]string{}
	for _, r := range w.replicas(name) {
		out[r.Name] = fmt.Sprintf("launch %s, epoch %d, engine %d", r.Launch, r.Epoch, w.head(r.Launch).PID)
	}
	return out
}

// same fails the test where something else runs than before.
func (w *world) same(name string, before map[string]string) {
	w.t.Helper()
	if now := w.runs(name); !maps.Equal(before, now) {
		w.t.Errorf("before: %v, now: %v", before, now)
	}
}
