package nomad

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Counts lists the groups of this installation's jobs, with who changed them last as far as Nomad tells: the message of a
// scaling event, or that the job was registered. A job that was stopped holds none of anything.
func (c *Cluster) Counts(ctx context.Context) ([]cluster.RoleCount, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list Nomad's counts: %w", unknown(err))
	}
	l, err := c.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("list Nomad's counts: %w", unknown(err))
	}
	var counts []cluster.RoleCount
	for key, r := range l.records {
		if r.launch() != "" {
			continue
		}
		list, err := c.groups(ctx, key, r, l.stubs[key])
		if err != nil {
			return nil, fmt.Errorf("list Nomad's counts: %s: %w", key.id, unknown(err))
		}
		counts = append(counts, list...)
	}
	slices.SortFunc(counts, func(a, b cluster.RoleCount) int {
		return cmp.Or(cmp.Compare(a.Role.Deployment, b.Role.Deployment), cmp.Compare(a.Role.Role, b.Role.Role))
	})
	return counts, nil
}

// groups are the counted roles of one job.
func (c *Cluster) groups(ctx context.Context, key jobKey, r *jobRecord, stub *api.JobListStub) (list []cluster.RoleCount, err error) {
	rollout := ""
	if !r.stopped() {
		if rollout, err = c.rollout(ctx, key); err != nil {
			return nil, err
		}
	}
	for _, g := range r.job.TaskGroups {
		n := cluster.RoleCount{Role: r.role(*g.Name), Revision: revisionOf(g), Version: r.modified, Rollout: rollout}
		if g.Count != nil && !r.stopped() {
			n.N = *g.Count
		}
		change, err := c.lastChange(ctx, key, r)
		if err != nil {
			return nil, err
		}
		n.ChangedBy, n.ChangedAt, n.Own = change.by, change.at, change.own
		if queued := queued(stub, *g.Name); queued > 0 && !r.stopped() {
			n.Unplaced, n.Why = queued, c.whyQueued(ctx, key, *g.Name)
		}
		list = append(list, n)
	}
	return list, nil
}

func queued(stub *api.JobListStub, group string) int {
	if stub == nil || stub.JobSummary == nil {
		return 0
	}
	return stub.JobSummary.Summary[group].Queued
}

// rollout says which deployment of Nomad's is under way; empty = none.
func (c *Cluster) rollout(ctx context.Context, key jobKey) (string, error) {
	d, err := read(ctx, c, "read deployment", key.namespace, func(q *api.QueryOptions) (*api.Deployment, *api.QueryMeta, error) {
		return c.api.Jobs().LatestDeployment(key.id, q)
	})
	if err != nil && !notFound(err) {
		return "", err
	}
	if d == nil || err != nil {
		return "", nil
	}
	switch d.Status {
	case api.DeploymentStatusRunning, api.DeploymentStatusPaused, api.DeploymentStatusPending, api.DeploymentStatusBlocked, api.DeploymentStatusUnblocking:
		return fmt.Sprintf("Nomad's deployment %.8s is %s: %s", d.ID, d.Status, orElse(cut(d.StatusDescription), "no reason given")), nil
	}
	return "", nil
}

// change is who changed a job last.
type change struct {
	by  string
	at  time.Time
	own bool
}

// lastChange asks once for each state of the job.
func (c *Cluster) lastChange(ctx context.Context, key jobKey, r *jobRecord) (change, error) {
	c.mu.Lock()
	known, at := r.change, r.changeAt
	c.mu.Unlock()
	if at == r.modified {
		return known, nil
	}
	var now change
	if r.stopped() {
		now = change{by: "the job was stopped"}
	} else if r.job.SubmitTime != nil {
		now = change{by: "the job was registered", at: when(*r.job.SubmitTime)}
	}
	s, err := read(ctx, c, "read scale", key.namespace, func(q *api.QueryOptions) (*api.JobScaleStatusResponse, *api.QueryMeta, error) {
		return c.api.Jobs().ScaleStatus(key.id, q)
	})
	if err != nil && !notFound(err) {
		return now, err
	}
	if err == nil && !r.stopped() {
		now = c.newest(now, r.modified, s)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.change, r.changeAt = now, r.modified
	return now, nil
}

// newest is the last scaling event, where it is what has made the job what it is.
func (c *Cluster) newest(now change, modified uint64, s *api.JobScaleStatusResponse) change {
	for _, g := range s.TaskGroups {
		for _, e := range g.Events {
			at := when(int64(e.Time))
			if e.Count == nil || e.Error || at.Before(now.at) {
				continue
			}
			now = change{by: fmt.Sprintf("scaled from %d to %d", e.PreviousCount, *e.Count), at: at}
			if e.Message != "" {
				now.by += fmt.Sprintf(" with the message %q", cut(e.Message))
			}
			now.own = e.Meta[render.NomadInstallation] == c.o.Installation
		}
	}
	return now
}
