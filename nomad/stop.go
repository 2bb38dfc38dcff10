package nomad

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/scheduler/cluster"
)

var allocationID = regexp.MustCompile(`^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$`)

// nativeID is the ID of a launch's job: job@namespace. An allocation's is its own.
func nativeID(key jobKey) string { return key.id + "@" + key.namespace }

func parseNative(id string) (jobKey, bool) {
	job, namespace, ok := strings.Cut(id, "@")
	return jobKey{namespace, job}, ok && job != "" && namespace != ""
}

// Stop ends an allocation, or the job of a launch. Its agent is told at once and drains for as long as its kill_timeout lets
// it; what has not ended when the grace is over is killed by a later call of Jobs. Nomad replaces an allocation of a counted
// role.
func (c *Cluster) Stop(ctx context.Context, job string, grace time.Duration) error {
	if err := c.stop(ctx, job, grace); err != nil {
		return fmt.Errorf("stop job %s: %w", job, err)
	}
	return nil
}

func (c *Cluster) stop(ctx context.Context, id string, grace time.Duration) error {
	if err := ctx.Err(); err != nil {
		return unknown(err)
	}
	var err error
	if key, ok := parseNative(id); ok {
		err = c.stopJob(ctx, key)
	} else {
		err = c.stopAllocation(ctx, id)
	}
	if err != nil {
		return err
	}
	until := c.now().Add(grace)
	c.mu.Lock()
	defer c.mu.Unlock()
	if was, before := c.stopping[id]; !before || until.Before(was) {
		c.stopping[id] = until
	}
	return nil
}

// stopJob stops a launch's job, unless it is somebody else's.
func (c *Cluster) stopJob(ctx context.Context, key jobKey) error {
	j, err := c.readJob(ctx, key)
	switch {
	case err != nil:
		return unknown(err)
	case j == nil || j.Stop != nil && *j.Stop:
		return nil
	case j.Meta[render.NomadInstallation] != c.o.Installation:
		return refused("it is no job of this installation")
	}
	return c.deregister(ctx, key)
}

// deregister stops a job and keeps its record; a job that is gone is no error.
func (c *Cluster) deregister(ctx context.Context, key jobKey) error {
	_, err := write(ctx, c, "stop job", key.namespace, func(w *api.WriteOptions) (string, *api.WriteMeta, error) {
		return c.api.Jobs().DeregisterOpts(key.id, &api.DeregisterOptions{NoShutdownDelay: true}, w)
	})
	if err != nil && !notFound(err) {
		return verdict(err)
	}
	return nil
}

func (c *Cluster) stopAllocation(ctx context.Context, id string) error {
	if !allocationID.MatchString(id) {
		return c.stopUnknown(ctx, id)
	}
	a, err := read(ctx, c, "read allocation", everywhere, func(q *api.QueryOptions) (*api.Allocation, *api.QueryMeta, error) {
		q.Namespace = "" // an ID is one of the whole region
		return c.api.Allocations().Info(id, q)
	})
	switch {
	case notFound(err):
		return nil
	case err != nil:
		return unknown(err)
	case a.DesiredStatus != api.AllocDesiredStatusRun || a.ClientTerminalStatus():
		return nil
	case a.Job == nil || a.Job.Meta[render.NomadInstallation] != c.o.Installation:
		return refused("it is no allocation of this installation")
	}
	_, err = read(ctx, c, "stop allocation", a.Namespace, func(q *api.QueryOptions) (*api.AllocStopResponse, *api.QueryMeta, error) {
		q.Params = map[string]string{"no_shutdown_delay": "true"}
		resp, err := c.api.Allocations().Stop(a, q)
		return resp, nil, err
	})
	if err != nil && !notFound(err) {
		return verdict(err)
	}
	return nil
}

// stopUnknown is a stop of something that Nomad never gave out: there is nothing, as long as Nomad answers.
func (c *Cluster) stopUnknown(ctx context.Context, id string) error {
	_, err := c.readJob(ctx, jobKey{id: id})
	if err != nil {
		return unknown(err)
	}
	return nil
}

// enforce kills what has had its grace.
func (c *Cluster) enforce(ctx context.Context, l listed) {
	now := c.now()
	c.mu.Lock()
	due := map[string]bool{}
	for id, until := range c.stopping {
		if !now.Before(until) {
			due[id] = true
		}
	}
	c.mu.Unlock()
	if len(due) == 0 {
		return
	}
	living := map[string]bool{}
	for key, allocs := range l.allocs {
		for _, a := range allocs {
			id := a.ID
			if l.records[key].launch() != "" {
				id = nativeID(key)
			}
			if !due[id] || stateOf(a) == cluster.JobEnded {
				continue
			}
			living[id] = true
			if a.ClientStatus == api.AllocClientStatusRunning {
				c.kill(ctx, a)
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range due {
		if !living[id] {
			delete(c.stopping, id)
		}
	}
}

func (c *Cluster) kill(ctx context.Context, a *api.AllocationListStub) {
	_, err := read(ctx, c, "signal allocation", a.Namespace, func(q *api.QueryOptions) (struct{}, *api.QueryMeta, error) {
		return struct{}{}, nil, c.api.Allocations().Signal(&api.Allocation{ID: a.ID, Namespace: a.Namespace, NodeID: a.NodeID}, q, render.NomadTask, "SIGKILL")
	})
	if err != nil && (strings.Contains(words(err), "Task not running") || strings.Contains(words(err), "already finished")) {
		return // it has ended, and its client has not said so yet
	}
	c.log.Info().Err(err).Str("job", a.ID).Str("node", a.NodeName).Msg("allocation has not ended in its grace and is killed")
}
