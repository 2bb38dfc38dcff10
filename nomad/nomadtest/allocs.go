package nomadtest

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// alloc is an allocation, and what its client knows of it.
type alloc struct {
	api.Allocation
	job  *api.Job // the version it runs
	node *node

	replaceable bool // it has failed or is lost, and its index is to be filled anew
	killed      chan struct{}
	asked       bool // killed is closed
	noMercy     bool // the server ends: no kill timeout
	pids        []int
	signals     []chan string // of its running tasks: names of signals, or "restart"
	left        int           // tasks that have not ended
}

// over says whether the client has nothing of it any more, as far as the server knows.
func (a *alloc) over() bool {
	switch a.ClientStatus {
	case api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost:
		return true
	}
	return false
}

func (a *alloc) canary() bool { return a.DeploymentStatus != nil && a.DeploymentStatus.Canary }

func (a *alloc) healthy() bool {
	return a.DeploymentStatus != nil && a.DeploymentStatus.Healthy != nil && *a.DeploymentStatus.Healthy
}

func (a *alloc) group() *api.TaskGroup { return a.job.LookupTaskGroup(a.TaskGroup) }

// askToEnd has the client kill it, with the kill timeout.
func (a *alloc) askToEnd() {
	if !a.asked {
		a.asked = true
		close(a.killed)
	}
}

func (a *alloc) kill() {
	a.noMercy = true
	a.askToEnd()
}

// public is the allocation as events show it: without its job.
func (a *alloc) public() *api.Allocation {
	p := a.Allocation
	p.Job = nil
	return &p
}

func (a *alloc) stub() *api.AllocationListStub {
	return &api.AllocationListStub{
		ID: a.ID, EvalID: a.EvalID, Name: a.Name, Namespace: a.Namespace, NodeID: a.NodeID, NodeName: a.NodeName, JobID: a.JobID,
		JobType: *a.job.Type, JobVersion: *a.job.Version, TaskGroup: a.TaskGroup, DesiredStatus: a.DesiredStatus,
		DesiredDescription: a.DesiredDescription, ClientStatus: a.ClientStatus, ClientDescription: a.ClientDescription,
		TaskStates: a.TaskStates, DeploymentStatus: a.DeploymentStatus, FollowupEvalID: a.FollowupEvalID,
		NextAllocation: a.NextAllocation, RescheduleTracker: a.RescheduleTracker, PreemptedAllocations: a.PreemptedAllocations,
		PreemptedByAllocation: a.PreemptedByAllocation, CreateIndex: a.CreateIndex, ModifyIndex: a.ModifyIndex,
		CreateTime: a.CreateTime, ModifyTime: a.ModifyTime,
	}
}

// allocChanged notes a change under the current index.
func (s *Server) allocChanged(a *alloc, what string) {
	a.ModifyIndex, a.ModifyTime = s.index, now()
	s.emit("Allocation", what, key{a.Namespace, a.JobID}, a.ID, map[string]any{"Allocation": a.public()}, a.JobID, a.DeploymentID)
}

// setClient sets what the client says of an allocation.
func (s *Server) setClient(a *alloc, status, description string) {
	a.ClientStatus, a.ClientDescription = status, description
	s.touch(tableAllocs)
	s.allocChanged(a, "AllocationUpdated")
}

func (s *Server) stubs(c call, list []*alloc) []*api.AllocationListStub {
	out := []*api.AllocationListStub{}
	resources := c.URL.Query().Get("resources") == "true"
	for _, a := range list {
		st := a.stub()
		if resources {
			st.AllocatedResources = a.AllocatedResources
		}
		out = append(out, st)
	}
	return out
}

func (s *Server) jobAllocations(c call, j *job) (any, uint64, error) {
	list := s.ofJob(j.key())
	if c.URL.Query().Get("all") != "true" {
		list = slices.DeleteFunc(list, func(a *alloc) bool { return a.CreateIndex < *j.CreateIndex })
	}
	return s.stubs(c, list), s.newest(tableAllocs), nil
}

// filters are the only expressions that the fake knows.
var filters = regexp.MustCompile(`^JobID (?:matches "\^([^"\\]*)"|== "([^"\\]*)")$`)

