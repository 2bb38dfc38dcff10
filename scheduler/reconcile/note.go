package reconcile

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/plan"
)

// noteJobs writes into the ledger what clusters and agents say of the jobs of live launches and what must be known when
// neither can be asked: when a job was started and will end, where it ran, and which limit held it back. What launches have
// taken is learned from there.
func (l *Loop) noteJobs(s plan.Seen) error {
	var errs []error
	jobs := jobsByLaunch(s)
	for i := range s.Launches {
		x := &s.Launches[i]
		if _, busy := s.Busy[x.ID]; busy || x.Phase == cluster.Ended {
			continue
		}
		job := speaksFor(x, jobs[x.ID])
		if at := s.Fleet.Replicas[x.ID].Head().GetEndsAt(); job.EndsAt.IsZero() && at != nil {
			job.EndsAt = at.AsTime()
		}
		noted := *x
		if !note(&noted, job) {
			continue
		}
		if limit := noted.Limit; limit != x.Limit {
			l.event("limit", plan.Action{Deployment: x.Deployment, Role: x.Role, Index: x.Index, Launch: x.ID},
				fmt.Sprintf("the limit %s keeps job %s from starting: %s", limit, job.ID, job.Reason))
		}
		errs = append(errs, l.o.Ledger.UpdateLaunch(x.ID, func(x *cluster.Launch) error {
			note(x, job)
			return nil
		}))
	}
	return errors.Join(errs...)
}

// jobsByLaunch lists what the clusters that answer tell of each launch.
func jobsByLaunch(s plan.Seen) map[cluster.LaunchID][]*cluster.Job {
	jobs := make(map[cluster.LaunchID][]*cluster.Job, len(s.Launches))
	for _, c := range s.Clusters {
		for i := range c.Jobs {
			if j := &c.Jobs[i]; c.JobsKnown {
				jobs[j.Launch] = append(jobs[j.Launch], j)
			}
		}
	}
	return jobs
}

// speaksFor is the job that speaks for a launch; the zero job where there is none.
func speaksFor(x *cluster.Launch, jobs []*cluster.Job) (found cluster.Job) {
	for _, j := range jobs {
		if j.ID == x.Job || found.ID == "" {
			found = *j
		}
	}
	return found
}

// note takes what is said of a job into its launch, and reports whether that changes anything.
func note(x *cluster.Launch, j cluster.Job) (changed bool) {
	if !j.Started.IsZero() && apart(x.StartedAt, j.Started) {
		x.StartedAt, changed = j.Started, true
	}
	if !j.EndsAt.IsZero() && apart(x.EndsAt, j.EndsAt) {
		x.EndsAt, changed = j.EndsAt, true
	}
	if len(j.Nodes) > 0 && !slices.Equal(x.Ran, j.Nodes) {
		x.Ran, changed = slices.Clone(j.Nodes), true
	}
	if j.State == cluster.JobPending && j.Limit != "" && x.Limit != j.Limit {
		x.Limit, changed = j.Limit, true
	}
	return changed
}

// apart: the times differ by more than clusters round them.
func apart(a, b time.Time) bool { return a.Sub(b).Abs() > time.Second }

// tookOver tells of a successor that serves, and measures for how long nobody did in its place.
func (l *Loop) tookOver(x *cluster.Launch, launches []cluster.Launch, now time.Time) {
	i := slices.IndexFunc(launches, func(o cluster.Launch) bool { return o.ID == x.Replaces })
	if x.Replaces == "" || i < 0 {
		return
	}
	gap, old := time.Duration(0), &launches[i]
	switch {
	case !old.DrainAt.IsZero():
		gap = now.Sub(old.DrainAt)
	case !old.EndedAt.IsZero():
		gap = now.Sub(old.EndedAt)
	}
	l.metrics.gaps.Observe(max(0, gap).Seconds())
	about := plan.Action{Deployment: x.Deployment, Role: x.Role, Index: x.Index, Launch: x.ID}
	if gap > 0 {
		l.event("handover", about, fmt.Sprintf("it serves in place of %s, which left %s ago", old.ID, gap.Round(time.Second)))
		return
	}
	l.event("handover", about, fmt.Sprintf("it serves; %s, which it replaces, leaves", old.ID))
}
