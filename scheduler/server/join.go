package server

import (
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/identity"
)

// launchOf is the launch that a run may join by its token.
func (s *Server) launchOf(req *apiv1.JoinRequest, now time.Time) (cluster.Launch, error) {
	if identity.IsDeploymentToken(req.Token) {
		return s.countedLaunch(req)
	}
	if err := s.o.Tokens.Check(req.Token, req.Launch, now); err != nil {
		return cluster.Launch{}, s.stranger(req, err)
	}
	id := cluster.LaunchID(req.Launch)
	launch, ok := s.o.Ledger.Launch(id)
	if !ok {
		return launch, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("join %s: the launch is over", id))
	}
	return launch, nil
}

// countedLaunch is the launch of a run that a cluster has started by itself, which proves its deployment only. That there is
// such a run, and of which role and revision it is, the cluster has to say: until it has, the run is told to ask again.
func (s *Server) countedLaunch(req *apiv1.JoinRequest) (cluster.Launch, error) {
	if s.o.Deployments == nil {
		return cluster.Launch{}, s.stranger(req, identity.ErrTokenInvalid)
	}
	name, err := s.o.Deployments.Check(req.Token)
	switch {
	case errors.Is(err, identity.ErrTokenInvalid):
		return cluster.Launch{}, s.stranger(req, err)
	case err != nil:
		return cluster.Launch{}, connect.NewError(connect.CodeUnavailable, fmt.Errorf("join %s: %w", req.Launch, err))
	}
	d, ok := s.o.Ledger.Deployment(name)
	if !ok || d.Stopped {
		return cluster.Launch{}, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("join %s: deployment %s is stopped", req.Launch, name))
	}
	launch, ok := s.o.Ledger.Launch(cluster.LaunchID(req.Launch))
	switch {
	case !ok:
		s.o.Loop.Wake()
		return launch, connect.NewError(connect.CodeUnavailable, fmt.Errorf("join %s: the cluster has not told of it yet; ask again", req.Launch))
	case launch.Deployment != name || !launch.Counted || launch.Job != req.Run: // such a run's nonce is its native ID
		return launch, s.stranger(req, identity.ErrTokenInvalid)
	}
	return launch, nil
}

// stranger refuses a join, and counts it.
func (s *Server) stranger(req *apiv1.JoinRequest, err error) error {
	s.refuse(joinRefused, connect.CodeUnauthenticated, err, "launch", req.Launch, "node", req.Hostname)
	return connect.NewError(connect.CodeUnauthenticated, err)
}
