package allocation

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// Jobs puts the tasks of all nodes together, oldest first. A job whose node is lost has ended with the node; where its
// processes live on behind a cut link they are listed again when the node answers again.
func (c *Cluster) Jobs(ctx context.Context) ([]cluster.Job, error) {
	seen, err := c.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the jobs of the allocation: %w", unknown(err))
	}
	jobs := c.jobs(c.byJob(seen))
	if time.Since(c.since) < c.o.Remember {
		jobs = append(slices.Clone(c.o.Before), jobs...)
	}
	return jobs, nil
}

// piece is a rank of a job.
type piece struct {
	Task
	lost   bool   // it ended with its node
	silent string // its node, where that does not answer and is not lost yet
}

// byJob gathers the ranks of each job.
func (c *Cluster) byJob(seen sight) map[string][]piece {
	jobs := map[string][]piece{}
	for _, s := range seen.states {
		for _, t := range s.Tasks {
			jobs[t.Job] = append(jobs[t.Job], piece{Task: t})
		}
	}
	for name, s := range seen.silent {
		for _, t := range s.Tasks {
			p := piece{Task: t}
			if t.live() {
				p.silent = name
			}
			jobs[t.Job] = append(jobs[t.Job], p)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(time.Now())
	for _, t := range c.lost {
		jobs[t.Job] = append(jobs[t.Job], piece{Task: t.Task, lost: t.killed})
	}
	for _, ranks := range jobs {
		slices.SortFunc(ranks, func(a, b piece) int { return cmp.Compare(a.Rank, b.Rank) })
	}
	return jobs
}

func (c *Cluster) jobs(pieces map[string][]piece) []cluster.Job {
	jobs := make([]cluster.Job, 0, len(pieces))
	for id, ranks := range pieces {
		jobs = append(jobs, c.summarise(id, ranks))
	}
	slices.SortFunc(jobs, func(a, b cluster.Job) int {
		return cmp.Or(a.Started.Compare(b.Started), strings.Compare(a.ID, b.ID))
	})
	return jobs
}

// summarise makes one job of its ranks: it lives as long as one of them does, and has run since the first of them.
func (c *Cluster) summarise(id string, ranks []piece) cluster.Job {
	j := cluster.Job{ID: id, Launch: ranks[0].Launch, Nodes: ranks[0].Nodes, EndsAt: c.o.EndsAt, State: cluster.JobEnded, Exit: &cluster.Exit{}}
	var notes []string
	var last time.Time
	alive, stopping, untold := false, false, false
	for _, r := range ranks {
		if j.Started.IsZero() || r.Started.Before(j.Started) {
			j.Started = r.Started
		}
		if r.Ended.After(last) {
			last = r.Ended
		}
		alive, stopping = alive || r.live(), stopping || r.Stopping
		if r.lost {
			j.Cause = cluster.EndedNodeFailed
		}
		if r.silent != "" {
			untold = true
			r.Reason = "node " + r.silent + " does not answer"
		}
		if r.Reason != "" {
			notes = append(notes, r.note(len(ranks)))
		}
		j.Exit = worse(j.Exit, r.Exit)
	}
	j.Reason = strings.Join(notes, "; ")
	if alive {
		j.State, j.Exit, j.Cause = cluster.JobRunning, nil, ""
		switch {
		case untold:
			j.State = cluster.JobUnknown
		case stopping:
			j.State = cluster.JobEnding
		}
		return j
	}
	j.Ended = last
	return j
}

func (p piece) note(ranks int) string {
	if ranks == 1 {
		return p.Reason
	}
	return fmt.Sprintf("rank %d: %s", p.Rank, p.Reason)
}

// worse is the exit that tells more: one that is no success before one that nobody knows before success.
func worse(a, b *cluster.Exit) *cluster.Exit {
	switch success := (cluster.Exit{}); {
	case a != nil && *a != success:
		return a
	case b != nil && *b != success:
		return b
	case a == nil || b == nil:
		return nil
	}
	return a
}

// Capacity lists the nodes of the allocation, those that are lost or whose keeper has not begun too.
func (c *Cluster) Capacity(ctx context.Context) (cluster.Capacity, error) {
	seen, err := c.look(ctx)
	if err != nil {
		return cluster.Capacity{}, fmt.Errorf("list the nodes of the allocation: %w", unknown(err))
	}
	now := time.Now()
	c.mu.Lock()
	open := c.closed == "" && (c.o.EndsAt.IsZero() || now.Before(c.o.EndsAt.Add(-c.o.Closing)))
	c.mu.Unlock()
	capacity := cluster.Capacity{Places: true, At: now, EndsAt: c.o.EndsAt}
	for _, name := range c.names() {
		n := cluster.Node{Name: name}
		if s, ok := seen.states[name]; ok {
			n = s.Node
			n.Up, n.Leaving = true, !open
		}
		capacity.Nodes = append(capacity.Nodes, n)
	}
	return capacity, nil
}
