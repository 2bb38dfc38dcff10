package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/keys"
	"github.com/penstock/penstock/scheduler/reconcile"
	"github.com/penstock/penstock/scheduler/server"
)

// bigController is wired as `penstock serve` wires it, but for the cluster and the probes: those are answered at once.
type bigController struct {
	*estate
	ca        *identity.CA
	tokens    *identity.JoinTokens
	own       tls.Certificate
	listener  net.Listener
	publisher *fleet.Publisher
	loop      *reconcile.Loop
	server    *server.Server
	out       *json.Encoder
	outMu     sync.Mutex
}

// playController runs a controller for so many replicas until its input ends.
func playController(args []string) (err error) {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, bufio.NewReader(os.Stdin))
		cancel()
	}()
	c := &bigController{out: json.NewEncoder(os.Stdout)}
	if c.estate, err = newEstate(ctx, 10, n, time.Second); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.wire(); err != nil {
		return err
	}
	return c.run(ctx)
}

func (c *bigController) wire() (err error) {
	now := time.Now()
	caDir := filepath.Join(c.dir, "ca")
	if c.ca, err = identity.OpenCA(caDir); err != nil {
		return err
	}
	if c.tokens, err = identity.OpenJoinTokens(caDir); err != nil {
		return err
	}
	store, err := keys.Open(filepath.Join(c.dir, "keys"))
	if err != nil {
		return err
	}
	if c.own, err = c.ca.Issue(identity.ID{Role: identity.Controller, Name: "controller"}, time.Hour, now, "localhost", "127.0.0.1"); err != nil {
		return err
	}
	if c.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	logFile, err := os.OpenFile(filepath.Join(c.dir, "serve.log"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	log, registry := zerolog.New(logFile).With().Timestamp().Logger(), prometheus.NewRegistry()
	c.publisher = fleet.NewPublisher(fleet.PublisherOptions{Source: c.view, Changed: c.fleet.Changed, Term: c.ledger.Term()})
	clusters := map[jobspecs.ClusterKind]cluster.Cluster{jobspecs.LocalCluster: c.sim}
	logDir := func(l cluster.Launch) string { return filepath.Join(c.dir, "logs", l.Deployment, string(l.ID)) }
	c.loop, err = reconcile.New(reconcile.Options{
		Ledger: c.ledger, Fleet: c.fleet, Clusters: clusters, JoinFile: c.joinFile, RemoveJoinFile: func(cluster.Launch) error { return nil },
		LogDir: logDir, Commander: c, Prober: nobody{}, Log: log, Registerer: registry,
	})
	if err != nil {
		return err
	}
	c.server, err = server.New(server.Options{
		Ledger: c.ledger, Fleet: c.fleet, Publisher: c.publisher, Loop: c.loop, Clusters: clusters, CA: c.ca, Tokens: c.tokens, Keys: store,
		StateDir: c.dir, LogDir: logDir, Endpoint: func() *apiv1.EndpointResponse { return &apiv1.EndpointResponse{} }, Shutdown: func() {},
		Version: "bench", StartedAt: now, Log: log, Metrics: registry, Gatherer: registry,
	})
	return err
}

// Send reaches the server, which is made after the loop.
func (c *bigController) Send(launch string, cmd *apiv1.Command) error {
	return c.server.Send(launch, cmd)
}

// view is what gateways are told.
func (c *bigController) view(now time.Time) fleet.View {
	var deployed []fleet.Deployed
	for _, d := range c.ledger.Deployments() {
		deployed = append(deployed, fleet.Deployed{
			Spec: d.Spec, Wanted: map[jobspecs.RoleKind]int{jobspecs.Mixed: d.Wanted(jobspecs.Mixed)}, CreatedAt: d.AppliedAt,
		})
	}
	v := fleet.Gateways(c.fleet.Snapshot(now), c.ledger.Launches(), deployed, c.loop.Waits())
	v.Settled = c.loop.Settled()
	return v
}

func (c *bigController) joinFile(l cluster.Launch) (string, error) {
	dir := filepath.Join(c.dir, "join")
	if err := identity.SecureDir(dir); err != nil {
		return "", err
	}
	path := filepath.Join(dir, string(l.ID)+".json")
	return path, identity.WriteJoinFile(path, identity.JoinFile{
		Launch: string(l.ID), Token: c.tokens.Mint(string(l.ID), time.Now().Add(time.Hour)), Controllers: []string{"https://" + c.listener.Addr().String()},
		CAPEM: string(c.ca.PEM()), Installation: c.ca.Installation(),
	})
}

// say writes a line for the bench.
func (c *bigController) say(t told) {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	_ = c.out.Encode(t)
}

// run runs all loops and the server until ctx ends.
func (c *bigController) run(ctx context.Context) error {
	c.begun = func(r clustertest.SimRun) {
		c.say(told{Begun: &begun{JoinFile: r.Submission.JoinFile, Run: r.Nonce, Job: r.Job.ID}})
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{
		c.ledger.Run, c.publisher.Run, c.loop.Run, c.serve,
		func(ctx context.Context) error { return c.sim.Run(ctx, 20*time.Millisecond) },
	} {
		group.Go(func() error { return part(ctx) })
	}
	begin := time.Now()
	if err := c.apply(); err != nil {
		return err
	}
	c.loop.Refresh()
	group.Go(func() error { return c.awaitReady(ctx, begin) })
	return group.Wait()
}

// serve is the listener for agents and gateways.
func (c *bigController) serve(ctx context.Context) error {
	conf := identity.ServerConfig(func() *tls.Certificate { return &c.own }, c.ca.Pool(), false)
	conf.NextProtos = []string{"h2", "http/1.1"}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	srv := &http.Server{Handler: c.server.Agents(), ReadHeaderTimeout: 10 * time.Second, Protocols: protocols, ErrorLog: stdlog.New(io.Discard, "", 0)}
	defer context.AfterFunc(ctx, func() {
		c.server.Close()
		_ = srv.Close()
	})()
	if err := srv.Serve(tls.NewListener(c.listener, conf)); ctx.Err() == nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// awaitReady tells when all replicas have become ready.
func (c *bigController) awaitReady(ctx context.Context, begin time.Time) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			ready := 0
			for _, r := range c.fleet.Snapshot(now).Replicas {
				if r.Serving() {
					ready++
				}
			}
			if ready == c.replicas {
				c.say(told{Ready: time.Since(begin).Seconds()})
				return nil
			}
		}
	}
}
