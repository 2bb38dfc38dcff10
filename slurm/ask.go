package slurm

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// Questions of who has no Cluster: a person's shell, and a controller that lives in the job it serves on. They go through
// Slurm's commands.

func ask(environ []string) commands { return commands{newRunner(environ, "", newMetrics(nil))} }

// LoneJob is a job that has been submitted by somebody else.
func LoneJob(environ []string, id string) *Lone { return &Lone{ID: id, slurm: ask(environ)} }

// Nodes lists the nodes of all partitions that this user may see. ErrUnknown: Slurm does not answer, or there is none.
func Nodes(ctx context.Context, environ []string) ([]cluster.Node, error) {
	nodes, err := ask(environ).nodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("list Slurm's nodes: %w", unknown(err))
	}
	return nodes, nil
}

// KillWait is the site's time between TERM and KILL. ErrUnknown as for Nodes.
func KillWait(ctx context.Context, environ []string) (time.Duration, error) {
	conf, err := ask(environ).config(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask Slurm for its configuration: %w", unknown(err))
	}
	return conf.KillWait, nil
}
