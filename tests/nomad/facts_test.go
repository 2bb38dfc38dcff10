package nomad

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"
)

// scenarios are told of every Nomad: first what Penstock relies on, then Penstock itself.
var scenarios = slices.Concat([]scenario{
	{"a service job runs and its deployment ends well", serviceJob, nil},
	{"scale up and down: the highest index goes", scaleBoth, nil},
	{"a scale of somebody else shows with its message", outsideScale, nil},
	{"a scale during a deployment is refused with 400", scaleDuringDeployment, nil},
	{"a canary has an index that another one has", canary, nil},
	{"kill -9 of a task: failed, and replaced after the delay", killedTask, nil},
	{"a replacement waits for the end of what it replaces", stoppedAllocation, nil},
	{"a client agent is killed and comes back", lostClient, []ability{holdingAgents}},
	{"a drained node's allocations move first", drainedNode, nil},
	{"no room: blocked, with the dimension; the plan says so too", noRoom, nil},
	{"a device that no node has: constraint filtered", noDevice, nil},
	{"two allocations never share a device", sharedDevice, []ability{havingGPUs}},
	{"a register with a stale index is a 500 with words", staleRegister, nil},
	{"stop leaves a dead job, purge leaves none", stopAndPurge, nil},
	{"the event stream goes on after the server's restart", cutStream, []ability{holdingAgents}},
	{"a blocking query wakes up on a change", blockingQuery, nil},
	{"variables compare and swap", variables, nil},
	{"100 allocations", hundred, nil},
}, adapterScenarios, penstockScenarios)

func serviceJob(w *world) string {
	j := w.sleeper("web", 3)
	r := w.register(j)
	if r.EvalID == "" || r.JobModifyIndex == 0 {
		w.Errorf("register answered %+v", r)
	}
	up := w.took("3 running", func() bool { return len(w.running(*j.ID)) == 3 })
	done := w.took("deployment successful", func() bool {
		d := w.deployment(*j.ID)
		return d != nil && d.Status == "successful"
	})
	again := w.register(w.sleeper("web", 3)).JobModifyIndex
	if third := w.register(w.sleeper("web", 3)).JobModifyIndex; again <= r.JobModifyIndex || third != again {
		w.Errorf("the same job three times has the indices %d, %d, %d", r.JobModifyIndex, again, third)
	}
	w.deployed(*j.ID)
	return up + ", " + done + "; the same job with a scaling policy is a new version once more, then none"
}

func scaleBoth(w *world) string {
	j := w.sleeper("web", 2)
	w.register(j)
	w.deployed(*j.ID)
	w.no(w.scale(*j.ID, 4, "more"))
	up := w.took("4 running", func() bool { return len(w.running(*j.ID)) == 4 })
	w.deployed(*j.ID)
	w.no(w.scale(*j.ID, 1, "less"))
	left := w.run(*j.ID, 1)
	if left[0].Name != *j.ID+".decode[0]" {
		w.Errorf("%s is left", left[0].Name)
	}
	return up
}

func outsideScale(w *world) string {
	j := w.sleeper("web", 1)
	before := w.register(j).JobModifyIndex
	w.deployed(*j.ID)
	w.no(w.scale(*j.ID, 2, "by an operator"))
	st, _, err := w.c.Jobs().ScaleStatus(*j.ID, nil)
	w.no(err)
	g := st.TaskGroups["decode"]
	if len(g.Events) != 1 || g.Events[0].Message != "by an operator" || *g.Events[0].Count != 2 || g.Events[0].PreviousCount != 1 || g.Events[0].Time == 0 {
		w.Errorf("events %+v", g.Events)
	}
	if st.JobModifyIndex <= before || g.Desired != 2 {
		w.Errorf("index %d after %d, desired %d", st.JobModifyIndex, before, g.Desired)
	}
	return "count, previous count, message and time are there; who it was is not"
}

