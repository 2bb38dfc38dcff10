package clustertest

import (
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// simHarness drives a Sim; behaviour of jobs is told by their launch's reason.
type simHarness struct {
	sim  *Sim
	next atomic.Int64
	b    map[cluster.LaunchID]Behaviour
}

func newSimHarness(o SimOptions) *simHarness {
	h := &simHarness{b: map[cluster.LaunchID]Behaviour{}}
	o.QueueDelay = 3 * time.Second
	o.Nodes = Nodes(8, 2)
	o.OnStart = func(r SimRun) {
		if b := h.b[r.Submission.Launch.ID]; b.Exit != nil {
			h.sim.Exit(r.Job.ID, *b.Exit)
		}
	}
	o.OnStop = func(r SimRun, _ time.Duration) {
		if !h.b[r.Submission.Launch.ID].Stubborn {
			h.sim.Exit(r.Job.ID, cluster.Exit{})
		}
	}
	h.sim = NewSim(o)
	return h
}

func (h *simHarness) submission(places bool, b Behaviour) cluster.Submission {
	n := int(h.next.Add(1))
	sub := submission(fmt.Sprint("launch-", n), 1)
	sub.Launch.Deployment, sub.Launch.Nodes = "d", max(1, b.Nodes)
	sub.Deployment.Name = "d"
	if places {
		for rank := range sub.Launch.Nodes {
			node := fmt.Sprint("node", (n+rank)%8)
			sub.Launch.Placement = append(sub.Launch.Placement,
				cluster.Placement{Node: node, GPUs: []string{fmt.Sprint(node, "-gpu", rank)}})
		}
	}
	if b != (Behaviour{}) {
		h.b[sub.Launch.ID] = b
	}
	return sub
}

func (h *simHarness) harness(places bool) Harness {
	return Harness{
		Cluster:    h.sim,
		Submission: func(_ *testing.T, b Behaviour) cluster.Submission { return h.submission(places, b) },
		Advance:    h.sim.Advance,
		Patience:   10 * time.Minute,
		Refused: func(*testing.T) cluster.Submission {
			sub := h.submission(places, Behaviour{Nodes: 9})
			return sub
		},
		Waiting: func(*testing.T) cluster.Submission { return h.submission(places, Behaviour{}) },
		Restart: func(*testing.T) cluster.Cluster { return h.sim },
		Silence: func(_ *testing.T, on bool) { h.sim.Silence(on) },
		Hang: func(_ *testing.T, on bool) {
			if on {
				for _, c := range []Call{SubmitCall, JobsCall, StopCall, CapacityCall, SetCountCall, CountsCall} {
					h.sim.Fail(c, Hang)
				}
			}
		},
		Twice:      func(_ *testing.T, job string) { h.sim.Again(job) },
		KillNode:   func(_ *testing.T, node string) { h.sim.KillNode(node) },
		ReturnNode: func(_ *testing.T, node string) { h.sim.ReturnNode(node) },
		Processes: func(_ *testing.T, launch cluster.LaunchID) (n int) {
			for _, r := range h.sim.Alive() {
				if r.Submission.Launch.ID == launch {
					n++
				}
			}
			return n
		},
	}
}

func TestSimConforms(t *testing.T) {
	for _, o := range []SimOptions{{Places: true}, {}, {Requeue: true}} {
		t.Run(fmt.Sprintf("places %v, requeue %v", o.Places, o.Requeue), func(t *testing.T) {
			Run(t, func(*testing.T) Harness { return newSimHarness(o).harness(o.Places) })
		})
	}
}

func TestSimCounterConforms(t *testing.T) {
	Run(t, func(*testing.T) Harness {
		s := newSimHarness(SimOptions{})
		h := s.harness(false)
		h.Cluster = NewSimCounter(s.sim, SimCounterOptions{RestartDelay: 5 * time.Second})
		return h
	})
}

func TestHarnessMustSayWhatItCannot(t *testing.T) {
	h := newSimHarness(SimOptions{}).harness(false)
	if m := h.missing(); len(m) != 0 {
		t.Errorf("a whole harness lacks %v", m)
	}
	h.Restart, h.ReturnNode = nil, nil
	h.Cannot = map[Ability]string{Restarting: "no state outlives it"}
	want := map[Ability]string{Restarting: "no state outlives it", LosingNode: ""}
	if got := h.missing(); !maps.Equal(got, want) {
		t.Errorf("missing %v, want %v", got, want)
	}
}
