package cli

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/oklog/run"
	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/kvstore/index"
	"github.com/penstock/penstock/scheduler/accept"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/blocks"
	"github.com/penstock/penstock/scheduler/gateway"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/trunk"
	"github.com/penstock/penstock/scheduler/upstream"
)

func gatewayCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "gateway", Usage: "run one more gateway",
		Description: "It finds the controller through the state folder, and serves on from what it last knew while the controller is away.",
		Flags: append(roleFlags("gateway.listen", "gateway.tls", "gateway.advertise", "gateway.agents", "gateway.route"),
			&cli.StringFlag{Name: "name", Usage: "of this gateway; default: HOST-PID"}, logFileFlag()),
		Action: action(std, parseGateway, runGateway),
	}
}

type gatewayOptions struct{ name, logFile string }

func parseGateway(c *cli.Context) (gatewayOptions, error) {
	_, err := nothing(c)
	return gatewayOptions{c.String("name"), c.String("log-file")}, err
}

// remoteGateway is a gateway that talks to its controller over the wire.
type remoteGateway struct {
	inv     *invocation
	log     zerolog.Logger
	state   string
	name    string
	url     string
	holder  *identity.Holder
	pool    *x509.CertPool
	gateway *gateway.Gateway
	feed    *feed
	blocks  *blocks.Mirror
	agents  []string // addresses for agents

	recorder apiv1.GatewayServiceClient // for records; nil = not connected
	hangUp   func()                     // ends recorder
}

func runGateway(ctx context.Context, inv *invocation, o gatewayOptions) error {
	if _, _, err := inv.clientsAddress(); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find this host's name: %w", err)
	}
	g := &remoteGateway{inv: inv, hangUp: func() {}, state: inv.set.get("stateDir"), name: orDefault(o.name, fmt.Sprintf("%s-%d", host, os.Getpid()))}
	var flush func()
	if g.log, flush, err = inv.roleLogger(o.logFile); err != nil {
		return err
	}
	defer flush()
	if err := g.enroll(ctx); err != nil {
		return err
	}
	ca, err := identity.OpenCA(filepath.Join(g.state, caFolder))
	if err != nil {
		return err
	}
	registry := newRegistry()
	refused := accept.NewRefusals(registry)
	listener, err := inv.listenForClients(ownPortFile(g.state, o.name), ca, host, refused)
	if err != nil {
		return err
	}
	defer listener.Close()
	g.url = listener.url
	if listener.lost != "" {
		g.log.Warn().Str("lost", listener.lost).Str("url", g.url).Msg("another process has taken the port where the gateway was before")
	}
	up := newUpstream(g.holder.Certificate, g.pool)
	defer up.Close()
	g.blocks = blocks.NewMirror(index.Limit{Bytes: mirrorMemory})
	g.gateway, err = newGateway(inv, gatewayParts{
		name: g.name, upstream: up, record: g.record, registry: registry, log: g.log, state: g.state, holdings: g.blocks, blockSeed: g.blocks.Seed,
	})
	if err != nil {
		return err
	}
	g.feed = newFeed(g.gateway)
	g.log.Info().Str("gateway", g.name).Str("url", g.url).Msg("gateway serves")
	parts := []func(context.Context) error{g.gateway.Run, g.watch, g.watchBlocks, g.renew, serveGateway(listener.boundedListener, g.gateway, g.feed)}
	serve, err := g.meetAgents(up, host, refused)
	if err != nil {
		return err
	}
	if serve != nil {
		parts = append(parts, serve)
	}
	var group run.Group
	for _, part := range parts {
		ctx, cancel := context.WithCancel(ctx)
		group.Add(func() error { return part(ctx) }, func(error) { cancel() })
	}
	return group.Run()
}

// meetAgents opens the port for agents that cannot be dialled, and returns what serves it; nil = there is none.
func (g *remoteGateway) meetAgents(up *upstream.Client, host string, refused *accept.Refusals) (func(context.Context) error, error) {
	e, err := identity.ReadEndpoint(filepath.Join(g.state, endpointFile))
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(e.URL)
	if err != nil {
		return nil, err
	}
	l, addresses, err := g.inv.listenForAgents(u.Hostname(), host)
	if err != nil || l == nil {
		return nil, err
	}
	g.agents = addresses
	conf := identity.ServerConfig(g.holder.Certificate, g.pool, true)
	conf.NextProtos = []string{trunk.ReverseProtocol}
	nothing := http.NotFoundHandler() // only what agents offer is taken here
	anyRun := func(identity.ID) error { return nil }
	return serveHTTP(bounded(l, "agents", refused, conf), nothing, adopting(up, anyRun, g.log), up.RetireOffered, g.log), nil
}

// enroll gets this gateway's certificate: a token over the control API, then a certificate for it.
func (g *remoteGateway) enroll(ctx context.Context) error {
	control, done, err := g.inv.control()
	if err != nil {
		return err
	}
	defer done()
	token, err := control.GatewayToken(ctx, &apiv1.GatewayTokenRequest{Name: g.name})
	if err != nil {
		return err
	}
	if g.pool, err = identity.PoolFromPEM(token.CaPem); err != nil {
		return fmt.Errorf("read the controller's CA: %w", err)
	}
	csr, key, err := identity.NewCSR()
	if err != nil {
		return err
	}
	client, done, err := g.dial(nil)
	if err != nil {
		return err
	}
	defer done()
	resp, err := apiv1.NewEnrollServiceClient(client.http, client.url).Enroll(ctx, &apiv1.EnrollRequest{Token: token.Token, CsrDer: csr, Name: g.name})
	if err != nil {
		return fmt.Errorf("enroll gateway %s: %w", g.name, err)
	}
	cert, err := identity.KeyPair(resp.CertificatePem, key)
	if err != nil {
		return err
	}
	g.holder = identity.NewHolder(cert)
	return nil
}

