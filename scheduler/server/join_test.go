package server

import (
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/identity"
)

const allocation = "b1406133-2056-db3a-7e49-b23523b86801"

// countedWorld has a deployment whose run allocation a cluster has started by itself.
func countedWorld(t *testing.T) (w *world, tokens *identity.DeploymentTokens, launch cluster.LaunchID) {
	t.Helper()
	tokens, err := identity.OpenDeploymentTokens(filepath.Join(t.TempDir(), "tokens"))
	if err != nil {
		t.Fatal(err)
	}
	w = newWorld(t, func(o *Options) { o.Deployments = tokens })
	w.apply(t, file("demo", 1))
	w.apply(t, file("other", 1))
	launch = w.launch(t, "alloc-1", "demo", 0, 1)
	w.update(t, launch, func(l *cluster.Launch) { l.Counted, l.Job, l.Placement = true, allocation, nil })
	return w, tokens, launch
}

// A run that its cluster has started by itself joins with the deployment's secret, again and again: what restarts in place
// is the same run.
func TestCountedRunsJoin(t *testing.T) {
	t.Parallel()
	w, tokens, launch := countedWorld(t)
	api := apiv1.NewAgentServiceClient(w.client(t, nil), w.url)
	req, _ := w.joinRequest(t, launch, allocation, 0, 1)
	req.Token, _ = tokens.Token("demo")
	first, err := api.Join(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := api.Join(t.Context(), req); err != nil || again.Epoch != first.Epoch {
		t.Errorf("again: epoch %d, %v; want %d", again.GetEpoch(), err, first.Epoch)
	}
	if l, _ := w.ledger.Launch(launch); l.Run != allocation {
		t.Errorf("the ledger has run %q", l.Run)
	}
}

func TestCountedRunsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*testing.T, *world, *identity.DeploymentTokens, *apiv1.JoinRequest)
		want   connect.Code
	}{
		"one that the cluster has not told of": {func(_ *testing.T, _ *world, _ *identity.DeploymentTokens, r *apiv1.JoinRequest) {
			r.Launch, r.Run = "alloc-2", "c1406133-2056-db3a-7e49-b23523b86801"
		}, connect.CodeUnavailable},
		"another run of a known launch": {func(_ *testing.T, _ *world, _ *identity.DeploymentTokens, r *apiv1.JoinRequest) {
			r.Run = "c1406133-2056-db3a-7e49-b23523b86801"
		}, connect.CodeUnauthenticated},
		"with another deployment's secret": {func(_ *testing.T, _ *world, tokens *identity.DeploymentTokens, r *apiv1.JoinRequest) {
			r.Token, _ = tokens.Token("other")
		}, connect.CodeUnauthenticated},
		"a launch that Penstock has submitted": {func(t *testing.T, w *world, _ *identity.DeploymentTokens, r *apiv1.JoinRequest) {
			w.update(t, "alloc-1", func(l *cluster.Launch) { l.Counted = false })
		}, connect.CodeUnauthenticated},
		"with a secret that was revoked": {func(t *testing.T, _ *world, tokens *identity.DeploymentTokens, _ *apiv1.JoinRequest) {
			if err := tokens.Revoke("demo"); err != nil {
				t.Fatal(err)
			}
		}, connect.CodeUnauthenticated},
		"after the deployment was stopped": {func(t *testing.T, w *world, _ *identity.DeploymentTokens, _ *apiv1.JoinRequest) {
			if err := w.ledger.SetStopped("demo", true); err != nil {
				t.Fatal(err)
			}
		}, connect.CodeFailedPrecondition},
		"after its end": {func(t *testing.T, w *world, _ *identity.DeploymentTokens, _ *apiv1.JoinRequest) {
			w.update(t, "alloc-1", func(l *cluster.Launch) { l.Phase, l.EndedAt = cluster.Ended, time.Now() })
		}, connect.CodeFailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, tokens, launch := countedWorld(t)
			req, _ := w.joinRequest(t, launch, allocation, 0, 1)
			req.Token, _ = tokens.Token("demo")
			c.change(t, w, tokens, req)
			_, err := apiv1.NewAgentServiceClient(w.client(t, nil), w.url).Join(t.Context(), req)
			wantCode(t, err, c.want)
			if l, _ := w.ledger.Launch(launch); l.Run != "" || l.Epoch != 0 {
				t.Errorf("the ledger changed: %+v", l)
			}
		})
	}
}
