package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func nodesCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "nodes", Usage: "show nodes, their GPUs, and which replica uses which",
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "gpus", Usage: "one line for each GPU"}},
		Action: controlAction(std, parseNodes, runNodes),
	}
}

type nodesOptions struct{ gpus bool }

func parseNodes(c *cli.Context) (nodesOptions, error) {
	_, err := nothing(c)
	return nodesOptions{c.Bool("gpus")}, err
}

func runNodes(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, o nodesOptions) error {
	resp, err := control.Nodes(ctx, &apiv1.NodesRequest{})
	if err != nil {
		return err
	}
	if inv.json() {
		return inv.printMessage("nodes", resp)
	}
	var rows [][]string
	for _, n := range resp.Nodes {
		rows = append(rows, []string{
			n.Name, n.Cluster, inv.paint(n.State), fmt.Sprintf("%d/%d", n.GpusUsed, n.GpusDeclared), fmt.Sprint(n.Cpus),
			bytesText(n.Memory), orDash(n.GpuSource), orDash(strings.Join(n.Replicas, " ")),
		})
	}
	if err := inv.table([]string{"NODE", "CLUSTER", "STATE", "GPUS", "CPUS", "MEMORY", "GPU SOURCE", "REPLICAS"}, rows); err != nil {
		return err
	}
	if o.gpus {
		if err := printGPUs(inv, resp.Nodes); err != nil {
			return err
		}
	}
	for _, n := range resp.Nodes {
		if n.ExcludedUntil != nil {
			fmt.Fprintf(inv.Out, "  %s gets no launches until %s: %s\n", n.Name, n.ExcludedUntil.AsTime().Local().Format(time.TimeOnly), printable(n.ExcludedReason))
		}
	}
	for _, w := range resp.Warnings {
		inv.say("warning: %s", w)
	}
	return nil
}

func printGPUs(inv *invocation, nodes []*apiv1.NodeStatus) error {
	var rows [][]string
	for _, n := range nodes {
		for _, g := range n.Gpus {
			mem := "-"
			if g.MemoryUsed != nil && g.MemoryTotal != nil {
				mem = bytesText(*g.MemoryUsed) + " / " + bytesText(*g.MemoryTotal)
			}
			rows = append(rows, []string{
				n.Name, g.Uuid, orDash(g.Name), mem, percent(g.GetUtilization(), g.Utilization != nil),
				orUnknown(g.TemperatureC, "%.0f C"), orUnknown(g.PowerW, "%.0f W"), orUnknown(g.EccUncorrected, "%d"), xids(g),
			})
		}
	}
	if len(rows) == 0 {
		inv.say("no GPU is seen on any node")
		return nil
	}
	fmt.Fprintln(inv.Out)
	return inv.table([]string{"NODE", "GPU", "NAME", "MEMORY", "UTIL", "TEMP", "POWER", "ECC", "XID"}, rows)
}

func xids(g *apiv1.GPU) string {
	var out []string
	for _, x := range g.Xids {
		out = append(out, fmt.Sprint(x))
	}
	return orDash(strings.Join(out, ","))
}
