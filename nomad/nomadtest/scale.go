package nomadtest

import (
	"net/http"

	"github.com/hashicorp/nomad/api"
)

func (s *Server) scale(c call, j *job) (any, uint64, error) {
	var req api.ScalingRequest
	if err := c.read(&req); err != nil {
		return nil, 0, err
	}
	name := req.Target["Group"]
	g := j.group(name)
	if g == nil {
		return nil, 0, refuse(http.StatusBadRequest, "task group %q specified for scaling does not exist in job", name)
	}
	event := api.ScalingEvent{
		Count: req.Count, PreviousCount: int64(*g.Count), Error: req.Error, Message: req.Message, Meta: req.Meta, Time: uint64(now()),
	}
	answer := api.JobRegisterResponse{JobModifyIndex: *j.ModifyIndex}
	if req.Count != nil {
		if err := s.mayScale(j, g, req); err != nil {
			return nil, 0, err
		}
		spec := clone(j.Job)
		spec.LookupTaskGroup(name).Count = ptr(int(*req.Count))
		isNew, submitted := j.policyIsNew, j.SubmitTime
		j = s.store(spec)
		j.policyIsNew, j.SubmitTime = isNew, submitted
		e := s.evaluate(j, "job-scaling")
		event.EvalID = &e.ID
		answer.EvalID, answer.EvalCreateIndex, answer.JobModifyIndex = e.ID, e.CreateIndex, *j.JobModifyIndex
	}
	event.CreateIndex = s.touch(tableScaling)
	j.scaling[name] = append([]api.ScalingEvent{event}, j.scaling[name]...)
	answer.LastIndex = s.index
	return answer, s.index, nil
}

// mayScale refuses with the words of a real server.
func (s *Server) mayScale(j *job, g *api.TaskGroup, req api.ScalingRequest) error {
	if req.Error {
		return refuse(http.StatusBadRequest, "scaling action should not contain count if error is true")
	}
	if p := g.Scaling; p != nil {
		if p.Min != nil && *req.Count < *p.Min {
			return refuse(http.StatusBadRequest, "group count was less than scaling policy minimum: %d < %d", *req.Count, *p.Min)
		}
		if p.Max != nil && *req.Count > *p.Max {
			return refuse(http.StatusBadRequest, "group count was greater than scaling policy maximum: %d > %d", *req.Count, *p.Max)
		}
	}
	if req.JobModifyIndex > 0 && req.JobModifyIndex != *j.JobModifyIndex { // newer than 1.6
		return enforce(true, req.JobModifyIndex, j)
	}
	if list := s.deploymentsOf(j.key()); len(list) > 0 && active(list[0]) {
		return refuse(http.StatusBadRequest, "job scaling blocked due to active deployment")
	}
	return nil
}

func (s *Server) scaleStatus(j *job) (any, uint64, error) {
	answer := api.JobScaleStatusResponse{
		JobID: *j.ID, Namespace: *j.Namespace, JobCreateIndex: *j.CreateIndex, JobModifyIndex: *j.JobModifyIndex,
		JobStopped: isTrue(j.Stop), TaskGroups: map[string]api.TaskGroupScaleStatus{},
	}
	for _, g := range j.TaskGroups {
		st := api.TaskGroupScaleStatus{Desired: *g.Count, Events: j.scaling[*g.Name]}
		for _, a := range s.ofJob(j.key()) {
			if a.TaskGroup != *g.Name || a.over() {
				continue
			}
			st.Placed++
			if a.ClientStatus == api.AllocClientStatusRunning {
				st.Running++
			}
			if d := a.DeploymentStatus; d != nil && d.Healthy != nil {
				if *d.Healthy {
					st.Healthy++
				} else {
					st.Unhealthy++
				}
			}
		}
		answer.TaskGroups[*g.Name] = st
	}
	return answer, max(s.newest(tableScaling), s.newest(tableJobs), s.newest(tableAllocs)), nil
}

func (s *Server) summary(j *job) *api.JobSummary {
	sum := &api.JobSummary{
		JobID: *j.ID, Namespace: *j.Namespace, Summary: map[string]api.TaskGroupSummary{}, Children: &api.JobChildrenSummary{},
		CreateIndex: *j.CreateIndex, ModifyIndex: max(*j.ModifyIndex, s.newest(tableAllocs)),
	}
	queued := map[string]int{}
	if list := s.evalsOf(j.key()); len(list) > 0 {
		queued = list[0].QueuedAllocations
	}
	for _, g := range j.TaskGroups {
		n := api.TaskGroupSummary{Queued: queued[*g.Name]}
		for _, a := range s.ofJob(j.key()) {
			if a.TaskGroup != *g.Name {
				continue
			}
			switch a.ClientStatus {
			case api.AllocClientStatusPending:
				n.Starting++
			case api.AllocClientStatusRunning:
				n.Running++
			case api.AllocClientStatusComplete:
				n.Complete++
			case api.AllocClientStatusFailed:
				n.Failed++
			case api.AllocClientStatusLost:
				n.Lost++
			case api.AllocClientStatusUnknown:
				n.Unknown++
			}
		}
		sum.Summary[*g.Name] = n
	}
	return sum
}
