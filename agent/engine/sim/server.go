package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// Server is one rank of a simulated engine.
type Server struct {
	opts     Options
	log      zerolog.Logger
	faults   *faults
	engine   *engine
	events   *publisher // nil: no KV events
	registry *prometheus.Registry
	engineID string
	weights  *weights

	fingerprint atomic.Uint64
	loaded      atomic.Bool
	draining    atomic.Bool
	load        atomic.Int64 // requests being worked on
	handlers    handlers
	born        time.Time

	listening chan struct{} // closed when address is set
	address   net.Addr
}

// New checks the options and starts nothing. It does not read the weights.
func New(opts Options, log zerolog.Logger) (*Server, error) {
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("simulated engine: %w", err)
	}
	if opts.Output == nil {
		opts.Output = io.Discard
	}
	w, err := findWeights(opts.Model)
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts: opts, log: log, faults: newFaults(opts.Failures), registry: prometheus.NewRegistry(), weights: w,
		engineID: randomID(16), listening: make(chan struct{}), born: time.Now(),
	}
	if opts.KVEvents.on() {
		s.events = newPublisher(opts.KVEvents, opts.KVEventsForm, log)
	}
	s.engine = newEngine(opts, newMetrics(s.registry, opts, s.faults), s.faults, s.events, log)
	return s, nil
}

// model is the fingerprint of the loaded weights.
func (s *Server) model() Fingerprint { return Fingerprint(s.fingerprint.Load()) }

// Listening is closed once Addr is known. It stays open where nothing listens (headless ranks).
func (s *Server) Listening() <-chan struct{} { return s.listening }

// Addr is where the API listens; valid after Listening.
func (s *Server) Addr() net.Addr { return s.address }

// Fingerprint stands for the loaded weights; zero while they load.
func (s *Server) Fingerprint() Fingerprint { return s.model() }

// Run serves until ctx ends, and returns when everything that it started has ended. With a shutdown timeout it then
// refuses new requests and finishes running ones for as long; without, it cuts them off at once, as vLLM does. A failure
// that ends the process is an *ExitError.
func (s *Server) Run(ctx context.Context) error {
	if exit := s.faults.death(0); exit != nil {
		return exit
	}
	if err := s.startGrandchild(); err != nil {
		return err
	}
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	group, inner := errgroup.WithContext(inner)
	if err := s.serveAll(inner, group); err != nil {
		cancel()
		_ = group.Wait()
		return err
	}
	group.Go(func() error {
		s.awaitEnd(ctx, inner)
		cancel()
		return nil
	})
	if err := group.Wait(); !errors.Is(err, errBye) {
		return err
	}
	return nil
}

// serveAll opens what has to be open and starts the parts of this rank.
func (s *Server) serveAll(ctx context.Context, group *errgroup.Group) error {
	ranks, err := s.joinRanks(ctx, group)
	if err != nil {
		return err
	}
	if s.opts.Headless {
		group.Go(func() error { return s.loadWeights(ctx, ranks) })
		return nil
	}
	if err := s.serveHTTP(ctx, group); err != nil {
		return err
	}
	if s.events != nil {
		sockets, err := s.events.open(ctx)
		if err != nil {
			return err
		}
		group.Go(func() error { return s.events.run(ctx, sockets) })
	}
	group.Go(func() error { return s.engine.run(ctx) })
	group.Go(func() error { return s.loadWeights(ctx, ranks) })
	return nil
}

// loadWeights reads the weights, waits for the other ranks, and opens the API.
func (s *Server) loadWeights(ctx context.Context, ranks *ranks) error {
	start := time.Now()
	f, err := s.weights.load(ctx, s.opts.LoadRate, s.faults, s.opts.Output)
	if err != nil {
		return endOf(ctx, err)
	}
	s.fingerprint.Store(uint64(f))
	if err := ranks.ready(ctx, f); err != nil {
		return endOf(ctx, err)
	}
	s.loaded.Store(true)
	s.log.Info().Str("fingerprint", f.String()).Dur("took", time.Since(start)).Int64("bytes", s.weights.total).Msg("model loaded")
	return nil
}

// endOf hides an error that only says that everything ends.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// awaitEnd waits until this rank has to end: told by ctx and not deaf to it, and with running requests given their time.
func (s *Server) awaitEnd(ctx, inner context.Context) {
	select {
	case <-ctx.Done():
	case <-inner.Done():
		return
	}
	for s.faults.has(IgnoreTERM) {
		changed := s.faults.changed()
		if !s.faults.has(IgnoreTERM) {
			break
		}
		select {
		case <-changed:
		case <-inner.Done():
			return
		}
	}
	s.draining.Store(true)
	s.drain(inner)
}

// drain waits until no request is left, for the shutdown timeout.
func (s *Server) drain(ctx context.Context) {
	deadline := time.NewTimer(s.opts.ShutdownTimeout)
	defer deadline.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for s.load.Load() > 0 {
		select {
		case <-deadline.C:
			return
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// serveHTTP listens and serves the API and, where it has an address of its own, the side channel.
func (s *Server) serveHTTP(ctx context.Context, group *errgroup.Group) error {
	l, err := s.listen()
	if err != nil {
		return err
	}
	s.address = l.Addr()
	side := sideChannel{engineID: s.engineID}
	switch addr := l.Addr().(type) {
	case *net.UnixAddr:
		side.host = unixHostPrefix + addr.Name
	case *net.TCPAddr:
		side.host, side.port = cmp.Or(s.opts.TransferHost, s.opts.Host), addr.Port
	}
	s.serve(ctx, group, l, s.routes())
	if s.opts.TransferPort > 0 {
		address := net.JoinHostPort(s.opts.TransferHost, strconv.Itoa(s.opts.TransferPort))
		t, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("listen for KV transfers on %s: %w", address, err)
		}
		side.host, side.port = s.opts.TransferHost, s.opts.TransferPort
		s.serve(ctx, group, t, s.sideRoutes())
	}
	s.engine.puller.self = side
	close(s.listening)
	return nil
}

func (s *Server) listen() (net.Listener, error) {
	if s.opts.UDS == "" {
		address := net.JoinHostPort(s.opts.Host, strconv.Itoa(s.opts.Port))
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
		return l, nil
	}
	if err := removeStaleSocket(s.opts.UDS); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", s.opts.UDS, err)
	}
	l, err := net.Listen("unix", s.opts.UDS)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", s.opts.UDS, err)
	}
	if err := os.Chmod(s.opts.UDS, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen on %s: %w", s.opts.UDS, err)
	}
	return l, nil
}

// serve serves until ctx ends, cuts all connections then, and waits for what handles them.
func (s *Server) serve(ctx context.Context, group *errgroup.Group, l net.Listener, h http.Handler) {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    log.New(s.log, "", 0),
	}
	group.Go(func() error {
		<-ctx.Done()
		_ = server.Close()
		s.handlers.wait()
		s.engine.puller.close()
		return nil
	})
	group.Go(func() error {
		if err := server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve on %s: %w", l.Addr(), err)
		}
		return nil
	})
}
