package slurm

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// vanishedFor is how long a job stays unknown that Slurm does not list any more and the accounting does not tell of. Then it
// is left out of the list, and the planner decides about a launch without a job.
const vanishedFor = 2 * time.Minute

const vanishedReason = "Slurm does not know it any more: it has ended longer ago than Slurm remembers (MinJobAge), or slurmctld has lost it"

// sacctFields are what is asked of the accounting, in the order of lookUp's reading.
const sacctFields = "JobIDRaw,JobName,State,ExitCode,Start,End"

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
	ids := make([]string, len(gone))
	for i, key := range gone {
		ids[i] = key.id
	}
	out, err := c.slurm.run(ctx, "", "sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", "--delimiter="+separator,
		"--jobs="+strings.Join(ids, ","), "--format="+sacctFields)
	if err != nil {
		f := (*failure)(nil)
		c.mu.Lock()
		c.noSacct = errors.Is(err, errNoCommand) || errors.As(err, &f) && f.says("accounting storage is disabled", "not running with a supported accounting")
		c.mu.Unlock()
		return
	}
	c.noteAccounts(parseAccounts(out))
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
	ids := make([]string, len(gone))
	for i, key := range gone {
		ids[i] = key.id
	}
	out, err := c.slurm.run(ctx, "", "squeue", "--noheader", "--states=all", "--jobs="+strings.Join(ids, ","), format(queueFields))
	if err != nil {
		return // of one that is nobody's it says "Invalid job id"
	}
	entries, err := parseQueue(out)
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

// account is a line of the accounting.
type account struct {
	id, name, state string
	exit            status
	start, end      time.Time
}

// parseAccounts reads what can be read: a line that can't is a job of which nothing is known.
func parseAccounts(out string) (list []account) {
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), separator)
		if len(f) != strings.Count(sacctFields, ",")+1 || !isJobID(f[0]) {
			continue
		}
		a := account{id: f[0], name: f[1], state: f[2], exit: parseExit(f[3])}
		var err1, err2 error
		a.start, err1 = parseTime(f[4])
		a.end, err2 = parseTime(f[5])
		if err1 == nil && err2 == nil {
			list = append(list, a)
		}
	}
	return list
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
