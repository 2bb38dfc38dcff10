package clustertest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/scheduler/cluster"
)

var submitterChecks = []check{
	{"a submitted launch is listed under its token and native ID", nil, submitIsListed},
	{"a running job names its nodes and its start", nil, runningJob},
	{"a placement is honoured", nil, placementHonoured},
	{"a job of several nodes is one job", nil, gangIsOneJob},
	{"a pending job says why in words", []Ability{Waiting}, pendingReason},
	{"a pending job can be stopped", []Ability{Waiting}, pendingStop},
	{"stop ends a job and may be repeated", nil, stopTwice},
	{"a job that does not obey is killed after the grace", nil, stopStubborn},
	{"ended jobs are remembered with code and signal apart", nil, exitsRemembered},
	{"a refused submit leaves no job", []Ability{Refusing}, refusedLeavesNothing},
	{"two jobs of one token are both listed", []Ability{Doubling}, doublesListed},
	{"submits from many sides are all listed, and never vanish", nil, concurrentUse},
	{"jobs are found again after a restart", []Ability{Restarting}, restartFinds},
	{"exits are found again after a restart", []Ability{Restarting}, restartRemembers},
	{"a stop by a later controller works", []Ability{Restarting}, restartStops},
	{"the loss of a node shows", []Ability{LosingNode}, nodeLoss},
	{"stop leaves no process", []Ability{Counting}, stopLeavesNothing},
	{"the end of a job leaves no process", []Ability{Counting}, endLeavesNothing},
}

func submitIsListed(t *testing.T, h *Harness) {
	sub, id := h.mustSubmit(t, Behaviour{})
	other, otherID := h.mustSubmit(t, Behaviour{})
	if id == "" || id == otherID {
		t.Fatalf("native IDs %q and %q", id, otherID)
	}
	if other.Launch.ID == sub.Launch.ID {
		t.Fatal("the harness gave one token twice")
	}
	jobs := h.launched(t, sub.Launch.ID)
	if len(jobs) != 1 || jobs[0].ID != id {
		t.Errorf("jobs of launch %s: %+v, want one with the ID %s", sub.Launch.ID, jobs, id)
	}
	if n := len(h.jobs(t)); n != 2 {
		t.Errorf("%d jobs, want 2", n)
	}
}

func runningJob(t *testing.T, h *Harness) {
	_, id := h.mustSubmit(t, Behaviour{})
	j := h.reach(t, id, cluster.JobRunning)
	if len(j.Nodes) != 1 {
		t.Errorf("nodes %q, want one", j.Nodes)
	}
	if j.Started.IsZero() || !j.Ended.IsZero() || j.Exit != nil {
		t.Errorf("started %v, ended %v, exit %v", j.Started, j.Ended, j.Exit)
	}
	if !j.EndsAt.IsZero() && j.EndsAt.Before(j.Started) {
		t.Errorf("ends at %v, before it started at %v", j.EndsAt, j.Started)
	}
}

func placementHonoured(t *testing.T, h *Harness) {
	c, err := call(t, "Capacity", callLimit, h.Cluster.Capacity)
	if err != nil {
		t.Fatal(err)
	}
	sub := h.Submission(t, Behaviour{Nodes: 2})
	if !c.Places {
		if len(sub.Launch.Placement) > 0 {
			t.Errorf("the cluster places by itself and the harness submits the placement %v", sub.Launch.Placement)
		}
		return
	}
	id, err := h.submit(t, sub)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, p := range sub.Launch.Placement {
		want = append(want, p.Node)
	}
	if d := cmp.Diff(want, h.reach(t, id, cluster.JobRunning).Nodes); d != "" {
		t.Error("nodes of the job: " + d)
	}
}

func gangIsOneJob(t *testing.T, h *Harness) {
	sub, id := h.mustSubmit(t, Behaviour{Nodes: 2})
	if j := h.reach(t, id, cluster.JobRunning); len(j.Nodes) != 2 {
		t.Errorf("nodes %q, want two", j.Nodes)
	}
	if jobs := h.launched(t, sub.Launch.ID); len(jobs) != 1 {
		t.Errorf("%d jobs of one launch: %+v", len(jobs), jobs)
	}
}

