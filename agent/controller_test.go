package agent

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock/penstock/kvstore/index"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/blocks"
	"github.com/penstock/penstock/scheduler/identity"
)

// fakeController answers agents as the real one does, and does what a test tells it to.
type fakeController struct {
	ca  *identity.CA
	url string

	mu        sync.Mutex
	epoch     uint64
	term      uint64
	yaml      string
	gpus      []string
	orphan    time.Duration
	logDir    string
	ttl       time.Duration
	refuse    error // to everything
	silent    bool  // takes messages, answers nothing
	lose      int   // so many messages are not applied
	board     *blocks.Board
	blockSeed uint64
	gateways  []*apiv1.GatewayAddress
	known     map[int]*apiv1.RunState
	seq       map[int]uint64
	phases    map[int][]apiv1.Phase
	joins     int
	renewals  int
	resends   int
	streams   map[chan *apiv1.ReportResponse]context.CancelFunc
}

// startController serves on a port of 127.0.0.1.
func startController(t testing.TB, ca *identity.CA, yaml string) *fakeController {
	t.Helper()
	c := &fakeController{
		ca: ca, epoch: 7, term: 3, yaml: yaml, orphan: time.Hour, ttl: time.Hour, logDir: shortDir(t) + "/logs",
		known: map[int]*apiv1.RunState{}, seq: map[int]uint64{}, phases: map[int][]apiv1.Phase{},
		streams: map[chan *apiv1.ReportResponse]context.CancelFunc{}, board: blocks.NewBoard(index.Limit{}),
	}
	c.serve(t, "127.0.0.1:0")
	return c
}

// serve opens a door and returns what closes it.
func (c *fakeController) serve(t testing.TB, address string) (shut func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(apiv1.NewAgentServiceHandler(c))
	conf := identity.ServerConfig(issue(t, c.ca, identity.ID{Role: identity.Controller, Name: "c"}).Certificate, c.ca.Pool(), false)
	conf.NextProtos = []string{"h2"}
	srv := &http.Server{Handler: withPeer(mux), TLSConfig: conf, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	srv.Protocols = &http.Protocols{}
	srv.Protocols.SetHTTP2(true)
	var done sync.WaitGroup
	done.Go(func() { _ = srv.ServeTLS(l, "", "") })
	c.mu.Lock()
	c.url = "https://" + l.Addr().String()
	c.mu.Unlock()
	shut = sync.OnceFunc(func() { c.hangUp(); srv.Close(); done.Wait() })
	t.Cleanup(shut)
	return shut
}

type peerKey struct{}

func withPeer(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id, err := identity.FromState(r.TLS); err == nil {
			r = r.WithContext(context.WithValue(r.Context(), peerKey{}, id))
		}
		h.ServeHTTP(w, r)
	})
}

func (c *fakeController) Join(_ context.Context, q *apiv1.JoinRequest) (*apiv1.JoinResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.joins++
	if c.refuse != nil {
		return nil, c.refuse
	}
	if q.GetToken() != "t0ken" {
		return nil, connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("token %q", q.GetToken()))
	}
	leaf, err := c.sign(q.GetCsrDer(), identity.ID{Role: identity.Agent, Launch: q.GetLaunch(), Run: q.GetRun(), Rank: int(q.GetNodeRank())})
	return &apiv1.JoinResponse{
		Epoch: c.epoch, Term: c.term, CertificatePem: leaf, CaPem: c.ca.PEM(), DeploymentYaml: c.yaml, Deployment: "d", Role: "mixed",
		Gpus: c.gpus, OrphanAfter: durationpb.New(c.orphan), LogDir: c.logDir, HeadAddress: c.known[0].GetIdentity().GetHeadAddress(),
		BlockSeed: c.blockSeed,
	}, err
}

func (c *fakeController) sign(csr []byte, id identity.ID) ([]byte, error) {
	return c.ca.SignCSR(csr, id, c.ttl, time.Now())
}

