package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

// controller is where the controller may be, and which term of it counts. Safe for concurrent use.
type controller struct {
	opts Options
	pool *x509.CertPool

	mu   sync.Mutex
	term uint64 // the newest seen
}

func newController(o Options) (*controller, error) {
	pool, err := identity.PoolFromPEM([]byte(o.Join.CAPEM))
	if err != nil {
		return nil, fmt.Errorf("join file: %w", err)
	}
	return &controller{opts: o, pool: pool}, nil
}

// errOldTerm: a controller answers whose place another one has taken.
var errOldTerm = errors.New("this controller's term is over")

// observe takes a term out of an answer and refuses an older one than was seen before.
func (c *controller) observe(term uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if term < c.term {
		return fmt.Errorf("%w: term %d, newest seen %d", errOldTerm, term, c.term)
	}
	c.term = term
	return nil
}

// urls are where to look for the controller, the likeliest first. The endpoint file is read anew each time: the
// controller may have moved.
func (c *controller) urls() []string {
	var urls []string
	if c.opts.Join.EndpointFile != "" {
		if e, err := identity.ReadEndpoint(c.opts.Join.EndpointFile); err == nil {
			urls = append(urls, e.URL)
		}
	}
	for _, u := range c.opts.Join.Controllers {
		if !slices.Contains(urls, u) {
			urls = append(urls, u)
		}
	}
	return urls
}

// try makes one call to the first controller that answers. Answers that say no are answers.
func (c *controller) try(ctx context.Context, own func() *tls.Certificate, call func(context.Context, apiv1.AgentServiceClient) error) error {
	err := errors.New("no controller is known: the endpoint file cannot be read and the join file names none")
	for _, url := range c.urls() {
		client, hangUp := c.dial(url, own)
		err = call(ctx, client)
		hangUp()
		if err == nil || final(err) || ctx.Err() != nil {
			return err
		}
		err = fmt.Errorf("controller %s: %w", url, err)
	}
	return err
}

// dial makes a client of one controller. Nothing is sent before its first call. hangUp breaks its connections, whatever is
// under way on them; it may be called twice, and from another goroutine.
func (c *controller) dial(url string, own func() *tls.Certificate) (client apiv1.AgentServiceClient, hangUp func()) {
	conns := &lines{}
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := c.opts.Dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return conn, conns.add(conn)
		},
		TLSClientConfig:     identity.ClientConfig(own, c.pool, identity.WantRole(identity.Controller)),
		TLSHandshakeTimeout: 10 * time.Second,
		Protocols:           protocols,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}
	return apiv1.NewAgentServiceClient(&http.Client{Transport: t}, url), conns.cut
}

// lines are the connections of one client. A stream over HTTP/2 heeds its context only while it waits for certain things;
// a broken connection ends it for sure.
type lines struct {
	mu    sync.Mutex
	conns []net.Conn
	down  bool
}

func (l *lines) add(c net.Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return errors.Join(net.ErrClosed, c.Close())
	}
	l.conns = append(l.conns, c)
	return nil
}

func (l *lines) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for _, c := range l.conns {
		_ = c.Close()
	}
}

// final tells whether an answer means that this run is not wanted.
func final(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnauthenticated, connect.CodeFailedPrecondition, connect.CodePermissionDenied, connect.CodeInvalidArgument:
		return true
	}
	return false
}

// backoff spaces attempts out: longer each time, and at random, so that a thousand agents do not come back at once.
type backoff struct{ wait, longest time.Duration }

// next is how long to wait now.
func (b *backoff) next() time.Duration {
	b.wait = min(max(2*b.wait, 200*time.Millisecond), b.longest)
	return b.wait/2 + rand.N(b.wait/2+1)
}

// sleep waits. It returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
