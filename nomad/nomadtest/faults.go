package nomadtest

import (
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"
)

// faults are what a test has broken.
type faults struct {
	cuts   int           // how often streams were cut
	silent bool          // every request is a 500 without a leader
	hung   chan struct{} // requests wait until it is closed
	refuse []refuseRule
}

type refuseRule struct {
	method, path, text string
	status, times      int
}

// fault is what a request meets before it is handled.
func (s *Server) fault(r *http.Request) error {
	s.mu.Lock()
	hung, silent := s.faults.hung, s.faults.silent
	var rule *refuseRule
	for i := range s.faults.refuse {
		f := &s.faults.refuse[i]
		if f.times > 0 && r.Method == f.method && strings.HasPrefix(r.URL.Path, f.path) {
			f.times--
			rule = f
			break
		}
	}
	s.mu.Unlock()
	if hung != nil {
		select {
		case <-hung:
		case <-r.Context().Done():
		}
	}
	switch {
	case silent:
		return refuse(http.StatusInternalServerError, "No cluster leader")
	case rule != nil:
		return refuse(rule.status, "%s", rule.text)
	}
	return nil
}

// Silence makes every request fail with "No cluster leader", and streams end.
func (s *Server) Silence(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.silent = on
	s.faults.cuts++
	s.wake()
}

// Hang keeps every request waiting for as long as its client does.
func (s *Server) Hang(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case on && s.faults.hung == nil:
		s.faults.hung = make(chan struct{})
	case !on && s.faults.hung != nil:
		close(s.faults.hung)
		s.faults.hung = nil
	}
}

// Refuse answers the next requests of a method, to paths with a prefix, with a status and a text.
func (s *Server) Refuse(times int, method, path string, status int, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.refuse = append(s.faults.refuse, refuseRule{method, path, text, status, times})
}

// CutStreams ends all event streams, as a server that restarts does.
func (s *Server) CutStreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.cuts++
	s.wake()
}

// ForgetEvents empties the buffer of events, so that a client that resumes has missed some.
func (s *Server) ForgetEvents() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = nil
}

// RestartServer ends every connection and listens again after the pause, at the same address and with the same state.
func (s *Server) RestartServer(pause time.Duration) error {
	s.mu.Lock()
	s.faults.cuts++
	s.events = nil
	server := s.http
	s.wake()
	s.mu.Unlock()
	_ = server.Close()
	time.Sleep(pause)
	return s.listen(s.addr)
}

// onClient does something on a node now, or once it is back.
func (s *Server) onClient(n *node, do func()) {
	if n.away {
		n.later = append(n.later, do)
		return
	}
	do()
}

// LoseClient takes a node's client away, by name or ID. Its allocations are lost and replaced at once, or unknown where
// their group may disconnect; their processes live on.
func (s *Server) LoseClient(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodeNamed(name)
	n.away = true
	n.Status = api.NodeStatusDown
	keys := s.jobsOnNode(n)
	for _, a := range s.onNode(n) {
		if d := disconnects(a.group()); d != nil {
			n.Status = "disconnected"
			s.disconnect(a, *d)
			continue
		}
		if a.DesiredStatus == api.AllocDesiredStatusRun {
			a.DesiredStatus, a.DesiredDescription = api.AllocDesiredStatusStop, "alloc is lost since its node is down"
		}
		a.replaceable = true
		s.setClient(a, api.AllocClientStatusLost, "alloc is lost since its node is down")
		n.later = append(n.later, a.askToEnd)
	}
	s.nodeChanged(n, "NodeDeregistration")
	s.evaluateAll(keys, "node-update")
}

// disconnects is for how long a group's allocations may be unknown: from 1.8 on disconnect.lost_after, before
// max_client_disconnect. nil = not at all.
func disconnects(g *api.TaskGroup) *time.Duration {
	if g.Disconnect != nil && g.Disconnect.LostAfter != nil {
		return g.Disconnect.LostAfter
	}
	//lint:ignore SA1019 the only way before 1.8
	return g.MaxClientDisconnect
}

