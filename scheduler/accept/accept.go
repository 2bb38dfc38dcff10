// Package accept bounds what strangers can take of a listening port: how many connections are open at once, and how many of
// them have not said anything yet. Whoever reaches the port can open connections before anybody knows who he is, and on a
// shared node that is everybody.
//
// A newcomer is not turned away while there is somebody to take the place of: first comes who has been silent for longest,
// since an honest peer speaks within milliseconds of its connection, then who has been idle for longest, since an honest
// client connects again. Only where every connection has a request under way is the newcomer closed. How long somebody may
// be silent is the server's own deadline for headers.
//
// It knows neither TLS nor roles nor HTTP's contents. The servers of the controller, the agents and the gateway are behind
// it; cli and agent call it.
package accept

import (
	"container/list"
	"net"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Limits are the most that a port takes. Zero fields are defaults.
type Limits struct {
	Open   int // connections; default: a third of the process's file limit, at most 16,384
	Silent int // of these, how many have not sent a request yet, handshake included; default: half of Open, at most 2,048
}

const (
	mostOpen   = 16384
	mostSilent = 2048
)

func (l Limits) orDefault() Limits {
	if l.Open == 0 {
		l.Open = mostOpen
		var files unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil {
			l.Open = int(min(mostOpen, max(files.Cur/3, 1)))
		}
	}
	if l.Silent == 0 {
		l.Silent = max(1, min(mostSilent, l.Open/2))
	}
	return l
}

// Refusals count the connections that were closed for being too many or not good.
type Refusals struct{ total *prometheus.CounterVec }

// NewRefusals makes the counter of a process's ports.
func NewRefusals(r prometheus.Registerer) *Refusals {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_connections_refused_total", Help: "Connections that a port has closed, by reason: full, silent, idle, handshake.",
	}, []string{"port", "reason"})
	r.MustRegister(c)
	return &Refusals{c}
}

// Why a connection was closed.
const (
	full      = "full"      // all others have requests under way
	silent    = "silent"    // it had not said anything, and others came
	idle      = "idle"      // its last request was over, and others came
	handshake = "handshake" // its TLS handshake failed or took too long
)

// Listener is a net.Listener that keeps the limits, given that Watch has tied it to the server that accepts from it. Safe
// for concurrent use.
type Listener struct {
	net.Listener
	limits  Limits
	refused *prometheus.CounterVec

	mu      sync.Mutex
	open    int
	waiting map[string]*list.List // silent and idle ones, longest first
}

// Wrap bounds a listener. port is its name in the counter.
func Wrap(l net.Listener, port string, limits Limits, r *Refusals) *Listener {
	return &Listener{
		Listener: l, limits: limits.orDefault(), refused: r.total.MustCurryWith(prometheus.Labels{"port": port}),
		waiting: map[string]*list.List{silent: list.New(), idle: list.New()},
	}
}

// conn is one open connection.
type conn struct {
	net.Conn
	l     *Listener
	place *list.Element // in l.waiting[state]; nil while a request is under way
	state string        // silent, idle, or empty
	gone  bool          // it counts no more; the server may not know yet
}

// Accept gives the next connection that there is room for.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: raw, l: l}
		evicted, ok := l.enter(c)
		if evicted != nil {
			_ = evicted.Close()
		}
		if ok {
			return c, nil
		}
		_ = raw.Close()
	}
}

// enter takes c in. Where there is no room it names who has to go, or refuses c.
func (l *Listener) enter(c *conn) (evicted *conn, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	quiet := l.waiting[silent].Len()
	switch {
	case l.open < l.limits.Open && quiet < l.limits.Silent:
	case quiet > 0:
		evicted = l.evict(silent)
	case l.waiting[idle].Len() > 0:
		evicted = l.evict(idle)
	default:
		l.refused.WithLabelValues(full).Inc()
		return nil, false
	}
	l.open++
	l.move(c, silent)
	return evicted, true
}

// evict takes out who has waited longest.
func (l *Listener) evict(state string) *conn {
	c := l.waiting[state].Front().Value.(*conn)
	l.leave(c)
	l.refused.WithLabelValues(state).Inc()
	return c
}

// move puts c at the end of those in a state; empty: a request of its is under way.
func (l *Listener) move(c *conn, state string) {
	if c.place != nil {
		l.waiting[c.state].Remove(c.place)
		c.place = nil
	}
	if c.state = state; state != "" {
		c.place = l.waiting[state].PushBack(c)
	}
}

// leave forgets c.
func (l *Listener) leave(c *conn) {
	if !c.gone {
		c.gone = true
		l.move(c, "")
		l.open--
	}
}

func (c *conn) Close() error {
	c.l.mu.Lock()
	c.l.leave(c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// changed follows what the server says of a connection.
func (l *Listener) changed(nc net.Conn, s http.ConnState) {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok { // as tls.Conn
		nc = t.NetConn()
	}
	c, ok := nc.(*conn)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case c.gone:
	case c.state == "" && s == http.StateIdle:
		l.move(c, idle)
	case c.state != "" && s == http.StateActive:
		l.move(c, "")
	}
}
