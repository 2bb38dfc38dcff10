package clustertest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// SimCounter is a Sim seen as a cluster that keeps roles at a count by itself, as Nomad does: it starts replacements and
// rolls revisions out one replica after the other, each stopped before its successor starts. It is a cluster.Counter and
// no Submitter; the test moves time and injects faults through the Sim that it was made of.
type SimCounter struct {
	sim     *Sim
	opts    SimCounterOptions
	groups  map[cluster.RoleRef]*simGroup // guarded by sim.mu
	members map[string]*simGroup          // job ID -> its group
}

// SimCounterOptions say how groups behave.
type SimCounterOptions struct {
	RestartDelay time.Duration // from the end of a replica to its replacement
	Grace        time.Duration // of replicas that a lower count or a new revision stops; default 30s
}

// simGroup is one role at a count.
type simGroup struct {
	role     cluster.RoleRef
	spec     jobspecs.Deployment
	revision int
	count    int
	version  uint64
	// changedBy is who has changed it last, if not SetCount.
	changedBy string
	slots     []string // by index: the job that has it; empty = being replaced
}

var _ cluster.Counter = (*SimCounter)(nil)

// NewSimCounter turns a Sim into a Counter. The Sim must place jobs itself (not Places) and must not be submitted to
// otherwise.
func NewSimCounter(sim *Sim, o SimCounterOptions) *SimCounter {
	if o.Grace == 0 {
		o.Grace = 30 * time.Second
	}
	c := &SimCounter{sim: sim, opts: o, groups: map[cluster.RoleRef]*simGroup{}, members: map[string]*simGroup{}}
	sim.mu.Lock()
	defer sim.mu.Unlock()
	sim.changed = c.changed
	return c
}

// Kind returns nomad, the kind that has this form.
func (c *SimCounter) Kind() jobspecs.ClusterKind { return jobspecs.NomadCluster }

// Jobs lists the groups' jobs with their Role, Index and Revision.
func (c *SimCounter) Jobs(ctx context.Context) ([]cluster.Job, error) { return c.sim.Jobs(ctx) }

// Stop ends one job. Its group replaces it, as it replaces every job that it has lost.
func (c *SimCounter) Stop(ctx context.Context, job string, grace time.Duration) error {
	return c.sim.Stop(ctx, job, grace)
}

// Capacity lists the nodes.
func (c *SimCounter) Capacity(ctx context.Context) (cluster.Capacity, error) {
	return c.sim.Capacity(ctx)
}

// SetCount sets what a group should be. Jobs start, and those above the count are asked to stop, highest index first.
func (c *SimCounter) SetCount(ctx context.Context, role cluster.RoleRef, d jobspecs.Deployment, revision, n int) error {
	name := role.Deployment + "/" + string(role.Role)
	fault, err := c.sim.enter(ctx, SetCountCall)
	if err != nil {
		return fmt.Errorf("set the count of %s: %w", name, err)
	}
	c.sim.mu.Lock()
	defer c.sim.mu.Unlock()
	if _, err := c.sim.need(submissionOf(role, d, revision, 0)); n > 0 && err != nil {
		return fmt.Errorf("set the count of %s: %w", name, err)
	}
	if n < 0 {
		return fmt.Errorf("set the count of %s: %d is below zero: %w", name, n, cluster.ErrRefused)
	}
	g := c.groups[role]
	if g == nil {
		g = &simGroup{role: role}
		c.groups[role] = g
	}
	if g.revision != revision || g.count != n {
		g.version++
	}
	g.spec, g.revision, g.count, g.changedBy = d, revision, n, ""
	c.settle(g)
	if fault == Accept || fault == AcceptLate {
		return fmt.Errorf("set the count of %s: answer lost: %w", name, cluster.ErrUnknown)
	}
	return nil
}

