package slurm

import (
	"strings"
	"testing"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/slurm/testbed"
	"github.com/penstock/penstock/tests/traffic"
)

// TestSlurmrestdDown: the controller's only way to Slurm is slurmrestd, and it is away. Nothing is started twice, and what is
// wanted meanwhile is started when it is back.
func TestSlurmrestdDown(t *testing.T) {
	slow(t)
	w := setup(t, testbed.Options{})
	w.must("serve", "--detach", "--listen", w.on.Addr+":0", "--slurm", "rest:unix:"+w.bed.RESTSocket())
	w.deploy(deployment("gpu", "12h"))
	w.connect()
	w.traffic()
	before := w.replicas()
	w.tr.Mark()
	w.no(w.bed.KillSlurmrestd())
	w.until("status says that Slurm does not answer", func(st installation.Status) bool { return len(st.Warnings) > 0 })
	w.must("scale", "web", "mixed=3")
	w.tr.Finished(w.ctx, 3*traffic.Streams)
	for _, r := range w.replicas() {
		if r.Job != "" && r.Launch != before[0].Launch && r.Launch != before[1].Launch {
			t.Errorf("a job was started while slurmrestd was away: %+v", r)
		}
	}
	w.no(w.bed.StartSlurmrestd(w.ctx))
	w.until("the warning is gone", func(st installation.Status) bool { return len(st.Warnings) == 0 })
	w.until("a third replica is ready", ready(3))
	w.tr.Finished(w.ctx, traffic.Streams)
	if jobs := strings.Fields(w.asRoot("squeue", "-h", "-t", "all", "-o", "%i")); len(jobs) != 3 {
		t.Errorf("jobs %v, want three in all", jobs)
	}
	w.finish(16, "slurmrestd down, the controller's only way to Slurm", "no replica changed, nothing started twice")
}
