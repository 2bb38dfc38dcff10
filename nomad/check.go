package nomad

import (
	"context"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/render"
)

// Check lists what of a deployment Nomad would refuse, by its own validation. What could not be placed now is no fault of the
// deployment: Nomad waits for room.
func (c *Cluster) Check(ctx context.Context, d jobspecs.Deployment) (errs jobspecs.Errors) {
	for _, j := range c.sample(d) {
		c.keyOf(j)
		resp, err := write(ctx, c, "validate job", *j.Namespace, func(w *api.WriteOptions) (*api.JobValidateResponse, *api.WriteMeta, error) {
			return c.api.Jobs().Validate(j, w)
		})
		if err != nil || resp == nil {
			continue // where Nomad does not answer, nothing is known to be wrong
		}
		for _, e := range resp.ValidationErrors {
			errs = append(errs, jobspecs.Problem{Path: "nomad", What: "Nomad would refuse the job: " + cut(e), Hint: "`penstock render --cluster nomad` prints it"})
		}
	}
	return errs
}

// sample are the jobs that a deployment becomes.
func (c *Cluster) sample(d jobspecs.Deployment) (jobs []*api.Job) {
	counts := map[jobspecs.RoleKind]render.NomadCount{}
	for kind, r := range d.Roles {
		if render.NomadCounted(r) {
			counts[kind] = render.NomadCount{Revision: 1, N: r.Replicas}
		} else if j, err := render.NomadGang(c.site(), d, render.NomadLaunch{Role: kind, Launch: d.Name + "-sample", Run: "sample"}); err == nil {
			jobs = append(jobs, j)
		}
	}
	if len(counts) == 0 {
		return jobs
	}
	if j, err := render.NomadService(c.site(), d, counts); err == nil {
		jobs = append(jobs, j)
	}
	return jobs
}
