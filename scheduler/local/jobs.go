package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// seenJob is a job and what only this package needs of it.
type seenJob struct {
	cluster.Job
	placement []cluster.Placement // nil with JobUnknown: cannot be told
}

// Jobs lists the jobs, oldest first. On the way it does what nobody else does any more: it writes down that a rank has
// ended whose shim died without a word, kills what such a rank has left, kills jobs whose grace is over and whose shim
// does not do it, and forgets what has ended long ago.
func (c *Cluster) Jobs(ctx context.Context) ([]cluster.Job, error) {
	seen, err := c.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the jobs of this machine: %w", err)
	}
	jobs := make([]cluster.Job, len(seen))
	for i, j := range seen {
		jobs[i] = j.Job
	}
	return jobs, nil
}

func (c *Cluster) list(ctx context.Context) ([]seenJob, error) {
	c.reap()
	if err := expired(ctx); err != nil {
		return nil, err
	}
	names, err := c.fs.List(c.o.Dir)
	if err != nil {
		return nil, unknown(err)
	}
	var jobs []seenJob
	for _, name := range names {
		if err := expired(ctx); err != nil {
			return nil, err
		}
		id := jobID(name)
		if _, _, ours := id.split(); !ours {
			c.tidy(name)
			continue
		}
		j, exists := c.look(id)
		if !exists || c.forgets(j) {
			continue
		}
		jobs = append(jobs, j)
	}
	slices.SortStableFunc(jobs, func(a, b seenJob) int {
		return cmp.Or(a.Started.Compare(b.Started), strings.Compare(a.ID, b.ID))
	})
	return jobs, nil
}

// look finds out how a job is; false = there is none (any more).
func (c *Cluster) look(id jobID) (seenJob, bool) {
	r, err := readJob(c.fs, c.dir(id))
	if err != nil {
		if _, gone := os.Lstat(c.dir(id)); errors.Is(gone, fs.ErrNotExist) {
			return seenJob{}, false
		}
		return c.lookDamaged(id, err), true
	}
	j := seenJob{Job: cluster.Job{ID: string(id), Launch: r.Launch, Started: r.StartedAt, EndsAt: r.EndsAt}, placement: r.Placement}
	ranks := make([]rankView, len(r.Placement))
	for rank, p := range r.Placement {
		j.Nodes = append(j.Nodes, p.Node)
		ranks[rank] = c.lookAtRank(id, rank, r.Locks[rank])
	}
	stop, err := readOptional[stopRecord](c.fs, filepath.Join(c.dir(id), stopName))
	if err != nil {
		c.o.Log.Warn().Err(err).Str("job", string(id)).Msg("stop cannot be read")
	}
	summarise(&j.Job, ranks, stop != nil)
	switch {
	case j.State == cluster.JobEnded:
		// How each rank ended is written down, so that nobody asks its lock any more; an agent that comes late finds none,
		// and ends. The name is this job's alone, whatever starts meanwhile.
		for rank := range ranks {
			_ = os.Remove(c.lockPath(id, rank)) // mostly gone already; tried again at the next look
		}
	case stop != nil:
		c.enforce(id, time.Duration(stop.Grace))
	}
	return j, true
}

// lookDamaged tells what can be told of a job whose folder cannot be read: by its locks and its processes.
func (c *Cluster) lookDamaged(id jobID, damage error) seenJob {
	launch, _, _ := id.split()
	j := seenJob{Job: cluster.Job{ID: string(id), Launch: launch, State: cluster.JobUnknown}}
	alive, err := c.livesWithoutFolder(id)
	switch {
	case err != nil:
		j.Reason = fmt.Sprintf("its folder cannot be read (%v), and neither can its processes be found (%v)", damage, err)
	case alive:
		j.Reason = fmt.Sprintf("its processes live, but its folder cannot be read: %v", damage)
		c.mu.Lock()
		stop, stopped := c.stopping[id]
		c.mu.Unlock()
		if stopped {
			c.enforce(id, stop.grace)
		}
	default:
		j.State = cluster.JobEnded
		j.Reason = fmt.Sprintf("ended, and nobody knows how: its folder cannot be read: %v", damage)
	}
	return j
}

func (c *Cluster) livesWithoutFolder(id jobID) (bool, error) {
	names, err := filepath.Glob(filepath.Join(c.o.RuntimeDir, string(id)+".*.lock"))
	if err != nil {
		return false, err
	}
	for _, name := range names {
		state, f, err := lookAtLock(name, inode{})
		if f != nil {
			_ = f.Close()
		}
		if err != nil || state == lockHeld {
			return state == lockHeld, err
		}
	}
	procs, err := c.processes(id)
	return len(procs) > 0, err
}

// processes lists a job's processes, its shims too.
func (c *Cluster) processes(id jobID) ([]found, error) {
	shims, err := find(mark{shim: string(id)})
	if err != nil {
		return nil, err
	}
	agents, err := find(id.mark())
	return append(shims, agents...), err
}

// summarise makes a job's state of its ranks'.
func summarise(j *cluster.Job, ranks []rankView, stopped bool) {
	var alive, untold bool
	var notes []string
	for i, r := range ranks {
		alive = alive || r.alive
		untold = untold || r.err != nil
		if note := r.note(); note != "" && len(ranks) > 1 {
			notes = append(notes, fmt.Sprintf("rank %d %s", i, note))
		} else if note != "" {
			notes = append(notes, note)
		}
	}
	j.Reason = strings.Join(notes, "; ")
	switch {
	case untold:
		j.State = cluster.JobUnknown
	case alive && stopped:
		j.State = cluster.JobEnding
	case alive:
		j.State = cluster.JobRunning
	default:
		j.State = cluster.JobEnded
		j.Exit = exitOf(ranks)
		for _, r := range ranks {
			if r.ended.EndedAt.After(j.Ended) {
				j.Ended = r.ended.EndedAt
			}
			j.Cause = cmp.Or(j.Cause, r.ended.Cause)
		}
	}
}

// exitOf is the first exit that is none of success; nil where all that are known are, and one is not known.
func exitOf(ranks []rankView) *cluster.Exit {
	exit := &cluster.Exit{}
	for _, r := range ranks {
		switch {
		case r.ended.Exit == nil:
			exit = nil
		case *r.ended.Exit != cluster.Exit{}:
			return r.ended.Exit
		}
	}
	return exit
}

// forgets removes a job that has ended long ago; true = it is gone.
func (c *Cluster) forgets(j seenJob) bool {
	if j.State != cluster.JobEnded || j.Ended.IsZero() || time.Since(j.Ended) < c.o.Remember {
		return false
	}
	id := jobID(j.ID)
	trash := statefile.TempName(c.dir(id))
	if err := c.fs.Rename(c.dir(id), trash); err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	c.removeLocks(id)
	c.mu.Lock()
	delete(c.stopping, id)
	c.mu.Unlock()
	_ = c.fs.RemoveAll(trash) // what stays is tidied later
	return true
}

// tidyAfter is older than any submit or removal that is still at work.
const tidyAfter = time.Hour

// tidy removes a folder that a submit or a removal left unfinished.
func (c *Cluster) tidy(name string) {
	path := filepath.Join(c.o.Dir, name)
	info, err := os.Lstat(path)
	if err != nil || !statefile.IsTemp(name) || time.Since(info.ModTime()) < tidyAfter {
		return
	}
	if id := jobID(name[:min(len(name), strings.Index(name, ".")+17)]); jobIDs.MatchString(string(id)) {
		c.removeLocks(id)
	}
	_ = c.fs.RemoveAll(path) // tried again at the next look
}
