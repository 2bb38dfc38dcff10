package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

// gatewayAPI implements GatewayService, enrollAPI the way in for a new gateway.
type (
	gatewayAPI struct{ s *Server }
	enrollAPI  struct{ s *Server }
)

// Watch sends the view of the fleet: the whole of it, then changes.
func (g gatewayAPI) Watch(ctx context.Context, req *apiv1.WatchRequest, stream *connect.ServerStream[apiv1.WatchResponse]) error {
	name := peer(ctx).Name // what it says of itself counts for nothing
	g.s.gateways.up(name, clip(req.Url), req.Agents)
	defer g.s.gateways.down(name)
	return g.s.follow(ctx, func(ctx context.Context) error { return g.s.o.Publisher.Watch(ctx, stream.Send) })
}

// WatchBlocks sends what engines' caches hold: from where the gateway stands, or the whole of it, then changes.
func (g gatewayAPI) WatchBlocks(ctx context.Context, req *apiv1.WatchBlocksRequest, stream *connect.ServerStream[apiv1.WatchBlocksResponse]) error {
	seed, err := g.s.BlockSeed()
	if err != nil {
		return answer(err)
	}
	return g.s.follow(ctx, func(ctx context.Context) error { return g.s.blocks.Watch(ctx, req, seed, stream.Send) })
}

// Record takes finished requests.
func (g gatewayAPI) Record(ctx context.Context, req *apiv1.RecordRequest) (*apiv1.RecordResponse, error) {
	for _, rec := range req.Records {
		rec.Gateway = peer(ctx).Name
	}
	return &apiv1.RecordResponse{}, answer(g.s.Record(req.Records))
}

// Renew replaces a gateway's certificate.
func (g gatewayAPI) Renew(ctx context.Context, req *apiv1.RenewRequest) (*apiv1.RenewResponse, error) {
	return g.s.renew(peer(ctx), req)
}

// Enroll gives a gateway its first certificate.
func (e enrollAPI) Enroll(_ context.Context, req *apiv1.EnrollRequest) (*apiv1.EnrollResponse, error) {
	now := time.Now()
	if err := e.s.o.Tokens.CheckGateway(req.Token, req.Name, now); err != nil {
		e.s.refuse(enrollRefused, connect.CodeUnauthenticated, err, "gateway", req.Name)
		return nil, connect.NewError(connect.CodeUnauthenticated, err)
	}
	leaf, err := e.s.o.CA.SignCSR(req.CsrDer, identity.ID{Role: identity.Gateway, Name: req.Name}, certificateTTL, now)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("enroll gateway %s: %w", req.Name, err))
	}
	e.s.log.Info().Str("gateway", req.Name).Msg("gateway enrolled")
	return &apiv1.EnrollResponse{CertificatePem: leaf, CaPem: e.s.o.CA.PEM()}, nil
}

// gatewayList knows which gateways watch now. Safe for concurrent use.
type gatewayList struct {
	mu    sync.Mutex
	byID  map[string]*gatewaySeen
	dials []*apiv1.GatewayAddress // of those that watch now, by name; never changed, only replaced
}

type gatewaySeen struct {
	url    string
	agents []string // addresses for agents
	open   int
	seenAt time.Time
}

func (l *gatewayList) up(name, url string, agents []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID == nil {
		l.byID = map[string]*gatewaySeen{}
	}
	if l.byID[name] == nil {
		l.byID[name] = &gatewaySeen{}
	}
	l.byID[name].url, l.byID[name].agents = url, clipAll(agents)
	l.byID[name].open++
	l.listDials()
}

// mostAddresses bounds the addresses of one gateway that agents are told.
const mostAddresses = 8

func clipAll(texts []string) (out []string) {
	for _, t := range texts[:min(len(texts), mostAddresses)] {
		out = append(out, clip(t))
	}
	return out
}

// listDials makes the list for agents anew. The caller holds the lock.
func (l *gatewayList) listDials() {
	l.dials = nil
	for name, g := range l.byID {
		if g.open > 0 && len(g.agents) > 0 {
			l.dials = append(l.dials, &apiv1.GatewayAddress{Name: name, Addresses: g.agents})
		}
	}
	slices.SortFunc(l.dials, func(a, b *apiv1.GatewayAddress) int { return strings.Compare(a.Name, b.Name) })
}

// forAgents are the gateways that agents may dial. The caller must not change it.
func (l *gatewayList) forAgents() []*apiv1.GatewayAddress {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dials
}

func (l *gatewayList) down(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byID[name].open--
	l.byID[name].seenAt = time.Now()
	l.listDials()
}

// list names the gateways, by name, and drops those that have been gone for an hour.
func (l *gatewayList) list(now time.Time) (out []*gatewayInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, g := range l.byID {
		if g.open > 0 {
			out = append(out, &gatewayInfo{name, g.url, now})
		} else if now.Sub(g.seenAt) < time.Hour {
			out = append(out, &gatewayInfo{name, g.url, g.seenAt})
		} else {
			delete(l.byID, name)
		}
	}
	slices.SortFunc(out, func(a, b *gatewayInfo) int { return strings.Compare(a.name, b.name) })
	return out
}

// url is where clients reach a gateway that watches now; empty = there is none.
func (l *gatewayList) url(now time.Time) string {
	for _, g := range l.list(now) {
		if g.seenAt.Equal(now) {
			return g.url
		}
	}
	return ""
}

type gatewayInfo struct {
	name, url string
	seenAt    time.Time
}
