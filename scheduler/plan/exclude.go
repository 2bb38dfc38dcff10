package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Excluded is a node that gets no launches for a while, since it has killed some.
type Excluded struct {
	Cluster jobspecs.ClusterKind
	Node    string
	Until   time.Time
	Reason  string
}

// killsToExclude is after how many incidents that have killed launches a node is excluded.
const killsToExclude = 2

// exclude finds the nodes that have killed launches lately. Where that is true of more than half of a cluster's nodes, the
// cause is not the nodes, and none is excluded.
func (p *planner) exclude() {
	found := map[jobspecs.ClusterKind][]Excluded{}
	for at, kills := range p.kills() {
		slices.SortFunc(kills, func(a, b *cluster.Launch) int {
			return cmp.Or(a.EndedAt.Compare(b.EndedAt), cmp.Compare(a.ID, b.ID))
		})
		last := kills[len(kills)-1]
		if incidents(kills) < killsToExclude {
			continue
		}
		found[at.Cluster] = append(found[at.Cluster], Excluded{
			Cluster: at.Cluster, Node: at.Node, Until: last.EndedAt.Add(p.timing.ExcludeFor),
			Reason: fmt.Sprintf("%d launches have ended there by its fault, the last, %s, at %s: %s", len(kills), last.ID, clock(last.EndedAt), last.EndReason),
		})
	}
	for _, kind := range slices.Sorted(maps.Keys(found)) {
		nodes := found[kind]
		if c := p.clusters[kind]; c == nil || c.CapacityKnown && 2*len(nodes) > len(c.Capacity.Nodes) {
			continue
		}
		slices.SortFunc(nodes, func(a, b Excluded) int { return cmp.Compare(a.Node, b.Node) })
		p.excluded[kind] = nodes
	}
}

// incidents counts what happened to a node: launches that end at once have ended of one cause. They come in the order of
// their ends.
func incidents(kills []*cluster.Launch) (n int) {
	var last time.Time
	for _, l := range kills {
		if l.EndedAt.Sub(last) > atOnce {
			n++
		}
		last = l.EndedAt
	}
	return n
}

// atOnce is how far apart the ends of launches may be that have one cause.
const atOnce = time.Minute

// nodeOf names a node of a cluster.
type nodeOf struct {
	Cluster jobspecs.ClusterKind
	Node    string
}

// kills lists the launches that each node has killed lately, unless one has become ready there since.
func (p *planner) kills() map[nodeOf][]*cluster.Launch {
	kills := map[nodeOf][]*cluster.Launch{}
	for _, d := range p.deployments {
		for _, r := range d.roles {
			for _, l := range r.ended {
				if len(l.Blamed) == 0 || p.now.Sub(l.EndedAt) >= p.timing.ExcludeFor || l.Cause != cluster.EndedNodeFailed && !r.runsElsewhere(l) {
					continue
				}
				for _, n := range l.Blamed {
					kills[nodeOf{l.Cluster, n}] = append(kills[nodeOf{l.Cluster, n}], l)
				}
			}
		}
	}
	if len(kills) > 0 {
		p.forgive(kills)
	}
	return kills
}

// forgive drops nodes on which a launch has become ready since the last kill.
func (p *planner) forgive(kills map[nodeOf][]*cluster.Launch) {
	well := map[nodeOf]time.Time{}
	for _, d := range p.deployments {
		for _, r := range d.roles {
			for _, l := range r.launches() {
				for _, n := range l.Ran {
					well[nodeOf{l.Cluster, n}] = latest(well[nodeOf{l.Cluster, n}], l.ReadyAt)
				}
			}
		}
	}
	for at, list := range kills {
		last := slices.MaxFunc(list, func(a, b *cluster.Launch) int { return a.EndedAt.Compare(b.EndedAt) })
		if well[at].After(last.EndedAt) {
			delete(kills, at)
		}
	}
}

// runsElsewhere: agents of the same revision have joined from other nodes, so that what is started is not at fault.
func (r *role) runsElsewhere(l *cluster.Launch) bool {
	return slices.ContainsFunc(r.launches(), func(o *cluster.Launch) bool {
		return o.Revision == l.Revision && !o.AdmittedAt.IsZero() &&
			!slices.ContainsFunc(o.Ran, func(n string) bool { return slices.Contains(l.Blamed, n) })
	})
}

// blame names the nodes whose fault the end of a launch seems to be: that of a lost node, or of one on which its job ended
// before an agent had joined. Of several nodes, those that are down.
func (p *planner) blame(s *sight, j *cluster.Job, cause cluster.EndCause) []string {
	if cause != cluster.EndedNodeFailed && (cause != cluster.EndedFailed || s.Run != "" || j.Started.IsZero()) {
		return nil
	}
	ran := s.Ran
	if len(ran) == 0 {
		ran = j.Nodes
	}
	if len(ran) < 2 {
		return ran
	}
	var down []string
	for _, n := range s.cluster.Capacity.Nodes {
		if s.cluster.CapacityKnown && !n.Up && slices.Contains(ran, n.Name) {
			down = append(down, n.Name)
		}
	}
	return down
}

// reportExcluded says which nodes get nothing, and until when.
func (p *planner) reportExcluded(kind jobspecs.ClusterKind) {
	for _, x := range p.excluded[kind] {
		p.do(Action{
			Verb: Wait, Cluster: kind, Index: -1, Cause: ExcludedNode, Node: x.Node, Until: x.Until,
			Reason: fmt.Sprintf("node %s gets no launches until %s: %s", x.Node, clock(x.Until), x.Reason),
		})
	}
}

// names lists the excluded nodes of a cluster.
func (p *planner) excludedNames(kind jobspecs.ClusterKind) (names []string) {
	for _, x := range p.excluded[kind] {
		names = append(names, x.Node)
	}
	return names
}

// usable is a capacity without the excluded nodes: they count as down.
func (p *planner) usable(c *clusterView) cluster.Capacity {
	out := c.Capacity
	names := p.excludedNames(c.kind)
	if len(names) == 0 {
		return out
	}
	out.Nodes = slices.Clone(out.Nodes)
	for i := range out.Nodes {
		if slices.Contains(names, out.Nodes[i].Name) {
			out.Nodes[i].Up = false
		}
	}
	return out
}
