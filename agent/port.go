package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent/engine"
	"github.com/penstock/penstock/agent/slots"
	spec "github.com/penstock/penstock/jobspecs/engine"
	"github.com/penstock/penstock/kvstore/front/peer"
	"github.com/penstock/penstock/scheduler/accept"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/trunk"
)

// What travels between a gateway or the controller and an agent.
const (
	headerPrefix = "Penstock-"
	headerLaunch = "Penstock-Launch"
	headerEpoch  = "Penstock-Epoch"
	headerReason = "Penstock-Reason"

	pathMetrics = "/penstock/metrics"
	pathGang    = "/penstock/gang"
	pathKV      = "/penstock/tiers"
)

// refusal is why a run takes no requests now; it goes out as Penstock-Reason. Empty: it takes them.
type refusal string

const (
	serves   refusal = ""
	loading  refusal = "loading"
	draining refusal = "draining"
	failed   refusal = "failed"
)

// port is the agent's own door: HTTP/1.1 over mTLS, for gateways and the controller of this installation, and for the
// other ranks of the run. What it lets through goes to the engine; nothing that controls the engine does. Its methods are
// safe for concurrent use.
type port struct {
	portOptions
	epochText string
	methods   map[string]string // path -> the method that is let through
	moved     atomic.Uint64     // bytes from the engine to clients
	came      callers           // who has dialled
	asked     moment            // the last request that was meant for us

	mu     sync.Mutex
	why    refusal
	engine *engine.Reader                        // nil = none runs
	slots  *slots.Slots                          // of that engine; nil = its KV has no tiers
	peers  *peers                                // nil = no KV tiers
	open   map[*exchange]context.CancelCauseFunc // requests that are with the engine
}

type portOptions struct {
	launch, run string
	epoch       uint64
	traits      spec.Traits
	tenantTag   string // field of kv_transfer_params that is to hold the tenant; empty = none
	metrics     *metrics
	scrape      http.Handler // our own metrics
	gang        http.Handler // rank 0 of several: what the other ranks ask; else nil
	log         zerolog.Logger
}

// exchange is one open request.
type exchange struct{ _ byte }

func newPort(o portOptions) *port {
	return &port{
		portOptions: o,
		epochText:   strconv.FormatUint(o.epoch, 10),
		methods:     allowed(o.traits),
		why:         loading,
		open:        map[*exchange]context.CancelCauseFunc{},
	}
}

// allowed lists what may reach the engine: inference, and looks that change nothing.
func allowed(t spec.Traits) map[string]string {
	m := map[string]string{"/health": http.MethodGet, "/v1/models": http.MethodGet}
	posts := append([]string{t.TokenizePath, "/detokenize", "/apply-template"}, t.Paths...)
	if t.TokenIDs == spec.LlamaVerbose {
		posts = append(posts, "/completion")
	}
	for _, path := range posts {
		if path != "" && m[path] == "" {
			m[path] = http.MethodPost
		}
	}
	return m
}

// serve serves connections of l until ctx ends, then cuts what is open and waits for it.
func (p *port) serve(ctx context.Context, l net.Listener, conf *tls.Config) error {
	var conns sync.WaitGroup
	srv := p.server(&conns, p)
	srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){trunk.Protocol: p.serveTrunk}
	conf = conf.Clone()
	conf.NextProtos = []string{trunk.Protocol, "http/1.1"}
	bounded := accept.Wrap(l, "requests", accept.Limits{}, p.metrics.refused)
	bounded.Watch(srv)
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer conns.Wait()
	defer stop()
	defer srv.Close()
	if err := srv.Serve(tls.NewListener(bounded, conf)); ctx.Err() == nil {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// server makes a server that counts its open connections in conns.
func (p *port) server(conns *sync.WaitGroup, h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          identity.RefusalLog(p.log),
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				conns.Done()
			}
		},
	}
}

// serveTrunk serves the streams of a gateway that sends all of its requests over one connection, until that ends.
func (p *port) serveTrunk(outer *http.Server, c *tls.Conn, _ http.Handler) {
	outer.ConnState(c, http.StateActive) // who only counts requests would take it for one that says nothing
	p.serveStreams(c, p.ServeHTTP)
}

// serveStreams serves a trunk's streams until it ends. h is told whose they are.
func (p *port) serveStreams(c *tls.Conn, h http.HandlerFunc) {
	state := c.ConnectionState()
	t := trunk.Accepted(c)
	var running sync.WaitGroup
	running.Go(func() { _ = t.Run() })
	inner := p.server(&running, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = &state
		h(w, r)
	}))
	_ = inner.Serve(t)
	_ = inner.Close()
	running.Wait()
}

// admit lets requests through to this engine.
func (p *port) admit(e *engine.Reader, s *slots.Slots) { p.turn(serves, e, s) }

