package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/keys"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// controlAPI implements ControlService. Its methods are spread over control.go, status.go and nodes.go.
type controlAPI struct{ s *Server }

// deployment finds a deployment by name or unique prefix.
func (s *Server) deployment(name string) (ledger.Deployment, error) {
	if d, ok := s.o.Ledger.Deployment(name); ok {
		return d, nil
	}
	var found []ledger.Deployment
	var names []string
	for _, d := range s.o.Ledger.Deployments() {
		names = append(names, d.Name)
		if name != "" && strings.HasPrefix(d.Name, name) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return ledger.Deployment{}, fmt.Errorf("deployment %q is ambiguous: it could be %s or %s: %w", name, found[0].Name, found[1].Name, errInvalid)
	case len(names) == 0:
		return ledger.Deployment{}, fmt.Errorf("deployment %q: there are no deployments: %w", name, errNotFound)
	}
	return ledger.Deployment{}, fmt.Errorf("deployment %q: there are %s: %w", name, strings.Join(names, ", "), errNotFound)
}

// launches finds live launches by ROLE/INDEX, launch token, or unique prefix of one. Empty = all of the deployment.
func (s *Server) launches(d ledger.Deployment, replica string, ended bool) ([]cluster.Launch, error) {
	var all, exact, near []cluster.Launch
	for _, l := range s.o.Ledger.Launches() {
		if l.Deployment != d.Name || (l.Phase == cluster.Ended && !ended) {
			continue
		}
		all = append(all, l)
		switch name := fmt.Sprintf("%s/%d", l.Role, l.Index); {
		case string(l.ID) == replica, name == replica, l.Job != "" && l.Job == replica:
			exact = append(exact, l)
		case replica != "" && strings.HasPrefix(string(l.ID), replica):
			near = append(near, l)
		}
	}
	switch {
	case replica == "":
		return all, nil
	case len(exact) > 0:
		return exact, nil
	case len(near) == 1:
		return near, nil
	case len(near) > 1:
		return nil, fmt.Errorf("replica %q of %s is ambiguous: it could be %s or %s: %w", replica, d.Name, near[0].ID, near[1].ID, errInvalid)
	}
	return nil, fmt.Errorf("replica %q of %s; `penstock status %s` lists them: %w", replica, d.Name, d.Name, errNotFound)
}

