package nomadtest

import (
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/nomad/api"
)

func active(d *api.Deployment) bool {
	switch d.Status {
	case api.DeploymentStatusRunning, api.DeploymentStatusPaused, api.DeploymentStatusBlocked, api.DeploymentStatusPending:
		return true
	}
	return false
}

func promoted(d *api.Deployment, group string) bool {
	return d != nil && d.TaskGroups[group] != nil && d.TaskGroups[group].Promoted
}

// deploymentOf is the deployment of a version of a job, or nil.
func (s *Server) deploymentOf(k key, spec *api.Job) *api.Deployment {
	for _, d := range s.deploymentsOf(k) {
		if spec.Version != nil && d.JobVersion == *spec.Version && d.JobCreateIndex == *spec.CreateIndex {
			return d
		}
	}
	return nil
}

// deploymentFor begins a deployment for a version that has none yet, and ends those of earlier versions.
func (s *Server) deploymentFor(j *job) *api.Deployment {
	for _, d := range s.deploymentsOf(j.key()) {
		switch {
		case !active(d):
		case isTrue(j.Stop):
			s.setDeployment(d, api.DeploymentStatusCancelled, "Cancelled because job is stopped")
		case d.JobVersion != *j.Version || d.JobCreateIndex != *j.CreateIndex:
			s.setDeployment(d, api.DeploymentStatusCancelled, "Cancelled due to newer version of job")
		}
	}
	if d := s.deploymentOf(j.key(), j.Job); d != nil || isTrue(j.Stop) {
		return d
	}
	d := &api.Deployment{
		ID: newID(), Namespace: *j.Namespace, JobID: *j.ID, JobVersion: *j.Version, JobModifyIndex: *j.JobModifyIndex,
		JobSpecModifyIndex: *j.JobModifyIndex, JobCreateIndex: *j.CreateIndex, TaskGroups: map[string]*api.DeploymentState{},
		Status: api.DeploymentStatusRunning, StatusDescription: "Deployment is running", CreateTime: now(), ModifyTime: now(),
	}
	for _, g := range j.TaskGroups {
		u := updateOf(j.Job, g)
		if u == nil || *g.Count == 0 {
			continue
		}
		st := &api.DeploymentState{
			AutoRevert: isTrue(u.AutoRevert), ProgressDeadline: *u.ProgressDeadline, DesiredTotal: *g.Count,
			RequireProgressBy: time.Now().Add(*u.ProgressDeadline),
		}
		for _, a := range s.holders(j.key(), *g.Name) {
			if *u.Canary > 0 && destructive(a.job, j.Job, *g.Name) {
				st.DesiredCanaries = *u.Canary
			}
		}
		if st.DesiredCanaries > 0 {
			d.StatusDescription = "Deployment is running but requires manual promotion"
			if isTrue(u.AutoPromote) {
				d.StatusDescription = "Deployment is running pending automatic promotion"
			}
		}
		d.TaskGroups[*g.Name] = st
		s.watchProgress(d.ID, *g.Name)
	}
	if len(d.TaskGroups) == 0 {
		return nil
	}
	d.CreateIndex = s.touch(tableDeployments)
	d.ModifyIndex = d.CreateIndex
	s.deployments[d.ID] = d
	return d
}

func (s *Server) setDeployment(d *api.Deployment, status, why string) {
	d.Status, d.StatusDescription, d.ModifyIndex, d.ModifyTime = status, why, s.touch(tableDeployments), now()
	s.emit("Deployment", "DeploymentStatusUpdate", key{d.Namespace, d.JobID}, d.ID, map[string]any{"Deployment": d}, d.JobID)
}

// watchProgress fails a deployment when nothing has become healthy for the progress deadline.
func (s *Server) watchProgress(id, group string) {
	var again func()
	again = func() {
		d := s.deployments[id]
		if d == nil || !active(d) {
			return
		}
		st := d.TaskGroups[group]
		waitsForPerson := st.DesiredCanaries > 0 && !st.Promoted && st.HealthyAllocs >= st.DesiredCanaries
		left := time.Until(st.RequireProgressBy)
		switch {
		case st.HealthyAllocs >= st.DesiredTotal || st.ProgressDeadline == 0:
		case left > 0 || waitsForPerson:
			s.after(max(left, time.Second), again)
		default:
			s.failNow(d, "Failed due to progress deadline")
		}
	}
	s.after(0, again)
}

// failNow ends a deployment and, where the group asks for it, goes back to the last version that was healthy.
func (s *Server) failNow(d *api.Deployment, why string) {
	j := s.jobs[key{d.Namespace, d.JobID}]
	var back *api.Job
	for _, st := range d.TaskGroups {
		if st.AutoRevert && j != nil {
			for _, v := range j.versions {
				if isTrue(v.Stable) && *v.Version < d.JobVersion {
					back = v
				}
			}
		}
	}
	if back == nil {
		s.setDeployment(d, api.DeploymentStatusFailed, why)
		if j != nil {
			s.evaluate(j, "deployment-watcher")
		}
		return
	}
	s.setDeployment(d, api.DeploymentStatusFailed, fmt.Sprintf("%s - rolling back to job version %d", why, *back.Version))
	s.evaluate(s.store(clone(back)), "deployment-watcher")
}