// Counts lists the groups as they were last set; one at zero is among them. Version counts the changes of a group.
func (c *SimCounter) Counts(ctx context.Context) ([]cluster.RoleCount, error) {
	if _, err := c.sim.enter(ctx, CountsCall); err != nil {
		return nil, fmt.Errorf("list counts: %w", err)
	}
	c.sim.mu.Lock()
	defer c.sim.mu.Unlock()
	list := make([]cluster.RoleCount, 0, len(c.groups))
	for _, g := range c.groups {
		n := cluster.RoleCount{Role: g.role, Revision: g.revision, N: g.count, Version: g.version, ChangedBy: g.changedBy, Own: g.changedBy == ""}
		for _, id := range g.slots {
			if j := c.sim.byID[id]; j != nil && j.job.State == cluster.JobPending {
				n.Unplaced++
				n.Why = j.job.Reason
			}
		}
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b cluster.RoleCount) int {
		return cmp.Or(cmp.Compare(a.Role.Deployment, b.Role.Deployment), cmp.Compare(a.Role.Role, b.Role.Role))
	})
	return list, nil
}

// ScaleBy changes a group's count as somebody else than Penstock would.
func (c *SimCounter) ScaleBy(who string, role cluster.RoleRef, n int) {
	c.sim.mu.Lock()
	defer c.sim.mu.Unlock()
	g := c.groups[role]
	if g == nil || n < 0 {
		return
	}
	g.count, g.changedBy = n, who
	g.version++
	c.settle(g)
}

// Count returns what a group was last set to; false = it was never set.
func (c *SimCounter) Count(role cluster.RoleRef) (revision, n int, ok bool) {
	c.sim.mu.Lock()
	defer c.sim.mu.Unlock()
	g := c.groups[role]
	if g == nil {
		return 0, 0, false
	}
	return g.revision, g.count, true
}

// settle brings a group closer to its count and revision. The Sim's lock is held.
func (c *SimCounter) settle(g *simGroup) {
	for i := len(g.slots) - 1; i >= g.count; i-- {
		delete(c.members, g.slots[i])
		if j := c.sim.byID[g.slots[i]]; j != nil {
			c.sim.stop(j, c.opts.Grace, "count lowered", cluster.EndedAsked, false)
		}
	}
	g.slots = g.slots[:min(len(g.slots), g.count)]
	for i := len(g.slots); i < g.count; i++ {
		g.slots = append(g.slots, "")
		c.startSlot(g, i)
	}
	c.rollOut(g)
}

// rollOut stops the first replica of an older revision, once all before it run.
func (c *SimCounter) rollOut(g *simGroup) {
	for _, id := range g.slots {
		j := c.sim.byID[id]
		if j != nil && j.job.State != cluster.JobEnding && j.job.Revision != g.revision {
			c.sim.stop(j, c.opts.Grace, fmt.Sprintf("replaced by revision %d", g.revision), cluster.EndedAsked, false)
		}
		if j == nil || j.job.State != cluster.JobRunning {
			return
		}
	}
}

func (c *SimCounter) startSlot(g *simGroup, index int) {
	sub := submissionOf(g.role, g.spec, g.revision, index)
	n, err := c.sim.need(sub)
	if err != nil {
		return // nodes are gone since the count was set: the slot stays empty until the next SetCount
	}
	j := c.sim.enqueue(sub, n)
	j.job.Role, j.job.Index, j.job.Revision = g.role, index, g.revision
	g.slots[index] = j.job.ID
	c.members[j.job.ID] = g
}

// changed follows a job that has started, or replaces one that its group has lost. The Sim calls it with its lock held.
func (c *SimCounter) changed(job cluster.Job) {
	g := c.members[job.ID]
	switch {
	case g == nil:
	case job.State == cluster.JobRunning:
		c.rollOut(g)
	case job.State == cluster.JobEnded:
		delete(c.members, job.ID)
		g.slots[job.Index] = ""
		c.sim.at(c.sim.now.Add(c.opts.RestartDelay), func() {
			if job.Index < len(g.slots) && g.slots[job.Index] == "" {
				c.startSlot(g, job.Index)
			}
			c.rollOut(g)
		})
	}
}

// submissionOf is what a group submits for one of its replicas. Its launch has no token: replacement is the cluster's.
func submissionOf(role cluster.RoleRef, d jobspecs.Deployment, revision, index int) cluster.Submission {
	return cluster.Submission{
		Deployment: d,
		Launch: cluster.Launch{
			Deployment: role.Deployment, Role: role.Role, Index: index, Revision: revision,
			Nodes: max(1, d.Roles[role.Role].Nodes),
		},
	}
}
