package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/reconcile"
	"github.com/penstock/penstock/scheduler/upstream"
)

// newUpstream makes the client for agents' ports: the peer must be the very run that is meant.
func newUpstream(own func() *tls.Certificate, pool *x509.CertPool) *upstream.Client {
	return upstream.New(upstream.Options{TLS: func(launch, run string) *tls.Config {
		return identity.ClientConfig(own, pool, identity.WantRun(launch, run))
	}})
}

// prober is the reconcile loop's probe over the gateway's way to agents.
type prober struct{ client *upstream.Client }

// Probe asks for one real token or, from an engine that has none to give, one vector. A split role's token comes through a
// pair where the engine's protocol is kv_transfer_params.
func (p prober) Probe(ctx context.Context, t reconcile.Target) error {
	model, to := t.Deployment.Model.ServedName, upstreamTarget(t)
	traits, _ := traits(t.Deployment.Engine.Kind)
	if t.Peer != nil && (traits.Disaggregation == engine.KVTransferParams || traits.Disaggregation == engine.SlotFiles) {
		if t.Role == jobspecs.Prefill {
			return p.client.ProbePair(ctx, to, upstreamTarget(*t.Peer), model)
		}
		return p.client.ProbePair(ctx, upstreamTarget(*t.Peer), to, model)
	}
	err := p.client.Probe(ctx, to, model, false)
	var refused *upstream.StatusError
	if errors.As(err, &refused) && (refused.Status == http.StatusNotFound || refused.Status == http.StatusBadRequest) {
		if p.client.Probe(ctx, to, model, true) == nil {
			return nil
		}
	}
	return err
}

func upstreamTarget(t reconcile.Target) upstream.Target {
	return upstream.Target{Launch: string(t.Launch), Run: t.Run, Epoch: t.Epoch, Address: t.Address, Engine: t.Deployment.Engine.Kind}
}
