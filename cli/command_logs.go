package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func logsCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "logs", Usage: "print what engines (or agents) wrote", ArgsUsage: "DEPLOYMENT [ROLE/INDEX]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with new lines"},
			&cli.UintFlag{Name: "tail", Aliases: []string{"n"}, Usage: "only the last N lines of each; 0 = all"},
			&cli.BoolFlag{Name: "agent", Usage: "the agent's log instead of the engine's"},
			&cli.BoolFlag{Name: "previous", Usage: "of the launch before this one"},
		},
		Action: controlAction(std, parseLogs, runLogs),
	}
}

type logsOptions struct {
	deployment, replica     string
	follow, agent, previous bool
	tail                    uint
}

func parseLogs(c *cli.Context) (logsOptions, error) {
	o := logsOptions{
		deployment: c.Args().Get(0), replica: c.Args().Get(1), follow: c.Bool("follow"), agent: c.Bool("agent"),
		previous: c.Bool("previous"), tail: c.Uint("tail"),
	}
	if n := c.Args().Len(); n < 1 || n > 2 {
		return o, usageError("penstock logs needs a deployment and at most one replica, e.g. penstock logs -f qwen decode/0")
	}
	return o, nil
}

func runLogs(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, o logsOptions) error {
	stream := "engine"
	if o.agent {
		stream = "agent"
	}
	lines, err := control.Logs(ctx, &apiv1.LogsRequest{
		Deployment: o.deployment, Replica: o.replica, Follow: o.follow, Tail: uint32(o.tail), Stream: stream, Previous: o.previous,
	})
	if err != nil {
		return err
	}
	defer lines.Close()
	for lines.Receive() {
		l := lines.Msg()
		if inv.json() {
			err = inv.printLine("log", map[string]any{"replica": l.Replica, "node_rank": l.NodeRank, "line": l.Line})
		} else if o.replica != "" && l.NodeRank == 0 {
			_, err = fmt.Fprintln(inv.Out, l.Line)
		} else {
			_, err = fmt.Fprintf(inv.Out, "%s | %s\n", rankText(l.Replica, l.NodeRank), l.Line)
		}
		if err != nil {
			return err
		}
	}
	return followEnd(ctx, lines.Err(), o.follow)
}

// rankText is a replica's name and, of one on several nodes, which node: mixed/0, mixed/0.1.
func rankText(replica string, rank uint32) string {
	if rank == 0 {
		return replica
	}
	return fmt.Sprintf("%s.%d", replica, rank)
}

// followEnd: ctrl-c is how a follower ends, and no failure.
func followEnd(ctx context.Context, err error, follow bool) error {
	if follow && ctx.Err() != nil {
		return exitWith(ExitInterrupted)
	}
	return err
}

func eventsCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "events", Usage: "print what happened and why", ArgsUsage: "[DEPLOYMENT]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with new events"},
			&cli.UintFlag{Name: "tail", Aliases: []string{"n"}, Value: 50, Usage: "only the last N; 0 = all that are kept"},
		},
		Action: controlAction(std, parseEvents, runEvents),
	}
}

type eventsOptions struct {
	deployment string
	follow     bool
	tail       uint
}

func parseEvents(c *cli.Context) (eventsOptions, error) {
	name, err := optional(c)
	return eventsOptions{name, c.Bool("follow"), c.Uint("tail")}, err
}

func runEvents(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, o eventsOptions) error {
	events, err := control.Events(ctx, &apiv1.EventsRequest{Deployment: o.deployment, Follow: o.follow, Tail: uint32(o.tail)})
	if err != nil {
		return err
	}
	defer events.Close()
	for events.Receive() {
		e := events.Msg().Event
		if inv.json() {
			err = inv.printLine("event", plain(e.ProtoReflect()))
		} else {
			_, err = fmt.Fprintln(inv.Out, eventText(e))
		}
		if err != nil {
			return err
		}
	}
	return followEnd(ctx, events.Err(), o.follow)
}

// eventText is one line: when, what kind, of what, what.
func eventText(e *apiv1.Event) string {
	where := strings.TrimSpace(e.Deployment + " " + e.Replica)
	if where != "" {
		where += ": "
	}
	return fmt.Sprintf("%s  %-12s  %s%s", e.At.AsTime().Local().Format(time.DateTime), e.Kind, where, printable(e.Message))
}
