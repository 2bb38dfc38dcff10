package nomad

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/scheduler/cluster"
)

// SetCount makes the role's group n replicas of the revision. A count alone is a scale, which Nomad takes down with our
// message; anything else is planned and then registered under the index that was planned on. A deployment of which all
// groups are at zero has its job stopped and what its allocations join with revoked.
//
// Nomad refuses to scale while it rolls a revision out: SetCount waits for as long as ctx lets it, and is refused then.
func (c *Cluster) SetCount(ctx context.Context, role cluster.RoleRef, d jobspecs.Deployment, revision, n int) error {
	if err := c.setCount(ctx, role, d, revision, n); err != nil {
		return fmt.Errorf("set the count of %s/%s: %w", role.Deployment, role.Role, err)
	}
	return nil
}

const (
	mostConflicts = 8
	busyPause     = 500 * time.Millisecond
)

func (c *Cluster) setCount(ctx context.Context, role cluster.RoleRef, d jobspecs.Deployment, revision, n int) error {
	if err := ctx.Err(); err != nil {
		return unknown(err)
	}
	switch _, ok := d.Roles[role.Role]; {
	case n < 0:
		return refused("%d is below zero", n)
	case !ok && n > 0:
		return refused("revision %d of %s has no role %s", revision, role.Deployment, role.Role)
	}
	d.Name = role.Deployment
	want := wanted{role: role.Role, d: d, NomadCount: render.NomadCount{Revision: revision, N: n}}
	conflicts := 0
	for {
		err := c.bring(ctx, want)
		switch {
		case err == nil:
			return nil
		case conflict(err):
			if conflicts++; conflicts == mostConflicts {
				return refused("the job was changed by somebody else each of %d times: %s", conflicts, words(err))
			}
		case busy(err):
			if !sleep(ctx, busyPause) {
				return refused("Nomad rolls out a revision of it and takes no scale until that is over: %s", words(err))
			}
			continue
		default:
			return err
		}
		if !sleep(ctx, time.Duration(conflicts)*20*time.Millisecond) {
			return unknown(ctx.Err())
		}
	}
}

// sleep waits, unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// wanted is what a role is to be.
type wanted struct {
	role jobspecs.RoleKind
	d    jobspecs.Deployment
	render.NomadCount
}

// bring reads the job and changes it, once.
func (c *Cluster) bring(ctx context.Context, w wanted) error {
	j, err := render.NomadService(c.site(), w.d, nil)
	if err != nil {
		return refused("%w", err)
	}
	key := c.keyOf(j)
	was, err := c.readJob(ctx, key)
	switch {
	case err != nil:
		return verdict(err)
	case was == nil && w.N == 0:
		return c.revoke(ctx, key, w.d.Name)
	case was == nil:
		return c.put(ctx, key, j, nil, w)
	case was.Meta[render.NomadInstallation] != c.o.Installation:
		return refused("Nomad has a job %s in namespace %s that is not this installation's; rename the deployment, or give it another nomad.namespace", key.id, key.namespace)
	}
	old := group(was, w.role)
	stopped := was.Stop != nil && *was.Stop
	switch {
	case w.N == 0 && (stopped || empty(was, w.role)):
		return c.end(ctx, key, was, w.d.Name)
	case w.N == 0 && old == nil:
		return nil
	case old == nil, stopped, revisionOf(old) != w.Revision && w.N > 0:
		return c.put(ctx, key, j, was, w)
	case *old.Count == w.N:
		return nil
	}
	err = c.scale(ctx, key, w, was)
	if err != nil && outOfBounds(err) {
		return c.put(ctx, key, j, was, w)
	}
	return err
}

func group(j *api.Job, role jobspecs.RoleKind) *api.TaskGroup {
	for _, g := range j.TaskGroups {
		if g.Name != nil && *g.Name == string(role) {
			return g
		}
	}
	return nil
}

// empty: no group but the role's is above zero.
func empty(j *api.Job, role jobspecs.RoleKind) bool {
	return !slices.ContainsFunc(j.TaskGroups, func(g *api.TaskGroup) bool {
		return *g.Name != string(role) && g.Count != nil && *g.Count > 0
	})
}