func pendingReason(t *testing.T, h *Harness) {
	id, err := h.submit(t, h.Waiting(t))
	if err != nil {
		t.Fatal(err)
	}
	j := h.job(t, id)
	if j.State != cluster.JobPending || len(j.Nodes) > 0 || !j.Started.IsZero() {
		t.Errorf("job %+v, want a pending one without nodes or start", j)
	}
	if !strings.Contains(strings.TrimSpace(j.Reason), " ") {
		t.Errorf("reason %q is not in words", j.Reason)
	}
}

func pendingStop(t *testing.T, h *Harness) {
	id, err := h.submit(t, h.Waiting(t))
	if err != nil {
		t.Fatal(err)
	}
	h.stop(t, id, time.Second)
	if j := h.reach(t, id, cluster.JobEnded); j.Reason == "" {
		t.Error("a job that was stopped while pending does not say so")
	}
}

func stopTwice(t *testing.T, h *Harness) {
	_, id := h.mustSubmit(t, Behaviour{})
	h.reach(t, id, cluster.JobRunning)
	h.stop(t, id, h.Patience)
	h.stop(t, id, h.Patience)
	if j := h.job(t, id); j.State != cluster.JobEnding && j.State != cluster.JobEnded {
		t.Errorf("state %s right after Stop, want ending or ended", j.State)
	}
	j := h.reach(t, id, cluster.JobEnded)
	if j.Ended.IsZero() || j.Ended.Before(j.Started) {
		t.Errorf("started %v, ended %v", j.Started, j.Ended)
	}
	h.stop(t, id, time.Second)
}

func stopStubborn(t *testing.T, h *Harness) {
	_, id := h.mustSubmit(t, Behaviour{Stubborn: true})
	h.reach(t, id, cluster.JobRunning)
	h.stop(t, id, 100*time.Millisecond)
	j := h.reach(t, id, cluster.JobEnded)
	if j.Exit != nil && *j.Exit == (cluster.Exit{}) {
		t.Error("a job that was killed is shown as a success")
	}
}

func exitsRemembered(t *testing.T, h *Harness) {
	exits := []cluster.Exit{{}, {Code: 3}, {Signal: sigKILL}}
	var ids []string
	for _, e := range exits {
		_, id := h.mustSubmit(t, Behaviour{Exit: &e})
		ids = append(ids, id)
	}
	for i, e := range exits {
		j := h.reach(t, ids[i], cluster.JobEnded)
		if j.Exit == nil || *j.Exit != e {
			t.Errorf("exit %+v, want %+v", j.Exit, e)
		}
		if j.Ended.IsZero() {
			t.Error("an ended job has no end")
		}
		if e != (cluster.Exit{}) && j.Reason == "" {
			t.Errorf("exit %+v gives no reason in words", e)
		}
	}
}

func refusedLeavesNothing(t *testing.T, h *Harness) {
	sub := h.Refused(t)
	_, err := h.submit(t, sub)
	if !errors.Is(err, cluster.ErrRefused) || errors.Is(err, cluster.ErrUnknown) {
		t.Errorf("Submit: %v, want ErrRefused alone", err)
	}
	if jobs := h.launched(t, sub.Launch.ID); len(jobs) > 0 {
		t.Errorf("a refused launch has jobs: %+v", jobs)
	}
}

func doublesListed(t *testing.T, h *Harness) {
	sub, id := h.mustSubmit(t, Behaviour{})
	h.Twice(t, id)
	var ids []string
	h.until(t, "a second job of the token", func() bool {
		ids = nil
		for _, j := range h.launched(t, sub.Launch.ID) {
			ids = append(ids, j.ID)
		}
		return len(ids) == 2
	})
	if !slices.Contains(ids, id) || ids[0] == ids[1] {
		t.Errorf("jobs %q, want %s and another one", ids, id)
	}
	for _, id := range ids {
		h.stop(t, id, time.Second)
		h.reach(t, id, cluster.JobEnded)
	}
}