func scaleDuringDeployment(w *world) string {
	j := w.sleeper("web", 2)
	w.register(j)
	w.until("the deployment runs", func() bool { return w.deployment(*j.ID) != nil })
	w.refusal(w.scale(*j.ID, 3, "now"), 400, "job scaling blocked due to active deployment")
	w.refusal(w.scale(*j.ID, 1000, "too many"), 400, "group count was greater than scaling policy maximum: 1000 > 200")
	return w.took("taken", func() bool { return w.scale(*j.ID, 3, "later") == nil })
}

func canary(w *world) string {
	with := func(words ...string) *api.Job {
		j := w.sleeper("web", 2, words...)
		j.TaskGroups[0].Update.Canary = ptr(1)
		return j
	}
	j := with()
	w.register(j)
	w.deployed(*j.ID)
	w.register(with("new"))
	w.run(*j.ID, 3)
	twice := map[int]int{}
	for _, a := range w.running(*j.ID) {
		twice[index(a.Name)]++
	}
	if twice[0] != 2 {
		w.Errorf("indices %v, want 0 twice", twice)
	}
	d := w.deployment(*j.ID)
	if g := d.TaskGroups["decode"]; g.DesiredCanaries != 1 || len(g.PlacedCanaries) != 1 || g.Promoted {
		w.Errorf("deployment %+v", g)
	}
	w.refusal(w.scale(*j.ID, 3, "while it waits"), 400, "active deployment")
	w.until("the canary may be promoted", func() bool {
		_, _, err := w.c.Deployments().PromoteAll(d.ID, nil)
		return err == nil
	})
	end := w.took("both replaced", func() bool {
		now := w.running(*j.ID)
		return len(now) == 2 && now[0].JobVersion == 1 && now[1].JobVersion == 1
	})
	w.deployed(*j.ID)
	return end
}

func killedTask(w *world) string {
	j := w.sleeper("web", 2)
	w.register(j)
	w.deployed(*j.ID)
	victim := w.running(*j.ID)[0]
	w.kill(victim, syscall.SIGKILL)
	gone := w.took("failed", func() bool { return w.allocation(victim.ID).ClientStatus == "failed" })
	back := w.took("replaced", func() bool { return w.allocation(victim.ID).NextAllocation != "" })
	next := w.allocation(w.allocation(victim.ID).NextAllocation)
	if next.PreviousAllocation != victim.ID || next.Name != victim.Name || next.RescheduleTracker == nil || len(next.RescheduleTracker.Events) != 1 {
		w.Errorf("replacement %s after %s, tracker %+v", next.Name, next.PreviousAllocation, next.RescheduleTracker)
	}
	st := w.allocation(victim.ID).TaskStates["agent"]
	last := func() *api.TaskEvent {
		for _, e := range st.Events {
			if e.Type == api.TaskTerminated {
				return e
			}
		}
		return &api.TaskEvent{}
	}()
	if !st.Failed || last.Details["signal"] != "9" || last.Details["exit_code"] != "137" {
		w.Errorf("state %+v, terminated %+v", st, last)
	}
	w.run(*j.ID, 2)
	return gone + ", " + back
}

func stoppedAllocation(w *world) string {
	j := w.sleeper("web", 1)
	j.TaskGroups[0].Tasks[0].Config["args"] = []string{"-c", "trap 'sleep 2; exit 0' TERM; sleep 1000 & wait; wait"}
	w.register(j)
	w.deployed(*j.ID)
	old := w.running(*j.ID)[0]
	_, err := w.c.Allocations().Stop(&api.Allocation{ID: old.ID}, nil)
	w.no(err)
	var next *api.Allocation
	w.until("it is being replaced", func() bool {
		id := w.allocation(old.ID).NextAllocation
		if id != "" {
			next = w.allocation(id)
		}
		return next != nil
	})
	if next.Name != old.Name || next.ClientStatus != "pending" {
		w.Errorf("replacement %s is %s", next.Name, next.ClientStatus)
	}
	w.until("the replacement runs", func() bool { return w.allocation(next.ID).ClientStatus == "running" })
	if end, begin := w.allocation(old.ID).TaskStates["agent"].FinishedAt, w.allocation(next.ID).TaskStates["agent"].StartedAt; begin.Before(end) || end.IsZero() {
		w.Errorf("one ended at %s, the next began at %s", end, begin)
	}
	return "two allocations of one index, but never two processes"
}

