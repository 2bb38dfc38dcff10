package faults

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/traffic"
)

// TestRankKilled: a replica that spans two nodes ends as a whole when the engine of one rank is killed, says so with its last
// lines, and is replaced.
func TestRankKilled(t *testing.T) {
	killRank(t, "SIGKILL of one rank's engine of a two-node replica", "engine", "sim")
}

// TestRankAgentKilled: the same when the rank's agent is killed, as when its node is lost.
func TestRankAgentKilled(t *testing.T) {
	killRank(t, "SIGKILL of one rank's agent of a two-node replica", "agent")
}

func killRank(t *testing.T, fault string, words ...string) {
	file := strings.Replace(deployment(), "replicas: 2,", "replicas: 2, nodes: 2,", 1)
	w := start(t, file)
	tr := w.traffic(w.client)
	victim := w.busiest()
	var second []installation.Process
	for _, p := range w.Find(victim.Launch, words...) {
		if rank(p) == "1" {
			second = append(second, p)
		}
	}
	if len(second) != 1 {
		t.Fatalf("rank 1 of %s has the processes %v", victim.Launch, second)
	}
	w.fault(func() { w.signal(syscall.SIGKILL, second[0]) })
	w.gone(victim.Launch)
	w.replaced("web", 2, victim)
	w.tells(victim)
	tr.Finished(w.ctx, 2*traffic.Streams)
	w.atLeastHalf(w.finish(9, fault))
}

// rank is which rank a process belongs to.
func rank(p installation.Process) string {
	for i, arg := range p.Command {
		if (arg == "--rank" || arg == "--node-rank") && i+1 < len(p.Command) {
			return p.Command[i+1]
		}
	}
	return p.Env["PENSTOCK_RANK"]
}

// tells waits for an event about a replica's end that names rank 1.
func (w *world) tells(r installation.Replica) {
	w.t.Helper()
	var text string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		text = w.must("events", "web", "--json")
		for line := range strings.Lines(text) {
			if strings.Contains(line, r.Launch) && strings.Contains(line, `"failed"`) && strings.Contains(line, "rank 1") {
				return
			}
		}
	}
	w.t.Errorf("no event tells that rank 1 of %s failed:\n%s", r.Launch, text)
}
