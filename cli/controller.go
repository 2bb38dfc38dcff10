package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/nomad"
	"github.com/penstock/penstock/scheduler/accept"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/gateway"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/keys"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/local"
	"github.com/penstock/penstock/scheduler/reconcile"
	"github.com/penstock/penstock/scheduler/server"
	"github.com/penstock/penstock/scheduler/trunk"
	"github.com/penstock/penstock/scheduler/upstream"
)

// controller is everything that `penstock serve` wires together. It is made whole or not at all.
type controller struct {
	inv      *invocation
	log      zerolog.Logger
	state    string
	runtime  string
	registry *prometheus.Registry
	refused  *accept.Refusals

	ledger    *ledger.Ledger
	ca        *identity.CA
	tokens    *identity.JoinTokens
	counted   *identity.DeploymentTokens // of deployments whose runs a cluster starts by itself
	nomad     *nomad.Cluster             // nil = none is used
	keys      *keys.Store
	fleet     *fleet.Fleet
	publisher *fleet.Publisher
	clusters  map[jobspecs.ClusterKind]cluster.Cluster
	loop      *reconcile.Loop
	server    *server.Server
	gateway   *gateway.Gateway // nil with --no-gateway, as is feed
	feed      *feed
	upstream  *upstream.Client
	holder    *identity.Holder

	allocation *allocated // the Slurm job that this controller lives in and serves on; nil = it places elsewhere

	agents, owner net.Listener
	clients       clientsPort
	endpoint      identity.Endpoint
	shutdown      chan struct{}
	shutdownOnce  sync.Once
	closers       []func() error // undone in reverse
}

// newController takes the term, opens every listener and writes the endpoint file. Nothing runs yet.
func newController(ctx context.Context, inv *invocation, o serveOptions, allocation *allocated) (c *controller, err error) {
	c = &controller{
		inv: inv, allocation: allocation, state: inv.set.get("stateDir"), runtime: inv.set.get("runtimeDir"), registry: newRegistry(),
		shutdown: make(chan struct{}),
	}
	c.refused = accept.NewRefusals(c.registry)
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	var flush func()
	if c.log, flush, err = inv.roleLogger(o.logFile); err != nil {
		return c, err
	}
	c.atClose(func() error { flush(); return nil })
	if err := c.openState(ctx); err != nil {
		return c, err
	}
	if err := c.openClusters(ctx); err != nil {
		return c, err
	}
	if err := c.listen(o); err != nil {
		return c, err
	}
	if err := c.wire(o); err != nil {
		return c, err
	}
	return c, identity.WriteEndpoint(filepath.Join(c.state, endpointFile), c.endpoint)
}

// atClose has close call f.
func (c *controller) atClose(f func() error) { c.closers = append(c.closers, f) }

// close undoes what newController did, last first.
func (c *controller) close() error {
	var errs []error
	for i := len(c.closers) - 1; i >= 0; i-- {
		errs = append(errs, c.closers[i]())
	}
	c.closers = nil
	return errors.Join(errs...)
}

// openState opens the state folder and takes the term.
func (c *controller) openState(ctx context.Context) (err error) {
	now := time.Now()
	term, err := c.takeTerm(ctx, now)
	if err != nil {
		return err
	}
	c.atClose(c.ledger.Release)
	if c.ca, err = identity.OpenCA(filepath.Join(c.state, caFolder)); err != nil {
		return err
	}
	if c.tokens, err = identity.OpenJoinTokens(filepath.Join(c.state, caFolder)); err != nil {
		return err
	}
	if c.counted, err = identity.OpenDeploymentTokens(filepath.Join(c.state, caFolder, "deployments")); err != nil {
		return err
	}
	if c.keys, err = keys.OpenFenced(filepath.Join(c.state, "keys"), c.ledger.CheckTerm); err != nil {
		return err
	}
	c.fleet = fleet.New(fleet.Options{})
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find this host's name: %w", err)
	}
	c.endpoint = identity.Endpoint{Term: term, Hostname: host, PID: os.Getpid(), StartedAt: now, CAPEM: string(c.ca.PEM())}
	return c.issueOwn(host, now)
}

