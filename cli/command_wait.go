package cli

import (
	"context"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func waitCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "wait", Usage: "wait until a deployment is ready or stopped", ArgsUsage: "DEPLOYMENT",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "for", Value: "ready", Usage: "ready or stopped"},
			&cli.DurationFlag{Name: "timeout", Usage: "give up after this long; 0 waits for ever"},
		},
		Action: controlAction(std, parseWait, runWait),
	}
}

func parseWait(c *cli.Context) (followOptions, error) {
	name, err := one(c, "a deployment")
	o := followOptions{deployment: name, until: c.String("for"), timeout: c.Duration("timeout")}
	if err == nil && o.until != "ready" && o.until != "stopped" {
		err = usageError("penstock wait --for takes ready or stopped (got %q)", o.until)
	}
	return o, err
}

func runWait(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, o followOptions) error {
	if err := follow(ctx, inv, control, o); err != nil {
		return err
	}
	if inv.json() {
		return inv.printJSON("wait", map[string]any{"deployment": o.deployment, "state": o.until})
	}
	return nil
}

type followOptions struct {
	deployment string
	until      string // ready, stopped
	revision   uint32 // the one that is waited for; its roll-back is a failure. 0 = any
	timeout    time.Duration
	said       string // why nothing is placed yet, where that has been said already
}

// neverFits is the cause of a wait for room that will never be there.
const neverFits = "never-fits"

// impossible is the end of waiting for what no node can hold.
func impossible(deployment, why string) error {
	return fail(ExitNotPlaced, "ask for less in the file, or give it more nodes, and run it again: `penstock nodes` lists what there is\n"+
		"what fits goes on; take all of it back with: penstock stop "+deployment,
		"%s is accepted and can never be placed on what there is: %s", deployment, why)
}

const (
	followEvery = 300 * time.Millisecond
	firstLook   = 5 * time.Second // more than the timeout, so that what is told at its end is known
)

// follow waits and says on stderr what is waited for. Ctrl-c ends the waiting only.
func follow(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, o followOptions) error {
	wait, look := ctx, ctx
	if o.timeout > 0 {
		var cancel, cancelLook context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
		look, cancelLook = context.WithTimeout(ctx, o.timeout+firstLook)
		defer cancelLook()
	}
	p := newProgress(inv, o)
	var last *apiv1.DeploymentStatus
	for ; ; look = wait {
		st, err := control.Status(look, &apiv1.StatusRequest{Deployment: o.deployment})
		switch {
		case err == nil && len(st.Deployments) > 0:
			last = st.Deployments[0]
			p.show(last, st.At.AsTime())
			if done, err := reached(last, o); done || err != nil {
				return err
			}
			if o.until == "ready" && p.stands("impossible", last.Impossible) {
				return impossible(last.Name, last.Impossible)
			}
		case connect.CodeOf(err) == connect.CodeNotFound && o.until == "stopped":
			return nil
		case wait.Err() != nil || err == nil:
		case isAway(err):
			p.once("", "the controller does not answer; the deployment goes on, waiting for it")
			if again, done, err := inv.control(); err == nil { // it may come back at another address
				defer done()
				control = again
			}
		default:
			return err
		}
		select {
		case <-wait.Done():
			if ctx.Err() == nil {
				return notInTime(last, o)
			}
			return &exitError{code: ExitInterrupted, err: errors.New("stopped waiting; the deployment goes on"), hint: "penstock status " + o.deployment}
		case <-time.After(followEvery):
		}
	}
}

func isAway(err error) bool {
	code := connect.CodeOf(err)
	return code == connect.CodeUnavailable || code == connect.CodeDeadlineExceeded
}

// reached says whether the deployment is where it should be, or can't get there.
func reached(d *apiv1.DeploymentStatus, o followOptions) (bool, error) {
	switch {
	case o.revision != 0 && d.RolledBackFrom == o.revision:
		return true, fail(ExitFailed, "penstock events "+d.Name, "%s: revision %d failed and was rolled back to %d", d.Name, d.RolledBackFrom, d.Revision)
	case d.State == o.until:
		return true, nil
	case d.State == "failed":
		return true, fail(ExitFailed, "penstock logs "+d.Name, "%s failed: %s%s", d.Name, d.Reason, lastWords(d))
	case o.until == "ready" && d.State == "stopped":
		return true, fail(ExitFailed, "penstock run FILE starts it again", "%s was stopped", d.Name)
	}
	return false, nil
}

func lastWords(d *apiv1.DeploymentStatus) string {
	for _, r := range d.Replicas {
		if n := len(r.LastLines); n > 0 {
			var b strings.Builder
			for _, l := range r.LastLines[max(0, n-lastLinesShown):] {
				b.WriteString("\n  | " + printable(l))
			}
			return b.String()
		}
	}
	return ""
}

func notInTime(d *apiv1.DeploymentStatus, o followOptions) error {
	if d == nil {
		return fail(ExitTimeout, "", "%s is not %s after %s", o.deployment, o.until, o.timeout)
	}
	placed := len(d.Replicas) > 0
	for _, r := range d.Replicas {
		placed = placed && r.State != "pending" && r.State != "submitting"
	}
	if o.until == "ready" && !placed {
		return fail(ExitNotPlaced, "penstock status "+d.Name, "%s is accepted but not placed after %s: %s", d.Name, o.timeout, orDash(d.Reason))
	}
	return fail(ExitTimeout, "penstock status "+d.Name, "%s is %s, not %s, after %s: %s", d.Name, d.State, o.until, o.timeout, orDash(d.Reason))
}
