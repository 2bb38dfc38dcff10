package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/place"
)

// startAll gives the candidates their places: replicas that are missing, then successors, then those that a rollout wants
// on top.
func (p *planner) startAll() {
	slices.SortStableFunc(p.candidates, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.d.Name, b.d.Name))
	})
	spaces := map[jobspecs.ClusterKind]*place.Space{}
	for rest := p.candidates; len(rest) > 0; {
		n := 1 // all of one role at a time
		for n < len(rest) && rest[n].r == rest[0].r && rest[n].rank == rest[0].rank {
			n++
		}
		p.startRole(rest[:n], spaces)
		rest = rest[n:]
	}
}

// startRole starts as many replicas of one role as there is room for.
func (p *planner) startRole(cs []candidate, spaces map[jobspecs.ClusterKind]*place.Space) {
	d, r := cs[0].d, cs[0].r
	kind := d.Spec.Cluster
	c := p.clusters[kind]
	if c == nil || !c.JobsKnown || !c.CapacityKnown {
		p.wait(d, r, NoAnswer, len(cs), "%s of %s cannot be started on cluster %s: %s", replicas(len(cs)), r.kind, kind, p.whyNot(c))
		return
	}
	request := requestOf(d, d.Spec, r.kind)
	request.Among = d.among()
	for i, cand := range cs {
		var placed []cluster.Placement
		if c.Capacity.Places {
			if spaces[kind] == nil {
				spaces[kind] = place.New(p.usable(c), p.used(c))
			}
			var err error
			if placed, err = spaces[kind].Place(request); err != nil {
				if cand.rank == successors {
					p.noSuccessor(cs[i:])
				} else {
					p.noRoom(d, r, len(cs)-i, err)
				}
				return
			}
		}
		p.do(Action{
			Verb: Start, Deployment: d.Name, Role: r.kind, Index: cand.index, Cluster: kind, Revision: d.Revision,
			Reason: cand.reason, New: p.newLaunch(cand, placed),
		})
	}
}

func (p *planner) whyNot(c *clusterView) string {
	switch {
	case c == nil:
		return "this controller has no such cluster"
	case c.Why != "":
		return c.Why
	}
	return "it does not answer"
}

// noRoom waits for room, and says how to make some where a rollout stands in its own way.
func (p *planner) noRoom(d *deployment, r *role, n int, err error) {
	cause, hint := NoRoom, ""
	if no := (*place.NoFit)(nil); errors.As(err, &no) && no.Never {
		cause, hint = NeverFits, fmt.Sprintf("; roles.%s.%s asks for it", r.kind, no.Field)
	} else if why := p.tooMuch(d); why != "" {
		cause, hint = NeverFits, "; and there will be none: "+why
	} else if c := d.census(r); len(c.older) > 0 && unavailable(r.spec) == 0 {
		hint = "; rollout.unavailable: 1 would let an older replica go first"
	}
	a := p.wait(d, r, cause, n, "no room for %s of %s: each %v%s", replicas(n), r.kind, err, hint)
	for _, s := range r.live { // what leaves makes room
		if by := s.DrainBy.Add(p.startUp(d, r).Value); cause == NoRoom && s.draining() && (a.Until.IsZero() || by.Before(a.Until)) {
			a.Until = by
		}
	}
}

// tooMuch says why a deployment is more than its cluster has, even with every node up and nothing else running; empty = it
// may not be.
func (p *planner) tooMuch(d *deployment) string {
	var wants []place.Want
	for kind := range d.Spec.Roles {
		request := requestOf(d, d.Spec, kind)
		request.Among = d.among()
		wants = append(wants, place.Want{Name: string(kind), Request: request, N: d.Wanted(kind)})
	}
	slices.SortFunc(wants, func(a, b place.Want) int { return cmp.Compare(a.Name, b.Name) })
	return place.TooMuch(p.clusters[d.Spec.Cluster].Capacity, wants)
}

// requestOf is what one replica of a role needs.
func requestOf(d *deployment, spec jobspecs.Deployment, kind jobspecs.RoleKind) place.Request {
	spec.Name = d.Name // of a deployment that is gone only the name is left
	return place.RequestOf(spec, kind)
}

// among names the only nodes for the replicas of a deployment whose file declares nodes of this machine; nil = any.
func (d *deployment) among() (names []string) {
	if d.Spec.Cluster != jobspecs.LocalCluster {
		return nil
	}
	for _, n := range d.Spec.Local.Nodes {
		names = append(names, n.Name)
	}
	return names
}

// used lists what is taken on a cluster: by live launches, and by launches that are over but have a job that may live on.
func (p *planner) used(c *clusterView) (used []place.Use) {
	for _, d := range p.deployments {
		for _, r := range d.roles {
			for _, s := range r.live {
				if s.Cluster == c.kind {
					used = append(used, uses(d, s.Launch)...)
				}
			}
			for _, l := range r.ended {
				if l.Cluster == c.kind && c.lives(l.ID) {
					used = append(used, uses(d, l)...)
				}
			}
		}
	}
	return used
}

func uses(d *deployment, l *cluster.Launch) []place.Use {
	spec, _ := d.spec(l.Revision)
	need := requestOf(d, spec, l.Role)
	used := make([]place.Use, len(l.Placement))
	for i, at := range l.Placement {
		used[i] = place.Use{Node: at.Node, GPUs: at.GPUs, CPUs: need.CPUs, Memory: need.Memory, Spread: need.Spread, Near: need.Near}
	}
	return used
}

// lives reports whether a job of the launch may still run.
func (c *clusterView) lives(id cluster.LaunchID) bool {
	return slices.ContainsFunc(c.jobs[id], func(j *cluster.Job) bool { return j.State != cluster.JobEnded })
}