func lostClient(w *world) string {
	j := w.sleeper("web", 3)
	j.TaskGroups[0].Constraints = nil
	w.register(j)
	w.deployed(*j.ID)
	victim := w.running(*j.ID)[0]
	w.no(w.hands.LoseClient(victim.NodeName))
	w.Cleanup(func() { w.untilReady() })
	begin := time.Now()
	down := w.took("lost and replaced", func() bool {
		return w.allocation(victim.ID).ClientStatus == "lost" && len(w.running(*j.ID)) == 3
	})
	if len(processesOf(victim.ID)) == 0 {
		w.Error("the lost allocation's process is gone")
	}
	w.no(w.hands.ReturnClient(victim.NodeName))
	w.untilReady()
	w.until("the lost one has ended", func() bool {
		return w.allocation(victim.ID).ClientStatus == "complete" && len(processesOf(victim.ID)) == 0
	})
	return fmt.Sprintf("%s; its process lived on until the client was back (%.0f s in all)", down, time.Since(begin).Seconds())
}

// untilReady waits until all nodes are ready, as the next test wants them.
func (w *world) untilReady() {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		list, _, err := w.c.Nodes().List(nil)
		ready := 0
		for _, n := range list {
			if n.Status == api.NodeStatusReady {
				ready++
			}
		}
		if err == nil && ready == len(list) {
			return
		}
	}
	w.Error("a node is not ready after a minute")
}

func drainedNode(w *world) string {
	j := w.sleeper("web", 3)
	w.register(j)
	w.deployed(*j.ID)
	node := w.running(*j.ID)[0].NodeID
	_, err := w.c.Nodes().UpdateDrain(node, &api.DrainSpec{Deadline: 30 * time.Second}, false, nil)
	w.no(err)
	w.Cleanup(func() {
		_, err := w.c.Nodes().UpdateDrain(node, nil, true, nil)
		w.no(err)
		_, err = w.c.Nodes().ToggleEligibility(node, true, nil)
		w.no(err)
	})
	return w.took("3 run elsewhere", func() bool {
		now := w.running(*j.ID)
		for _, a := range now {
			if a.NodeID == node {
				return false
			}
		}
		n, _, err := w.c.Nodes().Info(node, nil)
		w.no(err)
		return len(now) == 3 && n.DrainStrategy == nil && n.SchedulingEligibility == api.NodeSchedulingIneligible
	})
}

