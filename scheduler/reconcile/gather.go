package reconcile

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// gather reads everything that a plan is made from. The order matters: tasks before the ledger, so that a launch whose
// submit ends in between is seen in both and not in neither; the fleet before the ledger, so that whatever the fleet
// knows is in the ledger by then.
func (l *Loop) gather(now time.Time) (plan.Wanted, plan.Seen) {
	starting, busy, submitted := l.tasks.underWay(now)
	seen := plan.Seen{
		Fleet: l.o.Fleet.Snapshot(now), Busy: busy, Since: l.since,
		Clusters: make(map[jobspecs.ClusterKind]plan.Cluster, len(l.polls)),
	}
	seen.Launches = merged(l.o.Ledger.Launches(), starting)
	for kind, p := range l.polls {
		a := p.answers(now)
		l.countMissing(kind, a, seen.Launches, busy, submitted)
		_, submits := p.cluster.(cluster.Submitter)
		_, counts := p.cluster.(cluster.Counter)
		held := make(map[cluster.RoleRef]cluster.RoleCount, len(a.counts.value))
		for _, n := range a.counts.value {
			held[n.Role] = n
		}
		seen.Clusters[kind] = plan.Cluster{
			Jobs: a.jobs.value, JobsKnown: a.jobsKnown, Capacity: a.capacity.value, CapacityKnown: a.capacityKnown, Why: a.why,
			Counts: counts, OnlyCounts: counts && !submits, CountsKnown: a.countsKnown, Set: held,
			Telling: l.tasks.telling(kind, a.counts.asked, now),
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	seen.Missing = maps.Clone(l.missing)
	return plan.Wanted{Deployments: l.wanted(l.o.Ledger.Deployments(), seen.Launches), Timing: l.o.Timing}, seen
}

// merged adds to the ledger's launches those that are about to be put there.
func merged(launches, starting []cluster.Launch) []cluster.Launch {
	if len(starting) == 0 {
		return launches
	}
	known := make(map[cluster.LaunchID]bool, len(launches))
	for _, x := range launches {
		known[x.ID] = true
	}
	for _, x := range starting {
		if !known[x.ID] {
			launches = append(launches, x)
		}
	}
	return launches
}

// countMissing takes a new answer of a cluster into account: which launches it has no job of. Answers that were asked for
// before the launch's submit was over don't count.
func (l *Loop) countMissing(kind jobspecs.ClusterKind, a answers, launches []cluster.Launch, busy map[cluster.LaunchID]string, submitted map[cluster.LaunchID]time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !a.jobsKnown || a.jobs.n == l.counted[kind] {
		return
	}
	l.counted[kind] = a.jobs.n
	listed := make(map[cluster.LaunchID]bool, len(a.jobs.value))
	for i := range a.jobs.value {
		listed[a.jobs.value[i].Launch] = true
	}
	for i := range launches {
		x := &launches[i]
		if x.Cluster != kind {
			continue
		}
		_, beingDone := busy[x.ID]
		if x.Phase == cluster.Ended || listed[x.ID] || beingDone || a.jobs.asked.Before(submitted[x.ID]) {
			delete(l.missing, x.ID)
			continue
		}
		m := l.missing[x.ID]
		if m.Answers++; m.Answers == 1 {
			m.Since = a.jobs.asked
		}
		l.missing[x.ID] = m
	}
}

// wanted turns the ledger's deployments into the planner's. The lock is held.
func (l *Loop) wanted(deployments []ledger.Deployment, launches []cluster.Launch) []plan.Deployment {
	revisions := map[string]map[int]bool{}
	for i := range launches {
		x := &launches[i]
		if revisions[x.Deployment] == nil {
			revisions[x.Deployment] = map[int]bool{}
		}
		revisions[x.Deployment][x.Revision] = true
		if !x.ReadyAt.IsZero() {
			l.proven[provenRevision{x.Deployment, x.Revision}] = true
		}
	}
	out := make([]plan.Deployment, 0, len(deployments))
	for _, d := range deployments {
		w := plan.Deployment{
			Name: d.Name, Damaged: d.Damaged, Spec: d.Spec, Revision: d.Revision, Previous: d.Previous,
			Proven: l.proven[provenRevision{d.Name, d.Revision}], Scale: d.Scale, Told: d.Told, Stopped: d.Stopped,
			Since: d.Since, GPUTime: d.GPUTime,
			Revisions: map[int]jobspecs.Deployment{},
		}
		if w.AskedAt = time.Now(); l.o.AskedAt != nil {
			w.AskedAt = l.o.AskedAt(d.Name)
		}
		need := revisions[d.Name]
		if need == nil {
			need = map[int]bool{}
		}
		need[d.Previous] = true
		for _, t := range d.Told {
			need[t.Revision], need[t.AskedRevision] = true, true
		}
		for n := range need {
			if spec, err := l.o.Ledger.Revision(d.Name, n); err == nil && n != d.Revision {
				w.Revisions[n] = spec
			}
		}
		out = append(out, w)
	}
	return out
}

// DryRun returns what would be decided now if the deployment were applied as it is (nil: as things are). Nothing is done.
// It waits for each cluster's first answer, at most until ctx ends.
func (l *Loop) DryRun(ctx context.Context, d *jobspecs.Deployment) ([]plan.Action, error) {
	for _, p := range l.polls {
		select {
		case <-p.first:
		case <-ctx.Done():
			return nil, fmt.Errorf("plan: wait for cluster %s to answer: %w", p.cluster.Kind(), ctx.Err())
		}
	}
	now := time.Now()
	wanted, seen := l.gather(now)
	if d != nil {
		wanted.Deployments = applied(wanted.Deployments, *d)
		if err := l.previewCapacity(ctx, *d, seen); err != nil {
			return nil, fmt.Errorf("plan: %w", err)
		}
	}
	return plan.Plan(wanted, seen, now), nil
}

// previewer is a cluster to which a deployment's own file may add nodes.
type previewer interface {
	CapacityWith(context.Context, jobspecs.Deployment) (cluster.Capacity, error)
}

// previewCapacity takes the nodes that the deployment brings along into what is seen.
func (l *Loop) previewCapacity(ctx context.Context, d jobspecs.Deployment, seen plan.Seen) error {
	c, ok := l.o.Clusters[d.Cluster].(previewer)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.o.CallTimeout)
	defer cancel()
	capacity, err := c.CapacityWith(ctx, d)
	if err != nil {
		return err
	}
	view := seen.Clusters[d.Cluster]
	view.Capacity, view.CapacityKnown = capacity, true
	seen.Clusters[d.Cluster] = view
	return nil
}

// applied returns the deployments as they would be after one more was applied.
func applied(deployments []plan.Deployment, spec jobspecs.Deployment) (out []plan.Deployment) {
	next := plan.Deployment{Name: spec.Name, Spec: spec, Revision: 1, Revisions: map[int]jobspecs.Deployment{}}
	for _, d := range deployments {
		if d.Name != spec.Name {
			out = append(out, d)
			continue
		}
		if d.Damaged == "" && jobspecs.Hash(d.Spec) == jobspecs.Hash(spec) {
			next = d
			if d.Stopped {
				next.Scale = nil
			}
			next.Stopped, next.Since = false, time.Time{} // a new lifetime begins
			continue
		}
		maps.Copy(next.Revisions, d.Revisions)
		next.Revisions[d.Revision] = d.Spec
		next.Revision, next.Previous = d.Revision+1, d.Revision
		next.Scale = map[jobspecs.RoleKind]int{}
		for role, n := range d.Scale { // as the ledger does: an override lives until the file's own count changes, or a stop
			if was, is := d.Spec.Roles[role], spec.Roles[role]; was.Replicas == is.Replicas && !d.Stopped {
				next.Scale[role] = n
			}
		}
	}
	return append(out, next)
}