func (s *Server) disconnect(a *alloc, limit time.Duration) {
	a.replaceable = true
	s.setClient(a, api.AllocClientStatusUnknown, "Allocation is unknown since its node is disconnected")
	s.after(limit, func() {
		if a.ClientStatus == api.AllocClientStatusUnknown {
			a.DesiredStatus = api.AllocDesiredStatusStop
			s.setClient(a, api.AllocClientStatusLost, "alloc is lost since its node is down")
			a.node.later = append(a.node.later, a.askToEnd)
		}
	})
}

// ReturnClient brings a node back. What was lost on it shows as running for a moment, beside its replacement, and ends;
// what was unknown runs on, and its replacement is stopped.
func (s *Server) ReturnClient(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodeNamed(name)
	n.away, n.Status = false, api.NodeStatusReady
	for _, a := range s.allocs {
		if a.node != n || a.left == 0 {
			continue
		}
		switch a.ClientStatus {
		case api.AllocClientStatusUnknown:
			a.replaceable = false
			s.setClient(a, api.AllocClientStatusRunning, "Tasks are running")
		case api.AllocClientStatusLost:
			s.setClient(a, api.AllocClientStatusRunning, "Tasks are running")
		}
	}
	later := n.later
	n.later = nil
	for _, do := range later {
		do()
	}
	s.nodeChanged(n, "NodeRegistration")
	s.evaluateAll(s.jobsOnNode(n), "node-update")
	s.retryBlocked()
}

// KillTask kills the processes of an allocation with SIGKILL, as nobody's order.
func (s *Server) KillTask(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.allocs[id]; a != nil {
		if s.opts.Marks {
			_, _, _ = a.send("SIGKILL", 0)
		}
		for _, pid := range a.pids {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
		}
	}
}

// Preempt evicts an allocation in favour of another one, whose ID may be made up.
func (s *Server) Preempt(id, by string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.allocs[id]
	if a == nil {
		return
	}
	a.DesiredStatus, a.PreemptedByAllocation, a.replaceable = api.AllocDesiredStatusEvict, by, true
	a.DesiredDescription = "Preempted by alloc ID " + by
	s.touch(tableAllocs)
	s.allocChanged(a, "AllocationUpdateDesiredStatus")
	s.onClient(a.node, a.askToEnd)
	if j := s.jobs[key{a.Namespace, a.JobID}]; j != nil {
		s.evaluate(j, "preemption")
	}
}

// Collect forgets what has ended, as garbage collection does: allocations, evaluations, deployments, and jobs that are dead.
func (s *Server) Collect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, a := range s.allocs {
		if a.over() && a.left == 0 {
			delete(s.allocs, id)
		}
	}
	for k, j := range s.jobs {
		if *j.Status == "dead" {
			delete(s.jobs, k)
		}
	}
	for id, e := range s.evals {
		if e.Status != api.EvalStatusBlocked && e.Status != api.EvalStatusPending {
			delete(s.evals, id)
		}
	}
	for id, d := range s.deployments {
		if !active(d) {
			delete(s.deployments, id)
		}
	}
	s.touch(tableAllocs)
	s.touch(tableJobs)
}

// Purge takes a job away with all its allocations, as a person with an administrator's token does.
func (s *Server) Purge(namespace, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.jobs[key{namespace, id}]; j != nil {
		j.Stop = ptr(true)
		s.evaluate(j, "job-deregister")
		delete(s.jobs, j.key())
		s.touch(tableJobs)
		s.emit("Job", "JobDeregistered", key{namespace, id}, id, map[string]any{"Job": j.Job})
	}
}

// HoldDevices makes so many of a node's GPUs unhealthy, so that nothing can be placed on them; 0 heals all.
func (s *Server) HoldDevices(name string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	node := s.nodeNamed(name)
	for _, d := range node.NodeResources.Devices {
		for i, instance := range d.Instances {
			instance.Healthy = i >= n
		}
	}
	s.nodeChanged(node, "NodeEvent")
	s.retryBlocked()
}
