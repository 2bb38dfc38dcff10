package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/render"
)

func renderCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "render", Usage: "print the job that a deployment file becomes", ArgsUsage: "FILE",
		Description: "Needs no controller and holds no secret.\n" +
			"For cluster: slurm it is the batch script of one replica, as penstock serve hands it to sbatch. The join file that it names\n" +
			"is written for each launch; without one the script ends at once.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "cluster", Usage: "render for this cluster instead of the file's: local or slurm"},
			&cli.StringFlag{Name: "role", Usage: "slurm: of this role; needed where there are several"},
		},
		Action: action(std, parseRender, runRender),
	}
}

type renderOptions struct{ file, cluster, role string }

func parseRender(c *cli.Context) (renderOptions, error) {
	file, err := one(c, "a deployment file")
	return renderOptions{file, c.String("cluster"), c.String("role")}, err
}

func runRender(_ context.Context, inv *invocation, o renderOptions) error {
	_, d, err := inv.readDeployment(o.file)
	if err != nil {
		return err
	}
	if o.cluster != "" {
		d.Cluster = jobspecs.ClusterKind(o.cluster)
	}
	var text string
	switch d.Cluster {
	case jobspecs.LocalCluster:
		text, err = render.Local(d)
	case jobspecs.SlurmCluster:
		text, err = inv.renderSlurm(d, o.role)
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

// renderSlurm is the script of a role's first replica. The launch token ends in what a real one draws.
func (inv *invocation) renderSlurm(d jobspecs.Deployment, name string) (string, error) {
	var roles []string
	for _, kind := range jobspecs.RoleKinds {
		if _, ok := d.Roles[kind]; ok {
			roles = append(roles, string(kind))
		}
	}
	switch {
	case name == "" && len(roles) > 1:
		return "", usageError("%s has the roles %s, and each is a job of its own: choose one with --role", d.Name, strings.Join(roles, " and "))
	case name == "":
		name = roles[0]
	case !slices.Contains(roles, name):
		return "", fail(ExitNotFound, "its roles: "+strings.Join(roles, ", "), "%s has no role %s", d.Name, name)
	}
	launch := fmt.Sprintf("%s-%s-0-xxxxxxxx", d.Name[:min(len(d.Name), 20)], name)
	state := inv.set.get("stateDir")
	return render.Sbatch(render.SlurmJob{
		Deployment: d, Role: jobspecs.RoleKind(name), Launch: launch, Mark: "penstock:INSTALLATION:" + launch, Penstock: orDefault(inv.Self, "penstock"),
		JoinFile: filepath.Join(state, "join", launch+".json"), LogDir: filepath.Join(state, "logs", d.Name, launch),
	})
}
