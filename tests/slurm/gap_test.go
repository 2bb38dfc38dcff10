package slurm

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/slurm/testbed"
	"github.com/penstock/penstock/tests/traffic"
)

// TestOneJobOnly: the user may run one job at a time, so the successor cannot start before its predecessor has ended. The gap is
// announced beforehand, in status, and in every refusal while it lasts; then the successor serves.
func TestOneJobOnly(t *testing.T) {
	slow(t)
	if *release != "" {
		t.Skip("the chroots of other releases have no slurmdbd")
	}
	w := setup(t, testbed.Options{Accounting: true})
	w.no(w.bed.LimitJobs(w.ctx, testbed.Alice, 1))
	w.serve()
	w.deploy(strings.Replace(deployment("short", "2m", "serving: {drainTimeout: 10s}"), "replicas: 2", "replicas: 1", 1))
	w.connect()
	w.traffic()
	first := w.replicas()[0]
	w.tr.Mark()
	var announced time.Duration
	w.until("a gap is announced", func(st installation.Status) bool {
		for _, r := range replicasOf(st) {
			if r.Launch == first.Launch && r.State == "ready" && r.Handover != nil && r.Handover.Gap != nil && *r.Handover.Gap > 0 {
				announced = time.Duration(*r.Handover.Gap * float64(time.Second))
				w.note("%s is announced; successor %s: %s", announced, r.Handover.Successor, r.Handover.SuccessorReason)
			}
		}
		return announced > 0
	})
	w.until("the successor serves", ready(1, first.Launch))
	w.tr.Finished(w.ctx, traffic.Streams)
	queue := w.asRoot("squeue", "-h", "-t", "all", "-o", "%i %T %M %E")
	w.note("jobs:\n%s", queue)
	w.note("accounting:\n%s", w.asAlice("sacct", "-X", "-n", "-o", "jobid,state,exitcode,elapsed"))
	if events := w.must("events"); !strings.Contains(events, "gap") && !strings.Contains(events, "limit") {
		t.Errorf("no event speaks of the gap:\n%s", events)
	}
	if past := w.must("history", "web"); !strings.Contains(past, "accounting") || !strings.Contains(past, first.Launch) {
		t.Errorf("history does not tell of %s from the accounting:\n%s", first.Launch, past)
	}
	r := w.finish(17, "a limit of one job at a time (slurmdbd): walltime reached", seconds("a gap was announced beforehand, of", announced))
	if r.refused == 0 {
		t.Error("no request was refused, so there was no gap to see")
	}
}
