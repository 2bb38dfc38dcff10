package agent

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/penstock/penstock/scheduler/accept"
	"github.com/penstock/penstock/scheduler/identity"
)

const (
	pathReady  = "/ready"
	readyEvery = 200 * time.Millisecond // how soon the port follows
)

// showReady keeps the ready port open for as long as this run serves: its engine has answered with a real token, and it does
// not drain. A cluster's health checks have no certificate of ours, so the port tells nothing else. That it is closed
// otherwise makes the plainest check, which only connects, as deep as ours.
func (r *run) showReady(ctx context.Context) {
	conf := identity.ServerConfig(r.adm.certs.Certificate, r.home.pool, false)
	conf.NextProtos = []string{"http/1.1"}
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	var shut func()
	complained := false
	for {
		switch serving := r.port.serving(); {
		case serving && shut == nil:
			l, err := net.Listen("tcp", r.opts.ReadyAddress)
			if err != nil && !complained {
				complained = true
				r.log.Error().Err(err).Str("address", r.opts.ReadyAddress).Msg("ready port not opened; it is tried again")
			}
			if err == nil {
				shut = serveReady(accept.Wrap(l, "ready", accept.Limits{Open: 64}, r.agent.metrics.refused), conf)
			}
		case !serving && shut != nil:
			shut()
			shut = nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if shut != nil {
				shut()
			}
			return
		}
	}
}

// serveReady answers until shut is called, which returns when all is over.
func serveReady(l *accept.Listener, conf *tls.Config) (shut func()) {
	var running sync.WaitGroup
	srv := &http.Server{
		ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 10 * time.Second, MaxHeaderBytes: 4 << 10,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path != pathReady || req.Method != http.MethodGet && req.Method != http.MethodHead {
				http.NotFound(w, req)
				return
			}
			_, _ = io.WriteString(w, "ready\n")
		}),
	}
	l.Watch(srv)
	srv.ErrorLog = log.New(io.Discard, "", 0) // a check that connects and goes is neither an event nor a refusal
	running.Go(func() { _ = srv.Serve(tls.NewListener(l, conf)) })
	return func() {
		_ = srv.Close()
		running.Wait()
	}
}

// serving: requests are let through to the engine.
func (p *port) serving() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why == serves && p.engine != nil
}
