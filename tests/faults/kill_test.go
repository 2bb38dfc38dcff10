package faults

import (
	"syscall"
	"testing"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/traffic"
)

// TestEngineKilled: the agent starts the engine again in the same run, and the streams go on elsewhere meanwhile.
func TestEngineKilled(t *testing.T) {
	w := start(t, deployment())
	tr := w.traffic(w.client)
	victim := w.busiest()
	engine := w.process(victim.Launch, "engine", "sim")
	w.fault(func() { w.signal(syscall.SIGKILL, engine) })
	w.until("its agent has started it again", func(st installation.Status) bool {
		now := w.Find(victim.Launch, "engine", "sim")
		return ready("web", 2)(st) && len(now) == 1 && now[0].PID != engine.PID
	})
	tr.Finished(w.ctx, 2*traffic.Streams)
	w.atLeastHalf(w.finish(1, "SIGKILL of an engine"))
}

// TestAllEnginesKilled: for a while there is nowhere to go on. Streams wait, new requests are told to come again.
func TestAllEnginesKilled(t *testing.T) {
	w := start(t, deployment())
	tr := w.traffic(w.client)
	w.fault(func() {
		for _, e := range w.engines {
			w.signal(syscall.SIGKILL, e.process)
		}
	})
	w.until("both engines are started again", func(st installation.Status) bool {
		for launch, e := range w.engines {
			if now := w.Find(launch, "engine", "sim"); len(now) != 1 || now[0].PID == e.process.PID {
				return false
			}
		}
		return ready("web", 2)(st)
	})
	tr.Finished(w.ctx, 2*traffic.Streams)
	w.atLeastHalf(w.finish(1, "SIGKILL of all engines at once"))
}

// TestAgentKilled: nothing of the run outlives its agent, and another run takes its place.
func TestAgentKilled(t *testing.T) { killRun(t, 2, "SIGKILL of an agent", "agent") }

// TestShimKilled: the same for the process between the cluster and the agent.
func TestShimKilled(t *testing.T) { killRun(t, 3, "SIGKILL of a local job's shim", "local-job") }

// killRun kills a process that a whole run hangs on.
func killRun(t *testing.T, number int, fault, subcommand string) {
	w := start(t, deployment())
	tr := w.traffic(w.client)
	victim := w.busiest()
	process := w.ofLaunch(victim.Launch, subcommand)
	w.fault(func() { w.signal(syscall.SIGKILL, process) })
	w.gone(victim.Launch)
	w.replaced("web", 2, victim)
	tr.Finished(w.ctx, 2*traffic.Streams)
	w.atLeastHalf(w.finish(number, fault))
}

// replaced waits until a deployment has so many ready replicas and the one that was broken is none of them.
func (w *world) replaced(name string, n int, old installation.Replica) installation.Status {
	w.t.Helper()
	return w.until("another run has taken the place of "+old.Launch, func(st installation.Status) bool {
		if !ready(name, n)(st) {
			return false
		}
		for _, d := range st.Deployments {
			for _, r := range d.Replicas {
				if r.Launch == old.Launch {
					return false
				}
			}
		}
		return true
	})
}
