package nomadtest

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/hashicorp/nomad/api"
)

// change is what an evaluation does to one group.
type change struct {
	group   string
	place   []slot
	stop    []stopping
	inPlace []*alloc
	desired api.DesiredUpdates
}

// slot is an allocation to be placed.
type slot struct {
	index    int
	previous *alloc
	canary   bool
}

type stopping struct {
	*alloc
	why string
}

// decide compares what is there of a group with what a version of the job wants. It changes nothing.
func (s *Server) decide(k key, spec *api.Job, group string) (c change) {
	c.group = group
	g := spec.LookupTaskGroup(group)
	count := 0
	if g != nil && !isTrue(spec.Stop) {
		count = *g.Count
	}
	held := s.holders(k, group)
	if count == 0 {
		for _, a := range held {
			c.end(a, "alloc not needed due to job update")
		}
		return c
	}
	held = c.migrate(held)
	held = c.doubled(held, count)
	c.update(s, k, spec, g, held)
	taken := map[int]bool{}
	for _, a := range held {
		taken[a.number()] = true
	}
	for _, p := range c.place {
		taken[p.index] = taken[p.index] || !p.canary
	}
	for i := range count {
		if !taken[i] {
			c.place = append(c.place, slot{index: i, previous: s.failedBefore(k, group, i)})
			c.desired.Place++
		}
	}
	return c
}

func (c *change) end(a *alloc, why string) {
	c.stop = append(c.stop, stopping{alloc: a, why: why})
	c.desired.Stop++
}

// holders are the allocations that stand for their index: wanted, and not to be replaced.
func (s *Server) holders(k key, group string) (list []*alloc) {
	for _, a := range s.ofJob(k) {
		if a.TaskGroup == group && a.DesiredStatus == api.AllocDesiredStatusRun && !a.replaceable {
			list = append(list, a)
		}
	}
	slices.SortStableFunc(list, func(a, b *alloc) int { return cmp.Compare(a.number(), b.number()) })
	return list
}

// failedBefore is the allocation that one of the index replaces.
func (s *Server) failedBefore(k key, group string, index int) (last *alloc) {
	for _, a := range s.ofJob(k) {
		if a.TaskGroup == group && a.number() == index && a.replaceable && a.NextAllocation == "" {
			last = a
		}
	}
	return last
}

// migrate replaces what a drain has marked.
func (c *change) migrate(held []*alloc) (rest []*alloc) {
	for _, a := range held {
		if !isTrue(a.DesiredTransition.Migrate) || a.over() {
			rest = append(rest, a)
			continue
		}
		c.stop = append(c.stop, stopping{alloc: a, why: "alloc is being migrated"})
		c.place = append(c.place, slot{index: a.number(), previous: a})
		c.desired.Migrate++
	}
	return rest
}

// doubled stops what is above the count, the highest index first, and of two allocations of one index the replacement of
// one that came back. A canary holds no index before it is promoted.
func (c *change) doubled(held []*alloc, count int) (rest []*alloc) {
	byIndex := map[int]*alloc{}
	for _, a := range held {
		other := byIndex[a.number()]
		switch {
		case a.number() >= count:
			c.end(a, "alloc not needed due to job update")
		case a.canary() || other == nil:
			rest = append(rest, a)
			if !a.canary() {
				byIndex[a.number()] = a
			}
		case other.PreviousAllocation == a.ID || a.job.Version != nil && *other.job.Version < *a.job.Version:
			c.end(other, "alloc not needed due to job update")
			rest = slices.DeleteFunc(rest, func(x *alloc) bool { return x == other })
			rest = append(rest, a)
			byIndex[a.number()] = a
		default:
			c.end(a, "alloc not needed due to job update")
		}
	}
	return rest
}

// update brings the group to the version: in place where tasks stay the same, else by canaries and then by max_parallel.
func (c *change) update(s *Server, k key, spec *api.Job, g *api.TaskGroup, held []*alloc) {
	var old []*alloc
	canaries, unhealthy := 0, 0
	for _, a := range held {
		switch {
		case spec.Version != nil && *a.job.Version == *spec.Version:
			if a.canary() {
				canaries++
			} else if a.DeploymentID != "" && !a.healthy() {
				unhealthy++
			}
			c.desired.Ignore++
		case destructive(a.job, spec, *g.Name):
			old = append(old, a)
		default:
			c.inPlace = append(c.inPlace, a)
			c.desired.InPlaceUpdate++
		}
	}
	if len(old) == 0 {
		return
	}
	limit := len(old)
	if u := updateOf(spec, g); u != nil {
		d := s.deploymentOf(k, spec)
		switch {
		case d != nil && d.Status == api.DeploymentStatusFailed:
			limit = 0
		case *u.Canary > 0 && !promoted(d, *g.Name):
			limit = 0
			for i := canaries; i < *u.Canary; i++ {
				c.place = append(c.place, slot{index: i, canary: true})
				c.desired.Canary++
			}
			c.desired.Ignore += uint64(len(old))
		default:
			limit = max(0, *u.MaxParallel-unhealthy)
		}
	}
	for _, a := range old[:min(limit, len(old))] {
		c.stop = append(c.stop, stopping{alloc: a, why: "alloc is being updated due to job update"})
		c.place = append(c.place, slot{index: a.number(), previous: a})
	}
	if limit > 0 {
		c.desired.DestructiveUpdate = uint64(len(old))
	}
}

// updateOf is the group's update strategy; nil = none, as of a batch job.
func updateOf(spec *api.Job, g *api.TaskGroup) *api.UpdateStrategy {
	u := g.Update
	if u == nil {
		u = spec.Update
	}
	if *spec.Type != api.JobTypeService || u == nil || u.MaxParallel == nil || *u.MaxParallel == 0 {
		return nil
	}
	u = u.Copy()
	u.Canonicalize()
	return u
}

// number is the allocation's index in its group.
func (a *alloc) number() int {
	n, err := strconv.Atoi(indexOfName(a.Name))
	if err != nil {
		return -1
	}
	return n
}
