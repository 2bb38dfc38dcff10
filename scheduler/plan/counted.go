package plan

import (
	"fmt"

	"github.com/penstock/penstock/scheduler/cluster"
)

// counted plans a deployment on a cluster that keeps roles at a count by itself, and reports whether it is one. Replacement
// and rollout are the cluster's; what is left is to tell it the counts.
func (p *planner) counted(d *deployment, roles []*role) bool {
	c := p.clusters[d.Spec.Cluster]
	if d.gone || c == nil || !c.Counts {
		return false
	}
	if !c.JobsKnown {
		return true
	}
	for _, r := range roles {
		if _, planned := d.Spec.Roles[r.kind]; !planned && len(r.live) == 0 {
			continue
		}
		want := Count{Revision: d.Revision, N: r.wanted}
		was, told := c.Set[cluster.RoleRef{Deployment: d.Name, Role: r.kind}]
		if told && was == want {
			continue
		}
		why := fmt.Sprintf("%s of %s are wanted, of revision %d; the cluster was told %d of revision %d", replicas(want.N), r.kind, want.Revision, was.N, was.Revision)
		if !told {
			why = fmt.Sprintf("%s of %s are wanted, of revision %d; what the cluster was told before is not known", replicas(want.N), r.kind, want.Revision)
		}
		p.do(Action{
			Verb: SetCount, Deployment: d.Name, Role: r.kind, Index: -1, Cluster: d.Spec.Cluster, Revision: d.Revision,
			Count: r.wanted, Reason: why,
		})
	}
	return true
}
