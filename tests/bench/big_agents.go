package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

// crew is the process of many simulated agents, and of a gateway that watches.
type crew struct {
	mu        sync.Mutex
	connected int
	watched   int
	lag       []float64 // ms
	failure   error
	gateway   sync.Once
}

// playAgents begins agents as it is told, and tells what they have counted, until its input ends.
func playAgents([]string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, in, out := &crew{}, json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if o.Tell {
			if err := out.Encode(c.tell()); err != nil {
				return err
			}
			continue
		}
		go c.member(ctx, *o.Begin)
	}
}

func (c *crew) tell() tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := tally{Connected: c.connected, Reports: len(c.lag), Watched: c.watched, Lag: quantilesOf(c.lag)}
	if c.failure != nil {
		t.Error = c.failure.Error()
	}
	c.lag, c.watched = nil, 0
	return t
}

// member is one agent, from its join to the end of its stream.
func (c *crew) member(ctx context.Context, b begun) {
	join, err := identity.ReadJoinFile(b.JoinFile)
	if err == nil {
		c.gateway.Do(func() { go c.watch(ctx, b, join) })
		err = c.serve(ctx, b, join)
	}
	c.fail(ctx, fmt.Errorf("agent of %s: %w", join.Launch, err))
}

// fail notes the first error.
func (c *crew) fail(ctx context.Context, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() == nil && c.failure == nil {
		c.failure = err
	}
}

// dial makes a client as the real agent's.
func dial(join identity.JoinFile, own func() *tls.Certificate) (*http.Client, func(), error) {
	pool, err := identity.PoolFromPEM([]byte(join.CAPEM))
	if err != nil {
		return nil, nil, err
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)
	t := &http.Transport{TLSClientConfig: identity.ClientConfig(own, pool, identity.WantRole(identity.Controller)), Protocols: protocols}
	return &http.Client{Transport: t}, t.CloseIdleConnections, nil
}

func (c *crew) serve(ctx context.Context, b begun, join identity.JoinFile) error {
	cert, resp, err := admitted(ctx, b, join)
	if err != nil {
		return err
	}
	hc, hangUp, err := dial(join, func() *tls.Certificate { return &cert })
	if err != nil {
		return err
	}
	defer hangUp()
	stream, err := apiv1.NewAgentServiceClient(hc, join.Controllers[0]).Report(ctx)
	if err != nil {
		return err
	}
	c.count(1)
	defer c.count(-1)
	a := &member{crew: c, sent: map[uint64]time.Time{}}
	go a.receive(ctx, stream.Receive)
	id := &apiv1.Identity{
		Launch: join.Launch, Run: b.Run, Epoch: resp.Epoch, Nodes: 1, Node: "n", Hostname: "h", Address: "127.0.0.1:9", Version: "bench", EngineKind: "sim",
	}
	if err := a.send(stream.Send, &apiv1.ReportRequest{Body: &apiv1.ReportRequest_Full{Full: bigState(id, 0)}}); err != nil {
		return err
	}
	time.Sleep(rand.N(time.Second)) // so that reports are spread over each second
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		if err := a.send(stream.Send, &apiv1.ReportRequest{Body: &apiv1.ReportRequest_Delta{Delta: news(bigState(id, n))}}); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// admitted joins with the launch's own token.
func admitted(ctx context.Context, b begun, join identity.JoinFile) (cert tls.Certificate, resp *apiv1.JoinResponse, err error) {
	hc, hangUp, err := dial(join, nil)
	if err != nil {
		return cert, nil, err
	}
	defer hangUp()
	csr, key, err := identity.NewCSR()
	if err != nil {
		return cert, nil, err
	}
	resp, err = apiv1.NewAgentServiceClient(hc, join.Controllers[0]).Join(ctx, &apiv1.JoinRequest{
		Token: join.Token, Launch: join.Launch, Run: b.Run, Nodes: 1, CsrDer: csr, Hostname: "h", Node: "n", Version: "bench", Job: b.Job,
	})
	if err != nil {
		return cert, nil, err
	}
	cert, err = identity.KeyPair(resp.CertificatePem, key)
	return cert, resp, err
}

func (c *crew) count(by int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connected += by
}

// member counts one agent's messages.
type member struct {
	crew *crew
	mu   sync.Mutex
	seq  uint64
	sent map[uint64]time.Time // not acknowledged
}

func (a *member) send(send func(*apiv1.ReportRequest) error, m *apiv1.ReportRequest) error {
	now := time.Now()
	a.mu.Lock()
	a.seq++
	a.sent[a.seq] = now
	m.Seq, m.SentAt = a.seq, timestamppb.New(now)
	a.mu.Unlock()
	return send(m)
}

func (a *member) receive(ctx context.Context, receive func() (*apiv1.ReportResponse, error)) {
	for {
		m, err := receive()
		if err != nil {
			a.crew.fail(ctx, err)
			return
		}
		if m.GetResend() != nil {
			a.crew.fail(ctx, fmt.Errorf("messages %v are asked for again", m.GetResend()))
		}
		if ack := m.GetAck(); ack != nil {
			a.acknowledged(ack.GetSeq(), time.Now())
		}
	}
}

func (a *member) acknowledged(seq uint64, now time.Time) {
	a.mu.Lock()
	at, ok := a.sent[seq]
	delete(a.sent, seq)
	a.mu.Unlock()
	if !ok {
		return
	}
	a.crew.mu.Lock()
	defer a.crew.mu.Unlock()
	a.crew.lag = append(a.crew.lag, milli(int64(now.Sub(at))))
}

// watch is a gateway that takes every view of the fleet.
func (c *crew) watch(ctx context.Context, b begun, join identity.JoinFile) {
	c.fail(ctx, fmt.Errorf("gateway: %w", c.watchViews(ctx, b, join)))
}

func (c *crew) watchViews(ctx context.Context, b begun, join identity.JoinFile) error {
	ca, err := identity.OpenCA(filepath.Join(filepath.Dir(filepath.Dir(b.JoinFile)), "ca"))
	if err != nil {
		return err
	}
	cert, err := ca.Issue(identity.ID{Role: identity.Gateway, Name: "bench"}, time.Hour, time.Now())
	if err != nil {
		return err
	}
	hc, hangUp, err := dial(join, func() *tls.Certificate { return &cert })
	if err != nil {
		return err
	}
	defer hangUp()
	stream, err := apiv1.NewGatewayServiceClient(hc, join.Controllers[0]).Watch(ctx, &apiv1.WatchRequest{Gateway: "bench", Version: "bench"})
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		c.mu.Lock()
		c.watched++
		c.mu.Unlock()
	}
	return stream.Err()
}