// lose forgets the engine: it has ended, or is about to.
func (p *port) lose(why refusal) { p.turn(why, nil, nil) }

func (p *port) turn(why refusal, e *engine.Reader, s *slots.Slots) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.why, p.engine, p.slots = why, e, s
}

// refuse lets no new request in. Open ones go on.
func (p *port) refuse(why refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.why = why
}

// cut ends the open requests in a way that their clients see.
func (p *port) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, cancel := range p.open {
		cancel(errCut)
	}
}

// requests counts the open ones.
func (p *port) requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

// enter notes a request as open, or says why it may not be.
func (p *port) enter(x *exchange, cancel context.CancelCauseFunc) (*engine.Reader, *slots.Slots, refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why != serves {
		return nil, nil, p.why
	}
	p.open[x] = cancel
	p.metrics.open.Set(float64(len(p.open)))
	return p.engine, p.slots, serves
}

func (p *port) leave(x *exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, x)
	p.metrics.open.Set(float64(len(p.open)))
	p.asked.mark()
}

// lastAsked is when a gateway or the controller last had a request here; zero = never.
func (p *port) lastAsked() time.Time { return p.asked.last() }

// ServeHTTP answers who has dialled.
func (p *port) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if caller, err := identity.FromState(r.TLS); err == nil {
		p.came.note(caller)
	}
	p.handle(w, r)
}

// handle checks who asks, then for what, so that a stranger learns nothing.
func (p *port) handle(w http.ResponseWriter, r *http.Request) {
	caller, err := identity.FromState(r.TLS)
	if err != nil {
		deny(w, http.StatusForbidden, err)
		return
	}
	want := identity.WantRole(identity.Gateway, identity.Controller)
	switch r.URL.Path {
	case pathGang:
		want = identity.WantRun(p.launch, p.run)
	case peer.Path:
		want = identity.WantRole(identity.Agent)
	case pathKV:
		want = identity.WantRole(identity.Controller)
	}
	if err := want(caller); err != nil {
		deny(w, http.StatusForbidden, err)
		return
	}
	switch {
	case r.URL.Path == pathGang && p.gang == nil:
		deny(w, http.StatusNotFound, errors.New("this rank leads no others"))
	case r.URL.Path == pathGang:
		p.gang.ServeHTTP(w, r)
	case r.URL.Path == peer.Path:
		p.give(w, r)
	case r.URL.Path == pathKV:
		p.manage(w, r)
	case r.URL.Path == pathMetrics:
		p.scrape.ServeHTTP(w, r)
	default:
		p.request(w, r)
	}
}

// meetPeers opens the door for other agents, to this run's KV tiers.
func (p *port) meetPeers(with *peers) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peers = with
}

// others is the way to and from other agents' KV tiers; nil = this run has none.
func (p *port) others() *peers {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.peers
}

// give answers another agent that asks for KV blocks.
func (p *port) give(w http.ResponseWriter, r *http.Request) {
	with := p.others()
	if with == nil {
		deny(w, http.StatusNotFound, errors.New("this run has no KV tiers"))
		return
	}
	with.door.ServeHTTP(w, r)
}

// request lets a request through that is meant for this very run.
func (p *port) request(w http.ResponseWriter, r *http.Request) {
	p.asked.mark()
	if r.Header.Get(headerLaunch) != p.launch || r.Header.Get(headerEpoch) != p.epochText {
		p.refused(w, http.StatusMisdirectedRequest, "", fmt.Errorf("this is launch %s, epoch %s", p.launch, p.epochText))
		return
	}
	if method, ok := p.methods[r.URL.Path]; !ok || method != r.Method {
		p.refused(w, http.StatusNotFound, "", fmt.Errorf("%s %s does not reach the engine", r.Method, r.URL.Path))
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	x := &exchange{}
	e, s, why := p.enter(x, cancel)
	if why != serves {
		p.refused(w, http.StatusServiceUnavailable, why, fmt.Errorf("this replica does not serve now: %s", why))
		return
	}
	defer p.leave(x)
	r, end, err := p.prepared(ctx, r, s)
	if err != nil {
		p.lost(ctx, w, err)
		return
	}
	answered := false
	defer func() { end(answered) }() // also where the answer is cut by a panic
	answered = p.forward(ctx, w, r, e)
}

func (p *port) refused(w http.ResponseWriter, status int, why refusal, err error) {
	if why != "" {
		w.Header().Set(headerReason, string(why))
	}
	p.metrics.requests.WithLabelValues(strconv.Itoa(status)).Inc()
	deny(w, status, err)
}

// deny answers in the shape of OpenAI's errors.
func deny(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"error": map[string]any{"message": err.Error(), "type": "penstock_agent_error", "code": status},
	})
}

// errCut ends requests that a drain did not wait for any longer.
var errCut = errors.New("cut at the end of the drain")
