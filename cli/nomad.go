package cli

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/nomad"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/statefile"
)

// openNomad makes the adapter for Nomad where there is one: with --nomad on, always; with auto, where NOMAD_ADDR is set.
func (c *controller) openNomad() error {
	switch mode := c.inv.set.get("nomad.use"); {
	case mode == "off", mode == "auto" && c.inv.Getenv("NOMAD_ADDR") == "":
		return nil
	case mode != "auto" && mode != "on":
		return usageError("--nomad %s: use auto, on or off", mode)
	}
	config, err := nomadConfig(c.inv)
	if err != nil {
		return err
	}
	limit, err := time.ParseDuration(c.inv.set.get("nomad.maxKillTimeout"))
	if err != nil || limit <= 0 {
		return usageError("--nomad-max-kill-timeout %s: write it as 30s or 10m", c.inv.set.get("nomad.maxKillTimeout"))
	}
	c.nomad, err = nomad.Open(nomad.Options{
		API: config, Installation: c.ca.Installation(), Penstock: orDefault(c.inv.set.get("nomad.program"), c.inv.Self),
		Join: c.deploymentJoin, Endpoint: c.nomadEndpoint, Revoke: c.counted.Revoke,
		MaxKillTimeout: limit, Log: c.log, Registerer: c.registry,
	})
	if err != nil {
		return err
	}
	c.clusters[jobspecs.NomadCluster] = c.nomad
	return nil
}

// maxNomadToken bounds a token's file.
const maxNomadToken = 4096

// nomadConfig reads where Nomad is and who asks, from the variables that Nomad's own command line reads. A token's file wins
// over NOMAD_TOKEN.
func nomadConfig(inv *invocation) (*api.Config, error) {
	get := inv.Getenv
	config := &api.Config{
		Address: orDefault(get("NOMAD_ADDR"), "http://127.0.0.1:4646"), Region: get("NOMAD_REGION"), Namespace: get("NOMAD_NAMESPACE"),
		SecretID: get("NOMAD_TOKEN"),
		TLSConfig: &api.TLSConfig{
			CACert: get("NOMAD_CACERT"), CAPath: get("NOMAD_CAPATH"), ClientCert: get("NOMAD_CLIENT_CERT"), ClientKey: get("NOMAD_CLIENT_KEY"),
			TLSServerName: get("NOMAD_TLS_SERVER_NAME"), Insecure: get("NOMAD_SKIP_VERIFY") == "true" || get("NOMAD_SKIP_VERIFY") == "1",
		},
	}
	if u, err := url.Parse(config.Address); err != nil || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "unix" {
		return nil, usageError("NOMAD_ADDR is %q, which is no address; write http://HOST:4646, https://HOST:4646 or unix:///PATH", config.Address)
	}
	if user, password, ok := strings.Cut(get("NOMAD_HTTP_AUTH"), ":"); ok {
		config.HttpAuth = &api.HttpBasicAuth{Username: user, Password: password}
	}
	if path := inv.set.get("nomad.tokenFile"); path != "" {
		text, err := statefile.ReadPrivate(inv.path(path), maxNomadToken)
		if err != nil {
			return nil, fmt.Errorf("token for Nomad: %w", err)
		}
		config.SecretID = strings.TrimSpace(string(text))
	}
	if strings.ContainsAny(config.SecretID, " \r\n\t") {
		return nil, fail(ExitAuth, "", "the token for Nomad holds blanks")
	}
	return config, nil
}

// deploymentJoin is what allocations of a deployment's counted roles join with.
func (c *controller) deploymentJoin(deployment string) ([]byte, error) {
	token, err := c.counted.Token(deployment)
	if err != nil {
		return nil, err
	}
	return identity.EncodeJoinFile(identity.JoinFile{
		Deployment: deployment, Token: token, Controllers: c.controllerURLs(jobspecs.NomadCluster),
		CAPEM: string(c.ca.PEM()), Installation: c.ca.Installation(),
	})
}

// nomadEndpoint says where this controller is, for agents that share no folder with it.
func (c *controller) nomadEndpoint() ([]byte, error) {
	e := c.endpoint
	e.Socket, e.PID = "", 0
	return identity.EncodeEndpoint(e)
}

// tellNomad tells the jobs that run already where this controller is, and again until it is done.
func (c *controller) tellNomad(ctx context.Context) error {
	pause := time.Second
	for {
		call, cancel := context.WithTimeout(ctx, time.Minute)
		err := c.nomad.Moved(call)
		cancel()
		if err == nil || ctx.Err() != nil {
			break
		}
		c.log.Warn().Err(err).Msg("agents on Nomad do not know yet where the controller is")
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		pause = min(2*pause, time.Minute)
	}
	<-ctx.Done()
	return nil
}

// endCounted brings the counted roles of a deployment to zero: a cluster that counts would replace what is stopped one by one.
func (c *controller) endCounted(ctx context.Context, name string) error {
	d, ok := c.ledger.Deployment(name)
	counter, counts := c.clusters[d.Spec.Cluster].(cluster.Counter)
	if !ok || !counts {
		return nil
	}
	for kind := range d.Spec.Roles {
		ref := cluster.RoleRef{Deployment: name, Role: kind}
		if err := counter.SetCount(ctx, ref, d.Spec, d.Revision, 0); err != nil {
			return err
		}
	}
	return nil
}
