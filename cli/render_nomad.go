package cli

import (
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/render"
)

// renderNomad is the job of a deployment's counted roles, or that of one replica of a role over several nodes. Installation
// and launch stand for what a controller fills in.
func (inv *invocation) renderNomad(d jobspecs.Deployment, o renderOptions) (string, error) {
	limit, err := time.ParseDuration(inv.set.get("nomad.maxKillTimeout"))
	if err != nil || limit <= 0 {
		return "", usageError("--nomad-max-kill-timeout %s: write it as 30s or 10m", inv.set.get("nomad.maxKillTimeout"))
	}
	site := render.NomadSite{Installation: "INSTALLATION", Penstock: inv.nomadProgram(), MaxKillTimeout: limit}
	counts := map[jobspecs.RoleKind]render.NomadCount{}
	var gangs []string
	for kind, r := range d.Roles {
		if render.NomadCounted(r) {
			counts[kind] = render.NomadCount{Revision: 1, N: r.Replicas}
		} else {
			gangs = append(gangs, string(kind))
		}
	}
	slices.Sort(gangs)
	kind := jobspecs.RoleKind(o.role)
	if _, ok := d.Roles[kind]; o.role != "" && !ok {
		return "", fail(ExitNotFound, "", "%s has no role %s", d.Name, o.role)
	}
	if kind == "" && len(counts) == 0 {
		if kind = jobspecs.RoleKind(gangs[0]); len(gangs) > 1 {
			return "", usageError("each replica of %v is a job of its own: choose one with --role", gangs)
		}
	}
	var job *api.Job
	if slices.Contains(gangs, string(kind)) {
		job, err = render.NomadGang(site, d, render.NomadLaunch{Role: kind, Launch: d.Name[:min(len(d.Name), 20)] + "-" + string(kind) + "-0-xxxxxxxx", Run: "RUN"})
	} else {
		job, err = render.NomadService(site, d, counts)
	}
	if err != nil {
		return "", err
	}
	return nomadText(job, o.format)
}

// nomadProgram is where this program is on Nomad's clients.
func (inv *invocation) nomadProgram() string {
	if p := inv.set.get("nomad.program"); p != "" {
		return p
	}
	if filepath.IsAbs(inv.Self) {
		return inv.Self
	}
	return "/usr/local/bin/penstock"
}

func nomadText(job *api.Job, format string) (string, error) {
	if format == "json" {
		text, err := render.NomadJSON(job)
		return string(text), err
	}
	return string(render.NomadHCL(job)), nil
}

// Ports of a controller in a job: fixed, so that agents and clients find it again.
const (
	nomadAgentsPort  = 7171
	nomadGatewayPort = 7172
)

// renderNomadController prints the controller as a service job.
func (inv *invocation) renderNomadController(o renderOptions) error {
	job := render.NomadController(render.NomadControllerJob{
		Namespace: inv.Getenv("NOMAD_NAMESPACE"), Driver: jobspecs.Exec, Penstock: inv.nomadProgram(), Volume: "penstock",
		AgentsPort: nomadAgentsPort, GatewayPort: nomadGatewayPort, Policy: render.NomadVariable("penstock-controller"),
	})
	text, err := nomadText(job, o.format)
	if err != nil {
		return err
	}
	if inv.json() {
		return inv.printJSON("render", map[string]any{"deployment": "", "cluster": string(jobspecs.NomadCluster), "text": text})
	}
	_, err = inv.Out.Write([]byte(text))
	return err
}
