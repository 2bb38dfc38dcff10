package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// renewPause is how long to wait at most before the clock is looked at again, which may have been set meanwhile, and how
// long between two attempts.
const renewPause = time.Minute

// renew keeps the certificate fresh until ctx ends: at a third of its life, again every minute while that fails.
func (r *run) renew(ctx context.Context) {
	for {
		wait := renewPause
		if left := time.Until(r.adm.certs.RenewAt()); left > 0 {
			wait = min(wait, left)
		} else if err := r.renewOnce(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn().Err(err).Time("valid_until", r.adm.certs.Certificate().Leaf.NotAfter).Msg("certificate not renewed")
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func (r *run) renewOnce(ctx context.Context) error {
	return r.adm.certs.Renew(ctx, r.home.pool, func(ctx context.Context, csr []byte) ([]byte, error) {
		var resp *apiv1.RenewResponse
		err := r.home.try(ctx, r.adm.certs.Certificate, func(ctx context.Context, client apiv1.AgentServiceClient) error {
			ctx, cancel := context.WithTimeout(ctx, callLimit)
			defer cancel()
			var err error
			resp, err = client.Renew(ctx, &apiv1.RenewRequest{CsrDer: csr})
			return err
		})
		return resp.GetCertificatePem(), err
	})
}

// errFenced: the controller admits this run no more.
var errFenced = errors.New("another run of the launch has been admitted")

// rejoin asks anew for a certificate with the join token, where the old one is no good any more: it ran out while the
// controller was away.
func (r *run) rejoin(ctx context.Context) error {
	return r.adm.certs.Renew(ctx, r.home.pool, func(ctx context.Context, csr []byte) ([]byte, error) {
		resp, err := r.agent.askToJoin(ctx, r.home, csr)
		if err != nil {
			return nil, err
		}
		if resp.GetEpoch() != r.adm.epoch {
			return nil, fmt.Errorf("%w: epoch %d, ours is %d", errFenced, resp.GetEpoch(), r.adm.epoch)
		}
		return resp.GetCertificatePem(), nil
	})
}

func expired(cert *tls.Certificate, now time.Time) bool { return now.After(cert.Leaf.NotAfter) }
