package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func scaleCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "scale", Usage: "change how many replicas roles have", ArgsUsage: "DEPLOYMENT ROLE=N...",
		Description: "Holds until the file's own count of the role changes, or the deployment is stopped.",
		Action:      controlAction(std, parseScale, runScale),
	}
}

type scaleOptions struct {
	deployment string
	roles      map[string]uint32
}

func parseScale(c *cli.Context) (scaleOptions, error) {
	o := scaleOptions{deployment: c.Args().First(), roles: map[string]uint32{}}
	if c.Args().Len() < 2 {
		return o, usageError("penstock scale needs a deployment and at least one ROLE=N, e.g. penstock scale qwen decode=4")
	}
	for _, a := range c.Args().Tail() {
		role, count, ok := strings.Cut(a, "=")
		n, err := strconv.ParseUint(count, 10, 16)
		if !ok || err != nil {
			return o, usageError("penstock scale: %q is not ROLE=N with N from 0 to 65535", a)
		}
		if !isRole(role) {
			return o, usageError("penstock scale: %q is no role; roles are prefill, decode and mixed", role)
		}
		o.roles[role] = uint32(n)
	}
	return o, nil
}

func isRole(s string) bool {
	for _, r := range jobspecs.RoleKinds {
		if string(r) == s {
			return true
		}
	}
	return false
}

func runScale(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, o scaleOptions) error {
	resp, err := control.Scale(ctx, &apiv1.ScaleRequest{Deployment: o.deployment, Roles: o.roles})
	if err != nil {
		return err
	}
	if inv.json() {
		return inv.printMessage("scale", resp)
	}
	for _, a := range resp.Actions {
		inv.say("%s", actionText(a))
	}
	if len(resp.Actions) == 0 {
		inv.say("nothing has to change at %s for that", resp.Deployment)
	} else {
		inv.say("watch it with: penstock wait %s", resp.Deployment)
	}
	fmt.Fprintln(inv.Out, resp.Deployment)
	return nil
}

func drainCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "drain", Usage: "take a replica, or all replicas of a node, out of service without cutting streams",
		ArgsUsage:   "DEPLOYMENT ROLE/INDEX | --node NODE",
		Description: "A drained replica is replaced unless the count was lowered.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "node", Usage: "drain every replica on this node"},
			&cli.DurationFlag{Name: "deadline", Usage: "cut what is still running after this long (default: the deployment's drainTimeout)"},
		},
		Action: controlAction(std, parseDrain, runDrain),
	}
}

type drainOptions struct {
	deployment, replica, node string
	deadline                  time.Duration
}

func parseDrain(c *cli.Context) (drainOptions, error) {
	o := drainOptions{node: c.String("node"), deadline: c.Duration("deadline")}
	switch {
	case o.node != "" && c.Args().Present():
		return o, usageError("penstock drain takes a replica or --node, not both")
	case o.node == "" && c.Args().Len() != 2:
		return o, usageError("penstock drain needs a deployment and a replica, e.g. penstock drain qwen decode/0, or --node NODE")
	}
	o.deployment, o.replica = c.Args().Get(0), c.Args().Get(1)
	return o, nil
}

func runDrain(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, o drainOptions) error {
	req := &apiv1.DrainReplicaRequest{Deployment: o.deployment, Replica: o.replica, Node: o.node}
	if o.deadline > 0 {
		req.Deadline = durationpb.New(o.deadline)
	}
	resp, err := control.DrainReplica(ctx, req)
	if err != nil {
		return err
	}
	if inv.json() {
		return inv.printMessage("drain", resp)
	}
	for _, l := range resp.Launches {
		fmt.Fprintln(inv.Out, l)
	}
	within := "their file's serving.drainTimeout"
	if o.deadline > 0 {
		within = o.deadline.String()
	}
	inv.say("%s no new requests; streams have %s to finish. Replacements start as far as they are wanted", takes(len(resp.Launches)), within)
	inv.say("watch it with: %s", strings.TrimSpace("penstock events -f "+o.deployment))
	return nil
}

func takes(replicas int) string {
	if replicas == 1 {
		return "1 replica takes"
	}
	return fmt.Sprintf("%d replicas take", replicas)
}

func stopCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "stop", Aliases: []string{"cancel", "rm"}, Usage: "drain and end deployments", ArgsUsage: "DEPLOYMENT... | --all",
		Description: "Works without a controller too: the jobs are then ended directly.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "every deployment"},
			&cli.BoolFlag{Name: "now", Usage: "without draining; streams are cut"},
			&cli.BoolFlag{Name: "wait", Usage: "return when everything has ended"},
			&cli.DurationFlag{Name: "timeout", Usage: "with --wait: give up after this long; 0 waits for ever"},
		},
		Action: action(std, parseStop, runStop),
	}
}

type stopOptions struct {
	deployments    []string
	all, now, wait bool
	timeout        time.Duration
}

func parseStop(c *cli.Context) (stopOptions, error) {
	o := stopOptions{
		deployments: c.Args().Slice(), all: c.Bool("all"), now: c.Bool("now"), wait: c.Bool("wait"), timeout: c.Duration("timeout"),
	}
	if o.all == (len(o.deployments) > 0) {
		return o, usageError("penstock stop needs deployments, or --all")
	}
	return o, nil
}

func runStop(ctx context.Context, inv *invocation, o stopOptions) error {
	control, done, err := inv.control()
	if err != nil {
		return stopWithout(ctx, inv, o, err)
	}
	defer done()
	names := o.deployments
	if o.all {
		names = []string{""}
	}
	var stopped []string
	for _, name := range names {
		resp, err := control.StopDeployment(ctx, &apiv1.StopDeploymentRequest{Deployment: name, All: o.all, Now: o.now})
		if err != nil {
			for _, name := range stopped {
				inv.say("%s is told to stop", name)
			}
			return err
		}
		stopped = append(stopped, resp.Deployments...)
	}
	if o.wait {
		for _, name := range stopped {
			if err := follow(ctx, inv, control, followOptions{deployment: name, until: "stopped", timeout: o.timeout}); err != nil {
				return err
			}
		}
	}
	if !o.wait {
		sayStopping(ctx, inv, control, stopped, o.now)
	}
	return printStopped(inv, stopped)
}

// sayStopping says what happens now to deployments that were told to stop.
func sayStopping(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, told []string, now bool) {
	how := "streams may finish first"
	if now {
		how = "streams are cut"
	}
	ended := map[string]bool{}
	if st, err := control.Status(ctx, &apiv1.StatusRequest{}); err == nil { // else nobody knows, and they may be stopping
		for _, d := range st.Deployments {
			ended[d.Name] = d.State == "stopped"
		}
	}
	stopping := slices.DeleteFunc(slices.Clone(told), func(name string) bool { return ended[name] })
	switch {
	case len(told) == 0:
		inv.say("there are no deployments")
	case len(stopping) == 0:
		inv.say("nothing of %s runs", strings.Join(told, ", "))
	case len(stopping) == 1:
		inv.say("%s is stopping; %s. Watch it with: penstock wait %s --for stopped", stopping[0], how, stopping[0])
	default:
		inv.say("%s are stopping; %s. Watch them with: penstock status", strings.Join(stopping, ", "), how)
	}
}

func printStopped(inv *invocation, stopped []string) error {
	if inv.json() {
		if stopped == nil {
			stopped = []string{}
		}
		return inv.printJSON("stop", map[string]any{"deployments": stopped})
	}
	for _, name := range stopped {
		fmt.Fprintln(inv.Out, name)
	}
	return nil
}