// takeTerm opens the ledger and becomes the one that writes there.
func (c *controller) takeTerm(ctx context.Context, now time.Time) (uint64, error) {
	holder, err := ledger.ThisProcess(now)
	if err != nil {
		return 0, err
	}
	if c.allocation != nil {
		return c.takeFolder(ctx, holder)
	}
	if c.ledger, err = ledger.Open(c.state, ledger.Options{Log: c.log}); err != nil {
		return 0, err
	}
	term, err := c.ledger.Acquire(ctx, holder)
	if held := (*ledger.HeldError)(nil); errors.As(err, &held) {
		return 0, &exitError{code: ExitError, err: err, hint: "penstock serve --stop ends the other one"}
	}
	return term, err
}

// issueOwn makes the controller's own certificate, and the owner's for the command line on other hosts.
func (c *controller) issueOwn(host string, now time.Time) error {
	own, err := c.ca.Issue(identity.ID{Role: identity.Controller, Name: "controller"}, ownTTL, now, host, "localhost", "127.0.0.1", "::1")
	if err != nil {
		return err
	}
	c.holder = identity.NewHolder(own)
	return writeOwner(filepath.Join(c.state, ownerFile), c.ca, now)
}

// ownTTL is the lifetime of the controller's own certificate; it makes a new one long before.
const ownTTL = 30 * 24 * time.Hour

// openClusters makes an adapter for each cluster that this host can use.
func (c *controller) openClusters(ctx context.Context) error {
	if err := c.inv.secureRuntimeDir(); err != nil {
		return err
	}
	if c.allocation != nil {
		return c.openAllocation()
	}
	declared, err := parseLocalNodes(c.inv.set.get("local.nodes"))
	if err != nil {
		return err
	}
	lc, err := local.New(local.Options{
		Dir: filepath.Join(c.state, "local"), RuntimeDir: filepath.Join(c.runtime, "local"),
		Shim: func(dir string) []string { return []string{c.inv.Self, "local-job", "--dir", dir} },
		AgentCommand: func(s cluster.Submission, rank int) []string {
			return agentArgv(c.inv, s, rank)
		},
		Environ: c.inv.Environ,
		Nodes:   func() []local.Declaration { return c.localNodes(declared) },
		Held:    c.heldLocally,
		GPUs:    localGPUs(c.log),
		Log:     c.log,
	})
	if err != nil {
		return err
	}
	c.clusters = map[jobspecs.ClusterKind]cluster.Cluster{jobspecs.LocalCluster: lc}
	if err := c.openSlurm(ctx); err != nil {
		return err
	}
	return c.openNomad()
}

// localNodes are the nodes that the configuration and the deployments that are wanted declare.
func (c *controller) localNodes(configured []jobspecs.LocalNode) []local.Declaration {
	declared := []local.Declaration{{Nodes: configured}}
	for _, d := range c.ledger.Deployments() {
		if d.Spec.Cluster == jobspecs.LocalCluster && !d.Stopped {
			declared = append(declared, local.Declaration{By: d.Name, Nodes: d.Spec.Local.Nodes})
		}
	}
	return declared
}

// heldLocally lists what launches hold of this machine.
func (c *controller) heldLocally() (held []cluster.Placement) {
	for _, l := range c.ledger.Launches() {
		if l.Cluster == jobspecs.LocalCluster && l.Phase != cluster.Ended {
			held = append(held, l.Placement...)
		}
	}
	return held
}

