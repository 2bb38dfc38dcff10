package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func planCommand(std IO) *cli.Command {
	run := action(std, parsePlan, planFile)
	return &cli.Command{
		Name: "plan", Usage: "show what would be done for a file (or now, for everything) and why; change nothing",
		ArgsUsage:   "[FILE]",
		Description: "Exit codes: 0 no change, 1 change, 255 error.",
		Action: func(c *cli.Context) error {
			err := run(c)
			if code, hint := classify(err); err != nil && code != PlanChange && code != ExitUsage && code != ExitInterrupted {
				return &exitError{code: PlanError, err: err, hint: hint}
			} else if err != nil && code == ExitError && !isSilent(err) {
				return &exitError{code: PlanError, err: err, hint: hint}
			}
			return err
		},
	}
}

type planOptions struct{ file string }

func parsePlan(c *cli.Context) (planOptions, error) {
	file, err := optional(c)
	return planOptions{file}, err
}

// planFile reads the file, if there is one, before it looks for a controller.
func planFile(ctx context.Context, inv *invocation, o planOptions) (err error) {
	req := &apiv1.PlanRequest{Source: o.file}
	if o.file != "" {
		if req.Yaml, err = inv.readForCluster(o.file); err != nil {
			return err
		}
	}
	client, done, err := inv.control()
	if err != nil {
		return err
	}
	defer done()
	return runPlan(ctx, inv, client, req)
}

func runPlan(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, req *apiv1.PlanRequest) error {
	resp, err := control.Plan(ctx, req)
	if err != nil {
		return err
	}
	if inv.json() {
		err = inv.printMessage("plan", resp)
	} else {
		printPlan(inv, resp)
	}
	if err == nil && changes(resp) {
		return exitWith(PlanChange)
	}
	return err
}

func changes(resp *apiv1.PlanResponse) bool {
	if resp.Changed {
		return true
	}
	for _, a := range resp.Actions {
		if a.Verb != "wait" {
			return true
		}
	}
	return false
}

func printPlan(inv *invocation, resp *apiv1.PlanResponse) {
	switch {
	case resp.Deployment != "" && resp.Changed:
		fmt.Fprintf(inv.Out, "%s would get revision %d\n", resp.Deployment, resp.Revision)
	case resp.Deployment != "":
		fmt.Fprintf(inv.Out, "%s: revision %d already says this\n", resp.Deployment, resp.Revision)
	}
	if len(resp.Actions) == 0 {
		fmt.Fprintln(inv.Out, "nothing to do")
	}
	for _, a := range resp.Actions {
		fmt.Fprintln(inv.Out, actionText(a))
	}
	for _, w := range resp.Warnings {
		inv.say("warning: %s", w)
	}
}

// actionText is one line: "+ start qwen decode/0 on node0 with 2 GPUs: wanted 2, have 0".
func actionText(a *apiv1.Action) string {
	sign := map[string]string{"start": "+", "drain": "~", "stop": "-", "cancel": "-", "end": "-", "retire": "-", "wait": ".", "rollback": "<", "count": "="}[a.Verb]
	if sign == "" {
		sign = " "
	}
	text := fmt.Sprintf("%s %s %s", sign, a.Verb, a.Deployment)
	if a.Role != "" {
		text += " " + a.Role
		if a.Verb != "count" && (a.Verb != "wait" || a.Launch != "") {
			text += fmt.Sprintf("/%d", a.Replica)
		}
	}
	if len(a.Nodes) > 0 {
		text += " on " + strings.Join(a.Nodes, ",")
	}
	if a.Gpus == 1 {
		text += " with 1 GPU"
	} else if a.Gpus > 1 {
		text += fmt.Sprintf(" with %d GPUs", a.Gpus)
	}
	return text + ": " + a.Reason
}
