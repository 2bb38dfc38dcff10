package local

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// Submit starts the job's processes. Its folder is on disk before any of them, and no agent starts before all shims of the
// job have: a controller that dies in between leaves a job that never ran, and says so. ErrRefused: no process was
// started, be it that the placement cannot be had or that a folder cannot be written (a full disk).
func (c *Cluster) Submit(ctx context.Context, sub cluster.Submission) (string, error) {
	id, err := c.submit(ctx, sub)
	if err != nil {
		return "", fmt.Errorf("submit launch %s on this machine: %w", sub.Launch.ID, err)
	}
	return string(id), nil
}

func (c *Cluster) submit(ctx context.Context, sub cluster.Submission) (jobID, error) {
	nodes, err := c.nodes(ctx, c.declared())
	if err != nil {
		return "", err
	}
	if err := checkPlacement(sub.Launch, nodes); err != nil {
		return "", refused(err)
	}
	// Several processes may submit to the same folders: of two that want one GPU, the second must see the first one's job.
	unlock, err := c.lockSubmits(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	jobs, err := c.list(ctx)
	if err != nil {
		return "", err
	}
	if err := checkFree(sub.Launch, jobs); err != nil {
		return "", refused(err)
	}
	return c.start(sub)
}

func checkPlacement(l cluster.Launch, nodes []cluster.Node) error {
	if !jobIDs.MatchString(string(l.ID) + "." + newRun()) {
		return fmt.Errorf("%q is no launch token: at most 40 of a-z, 0-9 and dashes", l.ID)
	}
	if len(l.Placement) == 0 || len(l.Placement) != max(1, l.Nodes) {
		return fmt.Errorf("the placement names %d nodes, the launch has %d", len(l.Placement), max(1, l.Nodes))
	}
	gpus := map[string]map[string]bool{}
	for _, n := range nodes {
		gpus[n.Name] = map[string]bool{}
		for _, g := range n.GPUs {
			gpus[n.Name][g.ID] = true
		}
	}
	taken := map[string]bool{}
	for _, p := range l.Placement {
		if gpus[p.Node] == nil {
			return fmt.Errorf("there is no node %q; `penstock nodes` lists them", p.Node)
		}
		for _, g := range p.GPUs {
			if !gpus[p.Node][g] {
				return fmt.Errorf("node %s has no GPU %s", p.Node, g)
			}
			if taken[g] {
				return fmt.Errorf("the placement names GPU %s twice", g)
			}
			taken[g] = true
		}
	}
	return nil
}

// checkFree makes sure that no live job has the launch's token or one of its GPUs.
func checkFree(l cluster.Launch, jobs []seenJob) error {
	wanted := map[string]bool{}
	for _, p := range l.Placement {
		for _, g := range p.GPUs {
			wanted[g] = true
		}
	}
	for _, j := range jobs {
		if j.Launch == l.ID {
			return fmt.Errorf("the launch has a job already: %s (%s)", j.ID, j.State)
		}
		if j.State == cluster.JobEnded {
			continue
		}
		if j.State == cluster.JobUnknown && len(wanted) > 0 {
			return fmt.Errorf("nobody knows which GPUs job %s holds (%s); stop it first", j.ID, j.Reason)
		}
		for _, p := range j.placement {
			for _, g := range p.GPUs {
				if wanted[g] {
					return fmt.Errorf("GPU %s of node %s is held by job %s", g, p.Node, j.ID)
				}
			}
		}
	}
	return nil
}

// lockSubmits keeps other submits out, of this process and of others, until the returned function is called.
func (c *Cluster) lockSubmits(ctx context.Context) (unlock func(), err error) {
	if err := statefile.SecureDir(c.o.RuntimeDir); err != nil { // a cleaner of temporary files may have taken it away
		return nil, refused(err)
	}
	path := filepath.Join(c.o.RuntimeDir, "submit.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, refused(err)
	}
	for {
		switch err := flock(f, unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			return func() { _ = f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			_ = f.Close()
			return nil, refused(fmt.Errorf("lock %s: %w", path, err))
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, unknown(fmt.Errorf("another submit holds %s: %w", path, ctx.Err()))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// newRun draws a run's nonce.
func newRun() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program first
	return hex.EncodeToString(b[:])
}

// start makes the job's folder and starts its shims.
func (c *Cluster) start(sub cluster.Submission) (jobID, error) {
	r := jobRecord{
		Launch: sub.Launch.ID, Run: newRun(), Deployment: sub.Launch.Deployment, Role: sub.Launch.Role,
		Placement: sub.Launch.Placement, StartedAt: time.Now().UTC(),
	}
	if limit := sub.Deployment.Local.Walltime.Std(); limit > 0 {
		r.EndsAt = r.StartedAt.Add(limit)
	}
	r.ID = jobID(string(r.Launch) + "." + r.Run)
	s := &starting{c: c, sub: sub, job: r, tmp: statefile.TempName(c.dir(r.ID))}
	defer s.close()
	if err := s.prepare(); err != nil {
		s.undo()
		return "", refused(err)
	}
	if err := s.startShims(); err != nil {
		s.undo()
		return "", refused(err)
	}
	s.open()
	return r.ID, nil
}
