package clustertest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// submission asks for one node with g GPUs, or for the GPUs placed.
func submission(id string, g int, placed ...cluster.Placement) cluster.Submission {
	return cluster.Submission{
		Launch: cluster.Launch{ID: cluster.LaunchID(id), Role: jobspecs.Mixed, Nodes: max(1, len(placed)), Placement: placed},
		Deployment: jobspecs.Deployment{Roles: map[jobspecs.RoleKind]jobspecs.Role{
			jobspecs.Mixed: {GPUs: jobspecs.GPURequest{Count: g}},
		}},
	}
}

// history runs jobs through a small cluster and writes down what the hooks see.
func history(t *testing.T, o SimOptions, play func(*Sim)) (lines []string) {
	t.Helper()
	var sim *Sim
	say := func(what string, r SimRun, extra string) {
		lines = append(lines, fmt.Sprintf("%5s %s %s job %s%s", sim.Now().Sub(o.Start), what, r.Submission.Launch.ID, r.Job.ID, extra))
	}
	o.Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	o.OnStart = func(r SimRun) { say("start", r, fmt.Sprint(" on ", r.Job.Nodes)) }
	o.OnEnd = func(r SimRun, e *cluster.Exit) {
		if e == nil {
			say("end", r, " unknown")
			return
		}
		say("end", r, fmt.Sprintf(" %d/%d", e.Code, e.Signal))
	}
	sim = NewSim(o)
	play(sim)
	return lines
}