// controllerClient reaches the controller that the endpoint file names now.
type controllerClient struct {
	http *http.Client
	url  string
}

func (g *remoteGateway) dial(own func() *tls.Certificate) (controllerClient, func(), error) {
	e, err := identity.ReadEndpoint(filepath.Join(g.state, endpointFile))
	if err != nil {
		return controllerClient{}, nil, err
	}
	tr := &http.Transport{
		TLSClientConfig:   identity.ClientConfig(own, g.pool, identity.WantRole(identity.Controller)),
		ForceAttemptHTTP2: true, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}
	return controllerClient{&http.Client{Transport: tr}, e.URL}, tr.CloseIdleConnections, nil
}

// mirrorMemory bounds what is kept of engines' caches, as at the controller.
const mirrorMemory = 1 << 30

// watch keeps the view up to date. While the controller is away the gateway serves on from what it has.
func (g *remoteGateway) watch(ctx context.Context) error {
	return g.follow(ctx, g.watchOnce, "no view from the controller; serving on from the last one")
}

// watchBlocks keeps up to date what is known of engines' caches. It goes on from where it stands.
func (g *remoteGateway) watchBlocks(ctx context.Context) error {
	return g.follow(ctx, g.watchBlocksOnce, "no word of engines' caches from the controller; choosing by the last one")
}

// follow calls once again and again until ctx ends.
func (g *remoteGateway) follow(ctx context.Context, once func(context.Context) error, lost string) error {
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		begin := time.Now()
		err := once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(begin) > longestWait {
			wait = firstWait
		}
		g.log.Warn().Err(err).Dur("again_in", wait).Msg(lost)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(jitter(wait)):
		}
	}
}

const (
	firstWait   = 200 * time.Millisecond
	longestWait = 10 * time.Second
)

// jitter spreads waits over half to one and a half of d.
func jitter(d time.Duration) time.Duration {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(d)))
	if err != nil {
		return d
	}
	return d/2 + time.Duration(n.Int64())
}

func (g *remoteGateway) watchOnce(ctx context.Context) error {
	client, done, err := g.dial(g.holder.Certificate)
	if err != nil {
		return err
	}
	defer done()
	stream, err := apiv1.NewGatewayServiceClient(client.http, client.url).Watch(ctx, &apiv1.WatchRequest{Gateway: g.name, Version: Version(), Url: g.url, Agents: g.agents})
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		if err := g.feed.Apply(stream.Msg()); err != nil {
			return err
		}
	}
	return stream.Err()
}

func (g *remoteGateway) watchBlocksOnce(ctx context.Context) error {
	client, done, err := g.dial(g.holder.Certificate)
	if err != nil {
		return err
	}
	defer done()
	stream, err := apiv1.NewGatewayServiceClient(client.http, client.url).WatchBlocks(ctx, g.blocks.From())
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		if err := g.blocks.Apply(stream.Msg()); err != nil {
			return err
		}
	}
	return stream.Err()
}

// record hands finished requests to the controller, over a connection that is kept: a busy gateway does so many times a
// second. One that has ended says nothing of the controller, which may be elsewhere by now. It is for one goroutine.
func (g *remoteGateway) record(ctx context.Context, records []*apiv1.RequestRecord) error {
	req := &apiv1.RecordRequest{Gateway: g.name, Records: records}
	if g.recorder != nil {
		_, err := g.recorder.Record(ctx, req)
		if err == nil {
			return nil
		}
		g.hangUp()
	}
	client, done, err := g.dial(g.holder.Certificate)
	if err != nil {
		return err
	}
	g.recorder, g.hangUp = apiv1.NewGatewayServiceClient(client.http, client.url), func() { done(); g.recorder = nil }
	if _, err = g.recorder.Record(ctx, req); err != nil {
		g.hangUp()
	}
	return err
}

// renew replaces the certificate when a third of its life has passed, and tries until it works.
func (g *remoteGateway) renew(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(jitter(time.Minute)):
		}
		if !g.holder.Due(time.Now()) {
			continue
		}
		if err := g.renewOnce(ctx); err != nil && ctx.Err() == nil {
			g.log.Warn().Err(err).Msg("certificate not renewed yet")
		}
	}
}

func (g *remoteGateway) renewOnce(ctx context.Context) error {
	client, done, err := g.dial(g.holder.Certificate)
	if err != nil {
		return err
	}
	defer done()
	return g.holder.Renew(ctx, g.pool, func(ctx context.Context, csr []byte) ([]byte, error) {
		resp, err := apiv1.NewGatewayServiceClient(client.http, client.url).Renew(ctx, &apiv1.RenewRequest{CsrDer: csr})
		if err != nil {
			return nil, err
		}
		return resp.CertificatePem, nil
	})
}
