package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func runCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "start or change a deployment and wait until it is ready", ArgsUsage: "FILE",
		Description: "Ctrl-c ends the waiting, never the deployment. FILE - reads standard input.\n" +
			"Exit codes: 0 ready, 2 accepted but not placed in time, or never to be placed on what there is (told at once),\n" +
			"5 placed but not ready in time, 6 failed or rolled back.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "return as soon as the deployment is accepted"},
			&cli.DurationFlag{Name: "timeout", Usage: "give up waiting after this long; 0 waits for ever"},
			&cli.BoolFlag{Name: "dry-run", Usage: "show what would be done and do nothing, as `penstock plan` does"},
			&cli.BoolFlag{Name: "parsable", Usage: "print DEPLOYMENT;REVISION and nothing else"},
			&cli.StringFlag{Name: "controller", Usage: "where to start a controller if none answers: here, or job (a Slurm job of its own); or the https:// address of one"},
		}, roleFlags("slurm.controllerSbatch")...),
		Action: action(std, parseRun, runWithController),
	}
}

// runWithController sees to a controller first, where that is asked for.
func runWithController(ctx context.Context, inv *invocation, o runOptions) error {
	if o.dryRun && !strings.HasPrefix(o.controller, "https://") {
		o.controller = "" // nothing is started
	}
	text, err := inv.readForCluster(o.file) // before anything is started or asked
	if err != nil {
		return err
	}
	if err := inv.ensureController(ctx, o.controller); err != nil {
		return err
	}
	client, done, err := inv.control()
	if err != nil {
		return err
	}
	defer done()
	return runRun(ctx, inv, client, text, o)
}

type runOptions struct {
	file             string
	detach, parsable bool
	dryRun           bool
	timeout          time.Duration
	controller       string
}

func parseRun(c *cli.Context) (runOptions, error) {
	file, err := one(c, "a deployment file")
	if err == nil {
		err = checkPlace(c.String("controller"))
	}
	return runOptions{
		file: file, detach: c.Bool("detach"), parsable: c.Bool("parsable"), dryRun: c.Bool("dry-run"), timeout: c.Duration("timeout"),
		controller: c.String("controller"),
	}, err
}

func runRun(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, text string, o runOptions) error {
	if o.dryRun {
		return runPlan(ctx, inv, control, &apiv1.PlanRequest{Source: o.file, Yaml: text})
	}
	resp, err := control.Apply(ctx, &apiv1.ApplyRequest{Yaml: text, Source: o.file})
	if err != nil {
		return err
	}
	if !resp.Changed {
		inv.say("%s: revision %d already says this", resp.Deployment, resp.Revision)
	}
	for _, note := range resp.Notes {
		inv.say("%s", note)
	}
	waits, never := "", ""
	for _, a := range resp.Actions {
		if a.Cause != neverFits || o.detach {
			inv.say("%s", actionText(a))
		}
		if a.Verb == "wait" && a.Launch == "" {
			waits = a.Reason
		}
		if a.Cause == neverFits {
			never = a.Reason
		}
	}
	if o.detach || !inv.json() {
		if err := printRun(inv, resp, o.parsable); err != nil || o.detach {
			return err
		}
	}
	if never != "" {
		return impossible(resp.Deployment, never)
	}
	err = follow(ctx, inv, control, followOptions{
		deployment: resp.Deployment, until: "ready", revision: resp.Revision, timeout: o.timeout, said: waits,
	})
	if err == nil && inv.json() { // one document in all: this one, or the error
		err = printRun(inv, resp, false)
	}
	return err
}

func printRun(inv *invocation, resp *apiv1.ApplyResponse, parsable bool) (err error) {
	switch {
	case inv.json():
		return inv.printMessage("run", resp)
	case parsable:
		_, err = fmt.Fprintf(inv.Out, "%s;%d\n", resp.Deployment, resp.Revision)
	default:
		_, err = fmt.Fprintf(inv.Out, "%s revision %d\n", resp.Deployment, resp.Revision)
	}
	return err
}

// maxDeploymentFile bounds what is read of a file.
const maxDeploymentFile = 1 << 20

// readDeployment reads, parses and checks a deployment file; - is standard input. All that is wrong is in the error.
func (inv *invocation) readDeployment(file string) (string, jobspecs.Deployment, error) {
	in := inv.In
	if file != "-" {
		f, err := os.Open(inv.path(file))
		if errors.Is(err, os.ErrNotExist) {
			return "", jobspecs.Deployment{}, fail(ExitNotFound, "", "deployment file %s does not exist", file)
		} else if err != nil {
			return "", jobspecs.Deployment{}, fmt.Errorf("read deployment file: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxDeploymentFile+1))
	if err != nil {
		return "", jobspecs.Deployment{}, fmt.Errorf("read deployment file %s: %w", file, err)
	}
	doc, err := jobspecs.ParseDocument(file, text)
	if err == nil {
		err = doc.Locate(engine.Check(doc.Deployment))
	}
	if err != nil {
		return "", jobspecs.Deployment{}, &exitError{code: ExitError, err: err, hint: "`penstock schema` prints a JSON Schema that editors can check against"}
	}
	return string(text), doc.Deployment, nil
}