func (s *Server) listAllocations(c call) (any, uint64, error) {
	prefix := ""
	if f := c.URL.Query().Get("filter"); f != "" {
		m := filters.FindStringSubmatch(f)
		if m == nil {
			return nil, 0, refuse(http.StatusBadRequest, "nomadtest does not know the filter %s", f)
		}
		prefix = m[1] + m[2]
	}
	var list []*alloc
	for _, a := range s.allocs {
		if c.in(a.Namespace) && strings.HasPrefix(a.JobID, prefix) {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b *alloc) int { return int(a.CreateIndex) - int(b.CreateIndex) })
	return s.stubs(c, list), s.newest(tableAllocs), nil
}

// found is the allocation of a path, in the caller's namespace.
func (s *Server) found(c call) (*alloc, error) {
	a := s.allocs[c.PathValue("id")]
	if a == nil {
		return nil, refuse(http.StatusNotFound, "alloc not found")
	}
	return a, nil
}

func (s *Server) readAllocation(c call) (any, uint64, error) {
	a, err := s.found(c)
	if err != nil {
		return nil, 0, err
	}
	full := a.Allocation
	full.Job = a.job
	return &full, a.ModifyIndex, nil
}

// stopAllocation replaces an allocation by one of the same index: both live while the old one ends.
func (s *Server) stopAllocation(c call) (any, uint64, error) {
	a, err := s.found(c)
	if err != nil {
		return nil, 0, err
	}
	answer := api.AllocStopResponse{}
	a.DesiredTransition.Migrate = ptr(true)
	if j := s.jobs[key{a.Namespace, a.JobID}]; j != nil {
		e := s.evaluate(j, "alloc-stop")
		answer.EvalID = e.ID
	}
	answer.LastIndex = s.index
	return answer, s.index, nil
}

func (s *Server) signalAllocation(c call) (any, uint64, error) {
	a, err := s.found(c)
	if err != nil {
		return nil, 0, err
	}
	var req api.AllocSignalRequest
	if err := c.read(&req); err != nil {
		return nil, 0, err
	}
	return a.send(req.Signal, s.index)
}

func (s *Server) restartAllocation(c call) (any, uint64, error) {
	a, err := s.found(c)
	if err != nil {
		return nil, 0, err
	}
	return a.send(restart, s.index)
}

const restart = "restart"

func (a *alloc) send(what string, index uint64) (any, uint64, error) {
	if a.over() {
		return nil, 0, refuse(http.StatusInternalServerError, "Task not running")
	}
	for _, c := range a.signals {
		select {
		case c <- what:
		default:
		}
	}
	return map[string]any{}, index, nil
}

func (s *Server) listEvaluations(c call) (any, uint64, error) {
	list := []*api.Evaluation{}
	for _, e := range s.evals {
		if c.in(e.Namespace) {
			list = append(list, e)
		}
	}
	return list, s.newest(tableEvals), nil
}

func (s *Server) readEvaluation(c call) (any, uint64, error) {
	e := s.evals[c.PathValue("id")]
	if e == nil {
		return nil, 0, refuse(http.StatusNotFound, "eval not found")
	}
	return e, e.ModifyIndex, nil
}

// reschedule fills the index of a failed allocation again, after the delay that its group asks for and as often as it allows.
func (s *Server) reschedule(a *alloc) {
	g := a.group()
	p := g.ReschedulePolicy
	if a.DesiredStatus != api.AllocDesiredStatusRun || p == nil {
		return
	}
	before := 0
	if a.RescheduleTracker != nil {
		for _, e := range a.RescheduleTracker.Events {
			if p.Interval == nil || time.Since(time.Unix(0, e.RescheduleTime)) < *p.Interval {
				before++
			}
		}
	}
	if !isTrue(p.Unlimited) && (p.Attempts == nil || before >= *p.Attempts) {
		return
	}
	j := s.jobs[key{a.Namespace, a.JobID}]
	if j == nil {
		return
	}
	wait := s.wait(p.Delay)
	follow := &api.Evaluation{
		ID: newID(), Priority: *j.Priority, Type: *j.Type, TriggeredBy: "failed-follow-up", Namespace: a.Namespace, JobID: a.JobID,
		Status: api.EvalStatusPending, WaitUntil: time.Now().Add(wait), CreateTime: now(), ModifyTime: now(), CreateIndex: s.touch(tableEvals),
	}
	s.evals[follow.ID] = follow
	a.FollowupEvalID = follow.ID
	s.after(wait, func() {
		follow.Status = api.EvalStatusComplete
		if j := s.jobs[key{a.Namespace, a.JobID}]; j != nil && a.DesiredStatus == api.AllocDesiredStatusRun {
			a.replaceable = true
			s.evaluate(j, "failed-follow-up")
		}
	})
}
