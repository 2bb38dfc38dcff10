package upstream

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/trunk"
)

// offer names the run that a trunk leads to, wherever its port is.
type offer struct{ launch, run string }

// Adopt sends the requests to a run over a connection that its agent has dialled, in place of dialling the run, until the
// connection ends; then it returns why. The caller has verified that the peer is the agent of that run. A later connection of
// the run takes the place of an earlier one, whose open requests go on.
func (c *Client) Adopt(launch, run string, conn net.Conn) error {
	noticeDeath(conn)
	t, o := trunk.Dialed(conn), offer{launch, run}
	c.mu.Lock()
	before := c.offered[o]
	if c.closed {
		before = t
	} else {
		c.offered[o] = t
	}
	c.mu.Unlock()
	if before != nil {
		before.Retire()
	}
	err := t.Run()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.offered[o] == t {
		delete(c.offered, o)
	}
	return err
}

// RetireOffered takes no more requests over connections that agents have dialled, and closes each with its last answer.
func (c *Client) RetireOffered() {
	c.mu.Lock()
	offered := c.offered
	c.offered = map[offer]*trunk.Trunk{}
	c.mu.Unlock()
	for _, t := range offered {
		t.Retire()
	}
}

// offeredStream begins a stream over a trunk that the run's agent has dialled; nil = there is none.
func (c *Client) offeredStream(key peer) *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.offered[offer{key.launch, key.run}]
	if t == nil || c.closed {
		return nil
	}
	s, err := t.Open()
	if err != nil {
		return nil
	}
	return newStream(key, s)
}

// noticeDeath has the kernel notice a peer that is gone as soon as on connections that are dialled here.
func noticeDeath(c net.Conn) {
	for {
		switch inner := c.(type) {
		case *net.TCPConn:
			_ = inner.SetKeepAliveConfig(keepAlive)
			if raw, err := inner.SyscallConn(); err == nil {
				_ = raw.Control(userTimeout)
			}
			return
		case interface{ NetConn() net.Conn }:
			c = inner.NetConn()
		default:
			return
		}
	}
}

// A node that is gone answers nothing, not even a reset. Streams on it notice within about 12 s, whether there is something that
// it should have acknowledged or not.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 6 * time.Second, Interval: 2 * time.Second, Count: 3}

func userTimeout(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 12_000)
}

// control is for dialers.
func control(_, _ string, c syscall.RawConn) error { return c.Control(userTimeout) }
