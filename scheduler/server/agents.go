package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/blocks"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/ledger"
)

// certificateTTL is how long a run can do without the controller.
const certificateTTL = 7 * 24 * time.Hour

// agentAPI implements AgentService.
type agentAPI struct{ s *Server }

// Join admits a run: its epoch is on disk before it is answered.
func (a agentAPI) Join(_ context.Context, req *apiv1.JoinRequest) (*apiv1.JoinResponse, error) {
	s := a.s
	now := time.Now()
	launch, err := s.launchOf(req, now)
	if err != nil {
		return nil, err
	}
	id := launch.ID
	if err := checkJoin(launch, req); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("join %s: %w", id, err))
	}
	who := identity.ID{Role: identity.Agent, Launch: req.Launch, Run: req.Run, Rank: int(req.NodeRank)}
	leaf, err := s.o.CA.SignCSR(req.CsrDer, who, certificateTTL, now) // worth nothing without the admission that follows
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("join %s: %w", id, err))
	}
	epoch, err := s.admit(launch, req)
	if err != nil {
		return nil, err
	}
	return s.joined(launch, req, epoch, leaf)
}

// longestJob bounds a cluster's own job ID, which goes into the ledger.
const longestJob = 256

// checkJoin refuses what can never be admitted, before anything is written.
func checkJoin(launch cluster.Launch, req *apiv1.JoinRequest) error {
	if int(req.Nodes) != launch.Nodes || req.NodeRank >= req.Nodes {
		return fmt.Errorf("rank %d of %d nodes, but the launch has %d", req.NodeRank, req.Nodes, launch.Nodes)
	}
	if len(req.Job) > longestJob {
		return fmt.Errorf("a job ID of %d bytes, at most %d are taken", len(req.Job), longestJob)
	}
	return nil
}

// admit stores the run's epoch, and which of the launch's jobs it is. Another run is pushed out only when nobody of it is
// connected any more.
func (s *Server) admit(launch cluster.Launch, req *apiv1.JoinRequest) (uint64, error) {
	run := req.Run
	seen, _ := s.o.Fleet.Replica(launch.ID)
	epoch, err := s.o.Ledger.Admit(launch.ID, run, !seen.Connected())
	switch {
	case errors.Is(err, ledger.ErrOtherRun), errors.Is(err, ledger.ErrLaunchOver), errors.Is(err, ledger.ErrNotFound):
		return 0, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("join %s: %w", launch.ID, err))
	case err != nil:
		return 0, connect.NewError(connect.CodeUnavailable, fmt.Errorf("join %s: %w", launch.ID, err))
	}
	if err := s.noteJob(launch, req.Job); err != nil {
		return 0, connect.NewError(connect.CodeUnavailable, fmt.Errorf("join %s: %w", launch.ID, err))
	}
	s.o.Fleet.Admit(launch.ID, run, epoch, launch.Nodes)
	if launch.Run != run {
		s.event("admitted", launch, fmt.Sprintf("run %s is admitted with epoch %d", short(run), epoch))
	}
	s.o.Loop.Wake()
	return epoch, nil
}

// noteJob puts the job of the admitted run into the ledger: of two jobs of one launch, it is the one to keep.
func (s *Server) noteJob(launch cluster.Launch, job string) error {
	if job == "" || launch.Job == job {
		return nil
	}
	return s.o.Ledger.UpdateLaunch(launch.ID, func(l *cluster.Launch) error {
		l.Job = job
		return nil
	})
}

func (s *Server) joined(launch cluster.Launch, req *apiv1.JoinRequest, epoch uint64, leaf []byte) (*apiv1.JoinResponse, error) {
	d, err := s.o.Ledger.Revision(launch.Deployment, launch.Revision)
	if err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("join %s: %w", launch.ID, err))
	}
	seed, err := s.BlockSeed()
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("join %s: %w", launch.ID, err))
	}
	resp := &apiv1.JoinResponse{
		Epoch: epoch, Term: s.o.Ledger.Term(), CertificatePem: leaf, CaPem: s.o.CA.PEM(),
		DeploymentYaml: string(jobspecs.Encode(d)), Deployment: launch.Deployment, Role: string(launch.Role),
		Replica: uint32(launch.Index), Revision: uint32(launch.Revision), LogDir: s.o.LogDir(launch),
		OrphanAfter: durationpb.New(time.Duration(d.Serving.OrphanAfter)), HeadAddress: s.head(launch.ID), BlockSeed: seed,
	}
	if int(req.NodeRank) < len(launch.Placement) {
		resp.Gpus = launch.Placement[req.NodeRank].GPUs
	}
	return resp, nil
}

// BlockSeed is what the names of blocks are made with. It stays the same for as long as the installation's authority does, so
// that agents of before a restart and gateways of after it agree.
func (s *Server) BlockSeed() (uint64, error) {
	secret, err := s.o.CA.Secret("names of KV blocks")
	return binary.BigEndian.Uint64(secret[:]), err
}

// head is where the other ranks find rank 0; empty until it has reported.
func (s *Server) head(id cluster.LaunchID) string {
	r, _ := s.o.Fleet.Replica(id)
	return r.Ranks[0].State.GetIdentity().GetHeadAddress()
}

