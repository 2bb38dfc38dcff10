package server

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/plan"
)

// addHandover adds what is expected of the end of the replica's job.
func (in statusInput) addHandover(r *apiv1.ReplicaStatus, l cluster.Launch) {
	h, known := in.handovers[l.ID]
	if r.EndsAt == nil && !l.EndsAt.IsZero() && l.Phase != cluster.Ended {
		r.EndsAt = timestamppb.New(l.EndsAt)
	}
	if !known || l.Phase == cluster.Ended || l.Phase == cluster.Draining {
		return
	}
	r.EndsAt = timestamppb.New(h.EndsAt)
	r.Handover = &apiv1.Handover{
		LeaveBy: timestamppb.New(h.LeaveBy), Drain: durationpb.New(h.Drain),
		Queue: durationpb.New(h.Queue.Value), QueueSamples: uint32(h.Queue.Samples),
		StartUp: durationpb.New(h.StartUp.Value), StartUpSamples: uint32(h.StartUp.Samples),
		Successor: string(h.Successor),
	}
	if !h.StartAt.IsZero() {
		r.Handover.StartAt = timestamppb.New(h.StartAt)
	}
	if !h.ReadyAt.IsZero() {
		r.Handover.ReadyAt = timestamppb.New(h.ReadyAt)
	}
	if h.Gap > 0 {
		r.Handover.Gap, r.Handover.GapReason = durationpb.New(h.Gap), h.Why
	} else if h.StartAt.IsZero() {
		r.Handover.GapReason = h.Why
	}
}

// byLaunch finds the handover of each launch.
func byLaunch(list []plan.Handover) map[cluster.LaunchID]plan.Handover {
	found := make(map[cluster.LaunchID]plan.Handover, len(list))
	for _, h := range list {
		found[h.Launch] = h
	}
	return found
}

// addSuccessors tells each replica of the state of its successor, which is another of them.
func addSuccessors(reps []*apiv1.ReplicaStatus) {
	of := make(map[string]*apiv1.ReplicaStatus, len(reps))
	for _, r := range reps {
		of[r.Launch] = r
	}
	for _, r := range reps {
		if next := of[r.Handover.GetSuccessor()]; r.Handover != nil && next != nil {
			r.Handover.SuccessorState, r.Handover.SuccessorReason = next.State, next.Reason
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
