package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs/render"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/statefile"
	"github.com/penstock/penstock/slurm"
)

// checkPlace refuses a place for the controller that is none.
func checkPlace(place string) error {
	if place == "" || place == "here" || place == "job" {
		return nil
	}
	if u, err := url.Parse(place); err == nil && u.Scheme == "https" && u.Host != "" {
		return nil
	}
	return usageError("--controller %s: use here, job, or the https:// address of one that runs", place)
}

// ensureController starts a controller where one is wanted and none answers: here in the background, or in a Slurm job.
func (inv *invocation) ensureController(ctx context.Context, place string) error {
	if strings.HasPrefix(place, "https://") {
		inv.controllerAt = place
		return nil
	}
	if place == "" || inv.controllerAnswers(ctx) {
		return nil
	}
	if place == "here" {
		return detachController(ctx, inv, serveOptions{})
	}
	return inv.submitController(ctx)
}

func (inv *invocation) controllerAnswers(ctx context.Context) bool {
	client, done, err := inv.control()
	if err != nil {
		return false
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = client.Version(ctx, &apiv1.VersionRequest{})
	return err == nil
}

// controllerScript is the controller's batch script in the state folder.
const controllerScript = "controller.sbatch"

// submitController starts the controller as a Slurm job and waits until it answers, however long the queue is.
func (inv *invocation) submitController(ctx context.Context) error {
	state, err := filepath.Abs(inv.set.get("stateDir"))
	if err != nil {
		return err
	}
	if err := identity.SecureDir(state); err != nil {
		return err
	}
	file := filepath.Join(state, controllerScript)
	script, err := render.Controller(render.ControllerJob{
		Penstock: inv.Self, StateDir: state, Script: file, Sbatch: strings.Fields(inv.set.get("slurm.controllerSbatch")),
	})
	if err != nil {
		return err
	}
	if err := statefile.Write(statefile.OS{}, file, []byte(script)); err != nil {
		return fmt.Errorf("write the controller's script: %w", err)
	}
	rest, err := inv.slurmrestd()
	if err != nil {
		return err
	}
	job, err := slurm.SubmitLone(ctx, inv.Environ, rest, script)
	if err != nil {
		return err
	}
	return inv.awaitController(ctx, job)
}

// lookAtQueue is how often Slurm is asked about the controller's job.
const lookAtQueue = 10 * time.Second

func (inv *invocation) awaitController(ctx context.Context, job *slurm.Lone) error {
	said, next := "", inv.now()
	say := func(format string, args ...any) {
		if text := fmt.Sprintf(format, args...); text != said {
			said = text
			inv.say("controller: %s", text)
		}
	}
	say("job %s is submitted", job.ID)
	for !inv.controllerAnswers(ctx) {
		if now := inv.now(); !now.Before(next) {
			next = now.Add(lookAtQueue)
			switch state, why, err := job.State(ctx); {
			case err != nil && !errors.Is(err, cluster.ErrUnknown):
				return err
			case state == cluster.JobPending:
				say("job %s is pending: %s", job.ID, why)
			case state == cluster.JobEnded:
				return fail(ExitFailed, "its output is "+filepath.Join(inv.set.get("stateDir"), "serve.log"), "the controller's job %s has ended: %s", job.ID, why)
			case state == cluster.JobRunning:
				say("job %s runs; its controller does not answer yet", job.ID)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
	return nil
}

// replacePatience is how long a controller that is replaced may take to go.
const replacePatience = 30 * time.Second

// replaceController asks the controller that runs, if one answers, to make way for this one. Deployments go on serving.
func replaceController(ctx context.Context, inv *invocation) error {
	client, done, err := inv.control()
	if err != nil {
		return nil
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, replacePatience)
	defer cancel()
	if _, err := client.Shutdown(ctx, &apiv1.ShutdownRequest{}); err != nil {
		return nil // nobody answers any more; the term decides
	}
	for ctx.Err() == nil {
		if _, err := client.Version(ctx, &apiv1.VersionRequest{}); err != nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}
