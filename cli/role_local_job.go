package cli

import (
	"context"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/agent/process"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/local"
)

// localJobCommand is the shim of the local cluster. People do not call it.
func localJobCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "local-job", Hidden: true, Usage: "one rank of a job of the local cluster", ArgsUsage: "--dir DIR",
		Flags: []cli.Flag{&cli.StringFlag{Name: "dir"}},
		Action: action(std, func(c *cli.Context) (string, error) { return c.String("dir"), nil },
			func(ctx context.Context, inv *invocation, dir string) error {
				if path, err := os.Readlink("/proc/self/fd/2"); err == nil && filepath.IsAbs(path) {
					inv.Err = sharedFile(path) // the agent writes there too
				}
				log, err := inv.logger()
				if err != nil {
					return err
				}
				return exitWith(local.RunJob(ctx, dir, startTree, log))
			}),
	}
}

// startTree makes a local.StartFunc of agent/process.
func startTree(s local.Spec) (local.Tree, error) {
	p, err := process.Start(process.Spec{
		Argv: s.Argv, Env: s.Env, Stdout: s.Stdout, Stderr: s.Stderr,
		Mark: process.Mark{Launch: process.LaunchToken(s.Launch), Run: s.Run, Rank: s.Rank},
	})
	if err != nil {
		return nil, err
	}
	return tree{p}, nil
}

type tree struct{ *process.Process }

// Wait gives the exit in the cluster's words.
func (t tree) Wait(ctx context.Context) (cluster.Exit, error) {
	exit, err := t.Process.Wait(ctx)
	return cluster.Exit{Code: exit.Code, Signal: int(exit.Signal)}, err
}
