package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/upstream"
)

func replica(launch string, epoch uint64, change func(*apiv1.Replica)) *apiv1.Replica {
	r := &apiv1.Replica{
		Launch: launch, Run: fmt.Sprintf("run-%d", epoch), Epoch: epoch, Deployment: "d", Role: "mixed", EngineKind: "vllm",
		Address: "127.0.0.1:1", Ready: true,
	}
	if change != nil {
		change(r)
	}
	return r
}

func TestFeedOrder(t *testing.T) {
	g := newTestGateway(t, 0, nil)
	for name, tc := range map[string]struct {
		m    *apiv1.WatchResponse
		want error
	}{
		"a message is missing":        {&apiv1.WatchResponse{Term: 1, Seq: g.seq + 2}, ErrGap},
		"a message came twice":        {&apiv1.WatchResponse{Term: 1, Seq: g.seq}, ErrGap},
		"a new controller must begin": {&apiv1.WatchResponse{Term: 2, Seq: g.seq + 1}, ErrGap},
		"an older controller":         {&apiv1.WatchResponse{Term: 0, Seq: 1, Full: true}, ErrOldTerm},
	} {
		if err := g.Apply(tc.m); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if g.view.Load().models["m"] == nil {
		t.Error("a message that was refused changed the view")
	}
	if err := g.Apply(&apiv1.WatchResponse{Term: 2, Seq: 40, Full: true}); err != nil || g.view.Load().models["m"] != nil {
		t.Errorf("the whole view of a new controller: %v", err)
	}
	if err := g.Apply(&apiv1.WatchResponse{Term: 2, Seq: 41}); err != nil {
		t.Error(err)
	}
}

func TestRunsAreFenced(t *testing.T) {
	g := newTestGateway(t, 0, nil)
	g.apply(&apiv1.WatchResponse{Replicas: []*apiv1.Replica{replica("l", 5, nil)}})
	first := g.feed.members["l"]
	first.routable.Store(true)

	g.apply(&apiv1.WatchResponse{Replicas: []*apiv1.Replica{replica("l", 4, nil)}})
	if g.feed.members["l"] != first {
		t.Error("an older run took the place of a newer one")
	}
	g.apply(&apiv1.WatchResponse{Full: true, Replicas: []*apiv1.Replica{replica("l", 4, nil)}})
	if g.feed.members["l"] != first {
		t.Error("an older run in a whole view took the place of a newer one")
	}
	g.apply(&apiv1.WatchResponse{Replicas: []*apiv1.Replica{replica("l", 6, nil)}})
	second := g.feed.members["l"]
	if second == first || second.routable.Load() || !first.gone.Load() || first.usable() {
		t.Error("the newer run is believed before it was probed, or the older one still is")
	}
	second.routable.Store(true)
	g.apply(&apiv1.WatchResponse{Replicas: []*apiv1.Replica{replica("l", 6, func(r *apiv1.Replica) { r.EngineStarts = 1 })}})
	if third := g.feed.members["l"]; third == second || third.routable.Load() {
		t.Error("an engine that was started again is believed before it was probed")
	}
	if n := len(g.view.Load().deployments["d"]); n != 1 {
		t.Errorf("%d replicas in the view", n)
	}
}

func TestFiguresDoNotRebuild(t *testing.T) {
	g := newTestGateway(t, 0, nil)
	at := timestamppb.Now()
	load := func(r *apiv1.Replica) {
		r.Load = &apiv1.EngineLoad{Running: new(uint32(3)), At: at}
		r.Kv = &apiv1.KVState{Usage: new(0.5)}
		r.EndsAt = timestamppb.New(time.Unix(1000, 0))
	}
	g.apply(&apiv1.WatchResponse{Replicas: []*apiv1.Replica{replica("l", 1, load)}})
	v, m := g.view.Load(), g.feed.members["l"]
	c := m.candidate(g.now())
	if *c.Running != 3 || c.Waiting != nil || *c.KVUsage != 0.5 || !c.EndsAt.Equal(time.Unix(1000, 0)) || c.SeenAt.IsZero() {
		t.Errorf("candidate: %+v", c)
	}
	g.apply(&apiv1.WatchResponse{Replicas: []*apiv1.Replica{replica("l", 1, load)}})
	if again := m.candidate(g.now()); !again.SeenAt.Equal(c.SeenAt) {
		t.Error("old figures that were repeated count as new")
	}
	g.apply(&apiv1.WatchResponse{Replicas: []*apiv1.Replica{replica("l", 1, func(r *apiv1.Replica) { r.Draining = true })}})
	if g.view.Load() != v || g.feed.members["l"] != m || !m.draining.Load() {
		t.Error("figures made a new view")
	}
	if c := m.candidate(g.now()); c.Running != nil || !c.SeenAt.IsZero() {
		t.Errorf("figures that are not known any more: %+v", c)
	}
}

// TestProbes: a replica is routable once it gave a token, and again after it was suspected.
func TestProbes(t *testing.T) {
	g := newTestGateway(t, 2, nil)
	g.member(0).routable.Store(false)
	g.member(1).routable.Store(false)
	g.engines[0].fail(fault{status: 503, reason: "loading"}, fault{status: 503, reason: "loading"})
	g.script(1, "application/json", `{"data":[{"embedding":[1,2,3]}]}`) // no completion: tokens are refused, vectors are not
	g.engines[1].Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != pathEmbeddings {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprint(w, `{"data":[{"embedding":[1,2,3]}]}`)
	})
	g.running()
	routable := func(i int) {
		t.Helper()
		for !g.member(i).routable.Load() {
			time.Sleep(time.Millisecond)
		}
	}
	routable(0)
	routable(1)
	if got := g.engines[0].seen()[0]; got["model"] != "m" || got["max_tokens"] != 1.0 {
		t.Errorf("probed with %v", got)
	}
	g.suspect(g.member(0), "r", "test", nil)
	routable(0)
	if n := len(g.engines[0].seen()); n != 4 {
		t.Errorf("%d probes, two of which failed and one after a suspicion", n)
	}
}