func concurrentUse(t *testing.T, h *Harness) {
	var mu sync.Mutex
	accepted := map[string]cluster.LaunchID{}
	subs := make([]cluster.Submission, 8)
	for i := range subs {
		subs[i] = h.Submission(t, Behaviour{})
	}
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	var all sync.WaitGroup
	for _, sub := range subs {
		all.Go(func() {
			id, err := h.Cluster.(cluster.Submitter).Submit(ctx, sub)
			if err != nil {
				t.Errorf("Submit: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			accepted[id] = sub.Launch.ID
		})
		all.Go(func() {
			mu.Lock()
			before := len(accepted)
			mu.Unlock()
			if list, err := h.Cluster.Jobs(ctx); err != nil || len(list) < before {
				t.Errorf("%d jobs (%v), and %d were accepted before", len(list), err, before)
			}
			if _, err := h.Cluster.Capacity(ctx); err != nil {
				t.Errorf("Capacity: %v", err)
			}
		})
	}
	all.Wait()
	if len(accepted) != len(subs) {
		t.Errorf("%d native IDs for %d submits", len(accepted), len(subs))
	}
	for id, launch := range accepted {
		if j := h.job(t, id); j.Launch != launch {
			t.Errorf("job %s is of launch %s, want %s", id, j.Launch, launch)
		}
		all.Go(func() {
			if err := h.Cluster.Stop(ctx, id, time.Second); err != nil {
				t.Errorf("Stop: %v", err)
			}
		})
	}
	all.Wait()
	for id := range accepted {
		h.reach(t, id, cluster.JobEnded)
	}
}

func restartFinds(t *testing.T, h *Harness) {
	sub, id := h.mustSubmit(t, Behaviour{})
	before := h.reach(t, id, cluster.JobRunning)
	h.Cluster = h.Restart(t)
	after := h.job(t, id)
	if after.State != cluster.JobRunning || after.Launch != sub.Launch.ID {
		t.Errorf("after the restart: %+v", after)
	}
	if d := cmp.Diff(before, after); d != "" {
		t.Error("the restart changed what is known of the job: " + d)
	}
}

func restartRemembers(t *testing.T, h *Harness) {
	want := cluster.Exit{Code: 5}
	_, id := h.mustSubmit(t, Behaviour{Exit: &want})
	h.Cluster = h.Restart(t)
	j := h.reach(t, id, cluster.JobEnded)
	if j.Exit == nil || *j.Exit != want {
		t.Errorf("exit %+v, want %+v", j.Exit, want)
	}
}

func restartStops(t *testing.T, h *Harness) {
	_, id := h.mustSubmit(t, Behaviour{})
	h.reach(t, id, cluster.JobRunning)
	h.Cluster = h.Restart(t)
	h.stop(t, id, h.Patience)
	h.reach(t, id, cluster.JobEnded)
}

func nodeLoss(t *testing.T, h *Harness) {
	_, id := h.mustSubmit(t, Behaviour{})
	node := h.reach(t, id, cluster.JobRunning).Nodes[0]
	up := func() bool {
		c, err := call(t, "Capacity", callLimit, h.Cluster.Capacity)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(c.Nodes, func(n cluster.Node) bool { return n.Name == node })
		if i < 0 {
			t.Fatalf("node %s is not listed any more", node)
		}
		return c.Nodes[i].Up
	}
	h.KillNode(t, node)
	h.until(t, "node "+node+" is down", func() bool { return !up() })
	h.until(t, "its job does not run there", func() bool {
		j := h.job(t, id)
		return j.State != cluster.JobRunning || !slices.Contains(j.Nodes, node)
	})
	h.ReturnNode(t, node)
	h.until(t, "node "+node+" is up", up)
}

func stopLeavesNothing(t *testing.T, h *Harness) {
	for _, b := range []Behaviour{{}, {Stubborn: true}, {Nodes: 2}} {
		sub, id := h.mustSubmit(t, b)
		h.reach(t, id, cluster.JobRunning)
		h.until(t, "processes", func() bool { return h.Processes(t, sub.Launch.ID) > 0 })
		h.stop(t, id, 100*time.Millisecond)
		h.reach(t, id, cluster.JobEnded)
		h.until(t, "no process is left", func() bool { return h.Processes(t, sub.Launch.ID) == 0 })
	}
}

func endLeavesNothing(t *testing.T, h *Harness) {
	sub, id := h.mustSubmit(t, Behaviour{Exit: &cluster.Exit{Code: 1}})
	h.reach(t, id, cluster.JobEnded)
	h.until(t, "no process is left", func() bool { return h.Processes(t, sub.Launch.ID) == 0 })
}
