package faults

import (
	"syscall"
	"testing"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/traffic"
)

// TestEngineHangs: an engine that accepts requests and answers nothing is found by its agent, which kills it and starts it
// again; its streams go on elsewhere.
func TestEngineHangs(t *testing.T) {
	w := start(t, deployment())
	tr := w.traffic(w.client)
	victim := w.busiest()
	engine := w.process(victim.Launch, "engine", "sim")
	w.fault(func() { w.fail(victim.Launch, "hang:all", "hang-after-tokens:0") })
	w.until("its agent has started it again", func(st installation.Status) bool {
		now := w.Find(victim.Launch, "engine", "sim")
		return ready("web", 2)(st) && len(now) == 1 && now[0].PID != engine.PID
	})
	tr.Finished(w.ctx, traffic.Streams)
	w.atLeastHalf(w.finish(7, "engine that accepts and hangs"))
}

// TestEngineSilent: an engine says that it is well and makes no token any more. Gateways move its streams after a minute.
// What waits for a first token stays until the agent, which gives an engine four minutes, ends it; here the test does.
func TestEngineSilent(t *testing.T) {
	w := start(t, deployment())
	tr := w.traffic(w.client)
	victim := w.busiest()
	w.fault(func() { w.fail(victim.Launch, "hang:inference", "hang-after-tokens:0") })
	tr.Settled(w.ctx)
	w.signal(syscall.SIGKILL, w.engines[victim.Launch].process)
	w.until("both replicas are ready", ready("web", 2))
	tr.Finished(w.ctx, traffic.Streams)
	r := w.finish(7, "engine that makes no token any more and says that it is well")
	if r.continued == 0 || r.continued < r.cut-2 { // answers in one piece wait, and are begun anew
		t.Errorf("%d of the %d requests that were cut were continued", r.continued, r.cut)
	}
}

// TestEngineStopped: an engine that sleeps for half a minute (SIGSTOP), be it killed for it or not.
func TestEngineStopped(t *testing.T) { sleepThrough(t, "engine stopped for 30 s", "engine", "sim") }

// TestAgentStopped: the same for an agent.
func TestAgentStopped(t *testing.T) { sleepThrough(t, "agent stopped for 30 s", "agent") }

func sleepThrough(t *testing.T, fault string, words ...string) {
	w := start(t, deployment())
	tr := w.traffic(w.client)
	victim := w.busiest()
	process := w.ofLaunch(victim.Launch, words...)
	w.fault(func() { w.signal(syscall.SIGSTOP, process) })
	w.pause(30)
	_ = syscall.Kill(process.PID, syscall.SIGCONT) // it may have been killed meanwhile
	w.until("both replicas are ready", ready("web", 2))
	tr.Finished(w.ctx, 2*traffic.Streams)
	w.finish(14, fault)
}
