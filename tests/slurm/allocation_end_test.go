package slurm

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/slurm/testbed"
	"github.com/penstock/penstock/tests/traffic"
)

// hold submits the script of a deployment and waits until its job serves two replicas under traffic.
func hold(t *testing.T, file string, flags ...string) (w *world, script, job string) {
	t.Helper()
	w = setup(t, testbed.Options{})
	script = w.render(file, nil, flags...)
	job = w.sbatch(script)
	w.enter(w.held(1), 2)
	w.client = w.connectByFile()
	w.traffic()
	return w, script, job
}

// again waits until another job, or another run of the job, serves from the same state folder with the same key.
func (w *world) again(replicas int) {
	w.t.Helper()
	w.enter(w.State(), replicas)
	if key := w.connectByFile().Key; key != w.client.Key {
		w.t.Error("the key has changed")
	}
	w.client.HTTP.CloseIdleConnections()
	w.traffic()
}

// drained looks whether the agents were told of the end and did it in order.
func (w *world) drained(launches []installation.Replica) {
	w.t.Helper()
	for _, r := range launches {
		text, err := os.ReadFile(filepath.Join(w.State(), "logs", "web", r.Launch, "agent-0.log"))
		w.no(err)
		if !strings.Contains(string(text), "drain") {
			w.t.Errorf("the agent of %s has not drained:\n%s", r.Launch, text)
		}
	}
}

// TestHeldCancelled: scancel. Slurm's TERM reaches keepers, agents and controller, and not the srun any more, so that all have their
// five seconds. The same script, submitted again, goes on with keys, usage and revisions.
func TestHeldCancelled(t *testing.T) {
	slow(t)
	w, script, job := hold(t, apart(deployment("gpu", "1h", "serving: {drainTimeout: 20s}")))
	before := w.replicas()
	w.dead()
	w.asAlice("scancel", job)
	w.untilJob(job, "CANCELLED")
	w.drained(before)
	var r row
	w.checkLeft(&r)
	begin := time.Now()
	next := w.sbatch(script)
	w.again(2)
	took := time.Since(begin)
	w.tr.Finished(w.ctx, traffic.Streams)
	w.finishHeld(31, "scancel of a whole allocation, the same script submitted again", seconds("with the same state; served again after", took), next)
}

// TestHeldRequeued: the job is put back into the queue and starts again, as a new run of the same job.
func TestHeldRequeued(t *testing.T) {
	slow(t)
	w, _, job := hold(t, apart(deployment("gpu", "1h", "serving: {drainTimeout: 20s}")))
	before := w.replicas()
	w.must("scale", "web", "mixed=1")
	w.until("one replica is left", ready(1))
	w.dead()
	begin := time.Now()
	w.asAlice("scontrol", "requeue", job)
	w.untilTrue("the job runs for the second time", func() bool {
		out, err := w.bed.Root(w.ctx, "scontrol", "show", "job", job)
		return err == nil && strings.Contains(out, "Restarts=1") && strings.Contains(out, "JobState=RUNNING")
	})
	w.untilTrue("another launch serves", func() bool {
		st, err := w.Status(w.ctx)
		return err == nil && ready(1, before[0].Launch, before[1].Launch)(st)
	})
	w.again(1)
	w.tr.Finished(w.ctx, traffic.Streams)
	w.finishHeld(32, "requeue of a whole allocation", seconds("same state, key and scale; served again after", time.Since(begin)), job)
}

// TestHeldChain: the walltime of one minute is reached, and a job that has waited for it goes on. Nothing is cut off without a word
// before the end.
func TestHeldChain(t *testing.T) {
	slow(t)
	w, script, first := hold(t, deployment("gpu", "1m", "serving: {drainTimeout: 15s}"))
	second := w.sbatch(script, "--dependency=afterany:"+first, "--time=60")
	w.must("scale", "web", "mixed=1")
	w.until("one replica is left", ready(1))
	ends := time.Now().Add(20 * time.Second)
	w.tr.Finished(w.ctx, traffic.Streams)
	for time.Now().Before(ends) {
		w.tr.Finished(w.ctx, 1)
	}
	w.dead()
	w.untilJob(first, "COMPLETED") // before its time limit, which would be TIMEOUT
	begin := time.Now()
	for _, f := range w.tr.Flights() {
		if f.Verdict == traffic.Broken {
			t.Errorf("a stream was cut off without a word: %s", f.ID)
		}
	}
	w.again(1)
	if st := w.stateOf(second); st != w.State() {
		t.Errorf("the second job works in %s", st)
	}
	w.tr.Finished(w.ctx, traffic.Streams)
	w.finishHeld(33, "walltime of an allocation, a job after it (afterany)", seconds("same state, key and scale; served again after", time.Since(begin)), second)
}

// TestHeldNodeLost: a node of the allocation, not the first, is powered off. The others go on, and its replica is started on a node
// that has room.
func TestHeldNodeLost(t *testing.T) {
	slow(t)
	w, _, job := hold(t, apart(deployment("gpu", "1h")), "--nodes", "3")
	victim := w.busiest()
	for _, r := range w.replicas() {
		if w.nodeOf(r).Name != "node1" { // where controller and gateway are
			victim = r
		}
	}
	w.tr.Mark()
	begin := time.Now()
	w.no(w.nodeOf(victim).PowerOff(w.ctx))
	w.until("another node has taken the replica", ready(2, victim.Launch))
	took := time.Since(begin)
	w.tr.Finished(w.ctx, 2*traffic.Streams)
	w.finishHeld(34, "a node of an allocation powered off", seconds("the others go on; replaced after", took), job)
}

// TestHeldControllerKilled: controller and gateway are killed inside the job. The next ones find all replicas.
func TestHeldControllerKilled(t *testing.T) {
	slow(t)
	w, _, job := hold(t, deployment("gpu", "1h"))
	before := w.replicas()
	w.dead()
	begin := time.Now()
	w.signal(w.one("serve"), syscall.SIGKILL)
	w.untilTrue("the new controller answers", func() bool {
		out, err := w.Run(w.ctx, "status", "--json")
		return err == nil && strings.Contains(out, before[0].Launch)
	})
	w.again(2)
	w.same(before)
	w.tr.Finished(w.ctx, traffic.Streams)
	w.finishHeld(35, "controller and gateway of an allocation killed", seconds("no replica changed; served again after", time.Since(begin)), job)
}
