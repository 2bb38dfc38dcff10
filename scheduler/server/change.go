package server

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"connectrpc.com/connect"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/ledger"
)

// Scale overrides counts until a file changes them.
func (c controlAPI) Scale(ctx context.Context, req *apiv1.ScaleRequest) (*apiv1.ScaleResponse, error) {
	d, err := c.s.deployment(req.Deployment)
	if err != nil {
		return nil, answer(err)
	}
	roles := make([]string, 0, len(req.Roles))
	for role := range req.Roles {
		if _, ok := d.Spec.Roles[jobspecs.RoleKind(role)]; !ok {
			return nil, answer(fmt.Errorf("%s has no role %s: %w", d.Name, role, errInvalid))
		}
		roles = append(roles, role)
	}
	sort.Strings(roles)
	for _, role := range roles {
		n := int(req.Roles[role])
		if err := c.s.o.Ledger.SetScale(d.Name, jobspecs.RoleKind(role), n); err != nil {
			if errors.Is(err, ledger.ErrInvalid) {
				return nil, connect.NewError(connect.CodeInvalidArgument, err)
			}
			return nil, answer(err)
		}
		c.s.note("scaled", d.Name, "", fmt.Sprintf("%s: %d wanted, was %d", role, n, d.Wanted(jobspecs.RoleKind(role))))
	}
	actions, _ := c.s.o.Loop.DryRun(ctx, nil)
	c.s.o.Loop.Wake()
	return &apiv1.ScaleResponse{Deployment: d.Name, Actions: wireActions(actions, d.Name)}, nil
}

// DrainReplica marks launches as draining; the loop and their agents do the rest.
func (c controlAPI) DrainReplica(_ context.Context, req *apiv1.DrainReplicaRequest) (*apiv1.DrainReplicaResponse, error) {
	var targets []cluster.Launch
	if req.Node != "" {
		targets = c.s.onNode(req.Node)
		if len(targets) == 0 {
			return nil, answer(fmt.Errorf("no replica runs on node %q; `penstock nodes` lists them: %w", req.Node, errNotFound))
		}
	} else {
		d, err := c.s.deployment(req.Deployment)
		if err == nil {
			targets, err = c.s.launches(d, req.Replica, false)
		}
		if err != nil {
			return nil, answer(err)
		}
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

func (s *Server) drain(l cluster.Launch, deadline time.Duration) error {
	if deadline <= 0 {
		d, err := s.o.Ledger.Revision(l.Deployment, l.Revision)
		if err != nil {
			return err
		}
		deadline = time.Duration(d.Serving.DrainTimeout)
	}
	err := s.o.Ledger.UpdateLaunch(l.ID, func(l *cluster.Launch) error {
		if l.Phase != cluster.Draining {
			l.Phase, l.DrainReason, l.DrainBy = cluster.Draining, "asked for by `penstock drain`", time.Now().Add(deadline)
		}
		return nil
	})
	if err == nil {
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

// StopDeployment makes nothing wanted.
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
	for _, d := range targets {
		if err := c.s.o.Ledger.SetStopped(d.Name, true); err != nil {
			return resp, answer(err)
		}
		if req.Now {
			if err := c.s.cut(d.Name); err != nil {
				return resp, answer(err)
			}
		}
		c.s.note("stopped", d.Name, "", "asked for by `penstock stop`")
		resp.Deployments = append(resp.Deployments, d.Name)
	}
	c.s.o.Loop.Wake()
	return resp, nil
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