// listen opens all listeners, so that a taken port is told before anything has begun.
func (c *controller) listen(o serveOptions) (err error) {
	if c.agents, err = net.Listen("tcp", c.agentsAddress()); err != nil {
		return fmt.Errorf("listen for agents: %w; choose another address with --listen", err)
	}
	c.atClose(closing(c.agents))
	name, err := c.advertised()
	if err != nil {
		return err
	}
	c.endpoint.URL = "https://" + reachable(c.agents.Addr(), name)
	dir, err := identity.SocketDir(c.runtime, "control")
	if err != nil {
		return err
	}
	if c.endpoint.Socket, err = identity.SocketPath(dir, socketName(c.state)); err != nil {
		return err
	}
	if c.owner, err = server.OwnerListener(c.endpoint.Socket, c.log); err != nil {
		return fmt.Errorf("listen for the command line: %w", err)
	}
	c.atClose(closing(c.owner))
	if o.noGateway {
		return nil
	}
	if c.clients, err = c.inv.listenForClients(filepath.Join(c.state, portFile), c.ca, c.endpoint.Hostname, c.refused); err != nil {
		return err
	}
	c.endpoint.GatewayURL = c.clients.url
	c.atClose(closing(c.clients))
	return nil
}

// wire makes the loops and servers.
func (c *controller) wire(o serveOptions) (err error) {
	c.upstream = newUpstream(c.holder.Certificate, c.ca.Pool())
	c.atClose(func() error { c.upstream.Close(); return nil })
	c.publisher = fleet.NewPublisher(fleet.PublisherOptions{Source: c.view, Changed: c.fleet.Changed, Term: c.endpoint.Term})
	if c.loop, err = reconcile.New(c.reconcileOptions()); err != nil {
		return err
	}
	c.server, err = server.New(server.Options{
		Ledger: c.ledger, Fleet: c.fleet, Publisher: c.publisher, Loop: c.loop, Clusters: c.clusters, CA: c.ca, Tokens: c.tokens, Deployments: c.counted,
		Keys: c.keys, KV: c.upstream, StateDir: c.state, LogDir: c.logDir, Endpoint: c.endpointResponse, Version: Version(),
		Shutdown:  func() { c.shutdownOnce.Do(func() { close(c.shutdown) }) },
		StartedAt: c.endpoint.StartedAt, Log: c.log, Metrics: c.registry, Notices: c.notices(), Gatherer: c.registry,
	})
	if err != nil {
		return err
	}
	c.restoreBlocks()
	if o.noGateway {
		return nil
	}
	seed, err := c.server.BlockSeed()
	if err != nil {
		return err
	}
	c.gateway, err = newGateway(c.inv, gatewayParts{
		name: "controller", upstream: c.upstream, record: c.record, registry: c.registry, log: c.log, state: c.state,
		holdings: c.server.Blocks(), blockSeed: func() uint64 { return seed },
	})
	c.feed = newFeed(c.gateway)
	return err
}

// notices are what was found at the start and stays worth knowing.
func (c *controller) notices() []string {
	var notices []string
	if warning := c.sharedOrWarn(); warning != "" {
		notices = append(notices, warning)
	}
	warning := c.clients.warning()
	if warning == "" {
		return notices
	}
	c.log.Warn().Str("lost", c.clients.lost).Str("url", c.clients.url).Msg("another process has taken the port where the gateway was before")
	return append(notices, warning)
}

// view is what gateways are told now.
func (c *controller) view(now time.Time) fleet.View {
	snapshot := c.fleet.Snapshot(now)
	v := fleet.Gateways(snapshot, c.ledger.Launches(), c.deployed(), c.loop.Waits())
	set, _ := c.keys.Snapshot()
	v.Keys = set
	v.Settled = c.loop.Settled()
	return v
}

func (c *controller) deployed() (out []fleet.Deployed) {
	for _, d := range c.ledger.Deployments() {
		if d.Damaged != "" {
			continue
		}
		wanted := map[jobspecs.RoleKind]int{}
		for role := range d.Spec.Roles {
			wanted[role] = d.Wanted(role)
		}
		out = append(out, fleet.Deployed{Spec: d.Spec, Wanted: wanted, Stopped: d.Stopped, StopReason: d.StopReason, CreatedAt: d.AppliedAt})
	}
	return out
}

