package server

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/upstream"
)

// kvAgents is the way to agents' KV tiers.
type kvAgents interface {
	KV(ctx context.Context, t upstream.Target, q *apiv1.KVRequest, each func(*apiv1.KVResponse) error) error
}

// kvVerbs are what may be asked of agents.
var kvVerbs = []string{"stat", "list", "flush", "warm"}

// KV asks the agents of the replicas that are meant, all at one time, and passes on what they say.
func (c controlAPI) KV(ctx context.Context, q *apiv1.KVRequest, stream *connect.ServerStream[apiv1.KVResponse]) error {
	if !slices.Contains(kvVerbs, q.Verb) {
		return answer(fmt.Errorf("KV tiers cannot be asked to %q: %w", q.Verb, errInvalid))
	}
	launches, err := c.s.kvLaunches(q)
	if err != nil {
		return answer(err)
	}
	if q.Verb == "flush" || q.Verb == "warm" {
		c.s.note("kv", q.Deployment, "", fmt.Sprintf("KV tiers of %d replicas: %s", len(launches), q.Verb))
	}
	return c.s.follow(ctx, func(ctx context.Context) error {
		var mu sync.Mutex // of stream, and of failed
		var failed error
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		send := func(part *apiv1.KVResponse) error {
			mu.Lock()
			defer mu.Unlock()
			if failed == nil {
				failed = stream.Send(part)
			}
			if failed != nil {
				cancel()
			}
			return failed
		}
		var asked sync.WaitGroup
		snapshot := c.s.o.Fleet.Snapshot(time.Now())
		for _, l := range launches {
			asked.Go(func() { c.s.askKV(ctx, l, snapshot, q, send) })
		}
		asked.Wait()
		return failed
	})
}

// kvLaunches are the launches that are meant.
func (s *Server) kvLaunches(q *apiv1.KVRequest) (out []cluster.Launch, err error) {
	deployments := s.o.Ledger.Deployments()
	if q.Deployment != "" || q.Replica != "" {
		d, err := s.deployment(q.Deployment)
		if err != nil {
			return nil, err
		}
		deployments = []ledger.Deployment{d}
	}
	for _, d := range deployments {
		launches, err := s.launches(d, q.Replica, false)
		if err != nil {
			return nil, err
		}
		out = append(out, launches...)
	}
	return out, nil
}

// askKV asks one replica's agents, each of which has tiers of its own, and says why where it cannot.
func (s *Server) askKV(ctx context.Context, l cluster.Launch, seen fleet.Snapshot, q *apiv1.KVRequest, send func(*apiv1.KVResponse) error) {
	from := func(rank int) func(part *apiv1.KVResponse) error {
		return func(part *apiv1.KVResponse) error {
			part.Deployment, part.Replica, part.Launch = l.Deployment, fmt.Sprintf("%s/%d", l.Role, l.Index), string(l.ID)
			part.NodeRank = uint32(rank)
			return send(part)
		}
	}
	r, known := seen.Replicas[l.ID]
	if l.Run == "" || !known || len(r.Ranks) == 0 {
		_ = from(0)(&apiv1.KVResponse{Error: "it does not run yet, or nothing has been heard of it"})
		return
	}
	var asked sync.WaitGroup
	for rank, agent := range r.Ranks {
		asked.Go(func() {
			t := upstream.Target{Launch: string(l.ID), Run: l.Run, Epoch: l.Epoch, Address: agent.State.GetIdentity().GetAddress()}
			if err := s.o.KV.KV(ctx, t, q, from(rank)); err != nil && ctx.Err() == nil {
				_ = from(rank)(&apiv1.KVResponse{Error: err.Error()})
			}
		})
	}
	asked.Wait()
}