func (c *fakeController) Renew(ctx context.Context, q *apiv1.RenewRequest) (*apiv1.RenewResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, ok := ctx.Value(peerKey{}).(identity.ID)
	if !ok {
		return nil, connect.NewError(connect.CodeUnauthenticated, identity.ErrNoIdentity)
	}
	if c.refuse != nil {
		return nil, c.refuse
	}
	c.renewals++
	leaf, err := c.sign(q.GetCsrDer(), id)
	return &apiv1.RenewResponse{CertificatePem: leaf, CaPem: c.ca.PEM()}, err
}

func (c *fakeController) Report(ctx context.Context, s *connect.BidiStream[apiv1.ReportRequest, apiv1.ReportResponse]) error {
	id, ok := ctx.Value(peerKey{}).(identity.ID)
	if !ok {
		return connect.NewError(connect.CodeUnauthenticated, identity.ErrNoIdentity)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := make(chan *apiv1.ReportResponse, 1000)
	c.mu.Lock()
	refuse := c.refuse
	c.streams[out] = cancel
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.streams, out)
		c.mu.Unlock()
	}()
	if refuse != nil {
		return refuse
	}
	go func() { // ends with the stream; the server waits for the handler
		defer cancel()
		for {
			m, err := s.Receive()
			if err != nil {
				return
			}
			if answer := c.apply(id.Rank, m); answer != nil {
				out <- answer
			}
		}
	}()
	for {
		select {
		case m := <-out:
			if err := s.Send(m); err != nil {
				return err
			}
		case <-ctx.Done():
			return connect.NewError(connect.CodeUnavailable, fmt.Errorf("the controller hangs up"))
		}
	}
}

// apply takes a message as the fleet does.
func (c *fakeController) apply(rank int, m *apiv1.ReportRequest) *apiv1.ReportResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent {
		return nil
	}
	if c.lose > 0 && m.GetFull() == nil {
		c.lose--
		return nil
	}
	switch seq := c.seq[rank]; {
	case m.GetFull() != nil:
		c.known[rank] = proto.Clone(m.GetFull()).(*apiv1.RunState)
	case seq == 0:
		return &apiv1.ReportResponse{Body: &apiv1.ReportResponse_Resend{Resend: &apiv1.Resend{}}}
	case m.GetSeq() <= seq:
		return c.ack(seq)
	case m.GetSeq() != seq+1:
		c.resends++
		return &apiv1.ReportResponse{Body: &apiv1.ReportResponse_Resend{Resend: &apiv1.Resend{From: seq + 1, To: m.GetSeq()}}}
	default:
		next := proto.Clone(c.known[rank]).(*apiv1.RunState)
		replace(next, m.GetDelta())
		c.known[rank] = next
	}
	c.seq[rank] = m.GetSeq()
	c.board.Apply(blocks.Source{Launch: "l", Rank: rank}, "r", m)
	phase := c.known[rank].GetHealth().GetPhase()
	if all := c.phases[rank]; len(all) == 0 || all[len(all)-1] != phase {
		c.phases[rank] = append(all, phase)
	}
	return c.ack(m.GetSeq())
}

func (c *fakeController) ack(seq uint64) *apiv1.ReportResponse {
	return &apiv1.ReportResponse{Body: &apiv1.ReportResponse_Ack{Ack: &apiv1.Ack{
		Seq: seq, Term: c.term, HeadAddress: c.known[0].GetIdentity().GetHeadAddress(), Gateways: c.gateways,
	}}}
}

// set changes the controller's mind.
func (c *fakeController) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// command goes to all open streams.
func (c *fakeController) command(cmd *apiv1.Command) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for out := range c.streams {
		out <- &apiv1.ReportResponse{Body: &apiv1.ReportResponse_Command{Command: cmd}}
	}
}

// hangUp ends all streams.
func (c *fakeController) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cancel := range c.streams {
		cancel()
	}
}

// state is what is known of a rank. It must not be changed.
func (c *fakeController) state(rank int) *apiv1.RunState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[rank]
}

func (c *fakeController) phase(rank int) apiv1.Phase { return c.state(rank).GetHealth().GetPhase() }

// path is the phases that a rank went through.
func (c *fakeController) path(rank int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, p := range c.phases[rank] {
		names = append(names, strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_")))
	}
	return strings.Join(names, " ")
}

var _ apiv1.AgentServiceHandler = (*fakeController)(nil)
