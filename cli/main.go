// Package cli is the command line: it knows every name of the program, reads the environment and the configuration
// files, wires each role together in one file (role_*.go), and is the only package that exits.
//
// A command is three pieces: a constructor that names its flags, a parser from *cli.Context to a plain options struct,
// and a run function that never sees *cli.Context. Main returns an exit code, so that tests run the real program in
// process.
package cli

import (
	"context"
	"errors"
	"io"
	"os/signal"
	"regexp"
	"syscall"

	"github.com/urfave/cli/v2"
)

// Main runs the program with its arguments (args[0] is the program's name) and returns the exit code. What the process and
// its children make, engines' sockets and caches among it, is for its user alone, whatever the shell's umask says.
func Main(args []string, std IO) int {
	syscall.Umask(0o077)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return runArgs(ctx, args, std)
}

// runArgs is Main under a context of the caller's.
func runArgs(ctx context.Context, args []string, std IO) int {
	app := newApp(std)
	ordered, err := orderArguments(app, args, std.Getenv)
	if err == nil {
		err = app.RunContext(ctx, ordered)
	}
	var help helpText
	if errors.As(err, &help) {
		_, err = io.WriteString(std.Out, string(help))
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = &exitError{code: ExitInterrupted, err: errors.New("interrupted; deployments go on running")}
	}
	return report(std, args, err)
}

// newApp builds the command table anew, so that parallel tests share nothing.
func newApp(std IO) *cli.App {
	app := &cli.App{
		Name:            "penstock",
		Usage:           "large language models on machines that you have, behind one OpenAI-compatible endpoint",
		HideVersion:     true,
		HideHelp:        true, // orderArguments sees to it; the library's own flag is shared between all of a process
		HideHelpCommand: true,
		Reader:          std.In, Writer: std.Out, ErrWriter: std.Err,
		ExitErrHandler:            func(*cli.Context, error) {}, // report alone maps errors to exit codes
		OnUsageError:              usageFromLibrary,
		DisableSliceFlagSeparator: true,
		Action:                    helpOrUnknown,
		Commands:                  commands(std),
	}
	for _, c := range app.Commands {
		finish(c)
	}
	return app
}

// finish gives a command what the library does not inherit.
func finish(c *cli.Command) {
	c.HideHelp, c.HideHelpCommand = true, true
	c.OnUsageError = usageFromLibrary
	if len(c.Subcommands) > 0 {
		c.Action = helpOrUnknown
	} else {
		c.Flags = append(c.Flags, globalFlags()...)
	}
	for _, s := range c.Subcommands {
		finish(s)
	}
}

// badValue is how the library speaks of a flag's value that it cannot read.
var badValue = regexp.MustCompile(`^invalid (?:boolean )?value (".*") for (?:flag )?-+([a-z-]+): .*$`)

func usageFromLibrary(_ *cli.Context, err error, _ bool) error {
	return usageError("%s", badValue.ReplaceAllString(err.Error(), "--$2 cannot be $1"))
}

// helpOrUnknown is the action of everything that only groups commands.
func helpOrUnknown(c *cli.Context) error {
	group := c.Command
	if len(group.Subcommands) == 0 || group.Name == c.App.Name {
		group = nil
	}
	if c.Args().Present() {
		return unknownCommand(c.Args().First(), c.App, group)
	}
	return helpOf(c.App, group, []string{c.App.Name, c.Command.Name})
}