// blocked waits for the blocked evaluation of a job.
func (w *world) blocked(id string) (found *api.Evaluation) {
	w.Helper()
	w.until("a blocked evaluation", func() bool {
		list, _, err := w.c.Jobs().Evaluations(id, nil)
		w.no(err)
		for _, e := range list {
			if e.Status == "blocked" {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func noRoom(w *world) string {
	j := w.sleeper("web", 2)
	j.TaskGroups[0].Tasks[0].Resources.MemoryMB = ptr(1 << 20)
	p, _, err := w.c.Jobs().Plan(j, false, nil)
	w.no(err)
	if m := p.FailedTGAllocs["decode"]; m == nil || m.DimensionExhausted["memory"] == 0 || m.CoalescedFailures != 1 {
		w.Errorf("plan: %+v", m)
	}
	w.register(j)
	e := w.blocked(*j.ID)
	m := e.FailedTGAllocs["decode"]
	if m == nil || m.DimensionExhausted["memory"] == 0 || e.TriggeredBy != "queued-allocs" {
		w.Errorf("evaluation %+v, metrics %+v", e, m)
	}
	return fmt.Sprintf("%v on %d nodes", m.DimensionExhausted, m.NodesEvaluated)
}

func noDevice(w *world) string {
	j := w.sleeper("web", 1)
	j.TaskGroups[0].Tasks[0].Resources.Devices = []*api.RequestedDevice{{Name: "acme/tpu", Count: ptr(uint64(1))}}
	w.register(j)
	m := w.blocked(*j.ID).FailedTGAllocs["decode"]
	if m == nil || m.ConstraintFiltered["missing devices"] == 0 {
		w.Errorf("metrics %+v", m)
	}
	return fmt.Sprintf("%v", m.ConstraintFiltered)
}

func sharedDevice(w *world) string {
	total := 0
	for _, n := range w.nodes() {
		for _, d := range n.NodeResources.Devices {
			total += len(d.Instances)
		}
	}
	j := w.sleeper("web", total+1)
	j.TaskGroups[0].Tasks[0].Resources.Devices = []*api.RequestedDevice{{
		Name: "nvidia/gpu", Count: ptr(uint64(1)),
		Constraints: []*api.Constraint{{LTarget: "${device.attr.memory}", Operand: ">=", RTarget: "40 GiB"}},
	}}
	w.register(j)
	list := w.run(*j.ID, total)
	m := w.blocked(*j.ID).FailedTGAllocs["decode"]
	seen := map[string]string{}
	for _, stub := range list {
		for _, d := range w.allocation(stub.ID).AllocatedResources.Tasks["agent"].Devices {
			for _, id := range d.DeviceIDs {
				if other := seen[id]; other != "" || d.Vendor != "nvidia" || d.Type != "gpu" {
					w.Errorf("%s of %s is %s's too", id, stub.Name, other)
				}
				seen[id] = stub.Name
			}
		}
	}
	return fmt.Sprintf("%d devices for %d allocations; one more: %v", len(seen), total, m.DimensionExhausted)
}

func staleRegister(w *world) string {
	j := w.sleeper("web", 1)
	w.refusal(func() error { _, _, err := w.c.Jobs().EnforceRegister(j, 77, nil); return err }(), 500, "Enforcing job modify index 77: job does not exist")
	first, _, err := w.c.Jobs().EnforceRegister(j, 0, nil)
	w.no(err)
	next, _, err := w.c.Jobs().EnforceRegister(w.sleeper("web", 1, "other"), first.JobModifyIndex, nil)
	w.no(err)
	_, _, err = w.c.Jobs().EnforceRegister(w.sleeper("web", 1, "third"), first.JobModifyIndex, nil)
	w.refusal(err, 500, fmt.Sprintf("Enforcing job modify index %d: job exists with conflicting job modify index: %d", first.JobModifyIndex, next.JobModifyIndex))
	_, _, err = w.c.Jobs().EnforceRegister(w.sleeper("web", 1, "third"), 0, nil)
	w.refusal(err, 500, "Enforcing job modify index 0: job already exists")
	return "text as expected"
}

func stopAndPurge(w *world) string {
	j := w.sleeper("web", 1)
	w.register(j)
	w.run(*j.ID, 1)
	_, _, err := w.c.Jobs().Deregister(*j.ID, false, nil)
	w.no(err)
	w.until("the job is dead", func() bool { return *w.job(*j.ID).Status == "dead" })
	if a := w.allocations(*j.ID)[0]; a.DesiredStatus != "stop" || !strings.HasPrefix(a.DesiredDescription, "alloc not needed") {
		w.Errorf("allocation %s: %s", a.DesiredStatus, a.DesiredDescription)
	}
	_, _, err = w.c.Jobs().Deregister(*j.ID, true, nil)
	w.no(err)
	_, _, err = w.c.Jobs().Info(*j.ID, nil)
	w.refusal(err, 404, "job not found")
	return "text as expected"
}