// Renew replaces a certificate for the same run and rank.
func (a agentAPI) Renew(ctx context.Context, req *apiv1.RenewRequest) (*apiv1.RenewResponse, error) {
	id := peer(ctx)
	if _, err := a.s.admitted(id); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("renew %s: %w", id, err))
	}
	return a.s.renew(id, req)
}

// admitted returns the launch of a caller whose run may speak for it.
func (s *Server) admitted(id identity.ID) (cluster.Launch, error) {
	launch, ok := s.o.Ledger.Launch(cluster.LaunchID(id.Launch))
	switch {
	case !ok:
		return launch, errors.New("the launch is over")
	case launch.Run != id.Run:
		return launch, errors.New("another run of the launch is the admitted one")
	case launch.Phase == cluster.Ended:
		return launch, fmt.Errorf("the launch is over: %s", launch.EndReason)
	}
	return launch, nil
}

func (s *Server) renew(id identity.ID, req *apiv1.RenewRequest) (*apiv1.RenewResponse, error) {
	leaf, err := s.o.CA.SignCSR(req.CsrDer, id, certificateTTL, time.Now())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("renew %s: %w", id, err))
	}
	return &apiv1.RenewResponse{CertificatePem: leaf, CaPem: s.o.CA.PEM()}, nil
}

// Report takes one agent's state for as long as its stream is open.
func (a agentAPI) Report(ctx context.Context, stream *connect.BidiStream[apiv1.ReportRequest, apiv1.ReportResponse]) error {
	s, id := a.s, peer(ctx)
	rec, err := s.admitted(id)
	if err != nil {
		return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("report of %s: %w", id, err))
	}
	s.o.Fleet.Admit(rec.ID, rec.Run, rec.Epoch, rec.Nodes) // after a restart of the controller nobody joins again
	s.o.Fleet.Connected(rec.ID, id.Run, id.Rank)
	defer s.o.Fleet.Disconnected(rec.ID, id.Run, id.Rank)
	s.blocks.Keep(s.alive)
	session := s.commands.open(id.Launch)
	defer s.commands.close(id.Launch, session)
	s.metrics.agents.Inc()
	defer s.metrics.agents.Dec()

	hangUp := callerOf(ctx).hangUp
	group, ctx := errgroup.WithContext(ctx)
	done := make(chan struct{})
	group.Go(func() error {
		defer close(done)
		return s.receive(stream, session, rec, id)
	})
	group.Go(func() error {
		defer hangUp() // the receiving side must not wait for a word that may never come
		return s.transmit(ctx, stream, session, done)
	})
	if err := group.Wait(); err != nil && !errors.Is(err, io.EOF) {
		return answer(err)
	}
	return nil
}

// alive reports whether a launch's blocks may still be there.
func (s *Server) alive(launch string) bool {
	l, ok := s.o.Ledger.Launch(cluster.LaunchID(launch))
	return ok && l.Phase != cluster.Ended
}

// receive applies messages until the agent closes its side.
func (s *Server) receive(stream *connect.BidiStream[apiv1.ReportRequest, apiv1.ReportResponse], session *agentStream, rec cluster.Launch, id identity.ID) error {
	for {
		msg, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("report of %s: %w", id, err)
		}
		had := s.head(rec.ID)
		got, err := s.o.Fleet.Apply(rec.ID, id.Run, rec.Epoch, id.Rank, msg, time.Now())
		if err != nil {
			return connect.NewError(connect.CodeInvalidArgument, err)
		}
		switch got.Kind {
		case fleet.Stale:
			return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("report of %s: a newer run of the launch is admitted", id))
		case fleet.Resend:
			session.offer(&apiv1.ReportResponse{Body: &apiv1.ReportResponse_Resend{Resend: &apiv1.Resend{From: got.From, To: got.To}}})
		case fleet.Ack:
			missing, whole := s.blocks.Apply(blocks.Source{Launch: string(rec.ID), Rank: id.Rank}, id.Run, msg)
			session.offer(s.ack(rec.ID, got.Seq))
			if !whole {
				session.offer(&apiv1.ReportResponse{Body: &apiv1.ReportResponse_Resend{Resend: missing}})
			}
		}
		if head := s.head(rec.ID); head != had {
			s.commands.broadcast(id.Launch, s.ack(rec.ID, 0))
		}
	}
}

func (s *Server) ack(id cluster.LaunchID, seq uint64) *apiv1.ReportResponse {
	return &apiv1.ReportResponse{Body: &apiv1.ReportResponse_Ack{Ack: &apiv1.Ack{
		Seq: seq, Term: s.o.Ledger.Term(), HeadAddress: s.head(id), Gateways: s.gateways.forAgents(),
	}}}
}

// transmit sends what comes up until the receiving side or the server ends.
func (s *Server) transmit(ctx context.Context, stream *connect.BidiStream[apiv1.ReportRequest, apiv1.ReportResponse], session *agentStream, done <-chan struct{}) error {
	for {
		select {
		case r := <-session.out:
			if err := stream.Send(r); err != nil {
				return fmt.Errorf("answer an agent: %w", err)
			}
		case <-done:
			return nil
		case <-ctx.Done():
			return nil
		case <-s.closing:
			return errClosing
		}
	}
}

func short(run string) string {
	if len(run) > 8 {
		return run[:8]
	}
	return run
}
