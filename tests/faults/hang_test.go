package faults

import (
	"syscall"
	"testing"

	"github.com/penstock/penstock/tests/installation"
)

// TestEngineHangs: an engine that accepts requests and answers nothing is found by its agent, which kills it and starts it
// again; its streams go on elsewhere.
func TestEngineHangs(t *testing.T) {
	t.Parallel()
	w := start(t, deployment())
	tr := w.traffic(w.client)
	victim := w.busiest()
	engine := w.process(victim.Launch, "engine", "sim")
	w.fault(func() { w.fail(victim.Launch, "hang:all", "hang-after-tokens:0") })
	w.until("its agent has started it again", func(st installation.Status) bool {
		now := w.Find(victim.Launch, "engine", "sim")
		return ready("web", 2)(st) && len(now) == 1 && now[0].PID != engine.PID
	})
	tr.finished(w.ctx, streams)
	w.atLeastHalf(w.finish(7, "engine that accepts and hangs"))
}

// TestEngineStopped: an engine that sleeps for half a minute (SIGSTOP), be it killed for it or not.
func TestEngineStopped(t *testing.T) { sleepThrough(t, "engine stopped for 30 s", "engine", "sim") }

// TestAgentStopped: the same for an agent.
func TestAgentStopped(t *testing.T) { sleepThrough(t, "agent stopped for 30 s", "agent") }

func sleepThrough(t *testing.T, fault string, words ...string) {
	t.Parallel()
	w := start(t, deployment())
	tr := w.traffic(w.client)
	victim := w.busiest()
	process := w.ofLaunch(victim.Launch, words...)
	w.fault(func() { w.signal(syscall.SIGSTOP, process) })
	w.pause(30)
	_ = syscall.Kill(process.PID, syscall.SIGCONT) // it may have been killed meanwhile
	w.until("both replicas are ready", ready("web", 2))
	tr.finished(w.ctx, 2*streams)
	w.finish(14, fault)
}
