package nomadtest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// evaluate brings a job to what its newest version wants, as far as nodes have room, and leaves the evaluation behind; what
// could not be placed waits in a blocked one.
func (s *Server) evaluate(j *job, trigger string) *api.Evaluation {
	e := &api.Evaluation{
		ID: newID(), Priority: *j.Priority, Type: *j.Type, TriggeredBy: trigger, Namespace: *j.Namespace, JobID: *j.ID,
		JobModifyIndex: *j.JobModifyIndex, Status: api.EvalStatusComplete, CreateTime: now(), ModifyTime: now(), SnapshotIndex: s.index,
		QueuedAllocations: map[string]int{},
	}
	e.CreateIndex = s.touch(tableEvals)
	s.evals[e.ID] = e
	d := s.deploymentFor(j)
	if d != nil {
		e.DeploymentID = d.ID
	}
	failed := map[string]*api.AllocationMetric{}
	for _, group := range s.groups(j) {
		if m := s.apply(j, e, s.decide(j.key(), j.Job, group)); m != nil {
			failed[group] = m
		}
	}
	s.block(j, e, failed)
	e.ModifyIndex = s.touch(tableEvals)
	s.emit("Evaluation", "EvaluationUpdated", j.key(), e.ID, map[string]any{"Evaluation": e}, *j.ID, e.DeploymentID)
	s.settle(j)
	s.progress(j)
	return e
}

// groups are those of the newest version and those that allocations are left of.
func (s *Server) groups(j *job) (names []string) {
	for _, g := range j.TaskGroups {
		names = append(names, *g.Name)
	}
	for _, a := range s.ofJob(j.key()) {
		if !slices.Contains(names, a.TaskGroup) {
			names = append(names, a.TaskGroup)
		}
	}
	return names
}

// apply carries a change out. It returns why something could not be placed, or nil.
func (s *Server) apply(j *job, e *api.Evaluation, c change) (why *api.AllocationMetric) {
	e.QueuedAllocations[c.group] = 0
	for _, a := range c.inPlace {
		s.updateInPlace(j, a)
	}
	for _, st := range c.stop {
		replaced := slices.ContainsFunc(c.place, func(p slot) bool { return p.previous == st.alloc })
		if !replaced || isTrue(st.DesiredTransition.Migrate) {
			s.stop(st.alloc, st.why)
		}
	}
	s.leaving = map[*alloc]bool{}
	for _, st := range c.stop {
		s.leaving[st.alloc] = true
	}
	defer func() { s.leaving = nil }()
	for _, p := range c.place {
		node, devices, metric := s.find(j.Job, c.group)
		if node == nil {
			e.QueuedAllocations[c.group]++
			if why == nil {
				why = metric
			} else {
				why.CoalescedFailures++
			}
			continue
		}
		a := s.place(j, e, c.group, p, node, devices, metric)
		if old := p.previous; old != nil {
			old.NextAllocation = a.ID
			if old.replaceable {
				s.rescheduled(a, old)
			} else if old.DesiredStatus == api.AllocDesiredStatusRun {
				s.stop(old, "alloc is being updated due to job update")
			}
		}
	}
	return why
}

// block leaves a blocked evaluation for what has found no room. There is one for each job at most.
func (s *Server) block(j *job, e *api.Evaluation, failed map[string]*api.AllocationMetric) {
	for _, old := range s.evalsOf(j.key()) {
		if old.Status == api.EvalStatusBlocked {
			old.Status, old.ModifyIndex = api.EvalStatusCancelled, s.touch(tableEvals)
			old.StatusDescription = "evaluation \"" + e.ID + "\" successfully processed"
		}
	}
	if len(failed) == 0 {
		return
	}
	e.FailedTGAllocs = failed
	b := &api.Evaluation{
		ID: newID(), Priority: e.Priority, Type: e.Type, TriggeredBy: "queued-allocs", Namespace: e.Namespace, JobID: e.JobID,
		JobModifyIndex: e.JobModifyIndex, Status: api.EvalStatusBlocked, StatusDescription: "created to place remaining allocations",
		PreviousEval: e.ID, FailedTGAllocs: failed, CreateTime: now(), ModifyTime: now(), SnapshotIndex: s.index,
		ClassEligibility: map[string]bool{}, QueuedAllocations: e.QueuedAllocations,
	}
	b.CreateIndex = s.touch(tableEvals)
	b.ModifyIndex = b.CreateIndex
	e.BlockedEval = b.ID
	s.evals[b.ID] = b
	s.emit("Evaluation", "EvaluationUpdated", j.key(), b.ID, map[string]any{"Evaluation": b}, *j.ID)
}

