package cli

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/render"
)

func renderCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "render", Usage: "print the job that a deployment file becomes", ArgsUsage: "FILE",
		Description: "Needs no controller and holds no secret.",
		Action: action(std, func(c *cli.Context) (string, error) { return one(c, "a deployment file") },
			func(_ context.Context, inv *invocation, file string) error {
				_, d, err := inv.readDeployment(file)
				if err != nil {
					return err
				}
				if d.Cluster != jobspecs.LocalCluster {
					return fail(ExitError, "set `cluster: local` to render for this machine", "this release renders for the local cluster only, not for %s", d.Cluster)
				}
				text, err := render.Local(d)
				if err != nil {
					return err
				}
				if inv.json() {
					return inv.printJSON("render", map[string]any{"deployment": d.Name, "cluster": string(d.Cluster), "text": text})
				}
				_, err = inv.Out.Write([]byte(text))
				return err
			}),
	}
}
