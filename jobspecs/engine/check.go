package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/penstock/penstock/jobspecs"
)

// Check finds what a valid deployment asks of its engine and the engine can't do. The error is of type jobspecs.Errors,
// without file and lines: jobspecs.Document.Locate adds them.
func Check(d jobspecs.Deployment) error {
	k, ok := kinds[d.Engine.Kind]
	if !ok {
		return jobspecs.Errors{problem("engine.kind", "", "%q is not known", string(d.Engine.Kind))}
	}
	errs := append(checkTraits(d, k.Traits()), k.check(d)...)
	errs = append(errs, checkArgs(d, k.owned())...)
	errs = append(errs, checkConnector(d)...)
	errs = append(errs, checkPaths(d)...)
	slices.SortStableFunc(errs, func(a, b jobspecs.Problem) int { return strings.Compare(a.Path, b.Path) })
	return errs.Err()
}

// problem is one complaint with its field and what to do instead.
func problem(path, hint, format string, args ...any) jobspecs.Problem {
	return jobspecs.Problem{Path: path, Hint: hint, What: fmt.Sprintf(format, args...)}
}

func rolePath(kind jobspecs.RoleKind, field string) string {
	return "roles." + string(kind) + "." + field
}

func checkTraits(d jobspecs.Deployment, t Traits) (errs jobspecs.Errors) {
	kind := d.Engine.Kind
	if len(d.Model.Adapters) > 0 && !t.Adapters {
		errs = append(errs, problem("model.adapters", "use vllm, or a deployment with merged weights",
			"%s can't serve adapters under names of their own", kind))
	}
	if !t.PartsTenants() && d.Serving.Tenant == "" {
		errs = append(errs, problem("serving.tenant", "name the one tenant that it serves, or write shared where all may share one cache",
			"%s does not part its cache by tenants", kind))
	}
	for role, r := range d.Roles {
		if role != jobspecs.Mixed && t.Disaggregation == NoDisaggregation {
			errs = append(errs, problem("roles."+string(role), "use roles.mixed", "%s can't be split into prefill and decode", kind))
		}
		if r.Nodes > 1 && !t.MultiNode {
			errs = append(errs, problem(rolePath(role, "nodes"), "use 1, and more replicas", "%s runs on one node only", kind))
		}
	}
	return errs
}

// needGPUs is for engines whose own program starts on cards only; another program may be a build for CPUs.
func needGPUs(d jobspecs.Deployment) (errs jobspecs.Errors) {
	if len(d.Engine.Command) > 0 {
		return nil
	}
	for role, r := range d.Roles {
		if r.GPUs.Count == 0 {
			errs = append(errs, problem(rolePath(role, "gpus"), "say how many each node of a replica gets, such as gpus: 1",
				"%s needs GPUs", d.Engine.Kind))
		}
	}
	return errs
}

// checkArgs refuses options by which the agent and the gateway would lose the engine.
func checkArgs(d jobspecs.Deployment, owned map[string]string) (errs jobspecs.Errors) {
	look := func(path string, args []string) {
		for i, arg := range args {
			field, ours := owned[flagName(arg)]
			if !ours || !strings.HasPrefix(arg, "-") {
				continue
			}
			hint := "leave it out"
			if field != "" {
				hint = "use " + field
			}
			name, _, _ := strings.Cut(arg, "=")
			errs = append(errs, problem(fmt.Sprintf("%s[%d]", path, i), hint, "%s is set by Penstock", name))
		}
	}
	look("engine.args", d.Engine.Args)
	for _, role := range slices.Sorted(maps.Keys(d.Roles)) {
		look(rolePath(role, "args"), d.Roles[role].Args)
	}
	return errs
}

// checkPaths refuses paths that a container runtime would take apart.
func checkPaths(d jobspecs.Deployment) (errs jobspecs.Errors) {
	if d.Engine.Container.Runtime == jobspecs.NoContainer {
		return nil
	}
	look := func(field, path string) {
		if strings.ContainsAny(path, ":, ") {
			errs = append(errs, problem(field, "rename it, or link to it", "a container can't mount a path with a colon, a comma or a blank: %q", path))
		}
	}
	look("model.path", d.Model.Path)
	for i, a := range d.Model.Adapters {
		look(fmt.Sprintf("model.adapters[%d].path", i), a.Path)
	}
	return errs
}

// Advice lists what a valid deployment asks for and won't get, or will be surprised by. Nothing of it keeps the
// deployment from running; `penstock plan` prints it as warnings.
func Advice(d jobspecs.Deployment) (notes jobspecs.Errors) {
	notes = append(notes, connectorAdvice(d)...)
	if d.Engine.Kind != jobspecs.LlamaCpp {
		return notes
	}
	for _, kind := range slices.Sorted(maps.Keys(d.Roles)) {
		r := d.Roles[kind]
		if r.CPUs == 0 && !overrides(append(slices.Clone(d.Engine.Args), r.Args...), "t", "threads") {
			notes = append(notes, problem(rolePath(kind, "cpus"), "say how many cores each replica may use", "llamacpp runs on one thread without it"))
		}
	}
	return notes
}

// MissingWeights lists the local weights that are not there, so that a plan can fail before a job waits for hours. exists
// says whether a file or folder is there.
func MissingWeights(d jobspecs.Deployment, exists func(path string) bool) (missing jobspecs.Errors) {
	look := func(field, path string) {
		if path != "" && !exists(path) {
			missing = append(missing, problem(field, "put the weights there first, or correct the path", "%s does not exist on this machine", path))
		}
	}
	look("model.path", d.Model.Path)
	if d.Engine.Kind == jobspecs.Sim {
		return missing // its adapters are names only
	}
	for i, a := range d.Model.Adapters {
		look(fmt.Sprintf("model.adapters[%d].path", i), a.Path)
	}
	return missing
}
