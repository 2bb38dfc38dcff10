package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

const (
	callLimit = 15 * time.Second // of one call to a controller
	// joinFor is how long a run looks for a controller that admits it; its job holds GPUs for nothing meanwhile.
	joinFor = time.Hour
)

// admission is what a run got by joining.
type admission struct {
	epoch       uint64
	certs       *identity.Holder
	deployment  jobspecs.Deployment
	role        jobspecs.RoleKind
	gpus        []string // UUIDs or declared names; empty = what the cluster granted
	head        string   // where rank 0 is met, if known already
	orphanAfter time.Duration
	logDir      string
	blockSeed   uint64 // of the names of KV blocks; 0 = nobody wants to know of them
}

// join asks until a controller admits this run or refuses it. Without an error and without an admission it was told to end.
func (a *Agent) join(ctx context.Context, c *controller) (*admission, error) {
	ctx, cancel := context.WithTimeout(ctx, joinFor)
	defer cancel()
	pause := backoff{longest: 15 * time.Second}
	for {
		adm, err := a.joinOnce(ctx, c)
		switch {
		case err == nil:
			a.log.Info().Uint64("epoch", adm.epoch).Str("deployment", adm.deployment.Name).Str("role", string(adm.role)).Msg("admitted")
			return adm, nil
		case final(err):
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		case errors.Is(err, ErrFailed):
			return nil, err
		}
		a.log.Warn().Err(err).Msg("no controller admits this run yet")
		if !a.end.sleep(ctx, pause.next()) {
			break
		}
	}
	if a.end.asked() {
		_, err := a.end.cause()
		return nil, err
	}
	return nil, fmt.Errorf("%w: no controller was found for %s", ErrOrphaned, joinFor)
}

func (a *Agent) joinOnce(ctx context.Context, c *controller) (*admission, error) {
	csr, key, err := identity.NewCSR()
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	resp, err := a.askToJoin(ctx, c, csr)
	if err != nil {
		return nil, err
	}
	cert, err := identity.KeyPair(resp.GetCertificatePem(), key)
	if err != nil {
		return nil, fmt.Errorf("%w: join: %w", ErrFailed, err)
	}
	adm, err := admitted(resp, cert)
	if err != nil {
		return nil, fmt.Errorf("%w: join: %w", ErrFailed, err)
	}
	return adm, nil
}

// askToJoin makes the call. It needs no certificate and changes nothing when it is repeated.
func (a *Agent) askToJoin(ctx context.Context, c *controller, csr []byte) (*apiv1.JoinResponse, error) {
	o := a.opts
	req := &apiv1.JoinRequest{
		Token: o.Join.Token, Launch: o.Join.Launch, Run: o.Run, NodeRank: uint32(o.Rank), Nodes: uint32(o.Nodes),
		CsrDer: csr, Hostname: o.Hostname, Node: o.Node, Version: o.Version, Job: o.Job,
	}
	var resp *apiv1.JoinResponse
	err := c.try(ctx, nil, func(ctx context.Context, client apiv1.AgentServiceClient) error {
		ctx, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		var err error
		if resp, err = client.Join(ctx, req); err != nil {
			return err
		}
		return c.observe(resp.GetTerm())
	})
	return resp, err
}

func admitted(resp *apiv1.JoinResponse, cert tls.Certificate) (*admission, error) {
	d, err := jobspecs.Parse("the controller's deployment", []byte(resp.GetDeploymentYaml()))
	if err != nil {
		return nil, fmt.Errorf("this agent cannot read its deployment; it may be older than the controller: %w", err)
	}
	adm := &admission{
		epoch: resp.GetEpoch(), certs: identity.NewHolder(cert), deployment: d, role: jobspecs.RoleKind(resp.GetRole()),
		gpus: resp.GetGpus(), head: resp.GetHeadAddress(), orphanAfter: resp.GetOrphanAfter().AsDuration(), logDir: resp.GetLogDir(),
		blockSeed: resp.GetBlockSeed(),
	}
	switch _, ok := d.Roles[adm.role]; {
	case adm.epoch == 0:
		return nil, errors.New("the answer holds no epoch")
	case !ok:
		return nil, fmt.Errorf("deployment %s has no role %q", d.Name, adm.role)
	}
	if adm.orphanAfter <= 0 {
		adm.orphanAfter = d.Serving.OrphanAfter.Std()
	}
	return adm, nil
}
