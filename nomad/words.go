package nomad

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// whyPending says why a gang does not run yet.
func (c *Cluster) whyPending(ctx context.Context, key jobKey, r *jobRecord, stub *api.JobListStub, m *members) string {
	if missing := m.wanted - m.running() - m.placed(); missing > 0 && stub != nil {
		why := c.whyQueued(ctx, key, *r.job.TaskGroups[0].Name)
		return fmt.Sprintf("%d of %d members are placed: %s", m.running()+m.placed(), m.wanted, orElse(why, "Nomad has not placed it yet"))
	}
	for _, v := range m.views {
		if v.Reason != "" {
			return fmt.Sprintf("member %d: %s", v.Index, v.Reason)
		}
	}
	return fmt.Sprintf("%d of %d members run", m.running(), m.wanted)
}

// whyQueued asks for the reason why a group's allocations are not placed; empty = Nomad gives none.
func (c *Cluster) whyQueued(ctx context.Context, key jobKey, group string) string {
	evals, err := read(ctx, c, "list evaluations", key.namespace, func(q *api.QueryOptions) ([]*api.Evaluation, *api.QueryMeta, error) {
		return c.api.Jobs().Evaluations(key.id, q)
	})
	if err != nil {
		return ""
	}
	slices.SortFunc(evals, func(a, b *api.Evaluation) int { return cmp.Compare(b.CreateIndex, a.CreateIndex) })
	for _, e := range evals {
		if metric := e.FailedTGAllocs[group]; metric != nil {
			return placement(metric)
		}
	}
	for _, e := range evals {
		if e.Status == api.EvalStatusBlocked || e.Status == api.EvalStatusPending {
			return orElse(cut(e.StatusDescription), "Nomad's evaluation is "+e.Status)
		}
	}
	return ""
}

// placement says in words why Nomad could not place something, and what would help.
func placement(m *api.AllocationMetric) string {
	if m.NodesEvaluated == 0 && len(m.ConstraintFiltered) == 0 && len(m.ClassFiltered) == 0 {
		return "no client is in the job's datacenters and node pool; see nomad.datacenters and nomad.nodePool, and `nomad node status`"
	}
	var parts, fixes []string
	for _, why := range slices.Sorted(maps.Keys(m.ConstraintFiltered)) {
		parts = append(parts, fmt.Sprintf("%s %s", clients(m.ConstraintFiltered[why]), filtered(why)))
		fixes = append(fixes, filterFix(why))
	}
	for _, what := range slices.Sorted(maps.Keys(m.DimensionExhausted)) {
		parts = append(parts, fmt.Sprintf("%s %s", clients(m.DimensionExhausted[what]), exhausted(what)))
		fixes = append(fixes, dimensionFix(what))
	}
	for _, quota := range m.QuotaExhausted {
		parts, fixes = append(parts, "the quota is used up: "+cut(quota)), append(fixes, "ask for more of the quota")
	}
	for _, class := range slices.Sorted(maps.Keys(m.ClassFiltered)) {
		parts = append(parts, fmt.Sprintf("%s of class %q filtered out", clients(m.ClassFiltered[class]), class))
	}
	if len(parts) == 0 {
		return fmt.Sprintf("none of %s fits", clients(m.NodesEvaluated))
	}
	text := strings.Join(parts, ", ")
	if fixes = unique(fixes); len(fixes) > 0 {
		text += "; " + strings.Join(fixes, ", or ")
	}
	return text
}

func unique(list []string) (out []string) {
	for _, s := range list {
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func clients(n int) string {
	if n == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", n)
}

// filtered says which constraint keeps clients out.
func filtered(why string) string {
	switch {
	case why == "missing devices":
		return "without the GPUs asked for"
	case strings.HasPrefix(why, "missing drivers"):
		return "without the task driver"
	case why == "distinct_hosts":
		return "with a member already"
	}
	return "kept out by: " + cut(why)
}

func filterFix(why string) string {
	switch {
	case why == "missing devices":
		return "change roles.ROLE.gpus, or see to the nvidia device plugin (`nomad node status -verbose NODE`)"
	case strings.HasPrefix(why, "missing drivers"):
		return "enable the driver on the clients, or choose another with nomad.driver"
	case why == "distinct_hosts":
		return "lower roles.ROLE.nodes"
	case strings.Contains(why, "node.unique.name"):
		return ""
	}
	return "change nomad.constraints"
}

func exhausted(what string) string {
	switch {
	case what == "memory":
		return "without enough free memory"
	case what == "cpu", what == "cores":
		return "without enough free CPU"
	case strings.HasPrefix(what, "devices"):
		return "whose GPUs are taken"
	case strings.HasPrefix(what, "network"):
		return "without free ports"
	}
	return "out of " + cut(what)
}

func dimensionFix(what string) string {
	switch {
	case what == "memory":
		return "lower roles.ROLE.memory"
	case what == "cpu", what == "cores":
		return "lower roles.ROLE.cpus"
	case strings.HasPrefix(what, "devices"):
		return "wait, or lower the count"
	}
	return ""
}
