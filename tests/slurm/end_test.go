package slurm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/slurm/testbed"
	"github.com/penstock/penstock/tests/traffic"
)

// TestWalltime: one replica, whose jobs may run for two minutes. Three times in a row a successor takes over before the end.
func TestWalltime(t *testing.T) {
	slow(t)
	w := start(t, testbed.Options{}, strings.Replace(deployment("short", "2m", "serving: {drainTimeout: 20s}"), "replicas: 2", "replicas: 1", 1))
	w.traffic()
	seen := map[string]bool{}
	begin := time.Now()
	w.until("a third successor serves alone", func(st installation.Status) bool {
		for _, r := range replicasOf(st) {
			if r.State == "ready" && !seen[r.Launch] {
				seen[r.Launch] = true
				w.note("%s is ready after %s", r.Launch, time.Since(begin).Round(time.Second))
			}
		}
		return len(seen) >= 4 && ready(1)(st)
	})
	w.tr.Finished(w.ctx, traffic.Streams)
	out := w.asAlice("squeue", "-h", "-t", "all", "-o", "%i %T %M %k")
	w.note("jobs:\n%s", out)
	if strings.Contains(out, "TIMEOUT") {
		t.Error("a job was ended by Slurm at its limit, not by its own agent")
	}
	r := w.finish(1, "walltime of 2 min reached, three times in a row", fmt.Sprintf("%d jobs in all", len(seen)))
	if r.downtime > 5*time.Second {
		t.Errorf("no replica was ready for %s", r.downtime)
	}
}

// TestPreempted: a job of a higher partition needs the node. Penstock's job is told with TERM and has five seconds.
func TestPreempted(t *testing.T) {
	w := start(t, testbed.Options{}, apart(deployment("preempt", "12h", "serving: {drainTimeout: 20s}")))
	w.traffic()
	old := w.replicas()
	w.tr.Mark()
	high, err := w.bed.RunAs(w.ctx, testbed.Bob, "sbatch", "--parsable", "-p", "gpu", "-N3", "-n3", "--gres=gpu:8", "-o", "/dev/null", "--wrap", "sleep 15")
	w.no(err)
	w.until("a replica is gone", func(st installation.Status) bool { return !ready(2)(st) })
	w.until("two replicas are ready again", func(st installation.Status) bool {
		return ready(2)(st) && (!ready(2, old[0].Launch)(st) || !ready(2, old[1].Launch)(st)) || ready(2, old[0].Launch, old[1].Launch)(st)
	})
	w.note("the other job: %s", w.asRoot("squeue", "-h", "-t", "all", "-j", high, "-o", "%T %S %e"))
	w.tr.Finished(w.ctx, traffic.Streams)
	w.finish(4, "preemption of one replica of two", "")
}

// TestCancelled: somebody ends a job with scancel.
func TestCancelled(t *testing.T) {
	w := start(t, testbed.Options{}, deployment("gpu", "12h", "serving: {drainTimeout: 20s}"))
	w.traffic()
	victim := w.busiest()
	w.tr.Mark()
	w.asAlice("scancel", victim.Job)
	w.until("another job has taken the place", ready(2, victim.Launch))
	w.tr.Finished(w.ctx, traffic.Streams)
	w.finish(5, "scancel of one replica of two", "")
}

// busiest is the replica with the most open requests.
func (w *world) busiest() (most installation.Replica) {
	w.t.Helper()
	for _, r := range w.replicas() {
		if most.Launch == "" || r.Load != nil && most.Load != nil && r.Load.OpenRequests > most.Load.OpenRequests {
			most = r
		}
	}
	if most.Job == "" {
		w.t.Fatalf("replica %+v has no job", most)
	}
	return most
}