func mustSubmit(t *testing.T, s *Sim, sub cluster.Submission) string {
	t.Helper()
	id, err := s.Submit(t.Context(), sub)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestSimHistories(t *testing.T) {
	tests := []struct {
		name string
		o    SimOptions
		play func(*testing.T, *Sim)
		want []string
	}{
		{
			"queue delay, then first fit; the third waits for a GPU",
			SimOptions{Nodes: Nodes(2, 1), QueueDelay: 5 * time.Second},
			func(t *testing.T, s *Sim) {
				a := mustSubmit(t, s, submission("a", 1))
				mustSubmit(t, s, submission("b", 1))
				mustSubmit(t, s, submission("c", 1))
				s.Advance(10 * time.Second)
				s.Exit(a, cluster.Exit{Code: 3})
				s.Advance(0)
			},
			[]string{
				"   5s start a job 1001 on [node0]", "   5s start b job 1002 on [node1]",
				"  10s end a job 1001 3/0", "  10s start c job 1003 on [node0]",
			},
		},
		{
			"walltime",
			SimOptions{Nodes: Nodes(1, 1), Walltime: time.Minute},
			func(t *testing.T, s *Sim) {
				mustSubmit(t, s, submission("a", 1))
				s.Advance(2 * time.Minute)
			},
			[]string{"   0s start a job 1001 on [node0]", " 1m0s end a job 1001 0/15"},
		},
		{
			"killed after the grace",
			SimOptions{Nodes: Nodes(1, 1), StopTakes: time.Hour},
			func(t *testing.T, s *Sim) {
				a := mustSubmit(t, s, submission("a", 1))
				s.Advance(0)
				_ = s.Stop(t.Context(), a, 7*time.Second)
				_ = s.Stop(t.Context(), a, 70*time.Second)
				s.Advance(time.Minute)
			},
			[]string{"   0s start a job 1001 on [node0]", "   7s end a job 1001 0/9"},
		},
		{
			"preempted and requeued",
			SimOptions{Nodes: Nodes(1, 1), Requeue: true, QueueDelay: time.Second},
			func(t *testing.T, s *Sim) {
				a := mustSubmit(t, s, submission("a", 1))
				s.Advance(time.Second)
				s.Preempt(a, 9*time.Second)
				s.Advance(time.Minute)
			},
			[]string{"   1s start a job 1001 on [node0]", "   1s end a job 1001 0/0", "   2s start a job 1001 on [node0]"},
		},
		{
			"node killed: requeued on the other",
			SimOptions{Nodes: Nodes(2, 1), Requeue: true},
			func(t *testing.T, s *Sim) {
				mustSubmit(t, s, submission("a", 1))
				s.Advance(0)
				s.KillNode("node0")
				s.Advance(0)
			},
			[]string{"   0s start a job 1001 on [node0]", "   0s end a job 1001 unknown", "   0s start a job 1001 on [node1]"},
		},
		{
			"node cut off: the old run lives until it returns",
			SimOptions{Nodes: Nodes(2, 1), Requeue: true},
			func(t *testing.T, s *Sim) {
				mustSubmit(t, s, submission("a", 1))
				s.Advance(0)
				s.CutNode("node0")
				s.Advance(5 * time.Second)
				if n := len(s.Alive()); n != 2 {
					t.Errorf("%d runs are alive, want 2", n)
				}
				s.ReturnNode("node0")
				s.Advance(0)
			},
			[]string{"   0s start a job 1001 on [node0]", "   0s start a job 1001 on [node1]", "   5s end a job 1001 unknown"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := history(t, tt.o, func(s *Sim) { tt.play(t, s) })
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestSimFaults(t *testing.T) {
	tests := []struct {
		fault     Fault
		want      error
		now, late int // jobs at once and after Late
	}{
		{OK, nil, 1, 1},
		{Refuse, cluster.ErrRefused, 0, 0},
		{Lose, cluster.ErrUnknown, 0, 0},
		{Accept, cluster.ErrUnknown, 1, 1},
		{AcceptLate, cluster.ErrUnknown, 0, 1},
		{Twice, nil, 2, 2},
	}
	for _, tt := range tests {
		t.Run(string("fault "+tt.fault), func(t *testing.T) {
			t.Parallel()
			s := NewSim(SimOptions{Nodes: Nodes(4, 1), Late: time.Minute})
			s.Fail(SubmitCall, tt.fault)
			if _, err := s.Submit(t.Context(), submission("a", 1)); !errors.Is(err, tt.want) {
				t.Errorf("Submit: %v, want %v", err, tt.want)
			}
			for _, want := range []int{tt.now, tt.late} {
				if jobs, err := s.Jobs(t.Context()); err != nil || len(jobs) != want {
					t.Errorf("%d jobs (%v), want %d", len(jobs), err, want)
				}
				s.Advance(2 * time.Minute)
			}
		})
	}
}

func TestSimRefusesWhatCannotRun(t *testing.T) {
	on := func(node string, gpus ...string) []cluster.Placement {
		return []cluster.Placement{{Node: node, GPUs: gpus}}
	}
	tests := []struct {
		name   string
		places bool
		sub    cluster.Submission
	}{
		{"more GPUs than any node has", false, submission("x", 3)},
		{"no placement", true, submission("x", 1)},
		{"unknown node", true, submission("x", 1, on("node9")...)},
		{"unknown GPU", true, submission("x", 1, on("node0", "node1-gpu0")...)},
		{"GPU in use", true, submission("x", 1, on("node0", "node0-gpu0")...)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := NewSim(SimOptions{Nodes: Nodes(2, 2), Places: tt.places})
			mustSubmit(t, s, submission("first", 1, on("node0", "node0-gpu0")...))
			if _, err := s.Submit(t.Context(), tt.sub); !errors.Is(err, cluster.ErrRefused) {
				t.Errorf("Submit: %v, want ErrRefused", err)
			}
		})
	}
}

// What a cluster with a queue tells of a job: which limit holds it back, what it waits for, and why it ended.
func TestSimTells(t *testing.T) {
	t.Parallel()
	s := NewSim(SimOptions{Nodes: Nodes(3, 1), Walltime: time.Hour, MaxJobs: 2, Remember: 24 * time.Hour})
	after := func(id, job string, not ...string) cluster.Submission {
		sub := submission(id, 1)
		sub.Launch.After, sub.Launch.Exclude = job, not
		return sub
	}
	first := mustSubmit(t, s, submission("a", 1))
	second := mustSubmit(t, s, after("b", first))
	third := mustSubmit(t, s, after("c", "", "node0", "node1"))
	fourth := mustSubmit(t, s, submission("d", 1))
	look := func(id string) cluster.Job {
		t.Helper()
		jobs, err := s.Jobs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs {
			if j.ID == id {
				return j
			}
		}
		t.Fatalf("no job %s", id)
		return cluster.Job{}
	}
	s.Advance(time.Minute)
	for id, want := range map[string]cluster.Job{
		first:  {State: cluster.JobRunning, Nodes: []string{"node0"}},
		second: {State: cluster.JobPending}, // it waits for the first one, whatever the limit
		third:  {State: cluster.JobRunning, Nodes: []string{"node2"}},
		fourth: {State: cluster.JobPending, Limit: "MaxJobs"},
	} {
		if j := look(id); j.State != want.State || j.Limit != want.Limit || !cmp.Equal(j.Nodes, want.Nodes) {
			t.Errorf("job %s: %+v, want %+v", id, j, want)
		}
	}
	s.Cancel(third, time.Minute)
	s.Advance(time.Minute)
	if j := look(third); j.Cause != cluster.EndedCancelled {
		t.Errorf("cancelled: %+v", j)
	}
	if j := look(fourth); j.State != cluster.JobRunning || look(second).State != cluster.JobPending {
		t.Errorf("while the job before it runs, a follower waits and others do not: %+v, %+v", j, look(second))
	}
	s.Preempt(fourth, time.Minute)
	s.KillNode("node0")
	s.Advance(time.Minute)
	if j := look(fourth); j.Cause != cluster.EndedPreempted {
		t.Errorf("preempted: %+v", j)
	}
	if j := look(first); j.Cause != cluster.EndedNodeFailed {
		t.Errorf("lost with its node: %+v", j)
	}
	if j := look(second); j.State != cluster.JobRunning {
		t.Errorf("the job before it is over: %+v", j)
	}
	s.Advance(time.Hour)
	if j := look(second); j.Cause != cluster.EndedWalltime {
		t.Errorf("at its limit: %+v", j)
	}
}

func TestSimConflicts(t *testing.T) {
	s := NewSim(SimOptions{Nodes: Nodes(1, 1), Places: true})
	s.Fail(SubmitCall, Twice)
	mustSubmit(t, s, submission("a", 1, cluster.Placement{Node: "node0", GPUs: []string{"node0-gpu0"}}))
	s.Advance(0)
	if d := cmp.Diff([]string{"node0/node0-gpu0"}, s.Conflicts()); d != "" {
		t.Error(d)
	}
}

func TestSimRepeats(t *testing.T) {
	o := SimOptions{
		Nodes: Nodes(4, 2), Seed: 7, QueueDelay: time.Second, QueueJitter: time.Minute, Walltime: time.Minute,
		Rates: Rates{Refuse: 0.1, Lose: 0.1, Accept: 0.1, AcceptLate: 0.1, Twice: 0.1},
	}
	play := func(s *Sim) {
		for i := range 50 {
			_, _ = s.Submit(t.Context(), submission(fmt.Sprint("l", i), 1+i%2))
			s.Advance(3 * time.Second)
		}
		s.Advance(time.Hour)
	}
	first, second := history(t, o, play), history(t, o, play)
	if len(first) < 60 {
		t.Fatalf("only %d lines of history", len(first))
	}
	if d := cmp.Diff(first, second); d != "" {
		t.Error(d)
	}
	o.Seed = 8
	if cmp.Equal(first, history(t, o, play)) {
		t.Error("another seed gave the same history")
	}
}
