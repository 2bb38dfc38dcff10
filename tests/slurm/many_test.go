package slurm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/slurm/testbed"
)

// TestManyReplicas: 200 jobs wait in the queue, and slurmctld is asked as often as for one.
func TestManyReplicas(t *testing.T) {
	slow(t)
	w := setup(t, testbed.Options{})
	w.asRoot("scontrol", "update", "PartitionName=gpu", "State=DOWN") // takes jobs and starts none
	w.serve()
	const replicas = 200
	begin := time.Now()
	w.must("run", "--detach", w.file("web", strings.Replace(deployment("gpu", "12h"), "replicas: 2", fmt.Sprint("replicas: ", replicas), 1)))
	w.until("200 jobs wait", func(st installation.Status) bool {
		n := 0
		for _, r := range replicasOf(st) {
			if r.Job != "" {
				n++
			}
		}
		return n == replicas
	})
	submitted := time.Since(begin)
	const window = 60 * time.Second
	w.no(w.bed.ResetRPCs(w.ctx))
	w.untilTrue("the list that follows a change has been asked for", func() bool { return w.listings() > 1 })
	w.no(w.bed.ResetRPCs(w.ctx))
	begin = time.Now()
	select {
	case <-time.After(window):
	case <-w.ctx.Done():
		t.Fatal(w.ctx.Err())
	}
	asked, err := w.bed.RPCs(w.ctx, testbed.Alice)
	w.no(err)
	listed := w.listings()
	w.note("in %s: %d questions about jobs, %d of any kind", window, listed, asked)
	if elapsed := time.Since(begin); listed > int(elapsed/pollInterval)+1 {
		t.Errorf("slurmctld was asked for jobs %d times in %s, more than once in %s", listed, elapsed, pollInterval)
	}
	begin = time.Now()
	w.must("stop", "--all", "--wait", "--timeout", "180s")
	cancelled := time.Since(begin)
	w.must("serve", "--stop")
	r := row{number: 14, fault: "200 replicas submitted and cancelled", remark: fmt.Sprintf("%s, %s; in between %d questions about jobs in 60 s, %d of any kind",
		seconds("submitted in", submitted), seconds("cancelled in", cancelled), listed, asked)}
	w.checkLeft(&r)
	r.verify(t)
	results.add(r)
}

// listings is how often slurmctld has been asked for jobs.
func (w *world) listings() int {
	w.t.Helper()
	all, err := w.bed.RPCsOf(w.ctx, "REQUEST_JOB_INFO")
	w.no(err)
	ofUser, err := w.bed.RPCsOf(w.ctx, "REQUEST_JOB_USER_INFO")
	w.no(err)
	return all + ofUser
}

// pollInterval is the controller's interval between questions about jobs.
const pollInterval = 10 * time.Second
