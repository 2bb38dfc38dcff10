package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/trunk"
)

// Reach is who dials whom.
type Reach string

// The ways. Auto is Direct, until somebody who should have dialled has not: on many sites login nodes cannot dial compute nodes,
// and the reverse works.
const (
	ReachAuto    Reach = "auto"
	ReachDirect  Reach = "direct"  // gateways and the controller dial the agent's port
	ReachReverse Reach = "reverse" // the agent dials them all
)

// callers are those who have dialled the port. Safe for concurrent use.
type callers struct {
	mu   sync.Mutex
	seen map[string]bool // by name of the certificate
}

func (c *callers) note(id identity.ID) {
	if id.Role != identity.Gateway && id.Role != identity.Controller {
		return
	}
	name := id.String()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = map[string]bool{}
	}
	c.seen[name] = true
}

// dialled tells whether somebody has. The controller's certificate has but one name.
func (c *callers) dialled(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[name]
}

// forget waits for it anew: what bears the name is somewhere else now.
func (c *callers) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.seen, name)
}

const (
	// dialPatience is how long after the engine's first token the controller and each gateway have to dial the port: they do
	// as soon as they learn of it, and wait for an answer for five seconds.
	dialPatience = 8 * time.Second
	// offerAge is how long one connection is used: certificates are checked when it begins.
	offerAge = 45 * time.Minute
	offerTLS = 10 * time.Second
)

// outward dials those who do not dial this run's port, and takes their requests over these connections.
type outward struct {
	mode     Reach
	port     *port
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	tls      func(want func(identity.ID) error) *tls.Config
	patience time.Duration
	log      zerolog.Logger

	mu     sync.Mutex
	peers  map[string]target // by name of the certificate
	serves time.Time         // since when the engine does; zero = not yet
}

// target is who is to be dialled, and where.
type target struct {
	want      func(identity.ID) error
	addresses []string
	since     time.Time // that it is known there
}

const controllerName = string(identity.Controller) + "/controller"

// meet takes over where the controller, whose URL was good for a report just now, and the gateways are.
func (o *outward) meet(controller string, gateways []*apiv1.GatewayAddress) {
	next := map[string]target{controllerName: {want: identity.WantRole(identity.Controller), addresses: hostOf(controller)}}
	for _, g := range gateways {
		id := identity.ID{Role: identity.Gateway, Name: g.GetName()}
		next[id.String()] = target{want: wantExactly(id), addresses: g.GetAddresses()}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, t := range next {
		old, known := o.peers[name]
		if t.since = old.since; !known || !slices.Equal(old.addresses, t.addresses) {
			t.since = time.Now()
			if known {
				o.port.came.forget(name)
			}
		}
		next[name] = t
	}
	o.peers = next
}

func wantExactly(want identity.ID) func(identity.ID) error {
	return func(id identity.ID) error {
		if id != want {
			return fmt.Errorf("%w: %s, wanted %s", identity.ErrWrongPeer, id, want)
		}
		return nil
	}
}

// hostOf is the host and port of a URL; none where it has none.
func hostOf(u string) []string {
	parsed, err := url.Parse(u)
	if err != nil || parsed.Host == "" {
		return nil
	}
	return []string{parsed.Host}
}

// started notes that the engine serves: from now on somebody should dial.
func (o *outward) started() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.serves.IsZero() {
		o.serves = time.Now()
	}
}

// due lists who is to be dialled now.
func (o *outward) due(now time.Time) (names []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(o.peers)) {
		t := o.peers[name]
		waited := now.Sub(t.since) >= o.patience && !o.serves.IsZero() && now.Sub(o.serves) >= o.patience
		if len(t.addresses) > 0 && (o.mode == ReachReverse || waited && !o.port.came.dialled(name)) {
			names = append(names, name)
		}
	}
	return names
}

func (o *outward) target(name string) (target, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t, ok := o.peers[name]
	return t, ok
}

// run dials until ctx ends; then it waits for all connections to end.
func (o *outward) run(ctx context.Context) {
	if o.mode == ReachDirect {
		return
	}
	var offers sync.WaitGroup
	defer offers.Wait()
	var mu sync.Mutex
	open := map[string]bool{}
	for {
		for _, name := range o.due(time.Now()) {
			mu.Lock()
			busy := open[name]
			open[name] = true
			mu.Unlock()
			if busy {
				continue
			}
			offers.Go(func() {
				o.keep(ctx, name)
				mu.Lock()
				defer mu.Unlock()
				delete(open, name)
			})
		}
		if !sleep(ctx, lookEvery) {
			return
		}
	}
}

// keep keeps a connection to one of them for as long as it is among those that count and does not dial by itself.
func (o *outward) keep(ctx context.Context, name string) {
	var old sync.WaitGroup
	defer old.Wait()
	pause := backoff{longest: 10 * time.Second}
	said := ""
	for ctx.Err() == nil {
		if !slices.Contains(o.due(time.Now()), name) {
			return
		}
		t, _ := o.target(name)
		conn, err := o.connect(ctx, t)
		if err != nil {
			if text := err.Error(); text != said && ctx.Err() == nil {
				said = text
				o.log.Warn().Err(err).Str("peer", name).Msg("cannot dial who does not dial this run")
			}
			sleep(ctx, pause.next())
			continue
		}
		pause.wait, said = 0, ""
		o.log.Info().Str("peer", name).Str("address", conn.RemoteAddr().String()).Msg("takes requests over a connection of its own")
		ended := make(chan struct{})
		old.Go(func() {
			defer close(ended)
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			o.port.serveStreams(conn, o.port.handle)
		})
		select { // the next connection takes the place of this one, whose open requests go on
		case <-ended:
			sleep(ctx, pause.next())
		case <-time.After(offerAge):
		case <-ctx.Done():
		}
	}
}

// errNoReverse: the peer is of a release that takes no such connection.
var errNoReverse = errors.New("it does not take connections from agents: it is of an older release")

// connect dials the addresses in turn.
func (o *outward) connect(ctx context.Context, t target) (conn *tls.Conn, err error) {
	err = errors.New("no address is known")
	for _, address := range t.addresses {
		var raw net.Conn
		if raw, err = o.dial(ctx, "tcp", address); err != nil {
			continue
		}
		conf := o.tls(t.want).Clone()
		conf.NextProtos = []string{trunk.ReverseProtocol}
		conn = tls.Client(raw, conf)
		limited, cancel := context.WithTimeout(ctx, offerTLS)
		err = conn.HandshakeContext(limited)
		cancel()
		if err == nil && conn.ConnectionState().NegotiatedProtocol != trunk.ReverseProtocol {
			err = errNoReverse
		}
		if err == nil {
			return conn, nil
		}
		err = errors.Join(fmt.Errorf("%s: %w", address, err), raw.Close())
	}
	return nil, err
}
