package nomad

import (
	"context"
	"crypto/rand"
	"fmt"
	"regexp"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

var launchIDs = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

const maxJoinFile = 48 << 10 // a variable holds 64 KiB

// Submit registers a job for the launch. Nomad is asked first what it would do: a replica over several nodes of which it
// could place a part now is refused, since that part would hold what others wait for. What comes between is the barrier's.
func (c *Cluster) Submit(ctx context.Context, s cluster.Submission) (string, error) {
	id, err := c.submit(ctx, s)
	if err != nil {
		return "", fmt.Errorf("submit launch %s to Nomad: %w", s.Launch.ID, err)
	}
	return id, nil
}

func (c *Cluster) submit(ctx context.Context, s cluster.Submission) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", unknown(err)
	}
	if !launchIDs.MatchString(string(s.Launch.ID)) {
		return "", refused("%q is no launch token", s.Launch.ID)
	}
	j, err := render.NomadGang(c.site(), s.Deployment, render.NomadLaunch{
		Role: s.Launch.Role, Launch: string(s.Launch.ID), Run: rand.Text(), Exclude: s.Launch.Exclude,
	})
	if err != nil {
		return "", refused("%w", err)
	}
	join, err := statefile.ReadPrivate(s.JoinFile, maxJoinFile)
	if err != nil {
		return "", refused("join file: %w", err)
	}
	key := c.keyOf(j)
	if err := c.mayPlace(ctx, key, j); err != nil {
		return "", err
	}
	if err := c.putVariable(ctx, key, join); err != nil {
		return "", err
	}
	if err := c.register(ctx, key, j, 0); err != nil {
		return "", err
	}
	return nativeID(key), nil
}

// keyOf names a rendered job.
func (c *Cluster) keyOf(j *api.Job) jobKey {
	key := jobKey{"default", *j.ID}
	if c.o.API.Namespace != "" {
		key.namespace = c.o.API.Namespace
	}
	if j.Namespace != nil && *j.Namespace != "" {
		key.namespace = *j.Namespace
	}
	j.Namespace = &key.namespace
	return key
}

// mayPlace refuses a gang of which not all members could be placed now.
func (c *Cluster) mayPlace(ctx context.Context, key jobKey, j *api.Job) error {
	p, err := c.plan(ctx, key, j)
	if err != nil {
		return verdict(err)
	}
	g := j.TaskGroups[0]
	if metric := p.FailedTGAllocs[*g.Name]; metric != nil && *g.Count > 1 {
		missing := 1 + metric.CoalescedFailures
		return refused("%d of its %d members could be placed now, and all or none are started: %s", max(0, *g.Count-missing), *g.Count, placement(metric))
	}
	return nil
}

// plan asks Nomad what it would do with a job.
func (c *Cluster) plan(ctx context.Context, key jobKey, j *api.Job) (*api.JobPlanResponse, error) {
	return write(ctx, c, "plan job", key.namespace, func(w *api.WriteOptions) (*api.JobPlanResponse, *api.WriteMeta, error) {
		return c.api.Jobs().PlanOpts(j, &api.PlanOptions{}, w)
	})
}

// register puts a job where the one of that JobModifyIndex is; 0 = where none is.
func (c *Cluster) register(ctx context.Context, key jobKey, j *api.Job, index uint64) error {
	resp, err := write(ctx, c, "register job", key.namespace, func(w *api.WriteOptions) (*api.JobRegisterResponse, *api.WriteMeta, error) {
		return c.api.Jobs().EnforceRegister(j, index, w)
	})
	if err != nil {
		if conflict(err) {
			return err
		}
		return verdict(err)
	}
	if resp.Warnings != "" {
		c.log.Warn().Str("job", key.id).Str("warnings", cut(resp.Warnings)).Msg("Nomad warns")
	}
	return nil
}
