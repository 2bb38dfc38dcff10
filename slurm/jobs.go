package slurm

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// record is what is kept of a job: of one that Slurm forgets it is all there is.
type record struct {
	job       cluster.Job
	submitted time.Time // when Slurm acknowledged it to this process; zero = found in its list
	missed    time.Time // since when Slurm does not list it; zero = it does
	over      time.Time // since when it has been seen as ended
}

// Jobs lists this installation's jobs. Slurm is asked once for all of them. On the way what has vanished is looked up, and
// jobs whose grace is over are killed.
func (c *Cluster) Jobs(ctx context.Context) ([]cluster.Job, error) {
	select {
	case c.asking <- struct{}{}:
		defer func() { <-c.asking }()
	case <-ctx.Done():
		return nil, fmt.Errorf("list Slurm's jobs: %w", unknown(ctx.Err()))
	}
	asked := c.now()
	entries, err := c.slurm.jobs(ctx)
	if err != nil {
		return nil, fmt.Errorf("list Slurm's jobs: %w", unknown(err))
	}
	c.lookUp(ctx, c.note(entries, asked))
	c.reused(ctx, c.missed())
	c.enforce(ctx)
	return c.all(), nil
}

// note takes Slurm's list over and returns the jobs that are missing from it for the first time.
func (c *Cluster) note(entries []entry, asked time.Time) (gone []jobKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	listed := map[jobKey]bool{}
	ids := map[string]bool{}
	for _, e := range entries {
		ids[e.id] = true
		launch := c.launchOf(e.comment, e.workDir)
		if launch == "" {
			continue
		}
		key := jobKey{e.id, launch}
		listed[key] = true
		r := c.known[key]
		if r == nil {
			r = &record{}
			c.known[key] = r
		}
		r.missed = time.Time{}
		r.job = c.jobOf(e, launch, now)
		if r.job.State == cluster.JobEnded && r.over.IsZero() {
			r.over = now
		} else if r.job.State != cluster.JobEnded {
			r.over = time.Time{}
		}
	}
	for key, r := range c.known {
		switch {
		case listed[key] || r.submitted.After(asked): // submitted since the question
		case !r.over.IsZero():
			if now.Sub(r.over) > c.o.Remember {
				c.forget(key)
			}
		case ids[key.id]:
			r.end(now, "Slurm has lost it: its ID was given to another job")
		case r.missed.IsZero():
			r.missed = now
			gone = append(gone, key)
		case now.Sub(r.missed) > vanishedFor:
			c.forget(key)
		}
	}
	slices.SortFunc(gone, func(a, b jobKey) int { return cmp.Compare(a.id, b.id) })
	return gone
}

func (c *Cluster) forget(key jobKey) {
	delete(c.known, key)
	delete(c.stopping, key)
}

// end notes that a job is over and nobody knows how.
func (r *record) end(now time.Time, why string) {
	r.over = now
	r.job.State, r.job.Reason, r.job.Ended, r.job.Exit = cluster.JobEnded, why, now, nil
}

// jobOf is a job in the contract's words.
func (c *Cluster) jobOf(e entry, launch cluster.LaunchID, now time.Time) cluster.Job {
	j := cluster.Job{ID: e.id, Launch: launch, State: stateOf(e.state)}
	stop := c.stopping[jobKey{e.id, launch}]
	switch j.State {
	case cluster.JobPending:
		j.Reason = waitWords(e.state, e.reason, e.start, now)
		j.Limit, _ = limitedBy(e.reason)
		return j
	case cluster.JobUnknown:
		j.Reason = fmt.Sprintf("Slurm says %s, which this release does not know", cut(e.state))
	case cluster.JobEnded:
		j.Exit = exitOf(e.state, e.exit)
		j.Reason = howEnded(e.state, e.reason, j.Exit, stop != nil)
		if j.Cause = causeOf(e.state, e.reason, e.exit); stop != nil && j.Cause == cluster.EndedCancelled {
			j.Cause = cluster.EndedAsked
		}
		j.Ended = e.end
	case cluster.JobRunning:
		if stop != nil {
			j.State, j.Reason = cluster.JobEnding, "told to stop"
		}
		if e.state == "SUSPENDED" || e.state == "STOPPED" {
			j.Reason = "suspended by Slurm or an administrator: it holds its place and does nothing"
		}
	case cluster.JobEnding:
		j.Reason = "its nodes are being cleaned up"
	}
	if j.Nodes = e.nodes; len(e.nodes) > 0 {
		j.Started = e.start
	}
	if j.State == cluster.JobRunning || j.State == cluster.JobEnding {
		if !e.unlimited && e.state != "COMPLETING" {
			j.EndsAt = e.end
		}
	}
	return j
}

// all are the jobs that are known, the oldest ID first.
func (c *Cluster) all() []cluster.Job {
	c.mu.Lock()
	defer c.mu.Unlock()
	jobs := make([]cluster.Job, 0, len(c.known))
	for _, r := range c.known {
		j := r.job
		if !r.missed.IsZero() && j.State != cluster.JobEnded {
			j.State, j.Reason = cluster.JobUnknown, vanishedReason
			if !r.submitted.IsZero() && len(j.Nodes) == 0 {
				j.Reason = "Slurm has acknowledged it and does not know it any more, as after a crash of slurmctld"
			}
		}
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(a, b cluster.Job) int {
		x, _ := strconv.ParseUint(a.ID, 10, 64)
		y, _ := strconv.ParseUint(b.ID, 10, 64)
		return cmp.Or(cmp.Compare(x, y), cmp.Compare(a.Launch, b.Launch))
	})
	return jobs
}
