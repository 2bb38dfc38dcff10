package server

import (
	"context"
	"fmt"
	"sort"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/ledger"
)

// Status implements ControlService.
func (c controlAPI) Status(_ context.Context, req *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
	s := c.s
	now := time.Now()
	deployments := s.o.Ledger.Deployments()
	if req.Deployment != "" {
		d, err := s.deployment(req.Deployment)
		if err != nil {
			return nil, answer(err)
		}
		deployments = []ledger.Deployment{d}
	}
	in := statusInput{launches: s.o.Ledger.Launches(), fleet: s.o.Fleet.Snapshot(now), waits: s.o.Loop.Last(), handovers: byLaunch(s.o.Loop.Handovers()), revision: s.o.Ledger.Revision}
	resp := &apiv1.StatusResponse{Term: s.o.Ledger.Term(), At: timestamppb.New(now), Warnings: s.warnings()}
	for _, d := range deployments {
		resp.Deployments = append(resp.Deployments, in.deployment(d))
	}
	for _, g := range s.gateways.list(now) {
		resp.Gateways = append(resp.Gateways, &apiv1.GatewayStatus{Name: g.name, Url: g.url, SeenAt: timestamppb.New(g.seenAt)})
	}
	return resp, nil
}

// warnings are what people should know although nothing failed: files that can't be read, clusters that do not answer,
// ports that are open to everybody.
func (s *Server) warnings() (out []string) {
	for _, p := range s.o.Ledger.Problems() {
		out = append(out, fmt.Sprintf("%s cannot be read: %v", p.Path, p.Err))
	}
	for _, b := range s.o.Keys.Broken() {
		out = append(out, "a key does not work: "+b)
	}
	if n := s.o.Ledger.EventsLost(); n > 0 {
		out = append(out, fmt.Sprintf("%d events could not be written; is the disk full?", n))
	}
	if trouble := s.records.trouble(); trouble != "" {
		out = append(out, trouble)
	}
	out = append(append(out, s.o.Notices...), s.o.Loop.Warnings()...)
	out = append(out, openPorts(s.o.Ledger.Launches(), s.o.Fleet.Snapshot(time.Now()))...)
	sort.Strings(out)
	return out
}
