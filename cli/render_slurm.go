package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/place"
	"github.com/penstock/penstock/slurm"
)

// usualGPUs is how many cards a node is taken to have where nobody says.
const usualGPUs = 8

// renderAllocation is the script of a whole deployment, as large as place works it out.
func (inv *invocation) renderAllocation(ctx context.Context, d jobspecs.Deployment, source string, o renderOptions) (string, error) {
	most, kind := o.gpusPerNode, ""
	if inv.set.get("slurm.use") != "off" {
		seen, word := siteGPUs(ctx, inv.Environ, gpuTypeOf(d))
		if kind = word; most == 0 {
			most = seen
		}
	}
	if most == 0 {
		most = usualGPUs
	}
	shape, err := place.Fit(place.RequestsOf(d), most, o.nodes)
	if err != nil {
		return "", fail(ExitError, "--gpus-per-node and --nodes say otherwise; or serve it elastically, a job for each replica: penstock run", "%s does not fit into one allocation: %v", d.Name, err)
	}
	return render.Allocation(render.SlurmAllocation{
		Deployment: d, Text: source, Penstock: orDefault(inv.Self, "penstock"),
		Root:  filepath.Join(inv.path(inv.set.get("stateDir")), allocationsFolder, d.Name),
		Nodes: shape.Nodes, GPUs: shape.GPUs, CPUs: shape.CPUs, Memory: shape.Memory, GPUType: kind,
	})
}

func gpuTypeOf(d jobspecs.Deployment) string {
	for _, kind := range jobspecs.RoleKinds {
		if t := d.Roles[kind].GPUs.Type; t != "" {
			return t
		}
	}
	return ""
}

// siteGPUs asks Slurm, where there is one, how many cards of the type its nodes have at most, and for its own word for the type.
func siteGPUs(ctx context.Context, environ []string, wanted string) (most int, kind string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	nodes, err := slurm.Nodes(ctx, environ)
	if err != nil {
		return 0, ""
	}
	for _, n := range nodes {
		fits := slices.DeleteFunc(slices.Clone(n.GPUs), func(g cluster.GPU) bool {
			return !strings.Contains(strings.ToLower(g.Type), strings.ToLower(wanted))
		})
		if len(fits) > most {
			most = len(fits)
		}
		if len(fits) > 0 && wanted != "" && (kind == "" || len(fits[0].Type) < len(kind)) {
			kind = fits[0].Type
		}
	}
	return most, kind
}

// renderElastic is the script of a role's first replica. The launch token ends in what a real one draws.
func (inv *invocation) renderElastic(d jobspecs.Deployment, name string) (string, error) {
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
