package nomadtest

import (
	"github.com/hashicorp/nomad/api"
)

// plan says what a register would do. Its diff names the job's type of change only.
func (s *Server) plan(c call, k key) (any, uint64, error) {
	var req api.JobPlanRequest
	if err := c.read(&req); err != nil {
		return nil, 0, err
	}
	spec := req.Job
	if spec.Namespace == nil || *spec.Namespace == "" {
		spec.Namespace = &k.namespace
	}
	k.namespace = *spec.Namespace
	spec.Canonicalize()
	if err := s.check(spec); err != nil {
		return nil, 0, err
	}
	answer := api.JobPlanResponse{
		Annotations: &api.PlanAnnotations{DesiredTGUpdates: map[string]*api.DesiredUpdates{}}, FailedTGAllocs: map[string]*api.AllocationMetric{},
	}
	j := s.jobs[k]
	kind := "Added"
	if j != nil {
		answer.JobModifyIndex = *j.JobModifyIndex
		spec.Version, spec.CreateIndex, kind = ptr(*j.Version+1), j.CreateIndex, "Edited"
		if !changed(j.Job, spec) {
			spec.Version, kind = j.Version, "None"
		}
	} else {
		spec.Version, spec.CreateIndex = ptr(uint64(0)), ptr(uint64(0))
	}
	if req.Diff {
		answer.Diff = &api.JobDiff{ID: *spec.ID, Type: kind}
	}
	for _, g := range spec.TaskGroups {
		change := s.decide(k, spec, *g.Name)
		answer.Annotations.DesiredTGUpdates[*g.Name] = &change.desired
		s.tryPlace(spec, change, answer.FailedTGAllocs)
	}
	if len(answer.FailedTGAllocs) > 0 {
		answer.CreatedEvals = append(answer.CreatedEvals, &api.Evaluation{
			ID: newID(), JobID: k.id, Namespace: k.namespace, Type: *spec.Type, Priority: *spec.Priority, Status: api.EvalStatusBlocked,
			TriggeredBy: "queued-allocs", FailedTGAllocs: answer.FailedTGAllocs, CreateTime: now(), ModifyTime: now(),
		})
	}
	return answer, s.index, nil
}

// tryPlace looks for room for all allocations of a change at once, and takes none of it.
func (s *Server) tryPlace(spec *api.Job, c change, failed map[string]*api.AllocationMetric) {
	var tried []string
	for range c.place {
		n, devices, m := s.find(spec, c.group)
		if n == nil {
			if failed[c.group] == nil {
				failed[c.group] = m
			} else {
				failed[c.group].CoalescedFailures++
			}
			continue
		}
		id := newID()
		g := spec.LookupTaskGroup(c.group)
		noPorts := clone(g)
		noPorts.Networks = nil
		s.allocs[id] = &alloc{job: spec, node: n, Allocation: api.Allocation{
			ID: id, NodeID: n.ID, JobID: *spec.ID, Namespace: *spec.Namespace, DesiredStatus: api.AllocDesiredStatusRun,
			AllocatedResources: s.grant(noPorts, devices), Name: "plan", TaskGroup: c.group,
		}}
		tried = append(tried, id)
	}
	for _, id := range tried {
		delete(s.allocs, id)
	}
}
