package nomadtest

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// ofOneJob serves /v1/job/ID and what is below it.
func (s *Server) ofOneJob(c call) (any, uint64, error) {
	rest := strings.TrimPrefix(c.URL.EscapedPath(), "/v1/job/")
	id, verb, _ := strings.Cut(rest, "/")
	id, err := url.PathUnescape(id)
	if err != nil {
		return nil, 0, refuse(http.StatusBadRequest, "%v", err)
	}
	k := key{c.namespace, id}
	if c.Method == http.MethodPut && verb == "plan" {
		return s.plan(c, k)
	}
	j := s.jobs[k]
	if j == nil && slices.Contains([]string{"allocations", "evaluations", "deployments", "deployment"}, verb) {
		return s.nothing(verb)
	}
	if j == nil {
		return nil, 0, refuse(http.StatusNotFound, "job not found")
	}
	switch c.Method + " " + verb {
	case "GET ":
		return j.Job, *j.ModifyIndex, nil
	case "DELETE ":
		return s.deregister(c, j)
	case "PUT scale":
		return s.scale(c, j)
	case "GET scale":
		return s.scaleStatus(j)
	case "GET allocations":
		return s.jobAllocations(c, j)
	case "GET evaluations":
		list := s.evalsOf(k)
		return list, s.newest(tableEvals), nil
	case "GET deployments":
		return s.deploymentsOf(k), s.newest(tableDeployments), nil
	case "GET deployment":
		if list := s.deploymentsOf(k); len(list) > 0 {
			return list[0], list[0].ModifyIndex, nil
		}
		return nil, s.newest(tableDeployments), nil
	case "GET summary":
		return s.summary(j), s.newest(tableAllocs), nil
	case "GET versions":
		return s.versions(j), *j.ModifyIndex, nil
	case "PUT evaluate":
		e := s.evaluate(j, "job-register")
		return api.JobRegisterResponse{EvalID: e.ID, EvalCreateIndex: e.CreateIndex, JobModifyIndex: *j.JobModifyIndex}, e.CreateIndex, nil
	case "PUT revert":
		return s.revert(c, j)
	}
	return nil, 0, refuse(http.StatusNotFound, "nomadtest does not know %s %s of a job", c.Method, verb)
}

// nothing is what lists of a job that does not exist say.
func (s *Server) nothing(verb string) (any, uint64, error) {
	switch verb {
	case "allocations":
		return []*api.AllocationListStub{}, s.newest(tableAllocs), nil
	case "evaluations":
		return []*api.Evaluation{}, s.newest(tableEvals), nil
	case "deployments":
		return []*api.Deployment{}, s.newest(tableDeployments), nil
	}
	return nil, s.newest(tableDeployments), nil
}

func (s *Server) newest(table string) uint64 { return max(s.tables[table], 1) }

func (s *Server) register(c call) (any, uint64, error) {
	var req api.JobRegisterRequest
	if err := c.read(&req); err != nil {
		return nil, 0, err
	}
	if req.Job == nil || req.Job.ID == nil || *req.Job.ID == "" {
		return nil, 0, refuse(http.StatusBadRequest, "Job ID hasn't been provided")
	}
	if req.Job.Namespace == nil || *req.Job.Namespace == "" {
		req.Job.Namespace = &c.namespace
	}
	if err := s.check(req.Job); err != nil {
		return nil, 0, err
	}
	old := s.jobs[key{*req.Job.Namespace, *req.Job.ID}]
	if err := enforce(req.EnforceIndex, req.JobModifyIndex, old); err != nil {
		return nil, 0, err
	}
	if req.PreserveCounts && old != nil && !isTrue(old.Stop) {
		for _, g := range req.Job.TaskGroups {
			if was := old.group(*g.Name); was != nil {
				g.Count = was.Count
			}
		}
	}
	j := s.store(req.Job)
	e := s.evaluate(j, "job-register")
	return api.JobRegisterResponse{
		EvalID: e.ID, EvalCreateIndex: e.CreateIndex, JobModifyIndex: *j.JobModifyIndex,
		QueryMeta: api.QueryMeta{LastIndex: e.CreateIndex},
	}, e.CreateIndex, nil
}

// enforce compares the index that a register was made for. A conflict is a 500 with text.
func enforce(yes bool, index uint64, old *job) error {
	const prefix = "Enforcing job modify index"
	switch {
	case !yes:
		return nil
	case old == nil && index > 0:
		return refuse(http.StatusInternalServerError, "%s %d: job does not exist", prefix, index)
	case old != nil && index == 0:
		return refuse(http.StatusInternalServerError, "%s 0: job already exists", prefix)
	case old != nil && *old.JobModifyIndex != index:
		return refuse(http.StatusInternalServerError, "%s %d: job exists with conflicting job modify index: %d", prefix, index, *old.JobModifyIndex)
	}
	return nil
}

