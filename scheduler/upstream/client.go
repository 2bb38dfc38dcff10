// Package upstream is the gateway's and the controller's way to an agent: HTTP/1.1 with keep-alive over mTLS to the data port of
// one run, and the probe that asks that run for one real token.
//
// It is no general HTTP client. It speaks only to agents, keeps a pool of connections for each run, so that a port that a
// later run got never sees an earlier run's requests, has a deadline on every step, compresses nothing and reads no proxy
// settings. Where the agent knows trunks, a run's requests share one connection (scheduler/trunk), each with a stream of its
// own, that is opened at the first request and closed after the last; with other agents each request has a connection, and
// the caller reads the answer straight from the socket. Where an agent cannot be dialled, it dials, and its connection is
// taken for its run's trunk (Adopt).
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
	"github.com/penstock/penstock/scheduler/trunk"
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

	MaxIdlePerHost int           // idle connections kept per run, without trunks; default 256
	IdleTimeout    time.Duration // an idle connection or trunk is not used after so long; default 60 s
	DialTimeout    time.Duration // TCP and TLS together; default 5 s
	SendTimeout    time.Duration // to hand over a whole request; default 30 s
}

// Client sends requests to agents. Safe for concurrent use.
type Client struct {
	opts   Options
	dialer net.Dialer

	mu      sync.Mutex
	pools   map[peer]*pool
	offered map[offer]*trunk.Trunk // that agents have dialled
	closed  bool
}

// peer is what a pooled connection is bound to.
type peer struct {
	launch, run, address string
}

type pool struct {
	tls  *tls.Config
	idle []*conn // youngest last

	trunk   *trunk.Trunk // nil = none yet, or it has ended
	born    time.Time    // of trunk
	dialing *dialing     // a trunk is being made
	single  bool         // the agent does not know trunks
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
		opts:    opts,
		pools:   map[peer]*pool{},
		offered: map[offer]*trunk.Trunk{},
		dialer:  net.Dialer{KeepAliveConfig: keepAlive, Control: control},
	}
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// connect returns a connection to the run: a stream of its trunk, or an idle connection that still lives, unless fresh is
// asked for, else a new one.
func (c *Client) connect(ctx context.Context, t Target, fresh bool) (*conn, error) {
	key := peer{t.Launch, t.Run, t.Address}
	if !c.opts.Plaintext {
		if cn, err := c.openStream(ctx, t, key); err != nil {
			return nil, err
		} else if cn != nil {
			cn.reused = cn.carried && !fresh
			return cn, nil
		}
	}
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
	raw, stream, err := c.dial(ctx, t, key)
	if err != nil {
		return nil, err
	}
	return newConn(key, raw, stream), nil
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

// dial makes a connection. stream is what is spoken over: TLS, or raw itself.
func (c *Client) dial(ctx context.Context, t Target, key peer, protocols ...string) (raw *socket, stream net.Conn, err error) {
	cfg, err := c.tlsConfig(key)
	if err != nil {
		return nil, nil, &Error{Target: t, Step: "connect", Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.DialTimeout)
	defer cancel()
	tcp, err := c.dialer.DialContext(ctx, "tcp", t.Address)
	if err != nil {
		return nil, nil, &Error{Target: t, Step: "connect", Err: err}
	}
	raw = newSocket(tcp)
	if cfg == nil {
		return raw, raw, nil
	}
	cfg = cfg.Clone()
	cfg.NextProtos = append(protocols, "http/1.1")
	secure := tls.Client(raw, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, nil, &Error{Target: t, Step: "connect", Err: err}
	}
	return raw, secure, nil
}

// tlsConfig returns the run's settings, nil for plaintext.
func (c *Client) tlsConfig(key peer) (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.pool(key)
	if err != nil {
		return nil, err
	}
	return p.tls, nil
}

// pool returns what is kept of a run, which may be nothing yet. The caller holds the lock.
func (c *Client) pool(key peer) (*pool, error) {
	if c.closed {
		return nil, errClosed
	}
	if p := c.pools[key]; p != nil {
		return p, nil
	}
	p := &pool{}
	if !c.opts.Plaintext {
		if c.opts.TLS == nil {
			return nil, errNoTLS
		}
		if p.tls = c.opts.TLS(key.launch, key.run); p.tls == nil {
			return nil, errNoTLS
		}
	}
	c.pools[key] = p
	return p, nil
}

var (
	errClosed = errors.New("this process is shutting down")
	errNoTLS  = errors.New("there is no certificate to connect with")
)

// put keeps a connection for the next request, or closes it. A trunk's next stream costs nothing.
func (c *Client) put(cn *conn) {
	if cn.carried {
		cn.finish()
		return
	}
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
	p, o := c.pools[key], offer{t.Launch, t.Run}
	delete(c.pools, key)
	offered := c.offered[o]
	delete(c.offered, o)
	c.mu.Unlock()
	if offered != nil {
		offered.Retire()
	}
	if p != nil {
		p.close()
	}
}

// close closes what is idle, and the trunk with its last stream.
func (p *pool) close() {
	closeAll(p.idle)
	if p.trunk != nil {
		p.trunk.Retire()
	}
}

// Reap closes connections that have been idle for too long. Its caller calls it now and then.
func (c *Client) Reap() {
	var old []*conn
	c.mu.Lock()
	for _, p := range c.pools {
		c.reapTrunk(p)
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
	pools, offered := c.pools, c.offered
	c.pools, c.offered, c.closed = map[peer]*pool{}, map[offer]*trunk.Trunk{}, true
	c.mu.Unlock()
	for _, o := range offered {
		o.Retire()
	}
	for _, p := range pools {
		p.close()
	}
}

func closeAll(conns []*conn) {
	for _, cn := range conns {
		cn.kill()
	}
}
