package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// What launches took is learned from the launches that the ledger remembers, so that a restart of the controller forgets
// nothing. An estimate is what nine of ten took, of the last keptSamples; with fewer than ten it is the longest.
const keptSamples = 20

// fewSamples: as long as fewer waits in a queue are known, no less than the default is expected.
const fewSamples = 5

// shape is what the wait in a cluster's queue depends on.
type shape struct {
	cluster                                                jobspecs.ClusterKind
	partition, account, qos, reservation, constraint, pool string
	nodes, gpus                                            int
	gpuType                                                string
}

func shapeOf(d jobspecs.Deployment, kind jobspecs.RoleKind) shape {
	r := d.Roles[kind]
	return shape{
		cluster: d.Cluster, partition: d.Slurm.Partition, account: d.Slurm.Account, qos: d.Slurm.QOS,
		reservation: d.Slurm.Reservation, constraint: d.Slurm.Constraint, pool: d.Nomad.NodePool,
		nodes: nodes(r), gpus: r.GPUs.Count, gpuType: r.GPUs.Type,
	}
}

// sample is how long one launch took, and when.
type sample struct {
	at   time.Time
	took time.Duration
}

// queueWait is how long a job of the role is expected to wait in its cluster's queue.
func (p *planner) queueWait(d *deployment, r *role) Estimate {
	e, ok := p.queues[r]
	if !ok {
		e = p.learnedWait(d, r)
		p.queues[r] = e
	}
	return e
}

func (p *planner) learnedWait(d *deployment, r *role) Estimate {
	c := p.clusters[d.Spec.Cluster]
	if c != nil && c.Capacity.Places {
		return Estimate{Samples: 1} // it has no queue: what fits is started at once
	}
	if p.waits == nil {
		p.learnWaits()
	}
	key := shapeOf(d.Spec, r.kind)
	e, _ := quantile(p.waits[key])
	if e.Samples < fewSamples { // a lucky start says little of a queue
		e.Value = max(e.Value, p.timing.QueueWait)
	}
	e.Value = max(e.Value, p.waiting[key]) // one that waits still tells as much
	return e
}

// learnWaits collects the waits of all launches. Those that a limit or a dependency held back say nothing of the queue.
func (p *planner) learnWaits() {
	p.waits, p.waiting = map[shape][]sample{}, map[shape]time.Duration{}
	for _, d := range p.deployments {
		for _, r := range d.roles {
			for _, l := range r.launches() {
				if l.After != "" || l.Limit != "" {
					continue
				}
				spec, ok := d.spec(l.Revision)
				if !ok {
					continue
				}
				key := shapeOf(spec, l.Role)
				switch {
				case !l.StartedAt.IsZero():
					p.waits[key] = append(p.waits[key], sample{l.StartedAt, max(0, l.StartedAt.Sub(l.CreatedAt))})
				case l.Phase == cluster.Submitted && l.Run == "":
					p.waiting[key] = max(p.waiting[key], p.now.Sub(l.CreatedAt))
				}
			}
		}
	}
}

// startUp is how long a replica of the role is expected to need from the start of its job until it is ready: as those of
// the same revision did, else as those of others.
func (p *planner) startUp(d *deployment, r *role) Estimate {
	if e, ok := p.startUps[r]; ok {
		return e
	}
	var same, others []sample
	for _, l := range r.launches() {
		began := l.StartedAt
		if began.IsZero() {
			began = l.AdmittedAt
		}
		if began.IsZero() || l.ReadyAt.Before(began) {
			continue
		}
		s := sample{l.ReadyAt, l.ReadyAt.Sub(began)}
		if d.current(l.Revision, r.kind) {
			same = append(same, s)
		} else {
			others = append(others, s)
		}
	}
	e, known := quantile(same)
	if !known {
		e, known = quantile(others)
	}
	if !known {
		e.Value = p.timing.StartUp
	}
	p.startUps[r] = e
	return e
}

// quantile is what nine of ten of the latest samples took at most.
func quantile(samples []sample) (Estimate, bool) {
	if len(samples) == 0 {
		return Estimate{}, false
	}
	samples = slices.SortedFunc(slices.Values(samples), func(a, b sample) int { return cmp.Or(b.at.Compare(a.at), cmp.Compare(a.took, b.took)) })
	samples = samples[:min(len(samples), keptSamples)]
	took := make([]time.Duration, len(samples))
	for i, s := range samples {
		took[i] = s.took
	}
	slices.Sort(took)
	return Estimate{Value: took[(len(took)*9+9)/10-1], Samples: len(took)}, true
}

// launches lists all launches of a role, live or over.
func (r *role) launches() []*cluster.Launch {
	all := slices.Clone(r.ended)
	for _, s := range r.live {
		all = append(all, s.Launch)
	}
	return all
}
