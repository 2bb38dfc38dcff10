package server

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/plan"
)

// addHandover adds what is expected of the end of the replica's job.
func (in statusInput) addHandover(r *apiv1.ReplicaStatus, l cluster.Launch) {
	i := slices.IndexFunc(in.handovers, func(h plan.Handover) bool { return h.Launch == l.ID })
	if r.EndsAt == nil && !l.EndsAt.IsZero() && l.Phase != cluster.Ended {
		r.EndsAt = timestamppb.New(l.EndsAt)
	}
	if i < 0 || l.Phase == cluster.Ended || l.Phase == cluster.Draining {
		return
	}
	h := in.handovers[i]
	r.EndsAt = timestamppb.New(h.EndsAt)
	r.Handover = &apiv1.Handover{
		LeaveBy: timestamppb.New(h.LeaveBy), StartAt: timestamppb.New(h.StartAt), Drain: durationpb.New(h.Drain),
		Queue: durationpb.New(h.Queue.Value), QueueSamples: uint32(h.Queue.Samples),
		StartUp: durationpb.New(h.StartUp.Value), StartUpSamples: uint32(h.StartUp.Samples),
		Successor: string(h.Successor),
	}
	if !h.ReadyAt.IsZero() {
		r.Handover.ReadyAt = timestamppb.New(h.ReadyAt)
	}
	if h.Gap > 0 {
		r.Handover.Gap, r.Handover.GapReason = durationpb.New(h.Gap), h.Why
	}
	for _, next := range in.launches {
		if next.ID == h.Successor {
			r.Handover.SuccessorState, r.Handover.SuccessorReason = in.replicaState(next, in.fleet.Replicas[next.ID])
		}
	}
}

// AskedAt is when the last request for a deployment was over, as far as gateways have told this controller; zero = they
// have told of none.
func (s *Server) AskedAt(deployment string) time.Time {
	d, ok := s.o.Ledger.Deployment(deployment)
	if !ok {
		return time.Time{}
	}
	at := s.records.askedAt(d.Spec.Model.ServedName)
	for _, a := range d.Spec.Model.Adapters {
		if t := s.records.askedAt(a.Name); t.After(at) {
			at = t
		}
	}
	return at
}
