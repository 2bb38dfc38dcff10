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
			"is written for each launch, and without one that script ends at once.\n" +
			"For cluster: nomad it is the job of the roles of one node per replica, for nomad job plan; with --role of one of several nodes,\n" +
			"the job of one of its replicas. --format json is for Nomad's API. --controller, without a file, is the controller as a job.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "cluster", Usage: "render for this cluster instead of the file's: local, slurm or nomad"},
			&cli.BoolFlag{Name: "elastic", Usage: "slurm: the batch script of one replica, as penstock serve submits it"},
			&cli.StringFlag{Name: "role", Usage: "slurm, with --elastic, and nomad: of this role; needed where there are several"},
			&cli.IntFlag{Name: "gpus-per-node", Usage: "slurm: the most GPUs that a node of the allocation may have"},
			&cli.StringFlag{Name: "format", Value: "hcl", Usage: "nomad: hcl or json"},
			&cli.BoolFlag{Name: "controller", Usage: "nomad: the controller as a job, with its state on the host volume penstock; no file is read"},
			&cli.IntFlag{Name: "nodes", Usage: "slurm: nodes of the allocation; default: the fewest that have room"},
		}, roleFlags("slurm.use", "nomad.program", "nomad.maxKillTimeout")...),
		Action: action(std, parseRender, runRender),
	}
}

type renderOptions struct {
	file, cluster, role string
	elastic             bool
	gpusPerNode, nodes  int
	format              string // of Nomad's jobs
	controller          bool
}

func parseRender(c *cli.Context) (renderOptions, error) {
	var file string
	var err error
	if c.Bool("controller") {
		_, err = nothing(c)
	} else {
		file, err = one(c, "a deployment file")
	}
	if f := c.String("format"); err == nil && f != "hcl" && f != "json" {
		err = usageError("--format %s: use hcl or json", f)
	}
	return renderOptions{
		format: c.String("format"), controller: c.Bool("controller"),
		file: file, cluster: c.String("cluster"), role: c.String("role"),
		elastic: c.Bool("elastic") || c.String("role") != "", gpusPerNode: c.Int("gpus-per-node"), nodes: c.Int("nodes"),
	}, err
}

func runRender(ctx context.Context, inv *invocation, o renderOptions) error {
	if o.controller {
		return inv.renderNomadController(o)
	}
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
	case jobspecs.NomadCluster:
		text, err = inv.renderNomad(d, o)
	default:
		return usageError("--cluster %s: use local, slurm or nomad", d.Cluster)
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
