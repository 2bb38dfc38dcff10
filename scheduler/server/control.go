package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/keys"
)

// controlAPI implements ControlService. Its methods are spread over control.go, status.go and nodes.go.
type controlAPI struct{ s *Server }

// Endpoint says where clients go: to the gateway of this process, else to one that watches.
func (c controlAPI) Endpoint(context.Context, *apiv1.EndpointRequest) (*apiv1.EndpointResponse, error) {
	resp := c.s.o.Endpoint()
	if resp.Url == "" {
		resp.Url = c.s.gateways.url(time.Now())
		if strings.HasPrefix(resp.Url, "https://") {
			resp.CaFile = c.s.o.CA.File()
		}
	}
	for _, d := range c.s.o.Ledger.Deployments() {
		if d.Damaged != "" || d.Stopped {
			continue
		}
		resp.Models = append(resp.Models, d.Spec.Model.ServedName)
		for _, a := range d.Spec.Model.Adapters {
			resp.Models = append(resp.Models, a.Name)
		}
	}
	return resp, nil
}

// CreateKey makes an API key.
func (c controlAPI) CreateKey(_ context.Context, req *apiv1.CreateKeyRequest) (*apiv1.CreateKeyResponse, error) {
	key, secret, err := c.s.o.Keys.Create(keys.CreateOptions{
		Name: req.Name, Tenant: req.Tenant, Models: req.Models, RequestsPerMinute: req.RequestsPerMinute,
		TokensPerMinute: req.TokensPerMinute, Concurrency: req.Concurrency, TTL: req.GetTtl().AsDuration(),
	})
	switch {
	case errors.Is(err, keys.ErrTaken):
		return nil, connect.NewError(connect.CodeAlreadyExists, err)
	case errors.Is(err, keys.ErrInvalid):
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	case err != nil:
		return nil, answer(err)
	}
	c.s.note("key", "", "", fmt.Sprintf("key %s was made for %s", key.Id, key.Name))
	return &apiv1.CreateKeyResponse{Key: key, Secret: secret}, nil
}

// ListKeys lists keys without hashes.
func (c controlAPI) ListKeys(context.Context, *apiv1.ListKeysRequest) (*apiv1.ListKeysResponse, error) {
	return &apiv1.ListKeysResponse{Keys: c.s.o.Keys.List()}, nil
}

// RevokeKey ends a key now.
func (c controlAPI) RevokeKey(_ context.Context, req *apiv1.RevokeKeyRequest) (*apiv1.RevokeKeyResponse, error) {
	id, err := c.s.o.Keys.Revoke(req.Id)
	switch {
	case errors.Is(err, keys.ErrNotFound):
		return nil, connect.NewError(connect.CodeNotFound, err)
	case errors.Is(err, keys.ErrAmbiguous):
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	case err != nil:
		return nil, answer(err)
	}
	c.s.note("key", "", "", fmt.Sprintf("key %s was revoked", id))
	return &apiv1.RevokeKeyResponse{Id: id}, nil
}

// Why explains a finished request.
func (c controlAPI) Why(ctx context.Context, req *apiv1.WhyRequest) (*apiv1.WhyResponse, error) {
	rec, err := c.s.records.await(ctx, req.Id)
	if err != nil {
		return nil, answer(err)
	}
	return &apiv1.WhyResponse{Record: rec}, nil
}

// Version says who answers.
func (c controlAPI) Version(context.Context, *apiv1.VersionRequest) (*apiv1.VersionResponse, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &apiv1.VersionResponse{
		Version: c.s.o.Version, Term: c.s.o.Ledger.Term(), Pid: int64(os.Getpid()), Hostname: host, StartedAt: timestamppb.New(c.s.o.StartedAt),
	}, nil
}

// GatewayToken makes a join token for another gateway.
func (c controlAPI) GatewayToken(_ context.Context, req *apiv1.GatewayTokenRequest) (*apiv1.GatewayTokenResponse, error) {
	if err := (identity.ID{Role: identity.Gateway, Name: req.Name}).Validate(); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	ttl := req.GetTtl().AsDuration()
	if ttl <= 0 {
		ttl = time.Hour
	}
	return &apiv1.GatewayTokenResponse{
		Token: c.s.o.Tokens.MintGateway(req.Name, time.Now().Add(ttl)), Controller: c.s.o.Endpoint().Controller, CaPem: c.s.o.CA.PEM(),
	}, nil
}

// Shutdown ends the controller; deployments go on.
func (c controlAPI) Shutdown(context.Context, *apiv1.ShutdownRequest) (*apiv1.ShutdownResponse, error) {
	c.s.o.Shutdown()
	return &apiv1.ShutdownResponse{}, nil
}
