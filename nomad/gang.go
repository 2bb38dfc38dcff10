package nomad

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/scheduler/cluster"
)

// gang is one launch's job. It is one thing: it is pending until all members run, and over as soon as one of them is. Nomad
// would go on with the others, and start a new member for a lost one, which the engine's other ranks cannot use; so the whole
// is released then. The barrier gives back what was placed where not all of it can be.
func (c *Cluster) gang(ctx context.Context, key jobKey, r *jobRecord, stub *api.JobListStub, allocs []*api.AllocationListStub) cluster.Job {
	m := membersOf(r, allocs)
	j := m.job(key, r)
	if r.stopped() || j.State == cluster.JobEnded && m.living() == 0 {
		if j.State == cluster.JobEnded && m.living() == 0 {
			c.dropVariable(ctx, key)
		}
		return j
	}
	why := m.broken()
	if why == "" && m.running() < m.wanted && m.running()+m.placed() > 0 && !m.began.IsZero() && c.now().Sub(m.began) > c.o.Barrier {
		why = fmt.Sprintf("%d of %d members were placed within %s", m.running()+m.placed(), m.wanted, c.o.Barrier)
	}
	if why != "" {
		return c.release(ctx, key, j, why)
	}
	if j.State == cluster.JobPending {
		j.Reason = c.whyPending(ctx, key, r, stub, m)
	}
	return j
}

// release gives back what a gang holds.
func (c *Cluster) release(ctx context.Context, key jobKey, j cluster.Job, why string) cluster.Job {
	if err := c.deregister(ctx, key); err != nil {
		c.log.Warn().Err(err).Str("job", key.id).Str("launch", string(j.Launch)).Msg("gang not released")
		return j
	}
	c.metrics.released.Inc()
	c.log.Info().Str("job", key.id).Str("launch", string(j.Launch)).Str("why", why).Msg("gang released")
	if j.State != cluster.JobEnded {
		j.State, j.Reason = cluster.JobEnding, "released: "+why
	}
	return j
}

// members are the allocations of a gang.
type members struct {
	wanted int
	began  time.Time // when the first was placed
	allocs []*api.AllocationListStub
	views  []cluster.Job
}

func membersOf(r *jobRecord, allocs []*api.AllocationListStub) *members {
	m := &members{allocs: slices.Clone(allocs)}
	for _, g := range r.job.TaskGroups {
		if g.Count != nil {
			m.wanted += *g.Count
		}
	}
	slices.SortFunc(m.allocs, func(a, b *api.AllocationListStub) int {
		return cmp.Or(cmp.Compare(indexOf(a.Name), indexOf(b.Name)), cmp.Compare(a.CreateIndex, b.CreateIndex), cmp.Compare(a.ID, b.ID))
	})
	for _, a := range m.allocs {
		m.views = append(m.views, view(a))
		if at := when(a.CreateTime); m.began.IsZero() || at.Before(m.began) {
			m.began = at
		}
	}
	return m
}

func (m *members) count(state cluster.JobState) (n int) {
	for _, v := range m.views {
		if v.State == state {
			n++
		}
	}
	return n
}

func (m *members) running() int { return m.count(cluster.JobRunning) }
func (m *members) placed() int  { return m.count(cluster.JobPending) }

// living counts the members that may still run, as far as Nomad knows.
func (m *members) living() int { return len(m.views) - m.count(cluster.JobEnded) }

// firstOver is the member that ended first; nil = none has.
func (m *members) firstOver() *cluster.Job {
	var first *cluster.Job
	for i := range m.views {
		if v := &m.views[i]; v.State == cluster.JobEnded && (first == nil || v.Ended.Before(first.Ended)) {
			first = v
		}
	}
	return first
}

// broken says why a gang cannot be whole any more; empty = it can.
func (m *members) broken() string {
	seen := map[int]bool{}
	for _, v := range m.views {
		switch {
		case seen[v.Index]:
			return fmt.Sprintf("Nomad has replaced member %d", v.Index)
		case v.State == cluster.JobEnded && (m.living() > 0 || v.Exit == nil || *v.Exit != (cluster.Exit{})):
			return fmt.Sprintf("member %d on %s is over: %s", v.Index, v.Nodes, v.Reason)
		case v.State == cluster.JobEnding:
			return fmt.Sprintf("member %d on %s: %s", v.Index, v.Nodes, v.Reason)
		}
		seen[v.Index] = true
	}
	return ""
}

// job sums the members up.
func (m *members) job(key jobKey, r *jobRecord) cluster.Job {
	j := cluster.Job{ID: nativeID(key), Launch: r.launch()}
	over := m.firstOver()
	switch {
	case over != nil && m.living() == 0, r.stopped() && m.living() == 0:
		j.State = cluster.JobEnded
	case over != nil, r.stopped(), m.count(cluster.JobEnding) > 0:
		j.State, j.Reason = cluster.JobEnding, "its members are being stopped"
	case m.count(cluster.JobUnknown) > 0:
		j.State, j.Reason = cluster.JobUnknown, "the client of a member has lost its servers"
	case m.running() == m.wanted:
		j.State = cluster.JobRunning
	default:
		j.State, j.Reason = cluster.JobPending, fmt.Sprintf("%d of %d members run", m.running(), m.wanted)
		return j
	}
	seen := map[int]bool{}
	for _, v := range m.views {
		if !seen[v.Index] {
			j.Nodes = append(j.Nodes, v.Nodes...)
		}
		seen[v.Index] = true
		if v.Started.After(j.Started) {
			j.Started = v.Started
		}
		if v.Ended.After(j.Ended) {
			j.Ended = v.Ended
		}
	}
	if j.State != cluster.JobEnded {
		j.Ended = time.Time{}
		return j
	}
	m.ended(&j, r, over)
	return j
}

// ended says how a gang ended: as its first member did.
func (m *members) ended(j *cluster.Job, r *jobRecord, over *cluster.Job) {
	if over == nil {
		j.Reason, j.Cause = "stopped before any of it was placed", cluster.EndedCancelled
		if r.job.SubmitTime != nil {
			j.Ended = when(*r.job.SubmitTime)
		}
		return
	}
	j.Exit, j.Cause, j.Reason = over.Exit, over.Cause, over.Reason
	if m.wanted > 1 {
		j.Reason = fmt.Sprintf("member %d: %s", over.Index, over.Reason)
	}
	if n := m.ran(); n < m.wanted {
		j.Reason, j.Cause = fmt.Sprintf("released: %d of %d members ran, and all or none do", n, m.wanted), cluster.EndedCancelled
	}
}

// ran counts the members that have ever run.
func (m *members) ran() int {
	seen := map[int]bool{}
	for _, v := range m.views {
		if !v.Started.IsZero() {
			seen[v.Index] = true
		}
	}
	return len(seen)
}
