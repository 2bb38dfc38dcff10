package cli

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/trunk"
	"github.com/penstock/penstock/scheduler/upstream"
)

// reach is the setting of who dials whom.
func (inv *invocation) reach() (agent.Reach, error) {
	switch r := agent.Reach(inv.set.get("network.reach")); r {
	case agent.ReachAuto, agent.ReachDirect, agent.ReachReverse:
		return r, nil
	default:
		return "", usageError("--reach %s: use auto, direct or reverse", r)
	}
}

// nextProtocols are what a port may speak that agents dial into beside HTTP.
type nextProtocols map[string]func(*http.Server, *tls.Conn, http.Handler)

// adopting takes connections of agents that offer to serve requests over them. wanted may refuse a run; TLS has verified the
// certificate by then.
func adopting(up *upstream.Client, wanted func(identity.ID) error, log zerolog.Logger) nextProtocols {
	return nextProtocols{trunk.ReverseProtocol: func(s *http.Server, c *tls.Conn, _ http.Handler) {
		state := c.ConnectionState()
		id, err := identity.FromState(&state)
		if err == nil && (id.Role != identity.Agent || id.Rank != 0) {
			err = fmt.Errorf("%w: %s, wanted the first agent of a run", identity.ErrWrongPeer, id)
		}
		if err == nil {
			err = wanted(id)
		}
		if err != nil {
			log.Warn().Err(err).Str("from", c.RemoteAddr().String()).Msg("a connection for requests is refused")
			return
		}
		s.ConnState(c, http.StateActive) // it is no stranger that says nothing
		log.Info().Str("launch", id.Launch).Str("from", c.RemoteAddr().String()).Msg("requests go over a connection of the agent's own")
		_ = up.Adopt(id.Launch, id.Run, c)
	}}
}

// wantedRun refuses runs that are not the admitted ones.
func (c *controller) wantedRun(id identity.ID) error {
	launch, ok := c.ledger.Launch(cluster.LaunchID(id.Launch))
	if !ok || launch.Run != id.Run || launch.Phase == cluster.Ended {
		return fmt.Errorf("%s is not the admitted run of a launch", id)
	}
	return nil
}

// listenForAgents opens a gateway's port for agents that it cannot dial; nil = none. Where the controller is on loopback, so are its
// agents, and a gateway beside it can dial them.
func (inv *invocation) listenForAgents(controller, host string) (l net.Listener, addresses []string, err error) {
	at := inv.set.get("gateway.agents")
	switch local := isLoopback(controller); {
	case at == "off", at == "auto" && local:
		return nil, nil, nil
	case at == "auto":
		at = ":0"
	}
	if l, err = net.Listen("tcp", at); err != nil {
		return nil, nil, fmt.Errorf("listen for agents: %w; choose another address with --agents-listen", err)
	}
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return l, nil, nil
	}
	hosts := []string{orDefault(inv.set.get("gateway.advertise"), host)}
	if tcp.IP.IsUnspecified() {
		hosts = append(hosts, ownAddresses()...)
	} else {
		hosts = []string{tcp.IP.String()}
	}
	for _, h := range hosts[:min(len(hosts), mostAddresses)] {
		addresses = append(addresses, net.JoinHostPort(h, strconv.Itoa(tcp.Port)))
	}
	return l, addresses, nil
}

// ownAddresses are this host's addresses that others may dial.
func ownAddresses() (out []string) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addresses {
		ip, ok := a.(*net.IPNet)
		if ok && ip.IP.IsGlobalUnicast() && !slices.Contains(out, ip.IP.String()) {
			out = append(out, ip.IP.String())
		}
	}
	return out
}
