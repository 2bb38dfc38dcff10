package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// reportCluster says that a cluster does not answer.
func (p *planner) reportCluster(kind jobspecs.ClusterKind) {
	c := p.clusters[kind]
	if c.JobsKnown && c.CapacityKnown {
		return
	}
	what := "which jobs there are"
	if c.JobsKnown {
		what = "which nodes there are"
	}
	p.do(Action{
		Verb: Wait, Cluster: kind, Index: -1, Cause: NoAnswer,
		Reason: fmt.Sprintf("cluster %s does not tell %s: %s; nothing is started there until it does", kind, what, p.whyNot(c)),
	})
}

// strayJobs ends jobs of launches that are over, such as those of a submit that was given up and accepted after all. Jobs
// whose token the ledger does not know are left alone: it may be the ledger that has forgotten.
func (p *planner) strayJobs() {
	for _, d := range p.deployments {
		for _, r := range d.ordered() {
			for _, l := range r.ended {
				p.stopStray(l)
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(p.clusters)) {
		p.reportStrangers(p.clusters[kind])
	}
}

func (p *planner) stopStray(l *cluster.Launch) {
	c := p.clusters[l.Cluster]
	if c == nil || !c.JobsKnown {
		return
	}
	jobs := slices.SortedFunc(slices.Values(c.jobs[l.ID]), func(a, b *cluster.Job) int { return cmp.Compare(a.ID, b.ID) })
	for _, j := range jobs {
		if j.State == cluster.JobEnded || j.State == cluster.JobEnding {
			continue
		}
		a := about(Stop, l, "job %s belongs to a launch that is over: %s", j.ID, l.EndReason)
		a.Job, a.Grace = j.ID, p.timing.StopGrace
		p.do(a)
	}
}

func (p *planner) reportStrangers(c *clusterView) {
	if !c.JobsKnown {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(c.jobs)) {
		if id == "" || p.known[id] || !c.lives(id) || p.adoptable(c, id) {
			continue
		}
		p.do(Action{
			Verb: Wait, Cluster: c.kind, Index: -1, Launch: id, Cause: Stray,
			Reason: fmt.Sprintf("cluster %s runs a job of launch %s, which the ledger does not know; it is left alone", c.kind, id),
		})
	}
}

// adoptable: the job is of a counted role that the ledger knows.
func (p *planner) adoptable(c *clusterView, id cluster.LaunchID) bool {
	return slices.ContainsFunc(c.jobs[id], func(j *cluster.Job) bool {
		return slices.ContainsFunc(p.deployments, func(d *deployment) bool { return !d.gone && d.Name == j.Role.Deployment })
	})
}