func (c *controller) logDir(l cluster.Launch) string {
	return filepath.Join(c.state, "logs", l.Deployment, string(l.ID))
}

func (c *controller) endpointResponse() *apiv1.EndpointResponse {
	resp := &apiv1.EndpointResponse{Url: c.endpoint.GatewayURL, Controller: c.endpoint.URL}
	if c.gateway != nil && isTLS(c.endpoint.GatewayURL) {
		resp.CaFile = c.ca.File()
	}
	return resp
}

// parts are the loops and servers; each returns when its context ends.
func (c *controller) parts() []func(context.Context) error {
	tlsConfig := identity.ServerConfig(c.holder.Certificate, c.ca.Pool(), false)
	tlsConfig.NextProtos = []string{"h2", "http/1.1", trunk.ReverseProtocol}
	parts := []func(context.Context) error{
		c.ledger.Run, c.publisher.Run, c.loop.Run, c.watchKeys, c.renewOwn, c.saveBlocks,
		serveHTTP(bounded(c.agents, "agents", c.refused, tlsConfig), c.server.Agents(), adopting(c.upstream, c.wantedRun, c.log), c.closeStreams, c.log),
		serveHTTP(bounded(c.owner, "owner", c.refused, nil), c.server.Owner(), nil, c.server.Close, c.log),
	}
	if c.allocation != nil {
		parts = append(parts, c.attendAllocation)
	}
	if c.nomad != nil {
		parts = append(parts, c.tellNomad)
	}
	if c.gateway == nil {
		return parts
	}
	return append(parts, c.gateway.Run, c.feedGateway, serveGateway(c.clients.boundedListener, c.gateway, c.feed))
}

// closeStreams ends what agents and gateways keep open.
func (c *controller) closeStreams() {
	c.server.Close()
	c.upstream.RetireOffered()
}

// feedGateway gives the gateway of this process what others get over the wire.
func (c *controller) feedGateway(ctx context.Context) error {
	err := c.publisher.Watch(ctx, c.feed.Apply)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// record takes finished requests of the gateway of this process.
func (c *controller) record(_ context.Context, records []*apiv1.RequestRecord) error {
	return c.server.Record(records)
}

// watchKeys tells gateways of new and revoked keys, and puts down when keys were used.
func (c *controller) watchKeys(ctx context.Context) error {
	flush := time.NewTicker(time.Minute)
	defer flush.Stop()
	for {
		_, changed := c.keys.Snapshot()
		select {
		case <-ctx.Done():
			return c.keys.FlushUsed()
		case <-changed:
			c.publisher.Wake()
		case <-flush.C:
			if err := c.keys.FlushUsed(); err != nil {
				c.log.Warn().Err(err).Msg("use of keys not written down")
			}
		}
	}
}

// renewOwn makes a new certificate for the controller itself when a third of the old one's life has passed.
func (c *controller) renewOwn(ctx context.Context) error {
	for {
		wait := time.NewTimer(max(time.Minute, time.Until(c.holder.RenewAt())))
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		}
		if err := c.issueOwn(c.endpoint.Hostname, time.Now()); err != nil {
			c.log.Error().Err(err).Msg("own certificate not renewed")
		}
	}
}

func (c *controller) reconcileOptions() reconcile.Options {
	return reconcile.Options{
		Ledger: c.ledger, Fleet: c.fleet, Clusters: c.clusters, JoinFile: c.writeJoinFile, RemoveJoinFile: c.removeJoinFile,
		LogDir: c.logDir, Commander: commander{c}, Prober: prober{c.upstream}, Log: c.log, Registerer: c.registry,
		AskedAt: func(deployment string) time.Time { return c.server.AskedAt(deployment) },
	}
}

// commander reaches the server, which is made after the loop.
type commander struct{ c *controller }

// Send hands a command to the open streams of a launch's agents.
func (s commander) Send(launch string, cmd *apiv1.Command) error { return s.c.server.Send(launch, cmd) }
