package slurm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock/penstock/tests/slurm/testbed"
	"github.com/penstock/penstock/tests/traffic"
)

// TestEngineIsAStep: the engine is a step of the agent's job, as with pyxis (which the bed has not): its processes are Slurm's
// children. It is found ready, started again when it dies, and ended by its step's number with TERM.
func TestEngineIsAStep(t *testing.T) {
	slow(t)
	file := func(binary string) string {
		return strings.Replace(deployment("gpu", "1h", "serving: {drainTimeout: 20s}"), `args: [--speedup, "0.5"]`,
			fmt.Sprintf(`args: [--speedup, "0.5"], command: [srun, --overlap, --nodes=1, --ntasks=1, --export=ALL, --gpu-bind=none, --kill-on-bad-exit=1, %s, engine, sim]`, binary), 1)
	}
	w := setup(t, testbed.Options{})
	w.serve()
	w.deploy(file(w.Binary))
	w.connect()
	w.traffic()
	victim := w.busiest()
	steps := w.asAlice("squeue", "-h", "-s", "-o", "%i %j")
	if !strings.Contains(steps, victim.Job+".0 ") {
		t.Fatalf("no engine is a step:\n%s", steps)
	}
	w.tr.Mark()
	w.asAlice("scancel", "--signal=KILL", victim.Job+".0")
	w.untilTrue("the job has a second step", func() bool {
		out, err := w.bed.RunAs(w.ctx, testbed.Alice, "squeue", "-h", "-s", "-o", "%i %j")
		return err == nil && strings.Contains(out, victim.Job+".1 ")
	})
	w.until("both replicas are ready again", ready(2))
	w.tr.Finished(w.ctx, traffic.Streams)
	w.must("scale", "web", "mixed=1")
	w.until("one replica is left", ready(1))
	w.tr.Finished(w.ctx, traffic.Streams)
	ended := 0
	logs, _ := filepath.Glob(filepath.Join(w.State(), "logs", "web", "*", "agent-0.log"))
	for _, path := range logs {
		text, err := os.ReadFile(path)
		w.no(err)
		if strings.Contains(string(text), "engine's step asked to end") {
			ended++
		}
		if strings.Contains(string(text), "engine's step not") || strings.Contains(string(text), "foreign") {
			t.Errorf("%s:\n%s", path, text)
		}
	}
	if ended == 0 {
		t.Error("no engine was ended by its step")
	}
	w.finish(36, "an engine that is a step of its job (srun --overlap) killed", "started again in the same job")
}
