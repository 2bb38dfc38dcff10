package agent

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent/cache"
	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front/shm"
	"github.com/penstock/penstock/scheduler/identity"
)

// peerRun is a run as far as KV goes: a certificate, a host tier, and a data port that counts connections.
func peerRun(t *testing.T, ca *identity.CA, dir, launch string) (r *run, connections *atomic.Int64) {
	t.Helper()
	kv, err := cache.Open(t.Context(), cache.Options{Tiers: jobspecs.KV{Host: 64 << 20}, Owner: launch, Shared: true, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{RuntimeDir: dir, AdvertiseHost: "127.0.0.1", Join: identity.JoinFile{Launch: launch}}
	r = &run{
		agent: &Agent{opts: o, metrics: newMetrics(prometheus.NewRegistry())}, opts: o, kv: kv, log: zerolog.Nop(),
		adm:  &admission{certs: issue(t, ca, identity.ID{Role: identity.Agent, Launch: launch, Run: "r1"})},
		home: &controller{pool: ca.Pool()},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	counted := &countingListener{Listener: l}
	p := newPort(portOptions{launch: launch, run: "r1", metrics: r.agent.metrics, log: zerolog.Nop()})
	others := r.openPeers()
	p.meetPeers(others)
	r.port = p
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { _ = p.serve(ctx, counted, identity.ServerConfig(r.adm.certs.Certificate, ca.Pool(), true)) })
	serving.Go(func() { r.serveNeighbours(ctx) })
	t.Cleanup(func() {
		others.close()
		cancel()
		serving.Wait()
		if err := kv.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, &counted.n
}

// countingListener counts what it accepts.
type countingListener struct {
	net.Listener
	n atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

func peerBlock(i int) []byte { return bytes.Repeat([]byte{byte(i + 1)}, 50_000+i) }

func peerKeys(n int) (keys []kvstore.Key) {
	for i := range n {
		keys = append(keys, kvstore.Key{Name: kvstore.OpaqueName(fmt.Sprint(i))})
	}
	return keys
}

// TestPeers: blocks of another agent come over kept connections, and out of its memory where it is on this node; they are the
// same bytes either way.
func TestPeers(t *testing.T) {
	t.Parallel()
	ca, dir := testCA(t), shortDir(t)
	from, connections := peerRun(t, ca, dir, "from")
	to, _ := peerRun(t, ca, dir, "to")
	const blocks = 20
	for i, k := range peerKeys(blocks) {
		b, err := from.kv.Alloc().Alloc(len(peerBlock(i)))
		if err != nil {
			t.Fatal(err)
		}
		copy(b.Bytes(), peerBlock(i))
		if err := from.kv.Store().Put(t.Context(), k, b.Seal(), kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	fetch := func(header string) {
		t.Helper()
		s := to.port.others().source(header)
		if s == nil {
			t.Fatal("no source")
		}
		got := 0
		err := s.Fetch(t.Context(), peerKeys(blocks+2), func(i int, b *kvstore.Block) error {
			if got++; !bytes.Equal(b.Bytes(), peerBlock(i)) {
				t.Errorf("block %d has other bytes", i)
			}
			return nil
		})
		if err != nil || got != blocks {
			t.Errorf("%d of %d blocks came (%v)", got, blocks, err)
		}
	}
	near, err := neighbourSocket(dir, "from", from.address)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the neighbour listens", func() bool {
		c, err := net.Dial(shm.Network, near)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	fetch("from " + from.address)
	if n := connections.Load(); n != 0 {
		t.Errorf("%d connections to an agent on this node", n)
	}
	if err := os.Remove(near); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		fetch("from " + from.address)
	}
	if n := connections.Load(); n == 0 || n >= 5*keptStreams { // one may come back a moment too late for the next request
		t.Errorf("%d connections for five requests of %d streams", n, keptStreams)
	}
	if s := to.port.others().source("to " + to.address); s != nil {
		t.Error("an agent asks itself")
	}
	// Another launch at that address is not believed.
	if err := to.port.others().source("other "+from.address).Fetch(t.Context(), peerKeys(1), func(int, *kvstore.Block) error {
		t.Error("a block of an agent with another name")
		return nil
	}); err == nil {
		t.Error("an agent with another name was asked")
	}
}

func TestKeptPeersAreBounded(t *testing.T) {
	t.Parallel()
	r, _ := peerRun(t, testCA(t), shortDir(t), "l")
	p := r.openPeers()
	first := p.to(peerName{"0", "a"})
	for i := range 2 * keptPeers {
		p.to(peerName{"0", "a"}) // in use
		p.to(peerName{fmt.Sprint(i + 1), "a"})
	}
	if len(p.kept) != keptPeers || p.to(peerName{"0", "a"}) != first {
		t.Errorf("%d agents are kept, the one in use among them: %t", len(p.kept), p.to(peerName{"0", "a"}) == first)
	}
}
