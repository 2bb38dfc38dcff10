package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/penstock/penstock/scheduler/trunk"
)

// trunkAge is how long a trunk gets new streams: its peer's certificate was checked when it began.
const trunkAge = time.Hour

// dialing is one attempt at a trunk, which all requests to the run wait for.
type dialing struct {
	done chan struct{}
	err  error // set before done is closed
	left bool  // who dialed did not wait for the end
}

// openStream begins a stream to the run, over the trunk that is there or a new one. For an agent that does not know trunks
// it returns nothing, or the connection on which it found that out.
func (c *Client) openStream(ctx context.Context, t Target, key peer) (*conn, error) {
	if cn := c.offeredStream(key); cn != nil {
		return cn, nil
	}
	for range maxTrunks {
		c.mu.Lock()
		p, err := c.pool(key)
		if err != nil {
			c.mu.Unlock()
			return nil, &Error{Target: t, Step: "connect", Err: err}
		}
		if p.single {
			c.mu.Unlock()
			return nil, nil
		}
		cn, d := p.stream(key), p.dialing
		mine := cn == nil && d == nil
		if mine {
			d = &dialing{done: make(chan struct{})}
			p.dialing = d
		}
		c.mu.Unlock()
		if mine {
			cn = c.makeTrunk(ctx, t, key, p, d)
		}
		if cn != nil {
			return cn, nil
		}
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, &Error{Target: t, Step: "connect", Err: context.Cause(ctx)}
		}
		if d.err != nil && (mine || !d.left) {
			return nil, d.err
		}
	}
	return nil, &Error{Target: t, Step: "connect", Err: errShort}
}

// maxTrunks is how many of a run's trunks may end before a stream of theirs has begun.
const maxTrunks = 3

var errShort = errors.New("connections end as soon as they are there")

// stream opens one on the trunk, if there is one that is not too old. The caller holds the client's lock.
func (p *pool) stream(key peer) *conn {
	if p.trunk == nil {
		return nil
	}
	if time.Since(p.born) < trunkAge {
		if s, err := p.trunk.Open(); err == nil {
			return newStream(key, s)
		}
	}
	p.trunk.Retire()
	p.trunk = nil
	return nil
}

// makeTrunk connects to the run and puts the trunk where all find it. It returns the connection if that is no trunk.
func (c *Client) makeTrunk(ctx context.Context, t Target, key peer, p *pool, d *dialing) *conn {
	raw, stream, err := c.dial(ctx, t, key, trunk.Protocol)
	c.mu.Lock()
	defer c.mu.Unlock()
	p.dialing = nil
	defer close(d.done)
	if err != nil {
		d.err, d.left = err, ctx.Err() != nil
		return nil
	}
	if secure, ok := stream.(*tls.Conn); !ok || secure.ConnectionState().NegotiatedProtocol != trunk.Protocol {
		p.single = true
		return newConn(key, raw, stream)
	}
	p.trunk, p.born = trunk.Dialed(stream), time.Now()
	go p.trunk.Run() //nolint:errcheck // its streams tell; Close, CloseTarget and Reap end it
	if c.closed || c.pools[key] != p {
		p.trunk.Retire() // who waits for it is told so
		p.trunk = nil
	}
	return nil
}

// reapTrunk closes a trunk that has been idle for too long. The caller holds the lock.
func (c *Client) reapTrunk(p *pool) {
	if p.trunk != nil && p.trunk.IdleFor() >= c.opts.IdleTimeout {
		p.trunk.Retire()
		p.trunk = nil
	}
}
