package server

import (
	"context"
	"fmt"
	"os"
	"time"

	"connectrpc.com/connect"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/plan"
)

// read parses a deployment file that came over the wire: the controller trusts no client's checks.
func read(source, text string) (jobspecs.Deployment, error) {
	doc, err := jobspecs.ParseDocument(source, []byte(text))
	if err != nil {
		return jobspecs.Deployment{}, connect.NewError(connect.CodeInvalidArgument, err)
	}
	d := doc.Deployment
	if err := doc.Locate(engine.Check(d)); err != nil {
		return d, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if err := doc.Locate(joinable(d).Err()); err != nil {
		return d, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	missing := engine.MissingWeights(d, func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	})
	if len(missing) > 0 {
		return d, connect.NewError(connect.CodeFailedPrecondition, doc.Locate(missing))
	}
	return d, nil
}

// joinable refuses split roles that this release's gateway cannot join: their decode replicas would serve alone, or not at
// all.
func joinable(d jobspecs.Deployment) jobspecs.Errors {
	e := engine.For(d.Engine.Kind)
	if _, split := d.Roles[jobspecs.Prefill]; !split || e == nil {
		return nil
	}
	switch e.Traits().Disaggregation {
	case engine.KVTransferParams, engine.SlotFiles:
		return nil
	}
	return jobspecs.Errors{{
		Path: "roles.prefill", What: fmt.Sprintf("this release joins prefill and decode replicas of vllm, llamacpp and sim only, not of %s", d.Engine.Kind),
		Hint: "use mixed replicas",
	}}
}

// checker is a cluster that can tell what of a deployment will never run there.
type checker interface {
	Check(ctx context.Context, d jobspecs.Deployment) jobspecs.Errors
}

// checkPatience bounds how long a cluster is asked; one that does not answer holds nothing against a file.
const checkPatience = 15 * time.Second

// fits refuses what the cluster says can never run: a job that waits for ever says so much later, or not at all.
func (s *Server) fits(ctx context.Context, source, text string, d jobspecs.Deployment) error {
	c, ok := s.o.Clusters[d.Cluster].(checker)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	errs := c.Check(ctx, d)
	if len(errs) == 0 {
		return nil
	}
	doc, err := jobspecs.ParseDocument(source, []byte(text))
	if err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewError(connect.CodeFailedPrecondition, doc.Locate(errs))
}

// Apply stores a revision and wakes the loop. What it answers is what will be done next.
func (c controlAPI) Apply(ctx context.Context, req *apiv1.ApplyRequest) (*apiv1.ApplyResponse, error) {
	d, err := read(req.Source, req.Yaml)
	if err != nil {
		return nil, err
	}
	if err := c.s.o.Loop.Supports(d.Cluster); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	if err := c.s.fits(ctx, req.Source, req.Yaml, d); err != nil {
		return nil, err
	}
	actions, _ := c.s.o.Loop.DryRun(ctx, &d)
	notes := c.s.countNotes(d)
	rev, changed, err := c.s.o.Ledger.Apply(d, req.Source)
	if err != nil {
		return nil, answer(err)
	}
	c.s.o.Loop.Refresh() // at once: until then the loop knows nothing of nodes that the file declares
	if changed {
		c.s.note("applied", d.Name, "", fmt.Sprintf("revision %d from %s is current", rev, orReason(req.Source, "standard input")))
	}
	return &apiv1.ApplyResponse{Deployment: d.Name, Revision: uint32(rev), Changed: changed, Actions: wireActions(actions, d.Name), Notes: notes}, nil
}

// countNotes says, before a file is applied, which of its counts do not hold because of `penstock scale`, or hold again.
func (s *Server) countNotes(d jobspecs.Deployment) (notes []string) {
	old, _ := s.o.Ledger.Deployment(d.Name)
	for _, kind := range jobspecs.RoleKinds {
		n, scaled := old.Scale[kind]
		role, exists := d.Roles[kind]
		if !scaled || !exists || n == role.Replicas {
			continue
		}
		switch {
		case old.Stopped:
			notes = append(notes, fmt.Sprintf("%s of %s: %s, as the file says; the %d of `penstock scale` ended when it was stopped", kind, d.Name, countOf(role.Replicas, "replica", "replicas"), n))
		case old.Damaged == "" && old.Spec.Roles[kind].Replicas == role.Replicas:
			notes = append(notes, fmt.Sprintf("%s of %s: %s by `penstock scale`; the file says %d", kind, d.Name, countOf(n, "replica", "replicas"), role.Replicas))
		}
	}
	return notes
}

// Plan answers what Apply would do, or what is to be done now, and does nothing.
func (c controlAPI) Plan(ctx context.Context, req *apiv1.PlanRequest) (*apiv1.PlanResponse, error) {
	resp := &apiv1.PlanResponse{Warnings: c.s.warnings()}
	var d *jobspecs.Deployment
	if req.Yaml != "" {
		parsed, err := read(req.Source, req.Yaml)
		if err != nil {
			return nil, err
		}
		if err := c.s.o.Loop.Supports(parsed.Cluster); err != nil {
			return nil, connect.NewError(connect.CodeFailedPrecondition, err)
		}
		if err := c.s.fits(ctx, req.Source, req.Yaml, parsed); err != nil {
			return nil, err
		}
		d = &parsed
		resp.Deployment = d.Name
		for _, note := range engine.Advice(parsed) {
			resp.Warnings = append(resp.Warnings, note.Error())
		}
		resp.Warnings = append(resp.Warnings, c.s.countNotes(parsed)...)
		resp.Revision, resp.Changed = c.s.nextRevision(parsed)
	}
	actions, err := c.s.o.Loop.DryRun(ctx, d)
	if err != nil {
		return nil, answer(err)
	}
	resp.Actions = wireActions(actions, resp.Deployment)
	return resp, nil
}

func (s *Server) nextRevision(d jobspecs.Deployment) (rev uint32, changed bool) {
	old, ok := s.o.Ledger.Deployment(d.Name)
	if ok && old.Hash == jobspecs.Hash(d) {
		return uint32(old.Revision), old.Stopped
	}
	return uint32(old.Revision) + 1, true
}

// wireActions are the actions of one deployment, or all of them.
func wireActions(actions []plan.Action, deployment string) (out []*apiv1.Action) {
	for _, a := range actions {
		if deployment == "" || a.Deployment == deployment {
			out = append(out, wireAction(a))
		}
	}
	return out
}

func wireAction(a plan.Action) *apiv1.Action {
	w := &apiv1.Action{
		Verb: string(a.Verb), Deployment: a.Deployment, Role: string(a.Role), Replica: uint32(max(0, a.Index)), Launch: string(a.Launch),
		Reason: a.Reason, Revision: uint32(a.Revision), Cause: string(a.Cause),
	}
	if a.New != nil {
		for _, p := range a.New.Placement {
			w.Nodes = append(w.Nodes, p.Node)
			w.Gpus = uint32(len(p.GPUs))
		}
	}
	return w
}
