// Package upstream is the gateway's and the controller's way to an agent: HTTP/1.1 with keep-alive over mTLS to the data port of
// one run, and the probe that asks that run for one real token.
//
// It is no general HTTP client. It speaks only to agents, keeps a pool of connections for each run, so that a port that a
// later run got never sees an earlier run's requests, has a deadline on every step, compresses nothing and reads no proxy
// settings. A connection has no goroutine of its own: the caller reads the answer straight from the socket.
//
// It does not choose replicas, retry on others, or know keys and models; that is the gateway's.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// Target is one admitted run of a launch.
type Target struct {
	Launch  string
	Run     string
	Epoch   uint64
	Address string // host:port of the agent's data port
	Engine  jobspecs.EngineKind
}

// Options of a Client.
type Options struct {
	// TLS gives the settings for connections to one run. It must verify that the peer is that run of that launch, and show
	// our certificate. It is asked once per run; certificates that change must come through its callbacks.
	TLS func(launch, run string) *tls.Config
	// Plaintext does without TLS. For tests and benchmarks only.
	Plaintext bool

	MaxIdlePerHost int           // idle connections kept per run; default 256
	IdleTimeout    time.Duration // an idle connection is not used after so long; default 60 s
	DialTimeout    time.Duration // TCP and TLS together; default 5 s
	SendTimeout    time.Duration // to hand over a whole request; default 30 s
}

// Client sends requests to agents. Safe for concurrent use.
type Client struct {
	opts   Options
	dialer net.Dialer

	mu     sync.Mutex
	pools  map[peer]*pool
	closed bool
}

// peer is what a pooled connection is bound to.
type peer struct {
	launch, run, address string
}

type pool struct {
	tls  *tls.Config
	idle []*conn // youngest last
}

// New returns a Client. It starts nothing.
func New(opts Options) *Client {
	if opts.MaxIdlePerHost <= 0 {
		opts.MaxIdlePerHost = 256
	}
	opts.IdleTimeout = orDefault(opts.IdleTimeout, 60*time.Second)
	opts.DialTimeout = orDefault(opts.DialTimeout, 5*time.Second)
	opts.SendTimeout = orDefault(opts.SendTimeout, 30*time.Second)
	return &Client{
		opts:  opts,
		pools: map[peer]*pool{},
		dialer: net.Dialer{
			// A node that is gone answers nothing, not even a reset. Streams on it notice within about 12 s.
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 6 * time.Second, Interval: 2 * time.Second, Count: 3},
		},
	}
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// connect returns a connection to the run: an idle one that still lives, unless fresh is asked for, else a new one.
func (c *Client) connect(ctx context.Context, t Target, fresh bool) (*conn, error) {
	key := peer{t.Launch, t.Run, t.Address}
	for !fresh {
		cn := c.takeIdle(key)
		if cn == nil {
			break
		}
		if time.Since(cn.idleSince) < c.opts.IdleTimeout && cn.alive() {
			cn.reused = true
			return cn, nil
		}
		cn.kill()
	}
	return c.dial(ctx, t, key)
}

func (c *Client) takeIdle(key peer) *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pools[key]
	if p == nil || len(p.idle) == 0 {
		return nil
	}
	last := len(p.idle) - 1
	cn := p.idle[last]
	p.idle[last] = nil
	p.idle = p.idle[:last]
	return cn
}

func (c *Client) dial(ctx context.Context, t Target, key peer) (*conn, error) {
	cfg, err := c.tlsConfig(key)
	if err != nil {
		return nil, &Error{Target: t, Step: "connect", Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.DialTimeout)
	defer cancel()
	tcp, err := c.dialer.DialContext(ctx, "tcp", t.Address)
	if err != nil {
		return nil, &Error{Target: t, Step: "connect", Err: err}
	}
	raw := newSocket(tcp)
	if cfg == nil {
		return newConn(key, raw, raw), nil
	}
	secure := tls.Client(raw, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, &Error{Target: t, Step: "connect", Err: err}
	}
	return newConn(key, raw, secure), nil
}

// tlsConfig returns the run's settings, nil for plaintext.
func (c *Client) tlsConfig(key peer) (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	p := c.pools[key]
	if p == nil {
		p = &pool{}
		if !c.opts.Plaintext {
			if c.opts.TLS == nil {
				return nil, errNoTLS
			}
			cfg := c.opts.TLS(key.launch, key.run)
			if cfg == nil {
				return nil, errNoTLS
			}
			p.tls = cfg.Clone()
			p.tls.NextProtos = []string{"http/1.1"}
		}
		c.pools[key] = p
	}
	return p.tls, nil
}

var (
	errClosed = errors.New("this process is shutting down")
	errNoTLS  = errors.New("there is no certificate to connect with")
)

// put keeps a connection for the next request, or closes it.
func (c *Client) put(cn *conn) {
	cn.idleSince = time.Now()
	c.mu.Lock()
	p := c.pools[cn.peer]
	if p == nil || c.closed || len(p.idle) >= c.opts.MaxIdlePerHost {
		c.mu.Unlock()
		cn.kill()
		return
	}
	p.idle = append(p.idle, cn)
	c.mu.Unlock()
}

// CloseTarget forgets a run: its idle connections are closed now, those in use when their answers end.
func (c *Client) CloseTarget(t Target) {
	key := peer{t.Launch, t.Run, t.Address}
	c.mu.Lock()
	p := c.pools[key]
	delete(c.pools, key)
	c.mu.Unlock()
	if p != nil {
		closeAll(p.idle)
	}
}

// Reap closes connections that have been idle for too long. Its caller calls it now and then.
func (c *Client) Reap() {
	var old []*conn
	c.mu.Lock()
	for _, p := range c.pools {
		n := 0
		for n < len(p.idle) && time.Since(p.idle[n].idleSince) >= c.opts.IdleTimeout {
			n++
		}
		old = append(old, p.idle[:n]...)
		p.idle = append(p.idle[:0], p.idle[n:]...)
	}
	c.mu.Unlock()
	closeAll(old)
}

// Close closes all idle connections. Requests that run go on to their end; new ones are refused.
func (c *Client) Close() {
	c.mu.Lock()
	pools := c.pools
	c.pools, c.closed = map[peer]*pool{}, true
	c.mu.Unlock()
	for _, p := range pools {
		closeAll(p.idle)
	}
}

func closeAll(conns []*conn) {
	for _, cn := range conns {
		cn.kill()
	}
}
