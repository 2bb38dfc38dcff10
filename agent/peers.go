package agent

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
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

const (
	keptPeers   = 64              // agents whose connections are kept
	keptStreams = 4               // connections to each
	keptFor     = 2 * time.Minute // without use
	peerBuffer  = 16 << 10        // bytes read ahead on each, of TLS one record: what is larger goes straight into blocks
)

// peers is how this run's agent and others give each other KV blocks. Its methods are safe for concurrent use.
type peers struct {
	run  *run
	door *peer.Door

	mu   sync.Mutex
	kept map[peerName]*keptPeer
}

// peerName is one run of another agent: where it is, and whom its certificate must name.
type peerName struct{ launch, address string }

type keptPeer struct {
	transport *http.Transport
	used      time.Time
}

// openPeers makes the door and the way to others' doors; nil where the run has no KV tiers.
func (r *run) openPeers() *peers {
	if r.kv == nil {
		return nil
	}
	door := &peer.Door{Store: r.kv.Store(), Counts: r.agent.metrics.doors.Door("peer"), Stall: peerStall}
	return &peers{run: r, door: door, kept: map[peerName]*keptPeer{}}
}

// close ends the connections that are kept.
func (p *peers) close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.kept {
		k.transport.CloseIdleConnections()
	}
}

// to is the way to one other agent: a connection that was used before costs no handshake.
func (p *peers) to(name peerName) *http.Transport {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.kept[name]
	if k == nil {
		p.makeRoom()
		conf := identity.ClientConfig(p.run.adm.certs.Certificate, p.run.home.pool, onlyHead(name.launch, ""))
		conf.NextProtos = []string{"http/1.1"}
		k = &keptPeer{transport: &http.Transport{
			TLSClientConfig: conf, TLSHandshakeTimeout: 5 * time.Second, DisableCompression: true, ResponseHeaderTimeout: peerStall,
			MaxIdleConnsPerHost: keptStreams, IdleConnTimeout: keptFor, ReadBufferSize: peerBuffer,
		}}
		p.kept[name] = k
	}
	k.used = time.Now()
	return k.transport
}

// makeRoom forgets the agent that was not asked for longest, if there are too many. The caller holds the lock.
func (p *peers) makeRoom() {
	if len(p.kept) < keptPeers {
		return
	}
	var oldest peerName
	for name, k := range p.kept {
		if was := p.kept[oldest]; was == nil || k.used.Before(was.used) {
			oldest = name
		}
	}
	p.kept[oldest].transport.CloseIdleConnections()
	delete(p.kept, oldest)
}

// source reads headerKVFrom; nil = nobody has the blocks.
func (p *peers) source(header string) slots.Source {
	launch, address, ok := strings.Cut(header, " ")
	if p == nil || !ok || launch == p.run.opts.Join.Launch {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	s := &peerSource{peers: p, name: peerName{launch, address}}
	if host == p.run.opts.AdvertiseHost {
		s.near, _ = neighbourSocket(p.run.opts.RuntimeDir, launch, address)
	}
	return s
}

// peerSource is one other agent, for one request.
type peerSource struct {
	peers *peers
	name  peerName
	near  string // where its memory can be looked into, if it is on this node; empty = it is not
}

// Fetch takes the blocks from the memory of an agent on this node, and else asks the agent of that launch and of no other, on
// several connections at once.
func (s *peerSource) Fetch(ctx context.Context, keys []kvstore.Key, each func(i int, b *kvstore.Block) error) error {
	r := s.peers.run
	if s.near != "" {
		err := neighbour{r, s.near}.Fetch(ctx, keys, each)
		if err == nil || ctx.Err() != nil {
			return err
		}
		r.log.Debug().Err(err).Msg("a neighbour's memory can't be read: its blocks come over TLS")
	}
	t := s.peers.to(s.name)
	c := peer.Client{Alloc: r.kv.Alloc(), Streams: keptStreams, Do: func(q *http.Request) (*http.Response, error) {
		q.URL.Scheme, q.URL.Host = "https", s.name.address
		return t.RoundTrip(q)
	}}
	return c.Fetch(ctx, keys, each)
}
