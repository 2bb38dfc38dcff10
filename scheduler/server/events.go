package server

import (
	"context"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// Events sends what happened, and with follow what happens.
func (c controlAPI) Events(ctx context.Context, req *apiv1.EventsRequest, stream *connect.ServerStream[apiv1.EventsResponse]) error {
	name := ""
	if req.Deployment != "" {
		d, err := c.s.deployment(req.Deployment)
		if err != nil {
			return answer(err)
		}
		name = d.Name
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.s.untilClosing(ctx, cancel)()
	past, next := c.s.o.Ledger.Subscribe(ctx, 0)
	for _, e := range lastOf(past, name, int(req.Tail)) {
		if err := stream.Send(&apiv1.EventsResponse{Event: e}); err != nil {
			return err
		}
	}
	if !req.Follow {
		return nil
	}
	for e := range next {
		if name != "" && e.Deployment != name {
			continue
		}
		if err := stream.Send(&apiv1.EventsResponse{Event: e}); err != nil {
			return err
		}
	}
	return nil
}

func lastOf(past []*apiv1.Event, deployment string, tail int) (out []*apiv1.Event) {
	for _, e := range past {
		if deployment == "" || e.Deployment == deployment {
			out = append(out, e)
		}
	}
	if tail > 0 && len(out) > tail {
		out = out[len(out)-tail:]
	}
	return out
}
