package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/ledger"
)

// stopWithout stops deployments while no controller answers: this command takes the term for a moment, notes in the
// ledger that nothing is wanted, and has the clusters end the jobs, whose agents drain on SIGTERM as ever. cause is why
// the controller was not reached.
func stopWithout(ctx context.Context, inv *invocation, o stopOptions, cause error) (err error) {
	c := &controller{
		inv: inv, state: inv.set.get("stateDir"), runtime: inv.set.get("runtimeDir"), registry: newRegistry(),
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if used, err := ledger.Used(c.state); err != nil || !used {
		return errors.Join(cause, err) // most likely a slip in the folder's name: there is nothing to stop, nor to make
	}
	if c.log, err = inv.logger(); err != nil {
		return err
	}
	if err := c.openState(ctx); err != nil {
		return errors.Join(cause, err)
	}
	if err := c.openClusters(ctx); err != nil {
		return err
	}
	names, err := c.wantNothing(o)
	if err != nil {
		return err
	}
	inv.say("no controller answers; ending the jobs directly")
	if err := c.endJobs(ctx, names, o); err != nil {
		return err
	}
	return printStopped(inv, names)
}

// wantNothing notes that deployments are stopped, and returns their names.
func (c *controller) wantNothing(o stopOptions) (names []string, err error) {
	all := c.ledger.Deployments()
	for _, d := range all {
		if o.all {
			names = append(names, d.Name)
		}
	}
	for _, word := range o.deployments {
		name, err := oneDeployment(all, word)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	for _, name := range names {
		if err := c.ledger.SetStopped(name, true); err != nil && !errors.Is(err, ledger.ErrDamaged) {
			return names, err
		}
	}
	return names, nil
}

// oneDeployment finds a deployment by its name or the beginning of it.
func oneDeployment(all []ledger.Deployment, word string) (string, error) {
	var found []string
	for _, d := range all {
		if d.Name == word {
			return word, nil
		}
		if strings.HasPrefix(d.Name, word) {
			found = append(found, d.Name)
		}
	}
	switch len(found) {
	case 0:
		return "", fail(ExitNotFound, "", "deployment %q is not in the ledger", word)
	case 1:
		return found[0], nil
	}
	return "", usageError("deployment %q is ambiguous: it could be %s or %s", word, found[0], found[1])
}

// jobsPoll is how often a cluster is asked for its jobs while their end is waited for; Slurm is shared with many.
func (c *controller) jobsPoll() time.Duration {
	if _, slow := c.clusters[jobspecs.SlurmCluster]; slow {
		return 5 * time.Second
	}
	return 200 * time.Millisecond
}

// endJobs asks the clusters to end every job of the deployments and, with --wait, stays until they have ended.
func (c *controller) endJobs(ctx context.Context, names []string, o stopOptions) error {
	if o.wait && o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	for _, name := range names {
		if err := c.endCounted(ctx, name); err != nil {
			return err
		}
	}
	grace := map[cluster.LaunchID]time.Duration{}
	for _, l := range c.ledger.Launches() {
		if l.Phase == cluster.Ended || !slices.Contains(names, l.Deployment) {
			continue
		}
		grace[l.ID] = 0
		if d, err := c.ledger.Revision(l.Deployment, l.Revision); err == nil && !o.now {
			grace[l.ID] = d.Serving.DrainTimeout.Std()
		}
	}
	asked := map[string]bool{}
	for {
		live, err := c.askToEnd(ctx, grace, asked)
		if err != nil || live == 0 || !o.wait {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d jobs are still ending: %w", live, ctx.Err())
		case <-time.After(c.jobsPoll()):
		}
	}
}

// askToEnd stops each live job once and counts the live ones.
func (c *controller) askToEnd(ctx context.Context, grace map[cluster.LaunchID]time.Duration, asked map[string]bool) (live int, err error) {
	for kind, cl := range c.clusters {
		jobs, err := cl.Jobs(ctx)
		if err != nil {
			return live, fmt.Errorf("list jobs of cluster %s: %w", kind, err)
		}
		for _, j := range jobs {
			wait, ours := grace[j.Launch]
			if !ours || j.State == cluster.JobEnded {
				continue
			}
			live++
			if asked[j.ID] {
				continue
			}
			asked[j.ID] = true
			if err := cl.Stop(ctx, j.ID, wait); err != nil {
				return live, fmt.Errorf("stop job %s: %w", j.ID, err)
			}
		}
	}
	return live, nil
}