// store makes a job the current version, unless it is the same as before.
func (s *Server) store(spec *api.Job) *job {
	spec.Canonicalize()
	k := key{*spec.Namespace, *spec.ID}
	j := s.jobs[k]
	// A real server has put indices into a new scaling policy, which a client's copy does not have: the next register of the
	// very same job is another version, and only the one after that is none.
	if j != nil && !changed(j.Job, spec) && !j.policyIsNew {
		return j
	}
	isNew := scaled(spec) && (j == nil || !samePolicies(j.Job, spec))
	version, created := uint64(0), s.index+1
	if j != nil {
		version, created = *j.Version+1, *j.CreateIndex
	} else {
		j = &job{scaling: map[string][]api.ScalingEvent{}}
		s.jobs[k] = j
	}
	index := s.touch(tableJobs)
	spec.Version, spec.CreateIndex, spec.ModifyIndex, spec.JobModifyIndex = &version, &created, &index, ptr(index)
	spec.Status, spec.StatusDescription, spec.SubmitTime, spec.Stable = ptr("pending"), ptr(""), ptr(now()), ptr(false)
	j.Job, j.policyIsNew = spec, isNew
	j.versions = append(j.versions, spec)
	s.emit("Job", "JobRegistered", j.key(), *j.ID, map[string]any{"Job": j.Job})
	return j
}

// check refuses what no server would take.
func (s *Server) check(spec *api.Job) error {
	if !slices.Contains(append([]string{"default"}, s.opts.Namespaces...), *spec.Namespace) {
		return refuse(http.StatusInternalServerError, "job %q is in nonexistent namespace %q", *spec.ID, *spec.Namespace)
	}
	if len(spec.TaskGroups) == 0 {
		return refuse(http.StatusInternalServerError, "1 error occurred:\n\t* Missing job task groups\n\n")
	}
	for _, g := range spec.TaskGroups {
		if len(g.Tasks) == 0 {
			return refuse(http.StatusInternalServerError, "1 error occurred:\n\t* Task group %s validation failed: 1 error occurred:\n\t* Missing tasks for task group\n\n", *g.Name)
		}
		if g.Count != nil && *g.Count < 0 {
			return refuse(http.StatusInternalServerError, "1 error occurred:\n\t* Task group count can't be negative\n\n")
		}
		if p := g.Scaling; p != nil && g.Count != nil && (p.Max != nil && int64(*g.Count) > *p.Max || p.Min != nil && int64(*g.Count) < *p.Min) {
			return refuse(http.StatusInternalServerError, "1 error occurred:\n\t* Task group %s validation failed: count %d is outside of scaling policy", *g.Name, *g.Count)
		}
	}
	return nil
}

func (s *Server) validate(c call) (any, uint64, error) {
	var req api.JobValidateRequest
	if err := c.read(&req); err != nil {
		return nil, 0, err
	}
	answer := api.JobValidateResponse{DriverConfigValidated: true}
	req.Job.Canonicalize()
	if err := s.check(req.Job); err != nil {
		answer.Error, answer.ValidationErrors = err.Error(), []string{err.Error()}
	}
	return answer, s.index, nil
}

func (s *Server) deregister(c call, j *job) (any, uint64, error) {
	index := s.touch(tableJobs)
	j.Stop, j.ModifyIndex, j.JobModifyIndex = ptr(true), &index, ptr(index)
	purge := c.URL.Query().Get("purge") == "true"
	s.emit("Job", "JobDeregistered", j.key(), *j.ID, map[string]any{"Job": j.Job})
	e := s.evaluate(j, "job-deregister")
	if purge {
		delete(s.jobs, j.key())
	}
	return api.JobDeregisterResponse{
		EvalID: e.ID, EvalCreateIndex: e.CreateIndex, JobModifyIndex: index, QueryMeta: api.QueryMeta{LastIndex: e.CreateIndex},
	}, e.CreateIndex, nil
}

func (s *Server) listJobs(c call) (any, uint64, error) {
	list := []*api.JobListStub{}
	prefix := c.URL.Query().Get("prefix")
	meta := c.URL.Query().Get("meta") == "true"
	for _, j := range s.jobs {
		if !c.in(*j.Namespace) || !strings.HasPrefix(*j.ID, prefix) {
			continue
		}
		stub := &api.JobListStub{
			ID: *j.ID, Name: *j.Name, Namespace: *j.Namespace, Datacenters: j.Datacenters, Type: *j.Type, Priority: *j.Priority,
			Stop: isTrue(j.Stop), Status: *j.Status, StatusDescription: *j.StatusDescription, JobSummary: s.summary(j),
			CreateIndex: *j.CreateIndex, ModifyIndex: *j.ModifyIndex, JobModifyIndex: *j.JobModifyIndex, SubmitTime: *j.SubmitTime,
		}
		if meta {
			stub.Meta = j.Meta
		}
		list = append(list, stub)
	}
	slices.SortFunc(list, func(a, b *api.JobListStub) int { return strings.Compare(a.ID, b.ID) })
	return list, s.newest(tableJobs), nil
}

func (s *Server) versions(j *job) any {
	list := slices.Clone(j.versions)
	slices.Reverse(list)
	return map[string]any{"Versions": list}
}

func (s *Server) revert(c call, j *job) (any, uint64, error) {
	var req struct {
		JobVersion          uint64
		EnforcePriorVersion *uint64
	}
	if err := c.read(&req); err != nil {
		return nil, 0, err
	}
	old := j.version(req.JobVersion)
	if old == nil || req.JobVersion == *j.Version {
		return nil, 0, refuse(http.StatusInternalServerError, "job version %d is not there to revert to", req.JobVersion)
	}
	j = s.store(clone(old))
	e := s.evaluate(j, "job-register")
	return api.JobRegisterResponse{EvalID: e.ID, EvalCreateIndex: e.CreateIndex, JobModifyIndex: *j.JobModifyIndex}, e.CreateIndex, nil
}