// healthChanged counts an allocation's verdict and goes on with its deployment.
func (s *Server) healthChanged(a *alloc, healthy bool) {
	if d := a.DeploymentStatus; d != nil && d.Healthy != nil && *d.Healthy == healthy {
		return
	}
	canary := a.canary()
	a.DeploymentStatus = &api.AllocDeploymentStatus{Healthy: &healthy, Timestamp: time.Now(), Canary: canary, ModifyIndex: s.touch(tableAllocs)}
	s.allocChanged(a, "AllocationUpdated")
	d, j := s.deployments[a.DeploymentID], s.jobs[key{a.Namespace, a.JobID}]
	if d == nil || !active(d) || j == nil {
		return
	}
	st := d.TaskGroups[a.TaskGroup]
	if healthy {
		st.HealthyAllocs++
		st.RequireProgressBy = time.Now().Add(st.ProgressDeadline)
	} else {
		st.UnhealthyAllocs++
	}
	d.ModifyIndex = s.touch(tableDeployments)
	s.emit("Deployment", "DeploymentAllocHealth", j.key(), d.ID, map[string]any{"Deployment": d}, d.JobID)
	if !healthy && st.ProgressDeadline == 0 {
		s.failNow(d, "Failed due to unhealthy allocations")
		return
	}
	u := updateOf(j.Job, j.group(a.TaskGroup))
	if healthy && st.DesiredCanaries > 0 && !st.Promoted && u != nil && isTrue(u.AutoPromote) && s.canariesHealthy(d) {
		s.promoteNow(d)
		return
	}
	s.evaluate(j, "deployment-watcher")
}

func (s *Server) canariesHealthy(d *api.Deployment) bool {
	for _, st := range d.TaskGroups {
		for _, id := range st.PlacedCanaries {
			if a := s.allocs[id]; a == nil || !a.healthy() {
				return false
			}
		}
		if len(st.PlacedCanaries) < st.DesiredCanaries {
			return false
		}
	}
	return true
}

// progress ends a deployment that has all it wants.
func (s *Server) progress(j *job) {
	d := s.deploymentOf(j.key(), j.Job)
	if d == nil || !active(d) {
		return
	}
	for _, st := range d.TaskGroups {
		if st.HealthyAllocs < st.DesiredTotal || st.DesiredCanaries > 0 && !st.Promoted {
			return
		}
	}
	s.setDeployment(d, api.DeploymentStatusSuccessful, "Deployment completed successfully")
	j.Stable = ptr(true)
}

func (s *Server) promoteNow(d *api.Deployment) {
	for _, st := range d.TaskGroups {
		st.Promoted = true
		for _, id := range st.PlacedCanaries {
			if a := s.allocs[id]; a != nil && a.DeploymentStatus != nil {
				a.DeploymentStatus.Canary = false
				s.touch(tableAllocs)
				s.allocChanged(a, "DeploymentPromotion")
			}
		}
	}
	s.setDeployment(d, d.Status, "Deployment is running")
	s.emit("Deployment", "DeploymentPromotion", key{d.Namespace, d.JobID}, d.ID, map[string]any{"Deployment": d}, d.JobID)
	if j := s.jobs[key{d.Namespace, d.JobID}]; j != nil {
		s.evaluate(j, "deployment-watcher")
	}
}

func (s *Server) promote(c call) (any, uint64, error) {
	var req api.DeploymentPromoteRequest
	if err := c.read(&req); err != nil {
		return nil, 0, err
	}
	if req.DeploymentID == "" {
		return nil, 0, refuse(http.StatusBadRequest, "DeploymentID must be specified")
	}
	d := s.deployments[req.DeploymentID]
	switch {
	case d == nil:
		return nil, 0, refuse(http.StatusNotFound, "deployment not found")
	case !active(d):
		return nil, 0, refuse(http.StatusInternalServerError, "can't promote terminal deployment")
	case !s.canariesHealthy(d):
		return nil, 0, refuse(http.StatusInternalServerError, "1 error occurred:\n\t* Task group has unhealthy canaries\n\n")
	}
	s.promoteNow(d)
	return s.deploymentAnswer(d), d.ModifyIndex, nil
}

func (s *Server) deploymentAnswer(d *api.Deployment) api.DeploymentUpdateResponse {
	return api.DeploymentUpdateResponse{EvalID: newID(), EvalCreateIndex: s.index, DeploymentModifyIndex: d.ModifyIndex}
}

func (s *Server) failDeployment(c call) (any, uint64, error) {
	d := s.deployments[c.PathValue("id")]
	if d == nil {
		return nil, 0, refuse(http.StatusNotFound, "deployment not found")
	}
	s.failNow(d, "Deployment marked as failed")
	return s.deploymentAnswer(d), d.ModifyIndex, nil
}

func (s *Server) listDeployments(c call) (any, uint64, error) {
	list := []*api.Deployment{}
	for _, d := range s.deployments {
		if c.in(d.Namespace) {
			list = append(list, d)
		}
	}
	return list, s.newest(tableDeployments), nil
}

func (s *Server) readDeployment(c call) (any, uint64, error) {
	d := s.deployments[c.PathValue("id")]
	if d == nil {
		return nil, 0, refuse(http.StatusNotFound, "deployment not found")
	}
	return d, d.ModifyIndex, nil
}

func (s *Server) deploymentAllocations(c call) (any, uint64, error) {
	list := []*api.AllocationListStub{}
	for _, a := range s.allocs {
		if a.DeploymentID == c.PathValue("id") {
			list = append(list, a.stub())
		}
	}
	return list, s.newest(tableAllocs), nil
}
