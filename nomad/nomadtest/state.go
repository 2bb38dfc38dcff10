package nomadtest

import (
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// state is everything the server knows; Server.mu guards it.
type state struct {
	index       uint64
	tables      map[string]uint64 // table -> index of its last change
	jobs        map[key]*job
	allocs      map[string]*alloc
	evals       map[string]*api.Evaluation
	deployments map[string]*api.Deployment
	nodes       map[string]*node
	variables   map[key]*api.Variable
	events      []event
	// leaving are the allocations that the evaluation under way stops: their room can be given away at once, before they
	// have ended, as a real server does.
	leaving map[*alloc]bool
}

// job is a job with its versions, the newest last.
type job struct {
	*api.Job
	versions    []*api.Job
	scaling     map[string][]api.ScalingEvent // by group, the newest first
	policyIsNew bool                          // see Server.store
}

func newState() *state {
	return &state{
		index: 10, tables: map[string]uint64{}, jobs: map[key]*job{}, allocs: map[string]*alloc{}, evals: map[string]*api.Evaluation{},
		deployments: map[string]*api.Deployment{}, nodes: map[string]*node{}, variables: map[key]*api.Variable{},
	}
}

// The tables of Server.touch; blocking queries wait for one of them.
const (
	tableJobs, tableAllocs, tableEvals = "jobs", "allocs", "evals"
	tableDeployments, tableNodes       = "deployment", "nodes"
	tableVariables, tableScaling       = "variables", "scaling_event"
)

// touch takes the next index for a change of a table.
func (s *Server) touch(table string) uint64 {
	s.index++
	s.tables[table] = s.index
	s.wake()
	return s.index
}

// wake wakes whoever waits for a change. The caller holds the lock.
func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	h := hex.EncodeToString(b)
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

func now() int64 { return time.Now().UnixNano() }

// ofJob lists the allocations of a job, the oldest first.
func (s *Server) ofJob(k key) (list []*alloc) {
	for _, a := range s.allocs {
		if a.Namespace == k.namespace && a.JobID == k.id {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b *alloc) int {
		if a.CreateIndex != b.CreateIndex {
			return int(a.CreateIndex) - int(b.CreateIndex)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list
}

// evalsOf lists the evaluations of a job, the newest first.
func (s *Server) evalsOf(k key) (list []*api.Evaluation) {
	for _, e := range s.evals {
		if e.Namespace == k.namespace && e.JobID == k.id {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *api.Evaluation) int { return int(b.CreateIndex) - int(a.CreateIndex) })
	return list
}

// deploymentsOf lists the deployments of a job, the newest first.
func (s *Server) deploymentsOf(k key) (list []*api.Deployment) {
	for _, d := range s.deployments {
		if d.Namespace == k.namespace && d.JobID == k.id {
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b *api.Deployment) int { return int(b.CreateIndex) - int(a.CreateIndex) })
	return list
}

func (j *job) key() key { return key{*j.Namespace, *j.ID} }

func (j *job) group(name string) *api.TaskGroup { return j.LookupTaskGroup(name) }

// version finds what the job was at a version, or nil.
func (j *job) version(v uint64) *api.Job {
	for _, old := range j.versions {
		if *old.Version == v {
			return old
		}
	}
	return nil
}
