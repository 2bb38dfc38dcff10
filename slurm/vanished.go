package slurm

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// vanishedFor is how long a job stays unknown that Slurm does not list any more and the accounting does not tell of. Then it
// is left out of the list, and the planner decides about a launch without a job.
const vanishedFor = 2 * time.Minute

const vanishedReason = "Slurm does not know it any more: it has ended longer ago than Slurm remembers (MinJobAge), or slurmctld has lost it"

// lookUp asks the accounting, once for all, how jobs ended that Slurm has forgotten.
func (c *Cluster) lookUp(ctx context.Context, gone []jobKey) {
	if len(gone) == 0 {
		return
	}
	c.metrics.vanished.Add(float64(len(gone)))
	c.log.Warn().Int("jobs", len(gone)).Str("job", gone[0].id).Msg("jobs have vanished from Slurm's list")
	c.mu.Lock()
	closed := c.noSacct
	c.mu.Unlock()
	if closed {
		return
	}
	list, err := c.slurm.accounts(ctx, accountQuery{ids: idsOf(gone)})
	if err != nil {
		c.mu.Lock()
		c.noSacct = errors.Is(err, errNoAccounting)
		c.mu.Unlock()
		return
	}
	c.noteAccounts(list)
}

func idsOf(keys []jobKey) []string {
	ids := make([]string, len(keys))
	for i, key := range keys {
		ids[i] = key.id
	}
	return ids
}

// missed lists the jobs of which nobody knows what has become.
func (c *Cluster) missed() (keys []jobKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, r := range c.known {
		if !r.missed.IsZero() && r.over.IsZero() {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b jobKey) int { return cmp.Compare(a.id, b.id) })
	return keys
}

// reused asks, once for all, whether the IDs of jobs that are not listed any more belong to other jobs now, other users' among
// them, which the list of ours does not show. Then ours were lost in a crash of slurmctld, and nobody will ever tell of them.
// It asks with every list for as long as they are missed: the ID may be given out later.
func (c *Cluster) reused(ctx context.Context, gone []jobKey) {
	if len(gone) == 0 {
		return
	}
	entries, err := c.slurm.jobsOf(ctx, idsOf(gone))
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range entries {
		for _, key := range gone {
			if r := c.known[key]; r != nil && key.id == e.id && c.launchOf(e.comment, e.workDir) != key.launch {
				r.end(c.now(), "Slurm has lost it: its ID was given to another job")
			}
		}
	}
}

// noteAccounts takes over how jobs ended. The job's name is its launch, which tells it from others that had the same ID.
func (c *Cluster) noteAccounts(list []account) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range list {
		key := jobKey{a.id, cluster.LaunchID(a.name)}
		r := c.known[key]
		if r == nil || stateOf(a.state) != cluster.JobEnded {
			continue
		}
		exit, asked := exitOf(a.state, a.exit), c.stopping[key] != nil
		r.over, r.missed = c.now(), time.Time{}
		r.job.State, r.job.Exit, r.job.Ended = cluster.JobEnded, exit, a.end
		r.job.Reason, r.job.Cause = howEnded(a.state, "", exit, asked), causeOf(a.state, "", a.exit)
		if asked && r.job.Cause == cluster.EndedCancelled {
			r.job.Cause = cluster.EndedAsked
		}
	}
}
