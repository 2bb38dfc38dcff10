package server

import (
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// History lists launches that are over, the last first.
func (c controlAPI) History(_ context.Context, req *apiv1.HistoryRequest) (*apiv1.HistoryResponse, error) {
	name := ""
	if req.Deployment != "" {
		d, err := c.s.deployment(req.Deployment)
		if err != nil {
			return nil, answer(err)
		}
		name = d.Name
	}
	resp := &apiv1.HistoryResponse{}
	for _, l := range c.s.o.Ledger.Launches() {
		if l.Phase == cluster.Ended && (name == "" || l.Deployment == name) && (req.Since == nil || !l.EndedAt.Before(req.Since.AsTime())) {
			resp.Launches = append(resp.Launches, pastLaunch(l))
		}
	}
	slices.SortStableFunc(resp.Launches, func(a, b *apiv1.PastLaunch) int {
		return cmp.Or(b.EndedAt.AsTime().Compare(a.EndedAt.AsTime()), cmp.Compare(a.Launch, b.Launch))
	})
	return resp, nil
}

func pastLaunch(l cluster.Launch) *apiv1.PastLaunch {
	p := &apiv1.PastLaunch{
		Launch: string(l.ID), Deployment: l.Deployment, Role: string(l.Role), Revision: uint32(l.Revision), Cluster: string(l.Cluster), Job: l.Job,
		Nodes: l.Ran, CreatedAt: timestamppb.New(l.CreatedAt), StartedAt: whenKnown(l.StartedAt), EndedAt: timestamppb.New(l.EndedAt),
		Cause: string(l.Cause), Reason: l.EndReason,
	}
	if l.Exit != nil {
		code, signal := int32(l.Exit.Code), int32(l.Exit.Signal)
		p.ExitCode, p.ExitSignal = &code, &signal
	}
	return p
}

// whenKnown is a time on the wire; the zero time is absent.
func whenKnown(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