// retryBlocked evaluates again what waits for room.
func (s *Server) retryBlocked() {
	var keys []key
	for _, e := range s.evals {
		if k := (key{e.Namespace, e.JobID}); e.Status == api.EvalStatusBlocked && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	s.evaluateAll(keys, "queued-allocs")
}

func (s *Server) evaluateAll(keys []key, trigger string) {
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(strings.Compare(a.namespace, b.namespace), strings.Compare(a.id, b.id))
	})
	for _, k := range keys {
		if j := s.jobs[k]; j != nil {
			s.evaluate(j, trigger)
		}
	}
}

// place makes an allocation on a node and has the node start it.
func (s *Server) place(j *job, e *api.Evaluation, group string, p slot, n *node, devices map[string][]*api.AllocatedDeviceResource, m *api.AllocationMetric) *alloc {
	g := j.group(group)
	a := &alloc{job: j.Job, node: n, killed: make(chan struct{}), Allocation: api.Allocation{
		ID: newID(), Namespace: *j.Namespace, EvalID: e.ID, Name: fmt.Sprintf("%s.%s[%d]", *j.Name, group, p.index), NodeID: n.ID,
		NodeName: n.Name, JobID: *j.ID, TaskGroup: group, Metrics: m, AllocatedResources: s.grant(g, devices),
		DesiredStatus: api.AllocDesiredStatusRun, ClientStatus: api.AllocClientStatusPending, TaskStates: map[string]*api.TaskState{},
		CreateTime: now(), ModifyTime: now(),
	}}
	a.CreateIndex = s.touch(tableAllocs)
	a.ModifyIndex, a.AllocModifyIndex = a.CreateIndex, a.CreateIndex
	s.allocs[a.ID] = a
	if d := s.deploymentOf(j.key(), j.Job); d != nil && d.TaskGroups[group] != nil && active(d) {
		a.DeploymentID = d.ID
		st := d.TaskGroups[group]
		st.PlacedAllocs++
		if p.canary {
			a.DeploymentStatus = &api.AllocDeploymentStatus{Canary: true}
			st.PlacedCanaries = append(st.PlacedCanaries, a.ID)
		}
		d.ModifyIndex = s.touch(tableDeployments)
	}
	if p.previous != nil {
		a.PreviousAllocation = p.previous.ID
	}
	s.emit("Allocation", "PlanResult", j.key(), a.ID, map[string]any{"Allocation": a.public()}, *j.ID, a.DeploymentID)
	s.onClient(n, func() { s.start(a) })
	return a
}

// updateInPlace gives a running allocation the newer version. It has to become healthy again.
func (s *Server) updateInPlace(j *job, a *alloc) {
	a.job = j.Job
	a.DeploymentID, a.DeploymentStatus = "", nil
	if d := s.deploymentOf(j.key(), j.Job); d != nil && d.TaskGroups[a.TaskGroup] != nil && active(d) {
		a.DeploymentID = d.ID
		d.TaskGroups[a.TaskGroup].PlacedAllocs++
	}
	a.AllocModifyIndex = s.touch(tableAllocs)
	s.allocChanged(a, "PlanResult")
	s.watchHealth(a)
}

// stop tells the client to end an allocation.
func (s *Server) stop(a *alloc, why string) {
	if a.DesiredStatus != api.AllocDesiredStatusRun {
		return
	}
	a.DesiredStatus, a.DesiredDescription = api.AllocDesiredStatusStop, why
	a.AllocModifyIndex = s.touch(tableAllocs)
	s.allocChanged(a, "AllocationUpdateDesiredStatus")
	s.onClient(a.node, func() { a.askToEnd() })
}

// settle sets the job's status.
func (s *Server) settle(j *job) {
	alive := false
	for _, a := range s.ofJob(j.key()) {
		alive = alive || !a.over()
	}
	waits := slices.ContainsFunc(s.evalsOf(j.key()), func(e *api.Evaluation) bool { return e.Status == api.EvalStatusBlocked })
	status := "dead"
	switch {
	case alive:
		status = "running"
	case waits || !isTrue(j.Stop) && *j.Type == api.JobTypeService:
		status = "pending"
	}
	if *j.Status != status {
		j.Status, j.ModifyIndex = &status, ptr(s.touch(tableJobs))
	}
}

// rescheduled notes in a replacement which allocation had failed before.
func (s *Server) rescheduled(a, old *alloc) {
	t := &api.RescheduleTracker{}
	if old.RescheduleTracker != nil {
		t.Events = slices.Clone(old.RescheduleTracker.Events)
	}
	t.Events = append(t.Events, &api.RescheduleEvent{
		RescheduleTime: time.Now().UnixNano(), PrevAllocID: old.ID, PrevNodeID: old.NodeID,
	})
	a.RescheduleTracker = t
	if old.DesiredStatus == api.AllocDesiredStatusRun {
		old.DesiredStatus, old.DesiredDescription = api.AllocDesiredStatusStop, "alloc was rescheduled because it failed"
		s.touch(tableAllocs)
		s.allocChanged(old, "PlanResult")
	}
}
