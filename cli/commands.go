package cli

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// commands is the command table: one file per command (command_*.go) and per role (role_*.go).
func commands(std IO) []*cli.Command {
	return []*cli.Command{
		runCommand(std), planCommand(std), renderCommand(std), statusCommand(std), nodesCommand(std), logsCommand(std),
		scaleCommand(std), drainCommand(std), stopCommand(std), waitCommand(std), endpointCommand(std), keyCommand(std),
		eventsCommand(std), whyCommand(std), historyCommand(std), kvCommand(std), simulateCommand(std),
		serveCommand(std), gatewayCommand(std), agentCommand(std), keeperCommand(std), engineCommand(std), localJobCommand(std),
		schemaCommand(std), configCommand(std), doctorCommand(std), completionCommand(std), versionCommand(std),
	}
}

// invocation is what a command's run function gets beside its own options.
type invocation struct {
	IO
	set          resolved
	controllerAt string // where the controller is, instead of what the state folder says
}

func begin(c *cli.Context, std IO) (*invocation, error) {
	set, err := resolve(c, std)
	if err != nil {
		return nil, err
	}
	inv := &invocation{IO: std, set: set}
	return inv, inv.followJob()
}

// action joins a parser to a run function that needs only the invocation.
func action[O any](std IO, parse func(*cli.Context) (O, error), run func(context.Context, *invocation, O) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		opts, err := parse(c)
		if err != nil {
			return err
		}
		inv, err := begin(c, std)
		if err != nil {
			return err
		}
		return run(c.Context, inv, opts)
	}
}

// controlAction joins a parser to a run function that speaks to the controller.
func controlAction[O any](std IO, parse func(*cli.Context) (O, error),
	run func(context.Context, *invocation, apiv1.ControlServiceClient, O) error,
) cli.ActionFunc {
	return action(std, parse, func(ctx context.Context, inv *invocation, opts O) error {
		client, done, err := inv.control()
		if err != nil {
			return err
		}
		defer done()
		return run(ctx, inv, client, opts)
	})
}

// nothing is the parser of commands without arguments.
func nothing(c *cli.Context) (struct{}, error) {
	if c.Args().Present() {
		return struct{}{}, usageError("penstock %s takes no arguments (got %q)", c.Command.FullName(), c.Args().First())
	}
	return struct{}{}, nil
}

// one returns the only argument; what it is goes into the message when it is missing.
func one(c *cli.Context, what string) (string, error) {
	switch c.Args().Len() {
	case 0:
		return "", usageError("penstock %s needs %s", c.Command.FullName(), what)
	case 1:
		return c.Args().First(), nil
	}
	return "", usageError("penstock %s takes one argument (got %s)", c.Command.FullName(), strings.Join(c.Args().Slice(), " "))
}

// optional returns the only argument or "".
func optional(c *cli.Context) (string, error) {
	if c.Args().Len() == 0 {
		return "", nil
	}
	return one(c, "")
}