// end stops a deployment's job and revokes what its allocations join with.
func (c *Cluster) end(ctx context.Context, key jobKey, was *api.Job, deployment string) error {
	if was.Stop == nil || !*was.Stop {
		_, err := write(ctx, c, "stop job", key.namespace, func(o *api.WriteOptions) (string, *api.WriteMeta, error) {
			return c.api.Jobs().DeregisterOpts(key.id, &api.DeregisterOptions{}, o)
		})
		if err != nil && !notFound(err) {
			return verdict(err)
		}
	}
	return c.revoke(ctx, key, deployment)
}

func (c *Cluster) revoke(ctx context.Context, key jobKey, deployment string) error {
	if c.o.Revoke != nil {
		if err := c.o.Revoke(deployment); err != nil {
			return refused("revoke what its allocations join with: %w", err)
		}
	}
	c.dropVariable(ctx, key)
	return nil
}

// scale changes a count and nothing else.
func (c *Cluster) scale(ctx context.Context, key jobKey, w wanted, was *api.Job) error {
	n := int64(w.N)
	req := &api.ScalingRequest{
		Count: &n, Target: map[string]string{"Job": key.id, "Group": string(w.role)},
		Message: fmt.Sprintf("Penstock: %d of revision %d are wanted", w.N, w.Revision),
		Meta:    map[string]any{render.NomadInstallation: c.o.Installation},
	}
	if was.JobModifyIndex != nil {
		req.JobModifyIndex = *was.JobModifyIndex // servers of before 1.9 do not look at it
	}
	_, err := write(ctx, c, "scale job", key.namespace, func(o *api.WriteOptions) (*api.JobRegisterResponse, *api.WriteMeta, error) {
		return c.api.Jobs().ScaleWithRequest(key.id, req, o)
	})
	if err == nil || busy(err) || outOfBounds(err) || conflict(err) {
		return err
	}
	return verdict(err)
}

// put registers the job with the role's group rendered anew and the others as Nomad has them.
func (c *Cluster) put(ctx context.Context, key jobKey, j, was *api.Job, w wanted) error {
	g, err := render.NomadGroup(c.site(), w.d, w.role, w.NomadCount)
	if err != nil {
		return refused("%w", err)
	}
	index := uint64(0)
	if was != nil {
		index = *was.JobModifyIndex
		j.TaskGroups = others(was, w)
	}
	j.TaskGroups = append(j.TaskGroups, g)
	if err := c.offer(ctx, key, w.d.Name); err != nil {
		return err
	}
	p, err := c.plan(ctx, key, j)
	if err != nil {
		return verdict(err)
	}
	if p.JobModifyIndex != index {
		return errMoved
	}
	if err := c.register(ctx, key, j, index); err != nil {
		return err
	}
	return c.leave(ctx, key, w.d.Name)
}

// leave stops the jobs that the deployment had in other namespaces.
func (c *Cluster) leave(ctx context.Context, now jobKey, deployment string) error {
	var old []jobKey
	c.mu.Lock()
	for key, r := range c.jobs {
		if key != now && r.ours(c.o.Installation) && r.launch() == "" && r.deployment() == deployment && !r.stopped() {
			old = append(old, key)
		}
	}
	c.mu.Unlock()
	for _, key := range old {
		if err := c.deregister(ctx, key); err != nil {
			return fmt.Errorf("stop job %s in namespace %s, where it was before: %w", key.id, key.namespace, err)
		}
		c.dropVariable(ctx, key)
	}
	return nil
}

// errMoved is a conflict that shows in the plan already.
var errMoved = errors.New("the job has changed since it was read")

// others are the job's groups but the role's, without those that the deployment has no more and that are at zero. A job that
// was stopped has none running, whatever its groups say.
func others(was *api.Job, w wanted) (list []*api.TaskGroup) {
	for _, g := range was.TaskGroups {
		if *g.Name == string(w.role) {
			continue
		}
		if was.Stop != nil && *was.Stop {
			g.Count = new(0)
		}
		if _, kept := w.d.Roles[jobspecs.RoleKind(*g.Name)]; kept || *g.Count > 0 {
			list = append(list, g)
		}
	}
	return list
}

// offer sees to it that allocations find what they join with.
func (c *Cluster) offer(ctx context.Context, key jobKey, deployment string) error {
	join, err := c.o.Join(deployment)
	if err != nil {
		return refused("what its allocations join with: %w", err)
	}
	return c.putVariable(ctx, key, join)
}
