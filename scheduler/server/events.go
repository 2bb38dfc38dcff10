package server

import (
	"context"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/ledger"
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
	return c.s.follow(ctx, func(ctx context.Context) error {
		past, next := c.s.o.Ledger.Subscribe(ctx, 0)
		for _, e := range lastOf(past, name, int(req.Tail)) {
			if err := stream.Send(&apiv1.EventsResponse{Event: e}); err != nil {
				return err
			}
		}
		for req.Follow {
			e, ok := <-next
			if !ok {
				break
			}
			if name != "" && e.Deployment != name && e.Kind != ledger.KindDropped {
				continue
			}
			if err := stream.Send(&apiv1.EventsResponse{Event: e}); err != nil {
				return err
			}
		}
		return nil
	})
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
