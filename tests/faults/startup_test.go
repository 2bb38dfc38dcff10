package faults

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

// TestEngineDiesInStartup: a deployment whose engine never comes up says why, with the engine's last lines, backs off, and
// is nothing to another deployment.
func TestEngineDiesInStartup(t *testing.T) {
	w := start(t, deployment())
	tr := w.traffic(w.client)
	before := w.runs("web")
	bad := w.file("bad", `apiVersion: penstock/v1
name: bad
model: {id: broken}
engine: {kind: sim, args: [--fail, "crash-loading:0,7"]}
roles: {mixed: {replicas: 1, gpus: 1}}
serving: {restarts: 1}
`)
	w.fault(func() {
		_, err := w.Run(w.ctx, "run", "--timeout", "90s", bad)
		var exit *installation.ExitError
		if !errors.As(err, &exit) || exit.Code != 6 || !strings.Contains(exit.Err, "simulated failure") {
			t.Errorf("want exit 6 and the engine's last line, got %v", err)
		}
	})
	w.until("it backs off, says why and until when", func(st installation.Status) bool {
		d, r := find(st, "bad")
		return r.Failures >= 2 && strings.Contains(strings.Join(r.LastLines, "\n"), "simulated failure") && strings.Contains(d.Reason+r.Reason, "again at")
	})
	starts := w.starts("bad")
	time.Sleep(8 * time.Second)
	if now := w.starts("bad"); now > starts+2 {
		t.Errorf("no back-off: %d launches, 8 s later %d", starts, now)
	}
	tr.Finished(w.ctx, 1)
	w.same("web", before)
	if r := w.finish(8, "engine that dies in start-up"); r.cut > 0 {
		t.Errorf("%d streams of the other deployment were disturbed", r.cut)
	}
}

// find is a deployment and its first replica in a status.
func find(st installation.Status, name string) (installation.Deployment, installation.Replica) {
	for _, d := range st.Deployments {
		if d.Name == name && len(d.Replicas) > 0 {
			return d, d.Replicas[0]
		} else if d.Name == name {
			return d, installation.Replica{}
		}
	}
	return installation.Deployment{}, installation.Replica{}
}

// starts counts the launches of a deployment so far.
func (w *world) starts(name string) int {
	w.t.Helper()
	return strings.Count(w.must("events", name, "--json"), fmt.Sprintf("%q:%q", "kind", "start"))
}
