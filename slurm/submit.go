package slurm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// Submit hands the launch's script to sbatch, on its standard input, or to slurmrestd. ErrUnknown: the answer did not come in
// time, or slurmctld was lost on the way; it was seen to say so after the job had been accepted.
func (c *Cluster) Submit(ctx context.Context, s cluster.Submission) (string, error) {
	id, err := c.submit(ctx, s)
	if err != nil {
		return "", fmt.Errorf("submit launch %s to Slurm: %w", s.Launch.ID, err)
	}
	return id, nil
}

func (c *Cluster) submit(ctx context.Context, s cluster.Submission) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", unknown(err)
	}
	if !launchIDs.MatchString(string(s.Launch.ID)) {
		return "", refused(fmt.Errorf("%q is no launch token", s.Launch.ID))
	}
	script, err := c.script(ctx, s)
	if err != nil {
		return "", refused(err)
	}
	if err := statefile.SecureDir(s.LogDir); err != nil {
		return "", refused(fmt.Errorf("the job's folder: %w", err))
	}
	id, err := c.slurm.submit(ctx, script)
	if err != nil {
		return "", submitError(err, s)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := jobKey{id, s.Launch.ID}
	if c.known[key] == nil {
		c.known[key] = &record{
			job:       cluster.Job{ID: id, Launch: s.Launch.ID, State: cluster.JobPending, Reason: "it has just been submitted"},
			submitted: c.now(),
		}
	}
	return id, nil
}

// script renders the launch's batch script.
func (c *Cluster) script(ctx context.Context, s cluster.Submission) (string, error) {
	j := render.SlurmJob{
		Deployment: s.Deployment, Role: s.Launch.Role, Launch: string(s.Launch.ID), Mark: c.mark(s.Launch.ID),
		Penstock: c.o.Penstock, JoinFile: s.JoinFile, LogDir: s.LogDir, After: s.Launch.After, Exclude: s.Launch.Exclude,
	}
	if j.After != "" && !isJobID(j.After) {
		return "", fmt.Errorf("%q is no job ID to wait for", cut(j.After))
	}
	if config, err := c.Config(ctx); err == nil { // else Slurm's default is taken
		j.KillWait = config.KillWait
	}
	j.GPUType = c.gpuType(s.Deployment.Roles[s.Launch.Role].GPUs.Type)
	return render.Sbatch(j)
}

// submittedID reads JOBID or JOBID;CLUSTER off the last line: sites' plugins print more before it.
func submittedID(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	id, _, _ := strings.Cut(strings.TrimSpace(lines[len(lines)-1]), ";")
	if !isJobID(id) {
		return ""
	}
	return id
}

// submitError tells what a failed sbatch means.
func submitError(err error, s cluster.Submission) error {
	if errors.Is(err, errNoCommand) || errors.Is(err, errNotForREST) {
		return refused(err)
	}
	f := (*failure)(nil)
	if !errors.As(err, &f) || f.words == "" || f.says(lostWords...) {
		return unknown(err)
	}
	return refused(fmt.Errorf("%w%s", err, fixFor(f.words, s)))
}
