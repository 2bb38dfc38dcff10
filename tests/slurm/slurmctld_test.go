package slurm

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/slurm/testbed"
	"github.com/penstock/penstock/tests/traffic"
)

// TestSubmitForgotten: slurmctld dies right after it has acknowledged a submit, so that it knows nothing of the job when it
// comes back, and gives the job's ID to somebody else.
func TestSubmitForgotten(t *testing.T) {
	w := start(t, testbed.Options{}, deployment("gpu", "12h"))
	w.traffic()
	before := w.replicas()
	w.settle()
	w.tr.Mark()
	w.must("scale", "web", "mixed=3")
	var lost installation.Replica
	w.untilTrue("the third launch is submitted", func() bool {
		for _, r := range w.replicas() {
			if r.Job != "" && r.Launch != before[0].Launch && r.Launch != before[1].Launch {
				lost = r
			}
		}
		return lost.Job != ""
	})
	w.no(w.bed.KillSlurmctld())
	w.note("slurmctld is killed after it has given out job %s", lost.Job)
	w.no(w.bed.StartSlurmctld(w.ctx))
	id, err := w.bed.RunAs(w.ctx, testbed.Bob, "sbatch", "--parsable", "-p", "gpu", "-n1", "-o", "/dev/null", "--wrap", "sleep 300")
	w.no(err)
	w.note("Bob's job is %s", id)
	w.until("three replicas are ready", ready(3))
	w.tr.Finished(w.ctx, traffic.Streams)
	// Slurm may hold Bob's job, for what runs under its number on the node; nobody cancels it.
	w.untilTrue("Bob's job runs or waits", func() bool {
		out, err := w.bed.Root(w.ctx, "squeue", "-h", "-t", "all", "-j", id, "-o", "%u %T")
		if err == nil && out != testbed.Bob.Name+" RUNNING" && out != testbed.Bob.Name+" PENDING" {
			t.Errorf("Bob's job: %s", out)
		}
		return err == nil
	})
	w.until("three replicas are ready", ready(3))
	_, err = w.bed.RunAs(w.ctx, testbed.Bob, "scancel", id)
	w.no(err)
	remark := "slurmctld still knew the job"
	if id == lost.Job {
		remark = "the job's ID went to somebody else's job, which was left alone"
	}
	w.finish(2, "slurmctld killed right after an acknowledged submit", remark)
}

// settle waits until slurmctld has written down what runs: it saves its state every few seconds.
func (w *world) settle() {
	w.t.Helper()
	begin := time.Now()
	w.untilTrue("slurmctld has saved its state", func() bool {
		return w.bed.SavedSince(begin)
	})
}

// TestSlurmctldAway: nobody can ask Slurm anything for a minute.
func TestSlurmctldAway(t *testing.T) {
	slow(t)
	w := start(t, testbed.Options{}, deployment("gpu", "12h"))
	w.traffic()
	before := w.replicas()
	w.tr.Mark()
	w.no(w.bed.StopSlurmctld())
	away := time.NewTimer(60 * time.Second)
	defer away.Stop()
	select {
	case <-away.C:
	case <-w.ctx.Done():
		t.Fatal(w.ctx.Err())
	}
	w.same(before)
	st, err := w.Status(w.ctx)
	w.no(err)
	w.note("warnings: %q", st.Warnings)
	if len(st.Warnings) == 0 {
		t.Error("status does not warn that Slurm has not answered")
	}
	w.no(w.bed.StartSlurmctld(w.ctx))
	w.until("the warning is gone", func(st installation.Status) bool { return len(st.Warnings) == 0 })
	w.same(before)
	w.must("scale", "web", "mixed=3")
	w.until("a third replica is ready", ready(3))
	w.tr.Finished(w.ctx, traffic.Streams)
	w.finish(3, "slurmctld away for 60 s", "no replica changed")
}

// TestQueueFull: the cluster is full for minutes. Waiting is no failure.
func TestQueueFull(t *testing.T) {
	slow(t)
	w := start(t, testbed.Options{}, apart(deployment("gpu", "12h")))
	id, err := w.bed.RunAs(w.ctx, testbed.Bob, "sbatch", "--parsable", "-p", "gpu", "-N2", "-n2", "--gres=gpu:8", "-o", "/dev/null", "--wrap", "sleep 900")
	w.no(err)
	w.traffic()
	w.tr.Mark()
	w.must("scale", "web", "mixed=3")
	const full = 150 * time.Second
	begin := time.Now()
	var third installation.Replica
	for time.Since(begin) < full {
		st, err := w.Status(w.ctx)
		w.no(err)
		for _, r := range replicasOf(st) {
			if r.State == "ready" {
				continue
			}
			if third.Launch != "" && r.Launch != third.Launch || r.Failures > 0 {
				t.Fatalf("the waiting replica was replaced or counted as failed: %+v", r)
			}
			third = r
		}
		select {
		case <-time.After(time.Second):
		case <-w.ctx.Done():
			t.Fatal(w.ctx.Err())
		}
	}
	w.note("%s: %s: %s", third.Launch, third.State, third.Reason)
	if third.Launch == "" || !strings.Contains(third.Reason, " ") {
		t.Errorf("the waiting replica is not shown with a reason: %+v", third)
	}
	_, err = w.bed.RunAs(w.ctx, testbed.Bob, "scancel", id)
	w.no(err)
	w.until("the third replica is ready", func(st installation.Status) bool {
		for _, r := range replicasOf(st) {
			if r.Launch == third.Launch && r.State == "ready" {
				return ready(3)(st)
			}
		}
		return false
	})
	w.tr.Finished(w.ctx, traffic.Streams)
	w.finish(11, "queue full for 150 s", "the same launch waited and served")
}
