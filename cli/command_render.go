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
		Description: "Needs no controller and holds no secret.\n" +
			"For cluster: slurm it is one script that serves the whole file in one allocation, controller and gateway included:\n" +
			"penstock render FILE | sbatch. Nodes have as many GPUs as Slurm says here, else 8; --gpus-per-node says otherwise.\n" +
			"With --elastic it is the batch script of one replica, as penstock serve hands it to sbatch; the join file that it names\n" +
			"is written for each launch, and without one that script ends at once.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "cluster", Usage: "render for this cluster instead of the file's: local or slurm"},
			&cli.BoolFlag{Name: "elastic", Usage: "slurm: the batch script of one replica, as penstock serve submits it"},
			&cli.StringFlag{Name: "role", Usage: "slurm: with --elastic, of this role; needed where there are several"},
			&cli.IntFlag{Name: "gpus-per-node", Usage: "slurm: the most GPUs that a node of the allocation may have"},
			&cli.IntFlag{Name: "nodes", Usage: "slurm: nodes of the allocation; default: the fewest that have room"},
		}, roleFlags("slurm.use")...),
		Action: action(std, parseRender, runRender),
	}
}

type renderOptions struct {
	file, cluster, role string
	elastic             bool
	gpusPerNode, nodes  int
}

func parseRender(c *cli.Context) (renderOptions, error) {
	file, err := one(c, "a deployment file")
	return renderOptions{
		file: file, cluster: c.String("cluster"), role: c.String("role"),
		elastic: c.Bool("elastic") || c.String("role") != "", gpusPerNode: c.Int("gpus-per-node"), nodes: c.Int("nodes"),
	}, err
}

func runRender(ctx context.Context, inv *invocation, o renderOptions) error {
	source, d, err := inv.readDeployment(o.file)
	if err != nil {
		return err
	}
	if kind := jobspecs.ClusterKind(o.cluster); kind != "" && kind != d.Cluster {
		d.Cluster = kind
		source = string(jobspecs.Encode(d))
	}
	var text string
	switch d.Cluster {
	case jobspecs.LocalCluster:
		text, err = render.Local(d)
	case jobspecs.SlurmCluster:
		if o.elastic {
			text, err = inv.renderElastic(d, o.role)
		} else {
			text, err = inv.renderAllocation(ctx, d, source, o)
		}
	default:
		return fail(ExitError, "use --cluster local or slurm", "this release renders for local and slurm only, not for %s", d.Cluster)
	}
	if err != nil {
		return err
	}
	if inv.json() {
		return inv.printJSON("render", map[string]any{"deployment": d.Name, "cluster": string(d.Cluster), "text": text})
	}
	_, err = inv.Out.Write([]byte(text))
	return err
}
