package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/upstream"
)

// fakeKV answers for agents, by their addresses.
type fakeKV struct {
	mu      sync.Mutex
	asked   []upstream.Target
	answers map[string][]*apiv1.KVResponse // nil: the agent cannot be reached
	hang    chan struct{}                  // closed when an agent hangs that has been asked
}

func (f *fakeKV) KV(ctx context.Context, t upstream.Target, _ *apiv1.KVRequest, each func(*apiv1.KVResponse) error) error {
	f.mu.Lock()
	f.asked = append(f.asked, t)
	parts, ok := f.answers[t.Address]
	f.mu.Unlock()
	if !ok {
		return errors.New("nobody answers")
	}
	for _, p := range parts {
		if err := each(p); err != nil {
			return err
		}
	}
	if f.hang != nil {
		close(f.hang)
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// kvWorld has a deployment of three replicas: one on two nodes, one that cannot be reached, and one that does not run yet.
func kvWorld(t *testing.T, f *fakeKV) *world {
	t.Helper()
	w := newWorld(t, func(o *Options) { o.KV = f })
	w.apply(t, file("demo", 3))
	report := func(launch cluster.LaunchID, rank, nodes int, address string) {
		a := w.join(t, launch, "run-"+string(launch), rank, nodes).open()
		state := health(apiv1.Phase_PHASE_STARTED)
		state.Identity = a.identity()
		state.Identity.Address = address
		a.send(&apiv1.ReportRequest{Seq: 1, Body: &apiv1.ReportRequest_Full{Full: state}})
		a.acked()
	}
	gang := w.launch(t, "l-1", "demo", 0, 2)
	report(gang, 0, 2, "n0:1")
	report(gang, 1, 2, "n1:1")
	report(w.launch(t, "l-2", "demo", 1, 1), 0, 1, "n2:1")
	w.launch(t, "l-3", "demo", 2, 1)
	return w
}

func askKV(ctx context.Context, t *testing.T, w *world, q *apiv1.KVRequest) ([]string, error) {
	t.Helper()
	stream, err := w.control.KV(ctx, q)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var out []string
	for stream.Receive() {
		p := stream.Msg()
		out = append(out, fmt.Sprintf("%s %s.%d %s: %d tiers %s", p.Deployment, p.Replica, p.NodeRank, p.Launch, len(p.Tiers), p.Error))
	}
	slices.Sort(out)
	return out, stream.Err()
}

// TestKV: all agents of the replicas that are meant are asked, and each that cannot says why.
func TestKV(t *testing.T) {
	t.Parallel()
	one := []*apiv1.KVResponse{{Tiers: []*apiv1.KVTier{{Tier: "host"}}}}
	f := &fakeKV{answers: map[string][]*apiv1.KVResponse{"n0:1": one, "n1:1": {one[0]}}}
	f.answers["n1:1"] = []*apiv1.KVResponse{{Tiers: []*apiv1.KVTier{{Tier: "host"}, {Tier: "disk"}}}}
	w := kvWorld(t, f)
	all := []string{
		"demo mixed/0.0 l-1: 1 tiers ", "demo mixed/0.1 l-1: 2 tiers ", "demo mixed/1.0 l-2: 0 tiers nobody answers",
		"demo mixed/2.0 l-3: 0 tiers it does not run yet, or nothing has been heard of it",
	}
	for _, c := range []struct {
		q    *apiv1.KVRequest
		want []string
		code connect.Code
	}{
		{&apiv1.KVRequest{Verb: "stat"}, all, 0},
		{&apiv1.KVRequest{Verb: "stat", Deployment: "de"}, all, 0},
		{&apiv1.KVRequest{Verb: "list", Deployment: "demo", Replica: "mixed/1"}, all[2:3], 0},
		{&apiv1.KVRequest{Verb: "flush", Deployment: "demo", Replica: "l-1"}, all[:2], 0},
		{&apiv1.KVRequest{Verb: "stat", Deployment: "other"}, nil, connect.CodeNotFound},
		{&apiv1.KVRequest{Verb: "stat", Deployment: "demo", Replica: "mixed/9"}, nil, connect.CodeNotFound},
		{&apiv1.KVRequest{Verb: "purge", Deployment: "demo"}, nil, connect.CodeInvalidArgument},
	} {
		got, err := askKV(t.Context(), t, w, c.q)
		if !slices.Equal(got, c.want) || c.code == 0 && err != nil || c.code != 0 && connect.CodeOf(err) != c.code {
			t.Errorf("%v: %q, %v", c.q, got, err)
		}
	}
	for _, to := range f.asked {
		if to.Launch == "l-1" && (to.Run != "run-l-1" || to.Epoch == 0) {
			t.Errorf("asked %+v", to)
		}
	}
	if !w.event("kv", "KV tiers of 1 replicas: flush") || w.event("kv", "stat") {
		t.Error("what changes something is an event, and a look is none")
	}
}

// TestKVEndsWithItsCaller: agents that hang are not waited for once nobody listens.
func TestKVEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	f := &fakeKV{answers: map[string][]*apiv1.KVResponse{"n2:1": {}}, hang: make(chan struct{})}
	w := kvWorld(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-f.hang; cancel() }()
	if _, err := askKV(ctx, t, w, &apiv1.KVRequest{Verb: "warm", Deployment: "demo", Replica: "mixed/1"}); connect.CodeOf(err) != connect.CodeCanceled {
		t.Error(err)
	}
}