// TestFirstProbeIsWaitedFor: a request that comes right after `penstock run` has said that a replica is ready is not refused
// because the gateway's own first probe is still under way; one is whose probe has failed.
func TestFirstProbeIsWaitedFor(t *testing.T) {
	for _, failing := range []bool{false, true} {
		g := newTestGateway(t, 1, nil)
		m := g.member(0)
		m.routable.Store(false)
		want := http.StatusOK
		if failing {
			want = http.StatusServiceUnavailable
			g.engines[0].fail(slices.Repeat([]fault{{status: 503, reason: "loading"}}, 1000)...)
		}
		g.running()
		if w := g.post(pathCompletions, `{"model":"m","prompt":"x","max_tokens":1}`); w.Code != want {
			t.Errorf("failing %v: %d %s", failing, w.Code, w.Body)
		}
		if failing && !m.probe.ended.Load() {
			t.Error("the request did not wait for the first probe")
		}
	}
}

func TestRecordsAreHandedOver(t *testing.T) {
	var failing atomic.Bool
	failing.Store(true)
	got := make(chan *apiv1.RequestRecord, 100)
	g := newTestGateway(t, 1, func(o *Options) {
		o.Limits.RecordQueue = 3
		o.Record = func(_ context.Context, recs []*apiv1.RequestRecord) error {
			if failing.CompareAndSwap(true, false) {
				return errors.New("controller is away")
			}
			for _, r := range recs {
				got <- r
			}
			return nil
		}
	})
	for range 5 { // two more than the queue holds
		g.post(pathCompletions, plain)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	ids := map[string]bool{}
	for range 3 {
		ids[(<-got).Id] = true
	}
	g.post(pathCompletions, plain)
	cancel() // what is left is handed over all the same
	if err := <-done; err != nil {
		t.Error(err)
	}
	ids[(<-got).Id] = true
	if len(ids) != 4 || len(got) != 0 {
		t.Errorf("%d records, %d more", len(ids), len(got))
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("without an upstream")
	}
	if _, err := New(Options{Upstream: upstream.New(upstream.Options{}), Traits: newTestGateway(t, 0, nil).opts.Traits, CacheSaltKey: []byte("short")}); err == nil {
		t.Error("with a short key")
	}
}
