package nomad

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/scheduler/cluster"
)

// Jobs lists this installation's allocations of counted roles, and its jobs of launches. What is found to be over on the way
// is seen to: gangs that have lost a member are released, and what has had its grace is killed.
func (c *Cluster) Jobs(ctx context.Context) ([]cluster.Job, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list Nomad's jobs: %w", unknown(err))
	}
	l, err := c.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("list Nomad's jobs: %w", unknown(err))
	}
	var jobs []cluster.Job
	for key, r := range l.records {
		if r.launch() != "" {
			jobs = append(jobs, c.gang(ctx, key, r, l.stubs[key], l.allocs[key]))
			continue
		}
		counted, err := c.counted(ctx, r, l.allocs[key])
		if err != nil {
			return nil, fmt.Errorf("list Nomad's jobs: %s: %w", key.id, unknown(err))
		}
		jobs = append(jobs, counted...)
	}
	c.enforce(ctx, l)
	slices.SortFunc(jobs, func(a, b cluster.Job) int {
		return cmp.Or(cmp.Compare(a.Role.Deployment, b.Role.Deployment), cmp.Compare(a.Role.Role, b.Role.Role), cmp.Compare(a.Index, b.Index),
			a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
	return jobs, nil
}

// counted are the allocations of a deployment's counted roles, each a job of a launch of its own.
func (c *Cluster) counted(ctx context.Context, r *jobRecord, allocs []*api.AllocationListStub) ([]cluster.Job, error) {
	jobs := make([]cluster.Job, 0, len(allocs))
	for _, a := range allocs {
		revision, err := c.revision(ctx, r, a)
		if err != nil {
			return nil, err
		}
		j := view(a)
		j.Launch, j.Role, j.Revision = LaunchOf(a.ID), r.role(a.TaskGroup), revision
		jobs = append(jobs, j)
	}
	return jobs, nil
}
