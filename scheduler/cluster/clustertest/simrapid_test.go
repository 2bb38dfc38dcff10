package clustertest

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/scheduler/cluster"
)

// TestSimKeepsItsBooks plays any calls, faults and losses on a Sim: no GPU goes to two jobs that were not doubled or cut
// off, every run ends once, what has ended stays ended, and no GPU stays held at the end.
func TestSimKeepsItsBooks(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		started, ended := map[string]int{}, map[string]int{}
		over := map[string]bool{}
		sim := NewSim(SimOptions{
			Nodes: Nodes(3, 2), Seed: rapid.Uint64().Draw(rt, "seed"), Requeue: rapid.Bool().Draw(rt, "requeue"),
			QueueDelay: 2 * time.Second, QueueJitter: 5 * time.Second, Walltime: time.Minute, StopTakes: 3 * time.Second,
			Remember: time.Hour,
			Rates:    Rates{Refuse: 0.1, Lose: 0.1, Accept: 0.1, AcceptLate: 0.1, Unknown: 0.1},
			OnStart:  func(r SimRun) { started[r.Nonce]++ },
			OnEnd:    func(r SimRun, _ *cluster.Exit) { ended[r.Nonce]++ },
		})
		cut := false
		anyJob := func() string { return fmt.Sprint(rapid.IntRange(1001, 1001+len(over)).Draw(rt, "job")) }
		anyNode := func() string { return fmt.Sprint("node", rapid.IntRange(0, 2).Draw(rt, "node")) }
		n := 0
		rt.Repeat(map[string]func(*rapid.T){
			"submit": func(*rapid.T) {
				n++
				_, _ = sim.Submit(t.Context(), submission(fmt.Sprint("l", n), n%3))
			},
			"stop":    func(*rapid.T) { _ = sim.Stop(t.Context(), anyJob(), time.Duration(n%5)*time.Second) },
			"exit":    func(*rapid.T) { sim.Exit(anyJob(), cluster.Exit{Code: n % 2}) },
			"preempt": func(*rapid.T) { sim.Preempt(anyJob(), time.Second) },
			"requeue": func(*rapid.T) { sim.Requeue(anyJob()) },
			"kill":    func(*rapid.T) { sim.KillNode(anyNode()) },
			"cut":     func(*rapid.T) { sim.CutNode(anyNode()); cut = true },
			"return":  func(*rapid.T) { sim.ReturnNode(anyNode()) },
			"advance": func(*rapid.T) { sim.Advance(time.Duration(rapid.IntRange(0, 20).Draw(rt, "seconds")) * time.Second) },
			"": func(rt *rapid.T) {
				if c := sim.Conflicts(); len(c) > 0 && !cut {
					rt.Fatalf("GPUs held twice: %v", c)
				}
				jobs, err := sim.Jobs(t.Context())
				if err != nil {
					return
				}
				for _, j := range jobs {
					if over[j.ID] && j.State != cluster.JobEnded {
						rt.Fatalf("job %s has ended and is %s again", j.ID, j.State)
					}
					over[j.ID] = j.State == cluster.JobEnded
				}
			},
		})
		for i := range 3 {
			sim.ReturnNode(fmt.Sprint("node", i))
		}
		sim.SetRates(Rates{})
		sim.Advance(time.Minute)
		for range len(over) + n + 1 { // a requeued job gets its walltime too, after whoever is before it
			sim.Advance(2 * time.Minute)
		}
		for _, node := range sim.nodes {
			for gpu, holders := range node.held {
				if holders != 0 {
					rt.Errorf("GPU %s has %d holders", gpu, holders)
				}
			}
		}
		for nonce, times := range started {
			if times != 1 || ended[nonce] != 1 {
				rt.Errorf("run %s started %d and ended %d times", nonce, times, ended[nonce])
			}
		}
		if live := sim.Alive(); len(live) > 0 {
			rt.Errorf("alive: %v", live)
		}
	})
}

func BenchmarkSimTenThousandJobs(b *testing.B) {
	for b.Loop() {
		sim := NewSim(SimOptions{Nodes: Nodes(1000, 8), QueueJitter: time.Minute, Walltime: time.Hour})
		for i := range 10_000 {
			if _, err := sim.Submit(b.Context(), submission(fmt.Sprint("l", i), 1)); err != nil {
				b.Fatal(err)
			}
		}
		sim.Advance(2 * time.Hour)
	}
}
