package slurm

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// stop is what a job was told. A later controller does not know of it, and tells it again.
type stop struct {
	killAt time.Time // when Slurm's own TERM and KILL begin; zero = they have
	endAt  time.Time // when it is killed at once
	told   time.Time // the last time that it was told anything
}

// Stop asks a job to end. A running one gets Penstock's own signal first, which reaches its agent alone and gives it the
// whole grace: scancel by itself gives a job the site's KillWait, and hits the engine as well. That much of the grace is kept
// for it, and it comes by a later call of Jobs. A pending job is cancelled at once, and so is one whose grace is no longer
// than that. Where Slurm has no way to signal the agent alone (slurmrestd of 22.05), a job hears nothing before that: its
// agent was asked by the controller, if it can be reached.
func (c *Cluster) Stop(ctx context.Context, job string, grace time.Duration) error {
	if err := c.stop(ctx, job, grace); err != nil {
		return fmt.Errorf("stop job %s: %w", job, err)
	}
	return nil
}

func (c *Cluster) stop(ctx context.Context, id string, grace time.Duration) error {
	if err := ctx.Err(); err != nil {
		return unknown(err)
	}
	if !isJobID(id) {
		return refused(fmt.Errorf("%q is no job ID of Slurm's", cut(id)))
	}
	key, state, err := c.find(ctx, id)
	if err != nil || key == (jobKey{}) {
		return err
	}
	config, err := c.Config(ctx)
	if err != nil {
		return unknown(err)
	}
	now := c.now()
	s := &stop{killAt: now.Add(grace - config.KillWait), endAt: now.Add(grace), told: now}
	switch {
	case grace <= 0:
		s.killAt = time.Time{}
		err = c.slurm.tell(ctx, key, killWord)
	case state == cluster.JobPending || grace <= config.KillWait:
		s.killAt = time.Time{}
		err = c.slurm.tell(ctx, key, endWord)
	case c.slurm.drains():
		err = c.slurm.tell(ctx, key, drainWord)
	}
	if err != nil {
		return unknown(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.stopping[key]; old == nil || s.endAt.Before(old.endAt) {
		c.stopping[key] = s
	}
	return nil
}

// find returns whose job an ID is, and how it was. No key: there is nothing to stop.
func (c *Cluster) find(ctx context.Context, id string) (jobKey, cluster.JobState, error) {
	c.mu.Lock()
	for key, r := range c.known {
		if key.id == id && r.missed.IsZero() && r.over.IsZero() {
			state := r.job.State
			c.mu.Unlock()
			return key, state, nil
		}
	}
	c.mu.Unlock()
	list, err := c.slurm.jobsOf(ctx, []string{id})
	if err != nil {
		return jobKey{}, "", unknown(err)
	}
	if len(list) == 0 || stateOf(list[0].state) == cluster.JobEnded {
		return jobKey{}, "", nil
	}
	e := list[0]
	launch := c.launchOf(e.comment, e.workDir)
	if launch == "" {
		return jobKey{}, "", refused(fmt.Errorf("it is no job of this installation: its name is %q", cut(e.name)))
	}
	return jobKey{id, launch}, stateOf(e.state), nil
}

// retell is how long after one word the next may come. A signal to a job whose script Slurm is just starting may be lost.
const retell = 10 * time.Second

// enforce goes on with jobs whose grace is over.
func (c *Cluster) enforce(ctx context.Context) {
	type order struct {
		key  jobKey
		word word
	}
	var orders []order
	c.mu.Lock()
	now := c.now()
	for key, s := range c.stopping {
		r := c.known[key]
		switch {
		case r == nil || !r.over.IsZero() || !r.missed.IsZero():
		case !s.killAt.IsZero() && !now.Before(s.killAt):
			s.killAt, s.told = time.Time{}, now
			orders = append(orders, order{key, endWord})
		case !s.killAt.IsZero() && now.Sub(s.told) >= retell && c.slurm.drains():
			s.told = now
			orders = append(orders, order{key, drainWord})
		case s.killAt.IsZero() && !now.Before(s.endAt) && (s.told.Before(s.endAt) || now.Sub(s.told) >= retell):
			s.told = now
			orders = append(orders, order{key, killWord})
		}
	}
	c.mu.Unlock()
	for _, o := range orders {
		err := c.slurm.tell(ctx, o.key, o.word)
		c.log.Info().Err(err).Str("job", o.key.id).Str("launch", string(o.key.launch)).Str("word", string(o.word)).Msg("job has not ended yet and is told again")
	}
}
