package nomad

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/scheduler/cluster"
)

// jobKey names a job.
type jobKey struct{ namespace, id string }

// jobRecord is what is remembered of one of Nomad's jobs, so that it is not read again before it changes.
type jobRecord struct {
	job       *api.Job
	modified  uint64                    // JobModifyIndex that job is of
	revisions map[uint64]map[string]int // by version of the job and group
	change    change                    // as of index changeAt
	changeAt  uint64
}

// ours reports whether this installation has made the job.
func (r *jobRecord) ours(installation string) bool {
	return r.job.Meta[render.NomadInstallation] == installation
}

// launch is the launch that the job is; empty = it holds counted roles.
func (r *jobRecord) launch() cluster.LaunchID {
	return cluster.LaunchID(r.job.Meta[render.NomadLaunchMeta])
}

func (r *jobRecord) deployment() string { return r.job.Meta[render.NomadDeployment] }

func (r *jobRecord) stopped() bool { return r.job.Stop != nil && *r.job.Stop }

func (r *jobRecord) role(group string) cluster.RoleRef {
	return cluster.RoleRef{Deployment: r.deployment(), Role: jobspecs.RoleKind(group)}
}

// note remembers which revisions a version of the job has.
func (r *jobRecord) note(j *api.Job) {
	if j == nil || j.Version == nil {
		return
	}
	groups := map[string]int{}
	for _, g := range j.TaskGroups {
		groups[*g.Name] = revisionOf(g)
	}
	r.revisions[*j.Version] = groups
}

// revisionOf is the deployment's revision that a group is of; 0 = it does not say.
func revisionOf(g *api.TaskGroup) int {
	n, err := strconv.Atoi(g.Meta[render.NomadRevision])
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// record returns what is known of a listed job, which is read anew where it has changed.
func (c *Cluster) record(ctx context.Context, s *api.JobListStub) (*jobRecord, error) {
	key := jobKey{s.Namespace, s.ID}
	c.mu.Lock()
	r := c.jobs[key]
	c.mu.Unlock()
	if r != nil && r.modified == s.JobModifyIndex && r.stopped() == s.Stop {
		return r, nil
	}
	j, err := c.readJob(ctx, key)
	if err != nil || j == nil {
		return nil, err
	}
	next := &jobRecord{job: j, modified: s.JobModifyIndex, revisions: map[uint64]map[string]int{}}
	if j.JobModifyIndex != nil {
		next.modified = *j.JobModifyIndex
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r != nil && equal(r.job.CreateIndex, j.CreateIndex) {
		next.revisions, next.change, next.changeAt = r.revisions, r.change, r.changeAt
	}
	next.note(j)
	c.jobs[key] = next
	return next, nil
}

func equal(a, b *uint64) bool { return a != nil && b != nil && *a == *b }

// readJob returns a job; nil = there is none.
func (c *Cluster) readJob(ctx context.Context, key jobKey) (*api.Job, error) {
	j, err := read(ctx, c, "read job", key.namespace, func(q *api.QueryOptions) (*api.Job, *api.QueryMeta, error) {
		return c.api.Jobs().Info(key.id, q)
	})
	if notFound(err) {
		return nil, nil
	}
	return j, err
}

// revision is the revision that an allocation is of.
func (c *Cluster) revision(ctx context.Context, r *jobRecord, a *api.AllocationListStub) (int, error) {
	c.mu.Lock()
	n, known := r.revisions[a.JobVersion][a.TaskGroup]
	c.mu.Unlock()
	if known {
		return n, nil
	}
	versions, err := read(ctx, c, "read job versions", a.Namespace, func(q *api.QueryOptions) ([]*api.Job, *api.QueryMeta, error) {
		v, _, m, err := c.api.Jobs().Versions(a.JobID, false, q)
		return v, m, err
	})
	if err != nil && !notFound(err) {
		return 0, err
	}
	c.mu.Lock()
	for _, v := range versions {
		r.note(v)
	}
	n, known = r.revisions[a.JobVersion][a.TaskGroup]
	c.mu.Unlock()
	if known {
		return n, nil
	}
	return c.ownRevision(ctx, r, a)
}

// ownRevision asks the allocation itself: Nomad keeps few versions of a job.
func (c *Cluster) ownRevision(ctx context.Context, r *jobRecord, a *api.AllocationListStub) (int, error) {
	full, err := read(ctx, c, "read allocation", a.Namespace, func(q *api.QueryOptions) (*api.Allocation, *api.QueryMeta, error) {
		return c.api.Allocations().Info(a.ID, q)
	})
	if err != nil && !notFound(err) {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && full.Job != nil {
		full.Job.Version = &a.JobVersion
		r.note(full.Job)
	}
	if r.revisions[a.JobVersion] == nil {
		r.revisions[a.JobVersion] = map[string]int{} // nobody knows, and is not asked again
	}
	n := r.revisions[a.JobVersion][a.TaskGroup]
	r.revisions[a.JobVersion][a.TaskGroup] = n
	return n, nil
}

// listed is everything that Nomad has of this installation.
type listed struct {
	records map[jobKey]*jobRecord
	stubs   map[jobKey]*api.JobListStub
	allocs  map[jobKey][]*api.AllocationListStub
}

const jobPrefix = "penstock-"

// list asks Nomad for this installation's jobs and all of their allocations: two questions, and one for each job that is new
// or has changed.
func (c *Cluster) list(ctx context.Context) (listed, error) {
	l := listed{records: map[jobKey]*jobRecord{}, stubs: map[jobKey]*api.JobListStub{}, allocs: map[jobKey][]*api.AllocationListStub{}}
	allocs, err := read(ctx, c, "list allocations", everywhere, func(q *api.QueryOptions) ([]*api.AllocationListStub, *api.QueryMeta, error) {
		q.Filter = `JobID matches "^` + jobPrefix + `"`
		return c.api.Allocations().List(q)
	})
	if err != nil {
		return l, fmt.Errorf("list allocations: %w", err)
	}
	jobs, err := read(ctx, c, "list jobs", everywhere, func(q *api.QueryOptions) ([]*api.JobListStub, *api.QueryMeta, error) {
		q.Prefix = jobPrefix
		return c.api.Jobs().List(q)
	})
	if err != nil {
		return l, fmt.Errorf("list jobs: %w", err)
	}
	for _, s := range jobs {
		if !strings.HasPrefix(s.ID, jobPrefix) {
			continue
		}
		r, err := c.record(ctx, s)
		if err != nil {
			return l, fmt.Errorf("read job %s: %w", s.ID, err)
		}
		if r == nil || !r.ours(c.o.Installation) {
			continue
		}
		key := jobKey{s.Namespace, s.ID}
		l.records[key], l.stubs[key] = r, s
	}
	for _, a := range allocs {
		if key := (jobKey{a.Namespace, a.JobID}); l.records[key] != nil {
			l.allocs[key] = append(l.allocs[key], a)
		}
	}
	c.forget(jobs)
	return l, nil
}

// forget drops what is remembered of jobs that are gone.
func (c *Cluster) forget(jobs []*api.JobListStub) {
	there := make(map[jobKey]bool, len(jobs))
	for _, s := range jobs {
		there[jobKey{s.Namespace, s.ID}] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.jobs {
		if !there[key] {
			delete(c.jobs, key)
		}
	}
}

// when reads Nomad's times; zero = it has none.
func when(nanoseconds int64) time.Time {
	if nanoseconds <= 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds).UTC()
}
