package local

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/cluster"
)

// stopping is a stop that this Cluster knows of. Graces are measured from here, on the monotonic clock: a step of the wall
// clock kills nobody early.
type stopping struct {
	since time.Time
	grace time.Duration
}

const (
	shimSlack = 5 * time.Second  // how far behind the grace a shim may be with its killing before Jobs does it
	shimDeath = 60 * time.Second // how long after the grace a shim that does not end is killed itself
)

// Stop asks a job's agents to end, through their shims, which kill them after the grace. Where a shim is dead, its agent is
// asked directly and Jobs kills it after the grace, whichever process calls it.
func (c *Cluster) Stop(ctx context.Context, job string, grace time.Duration) error {
	if err := c.stop(ctx, jobID(job), max(0, grace)); err != nil {
		return fmt.Errorf("stop job %s of this machine: %w", job, err)
	}
	return nil
}

func (c *Cluster) stop(ctx context.Context, id jobID, grace time.Duration) error {
	c.reap()
	if err := expired(ctx); err != nil {
		return err
	}
	names, err := c.fs.List(c.o.Dir)
	if err != nil {
		return unknown(err)
	}
	if _, _, ours := id.split(); !ours || !slices.Contains(names, string(id)) {
		return nil
	}
	j, exists := c.look(id)
	if !exists || j.State == cluster.JobEnded {
		return nil
	}
	wrote := c.writeStop(id, grace)
	asked, err := c.askToEnd(id, grace)
	switch {
	case err != nil:
		return unknown(err)
	case asked == 0 && wrote != nil:
		return unknown(fmt.Errorf("no process of it was found, and the order could not be written down: %w", wrote))
	case wrote != nil:
		c.o.Log.Warn().Err(wrote).Str("job", string(id)).Msg("grace of a stop not written down")
	}
	return nil
}

// writeStop leaves the order where shims and later controllers find it. A longer grace than one given before is none.
func (c *Cluster) writeStop(id jobID, grace time.Duration) error {
	path := filepath.Join(c.dir(id), stopName)
	old, err := readOptional[stopRecord](c.fs, path)
	if err == nil && old != nil && time.Duration(old.Grace) <= grace {
		return nil
	}
	c.mu.Lock()
	c.stopping[id] = stopping{since: time.Now(), grace: grace}
	c.mu.Unlock()
	return spool(c.fs, path, stopRecord{AskedAt: time.Now().UTC(), Grace: duration(grace)})
}

// askToEnd signals the shims, and the agents of ranks that have none. It returns how many processes were told.
func (c *Cluster) askToEnd(id jobID, grace time.Duration) (int, error) {
	procs, err := c.processes(id)
	if err != nil {
		return 0, err
	}
	attended := map[string]bool{}
	var shims, orphans []found
	for _, p := range procs {
		if p.mark.shim != "" {
			attended[p.mark.shim] = true
			shims = append(shims, p)
		}
	}
	for _, p := range procs {
		if p.mark.shim == "" && !attended[string(id)+"/"+p.mark.Rank] {
			orphans = append(orphans, p)
		}
	}
	sig := unix.SIGTERM
	if grace == 0 {
		sig = unix.SIGKILL
	} else {
		orphans = roots(orphans)
	}
	return len(shims) + len(orphans), errors.Join(send(shims, unix.SIGTERM), send(orphans, sig))
}

// enforce kills a job whose grace is over and whose shims are dead or stuck.
func (c *Cluster) enforce(id jobID, grace time.Duration) {
	c.mu.Lock()
	known, ok := c.stopping[id]
	if !ok { // an earlier controller's: its grace begins anew
		known = stopping{since: time.Now(), grace: grace}
		c.stopping[id] = known
	}
	c.mu.Unlock()
	over := time.Since(known.since) - known.grace
	if over < shimSlack {
		return
	}
	procs, err := c.processes(id)
	if over < shimDeath {
		procs = slices.DeleteFunc(procs, func(p found) bool { return p.mark.shim != "" })
	}
	if err = errors.Join(err, send(procs, unix.SIGKILL)); err != nil || len(procs) > 0 {
		c.o.Log.Warn().Err(err).Str("job", string(id)).Int("processes", len(procs)).Msg("job killed after its grace")
	}
}
