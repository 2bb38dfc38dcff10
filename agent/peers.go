package agent

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/penstock/penstock/agent/slots"
	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front/peer"
	"github.com/penstock/penstock/scheduler/identity"
)

// What a gateway says of the KV of a request whose prompt one replica reads and another goes on with.
const (
	// headerKVFrom is "LAUNCH ADDRESS" of the agent that has the prompt's blocks.
	headerKVFrom = "Penstock-Kv-From"
	// headerKVSave asks that the prompt's blocks be stored before the answer ends.
	headerKVSave = "Penstock-Kv-Save"
)

// peerStall is how long the other agent may take for one block, beside its size.
const peerStall = 10 * time.Second

// peers is how this run's agent and others give each other KV blocks.
type peers struct {
	run  *run
	door *peer.Door
}

// openPeers makes the door and the way to others' doors; nil where the run has no KV tiers.
func (r *run) openPeers() *peers {
	if r.kv == nil {
		return nil
	}
	return &peers{r, &peer.Door{Store: r.kv.Store(), Counts: r.agent.metrics.doors.Door("peer"), Stall: peerStall}}
}

// source reads headerKVFrom; nil = nobody has the blocks.
func (p *peers) source(header string) slots.Source {
	launch, address, ok := strings.Cut(header, " ")
	if p == nil || !ok || launch == p.run.opts.Join.Launch {
		return nil
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil
	}
	return &peerSource{p.run, launch, address}
}

// peerSource is one other agent, for one request.
type peerSource struct {
	run             *run
	launch, address string
}

// Fetch dials the agent of that launch and of no other, and asks it on several connections at once.
func (s *peerSource) Fetch(ctx context.Context, keys []kvstore.Key, each func(i int, b *kvstore.Block) error) error {
	conf := identity.ClientConfig(s.run.adm.certs.Certificate, s.run.home.pool, onlyHead(s.launch, ""))
	conf.NextProtos = []string{"http/1.1"}
	t := &http.Transport{TLSClientConfig: conf, TLSHandshakeTimeout: 5 * time.Second, DisableCompression: true, ResponseHeaderTimeout: peerStall}
	defer t.CloseIdleConnections()
	c := peer.Client{Alloc: s.run.kv.Alloc(), Do: func(r *http.Request) (*http.Response, error) {
		r.URL.Scheme, r.URL.Host = "https", s.address
		return t.RoundTrip(r)
	}}
	return c.Fetch(ctx, keys, each)
}