// read parses a deployment file that came over the wire: the controller trusts no client's checks.
func read(source, text string) (jobspecs.Deployment, error) {
	doc, err := jobspecs.ParseDocument(source, []byte(text))
	if err != nil {
		return jobspecs.Deployment{}, connect.NewError(connect.CodeInvalidArgument, err)
	}
	d := doc.Deployment
	if err := engine.Check(d); err != nil {
		return d, connect.NewError(connect.CodeInvalidArgument, err)
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

// Apply stores a revision and wakes the loop. What it answers is what will be done next.
func (c controlAPI) Apply(ctx context.Context, req *apiv1.ApplyRequest) (*apiv1.ApplyResponse, error) {
	d, err := read(req.Source, req.Yaml)
	if err != nil {
		return nil, err
	}
	if err := c.s.o.Loop.Supports(d.Cluster); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	actions, _ := c.s.o.Loop.DryRun(ctx, &d)
	rev, changed, err := c.s.o.Ledger.Apply(d, req.Source)
	if err != nil {
		return nil, answer(err)
	}
	if changed {
		c.s.note("applied", d.Name, "", fmt.Sprintf("revision %d from %s is current", rev, orReason(req.Source, "standard input")))
	}
	c.s.o.Loop.Refresh()
	return &apiv1.ApplyResponse{Deployment: d.Name, Revision: uint32(rev), Changed: changed, Actions: wireActions(actions, d.Name)}, nil
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
		d = &parsed
		resp.Deployment = d.Name
		for _, note := range engine.Advice(parsed) {
			resp.Warnings = append(resp.Warnings, note.Error())
		}
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
		Reason: a.Reason, Revision: uint32(a.Revision),
	}
	if a.New != nil {
		for _, p := range a.New.Placement {
			w.Nodes = append(w.Nodes, p.Node)
			w.Gpus = uint32(len(p.GPUs))
		}
	}
	return w
}

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

// Endpoint says where clients go.
func (c controlAPI) Endpoint(context.Context, *apiv1.EndpointRequest) (*apiv1.EndpointResponse, error) {
	resp := c.s.o.Endpoint()
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
func (c controlAPI) Why(_ context.Context, req *apiv1.WhyRequest) (*apiv1.WhyResponse, error) {
	rec, err := c.s.records.find(req.Id)
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

// Logs reads engines' and agents' logs from the state folder, so that they can be read after the agent is gone too.
func (c controlAPI) Logs(ctx context.Context, req *apiv1.LogsRequest, stream *connect.ServerStream[apiv1.LogsResponse]) error {
	d, err := c.s.deployment(req.Deployment)
	if err != nil {
		return answer(err)
	}
	if _, err := c.s.logFiles(d, req); err != nil {
		return answer(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.s.untilClosing(ctx, cancel)()
	files := func() []logFile {
		list, _ := c.s.logFiles(d, req)
		return list
	}
	return answer(readLogs(ctx, files, int(req.Tail), req.Follow, func(l logLine) error {
		return stream.Send(&apiv1.LogsResponse{Replica: l.replica, NodeRank: uint32(l.rank), Line: l.text})
	}))
}

// logFiles are the files that a request means: of the live launches, else (or with previous) of the last that ended.
func (s *Server) logFiles(d ledger.Deployment, req *apiv1.LogsRequest) ([]logFile, error) {
	found, err := s.launches(d, req.Replica, true)
	if err != nil {
		return nil, err
	}
	name := "engine"
	if req.Stream == "agent" {
		name = "agent"
	}
	var out []logFile
	for _, l := range pickLaunches(found, req.Previous) {
		for rank := range l.Nodes {
			out = append(out, logFile{
				path: filepath.Join(s.o.LogDir(l), fmt.Sprintf("%s-%d.log", name, rank)), replica: fmt.Sprintf("%s/%d", l.Role, l.Index), rank: rank,
			})
		}
	}
	return out, nil
}

// pickLaunches takes of each replica the newest launch, or the one before it.
func pickLaunches(all []cluster.Launch, previous bool) (out []cluster.Launch) {
	byReplica := map[string][]cluster.Launch{}
	var order []string
	for _, l := range all { // oldest first
		name := fmt.Sprintf("%s/%d", l.Role, l.Index)
		if byReplica[name] == nil {
			order = append(order, name)
		}
		byReplica[name] = append(byReplica[name], l)
	}
	sort.Strings(order)
	for _, name := range order {
		list := byReplica[name]
		if i := len(list) - 1; !previous {
			out = append(out, list[i])
		} else if i > 0 {
			out = append(out, list[i-1])
		}
	}
	return out
}

// Events sends what happened, and with follow what happens.
func (c controlAPI) Events(ctx context.Context, req *apiv1.EventsRequest, stream *connect.ServerStream[apiv1.EventsResponse]) error {
	name := ""
	if req.Deployment != "" {
		d, err := c.s.deployment(req.Deployment)
		if err != nil {
			return answer(err)
		}
		name = d.Name
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.s.untilClosing(ctx, cancel)()
	past, next := c.s.o.Ledger.Subscribe(ctx, 0)
	for _, e := range lastOf(past, name, int(req.Tail)) {
		if err := stream.Send(&apiv1.EventsResponse{Event: e}); err != nil {
			return err
		}
	}
	if !req.Follow {
		return nil
	}
	for e := range next {
		if name != "" && e.Deployment != name {
			continue
		}
		if err := stream.Send(&apiv1.EventsResponse{Event: e}); err != nil {
			return err
		}
	}
	return nil
}

func lastOf(past []*apiv1.Event, deployment string, tail int) (out []*apiv1.Event) {
	for _, e := range past {
		if deployment == "" || e.Deployment == deployment {
			out = append(out, e)
		}
	}
	if tail > 0 && len(out) > tail {
		out = out[len(out)-tail:]
	}
	return out
}
