package cli

import (
	"context"
	"errors"
	"fmt"
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
}

const followEvery = 300 * time.Millisecond

// follow waits and says on stderr what is waited for: each line once, when it changes. Ctrl-c ends the waiting only.
func follow(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, o followOptions) error {
	var deadline <-chan time.Time
	if o.timeout > 0 {
		deadline = time.After(o.timeout)
	}
	said := map[string]string{}
	var last *apiv1.DeploymentStatus
	for {
		st, err := control.Status(ctx, &apiv1.StatusRequest{Deployment: o.deployment})
		switch {
		case err == nil && len(st.Deployments) > 0:
			last = st.Deployments[0]
			sayProgress(inv, last, o.until, st.At.AsTime(), said)
			if done, err := reached(last, o); done || err != nil {
				return err
			}
		case connect.CodeOf(err) == connect.CodeNotFound && o.until == "stopped":
			return nil
		case connect.CodeOf(err) == connect.CodeUnavailable && ctx.Err() == nil:
			sayOnce(inv, said, "", "the controller does not answer; the deployment goes on, waiting for it")
		case err != nil && ctx.Err() == nil:
			return err
		}
		select {
		case <-ctx.Done():
			return &exitError{
				code: ExitInterrupted, err: errors.New("stopped waiting; the deployment goes on"),
				hint: "penstock status " + o.deployment,
			}
		case <-deadline:
			return notInTime(last, o)
		case <-time.After(followEvery):
		}
	}
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
			return "\n  | " + strings.Join(r.LastLines[max(0, n-5):], "\n  | ")
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

// sayProgress prints a line for each replica whose state or reason changed, and progress of loading every tenth.
// Who waits for the end does not want to hear of what has not begun to end.
func sayProgress(inv *invocation, d *apiv1.DeploymentStatus, until string, now time.Time, said map[string]string) {
	for _, r := range d.Replicas {
		if until == "stopped" && r.State != "draining" && r.State != "ended" {
			continue
		}
		text := r.State
		if reason := reasonText(r, now); reason != "" && r.State != "ready" {
			text += ": " + reason
		}
		key := r.Launch
		if p := r.Loading; r.State == "loading" && p.GetBytesTotal() > 0 {
			if step := fmt.Sprint(10 * p.BytesDone / p.BytesTotal); said[key+"#"] == r.State+step {
				continue
			} else {
				said[key+"#"] = r.State + step
			}
		} else if said[key+"#"] == r.State && r.State == "loading" {
			continue
		} else {
			said[key+"#"] = r.State
		}
		sayOnce(inv, said, key, fmt.Sprintf("%s %s: %s", d.Name, r.Name, text))
	}
	if d.State != "ready" && d.Reason != "" {
		sayOnce(inv, said, "deployment", d.Name+": "+d.Reason)
	}
}

func sayOnce(inv *invocation, said map[string]string, key, text string) {
	if said[key] != text {
		said[key] = text
		inv.say("%s", text)
	}
}
