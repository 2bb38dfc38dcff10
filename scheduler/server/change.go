package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/ledger"
)

// Scale overrides counts until a file changes them or the deployment is stopped: all of them or, where one is not possible, none.
func (c controlAPI) Scale(ctx context.Context, req *apiv1.ScaleRequest) (*apiv1.ScaleResponse, error) {
	d, err := c.s.deployment(req.Deployment)
	if err == nil {
		err = checkScale(d, req.Roles)
	}
	if err != nil {
		return nil, answer(err)
	}
	for _, role := range jobspecs.RoleKinds {
		n, asked := req.Roles[string(role)]
		if !asked {
			continue
		}
		if err := c.s.o.Ledger.SetScale(d.Name, role, int(n)); err != nil {
			return nil, answer(err)
		}
		if was := d.Wanted(role); was != int(n) {
			c.s.note("scaled", d.Name, "", fmt.Sprintf("%s: %d wanted, was %d", role, n, was))
		}
	}
	actions, _ := c.s.o.Loop.DryRun(ctx, nil)
	c.s.o.Loop.Wake()
	return &apiv1.ScaleResponse{Deployment: d.Name, Actions: wireActions(actions, d.Name)}, nil
}

// checkScale refuses counts that the ledger would refuse, before any of them is changed.
func checkScale(d ledger.Deployment, roles map[string]uint32) error {
	if d.Damaged != "" {
		return fmt.Errorf("scale deployment %s: %w: %s; apply its file again", d.Name, ledger.ErrDamaged, d.Damaged)
	}
	if d.Stopped {
		return fmt.Errorf("%s is stopped; `penstock run FILE` starts it, with the counts of the file: %w", d.Name, errNotNow)
	}
	for name, n := range roles {
		switch role, ok := d.Spec.Roles[jobspecs.RoleKind(name)]; {
		case !ok:
			return fmt.Errorf("%s has no role %s; it has %s: %w", d.Name, name, rolesOf(d.Spec), errInvalid)
		case int(n) < role.Min:
			return fmt.Errorf("%s: %d %s replicas are less than its min %d: %w", d.Name, n, name, role.Min, errInvalid)
		case role.Max > 0 && int(n) > role.Max:
			return fmt.Errorf("%s: %d %s replicas are more than its max %d: %w", d.Name, n, name, role.Max, errInvalid)
		}
	}
	return nil
}

// rolesOf names a deployment's roles.
func rolesOf(d jobspecs.Deployment) string {
	var names []string
	for _, kind := range jobspecs.RoleKinds {
		if _, ok := d.Roles[kind]; ok {
			names = append(names, string(kind))
		}
	}
	return strings.Join(names, " and ")
}

// DrainReplica marks launches as draining; the loop and their agents do the rest.
func (c controlAPI) DrainReplica(_ context.Context, req *apiv1.DrainReplicaRequest) (*apiv1.DrainReplicaResponse, error) {
	targets, err := c.s.drainTargets(req)
	if err != nil {
		return nil, answer(err)
	}
	resp := &apiv1.DrainReplicaResponse{}
	for _, l := range targets {
		if err := c.s.drain(l, req.GetDeadline().AsDuration()); err != nil {
			return resp, answer(err)
		}
		resp.Launches = append(resp.Launches, string(l.ID))
	}
	c.s.o.Loop.Wake()
	return resp, nil
}

// drainTargets are the launches that a request means; never none.
func (s *Server) drainTargets(req *apiv1.DrainReplicaRequest) ([]cluster.Launch, error) {
	if req.Node != "" {
		found := s.onNode(req.Node)
		if len(found) == 0 {
			return nil, fmt.Errorf("no replica runs on node %q; `penstock nodes` lists them: %w", req.Node, errNotFound)
		}
		return found, nil
	}
	d, err := s.deployment(req.Deployment)
	if err != nil {
		return nil, err
	}
	if req.Replica == "" {
		return nil, fmt.Errorf("drain of %s: which replica? `penstock status %s` lists them: %w", d.Name, d.Name, errInvalid)
	}
	return s.launches(d, req.Replica, false)
}

// drain notes that a launch is to end, the deployment's own deadline or the given one. On a launch that drains already a
// given deadline can only come sooner.
func (s *Server) drain(l cluster.Launch, deadline time.Duration) error {
	asked := deadline > 0
	if !asked {
		d, err := s.o.Ledger.Revision(l.Deployment, l.Revision)
		if err != nil {
			return err
		}
		deadline = time.Duration(d.Serving.DrainTimeout)
	}
	by, changed := time.Now().Add(deadline), false
	err := s.o.Ledger.UpdateLaunch(l.ID, func(l *cluster.Launch) error {
		if changed = l.Phase != cluster.Draining || asked && by.Before(l.DrainBy); changed {
			l.Phase, l.DrainReason, l.DrainBy = cluster.Draining, "asked for by `penstock drain`", by
		}
		return nil
	})
	if err == nil && changed {
		s.event("drain", l, fmt.Sprintf("asked for; streams may finish for %s", deadline))
	}
	return err
}

func (s *Server) onNode(node string) (out []cluster.Launch) {
	for _, l := range s.o.Ledger.Launches() {
		if l.Phase == cluster.Ended {
			continue
		}
		for _, p := range l.Placement {
			if p.Node == node {
				out = append(out, l)
				break
			}
		}
	}
	return out
}

// StopDeployment makes nothing wanted. One deployment that cannot be stopped does not keep the others.
func (c controlAPI) StopDeployment(_ context.Context, req *apiv1.StopDeploymentRequest) (*apiv1.StopDeploymentResponse, error) {
	targets := c.s.o.Ledger.Deployments()
	if !req.All {
		d, err := c.s.deployment(req.Deployment)
		if err != nil {
			return nil, answer(err)
		}
		targets = []ledger.Deployment{d}
	}
	resp := &apiv1.StopDeploymentResponse{}
	var errs []error
	for _, d := range targets {
		if err := c.s.stop(d, req.Now); err != nil {
			errs = append(errs, err)
			continue
		}
		resp.Deployments = append(resp.Deployments, d.Name)
	}
	c.s.o.Loop.Wake()
	return resp, answer(errors.Join(errs...))
}

func (s *Server) stop(d ledger.Deployment, now bool) error {
	if err := s.o.Ledger.SetStopped(d.Name, true); err != nil {
		return err
	}
	if !d.Stopped {
		s.note("stopped", d.Name, "", "asked for by `penstock stop`")
	}
	if now {
		return s.cut(d.Name)
	}
	return nil
}

// cut lets every drain of a deployment end now.
func (s *Server) cut(deployment string) error {
	for _, l := range s.o.Ledger.Launches() {
		if l.Deployment != deployment || l.Phase == cluster.Ended {
			continue
		}
		err := s.o.Ledger.UpdateLaunch(l.ID, func(l *cluster.Launch) error {
			l.Phase, l.DrainReason, l.DrainBy = cluster.Draining, "stopped without draining", time.Now()
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
