package slurm

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// Check lists what of a deployment can never run here: a partition that is not there, more time than it allows, nodes that
// no partition has. Slurm itself is asked; where it does not answer, nothing is known to be wrong.
func (c *Cluster) Check(ctx context.Context, d jobspecs.Deployment) jobspecs.Errors {
	partitions, err := c.Partitions(ctx)
	if err != nil || len(partitions) == 0 {
		return nil
	}
	return checkAgainst(d, partitions)
}

func checkAgainst(d jobspecs.Deployment, all []Partition) (errs jobspecs.Errors) {
	usable, errs := chosen(d.Slurm.Partition, all)
	if len(errs) > 0 {
		return errs
	}
	if p := tooLong(d.Slurm.Time.Std(), usable); p != nil {
		errs = append(errs, *p)
	}
	for _, kind := range jobspecs.RoleKinds {
		r, ok := d.Roles[kind]
		if !ok || r.Replicas == 0 {
			continue
		}
		if p := nowhere(d, kind, r, usable); p != nil {
			errs = append(errs, *p)
		}
	}
	return errs
}

// chosen are the partitions that a deployment's jobs may go to.
func chosen(wanted string, all []Partition) (usable []Partition, errs jobspecs.Errors) {
	var names []string
	for _, p := range all {
		names = append(names, p.Name)
		if wanted == "" && p.Default {
			usable = append(usable, p)
		}
	}
	if wanted == "" {
		if len(usable) == 0 {
			errs = append(errs, jobspecs.Problem{
				Path: "slurm.partition", What: "is missing, and this cluster has no default", Hint: "choose one of " + some(names),
			})
		}
		return usable, errs
	}
	for name := range strings.SplitSeq(wanted, ",") {
		i := slices.IndexFunc(all, func(p Partition) bool { return p.Name == name })
		if i < 0 {
			hint := "choose one of " + some(names)
			if near := jobspecs.Nearest(name, names); near != "" {
				hint = "did you mean " + near + "?"
			}
			errs = append(errs, jobspecs.Problem{Path: "slurm.partition", What: fmt.Sprintf("this cluster has no partition %q that is open to you", name), Hint: hint})
			continue
		}
		usable = append(usable, all[i])
	}
	return usable, errs
}

// some lists names, not too many.
func some(names []string) string {
	if len(names) > 8 {
		return strings.Join(names[:8], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// tooLong is the problem of a time limit that no partition allows.
func tooLong(wanted time.Duration, usable []Partition) *jobspecs.Problem {
	var longest Partition
	for _, p := range usable {
		if p.MaxTime == 0 || p.MaxTime >= wanted {
			return nil
		}
		if p.MaxTime > longest.MaxTime {
			longest = p
		}
	}
	return &jobspecs.Problem{
		Path: "slurm.time", What: fmt.Sprintf("%s is more than partition %s allows, which is %s", jobspecs.Duration(wanted), longest.Name, jobspecs.Duration(longest.MaxTime)),
		Hint: "a replica whose time is over is handed over to its successor, so a shorter time serves as well",
	}
}

// nowhere is the problem of a role for which no partition has enough nodes with all that each of them needs.
func nowhere(d jobspecs.Deployment, kind jobspecs.RoleKind, r jobspecs.Role, usable []Partition) *jobspecs.Problem {
	best, has := 0, map[string]bool{}
	for _, p := range usable {
		fitting := 0
		for _, g := range p.Groups {
			for name, n := range g.GPUs {
				has[fmt.Sprintf("%d %s", n, orCards(name))] = true
			}
			if g.fits(d, r) {
				fitting += g.Nodes
			}
		}
		best = max(best, fitting)
	}
	if best >= r.Nodes {
		return nil
	}
	var names []string
	for _, p := range usable {
		names = append(names, p.Name)
	}
	hint := "see `penstock nodes` and `sinfo -o '%P %D %c %m %G'`"
	if cards := slices.Sorted(maps.Keys(has)); len(cards) > 0 && best == 0 {
		hint = "its nodes have " + some(cards) + "; " + hint
	}
	return &jobspecs.Problem{
		Path: "roles." + string(kind), Hint: hint,
		What: fmt.Sprintf("a replica needs %d nodes with %s each, and partition %s has %d of them", r.Nodes, needs(r), strings.Join(names, " or "), best),
	}
}

// needs says what a role wants of each node.
func needs(r jobspecs.Role) string {
	var list []string
	switch {
	case r.GPUs.Count > 0 && r.GPUs.Type != "":
		list = append(list, fmt.Sprintf("%d %s", r.GPUs.Count, r.GPUs.Type))
	case r.GPUs.Count == 1:
		list = append(list, "1 GPU")
	case r.GPUs.Count > 1:
		list = append(list, fmt.Sprintf("%d GPUs", r.GPUs.Count))
	}
	if r.CPUs > 0 {
		list = append(list, fmt.Sprintf("%d CPUs", r.CPUs))
	}
	if r.Memory > 0 {
		list = append(list, fmt.Sprintf("%s of memory", r.Memory))
	}
	if len(list) == 0 {
		return "nothing in particular"
	}
	return strings.Join(list, ", ")
}

func orCards(name string) string {
	if name == "" {
		return "GPUs"
	}
	return name
}

// fits reports whether a node of the group has what a role needs of each.
func (g NodeGroup) fits(d jobspecs.Deployment, r jobspecs.Role) bool {
	if g.CPUs > 0 && r.CPUs > g.CPUs || g.Memory > 0 && uint64(r.Memory) > g.Memory {
		return false
	}
	if r.GPUs.Count == 0 || d.Slurm.GPUOption == "none" {
		return true
	}
	all := 0
	for name, n := range g.GPUs {
		if r.GPUs.Type == "" {
			all += n
		} else if strings.Contains(strings.ToLower(name), strings.ToLower(r.GPUs.Type)) && n >= r.GPUs.Count {
			return true
		}
	}
	return r.GPUs.Type == "" && all >= r.GPUs.Count
}
