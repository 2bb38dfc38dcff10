package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// received is a gateway's own picture, built from messages alone.
type received struct {
	View
	seq   uint64
	fulls int
	sent  []*apiv1.WatchResponse
}

func (g *received) take(m *apiv1.WatchResponse) error {
	g.sent = append(g.sent, m)
	if m.Full {
		g.fulls++
		g.View = View{Replicas: map[string]*apiv1.Replica{}, Models: map[string]*apiv1.Model{}, Keys: map[string]*apiv1.Key{}}
	} else if m.Seq != g.seq+1 {
		return fmt.Errorf("delta %d after %d", m.Seq, g.seq)
	}
	g.seq = m.Seq
	for _, r := range m.Replicas {
		g.Replicas[r.Launch] = r
	}
	for _, name := range m.Removed {
		delete(g.Replicas, name)
	}
	for _, x := range m.Models {
		g.Models[x.Name] = x
	}
	for _, name := range m.RemovedModels {
		delete(g.Models, name)
	}
	for _, k := range m.Keys {
		g.Keys[k.Id] = k
	}
	for _, id := range m.RemovedKeys {
		delete(g.Keys, id)
	}
	return nil
}

func (g *received) follow(p *Publisher) error {
	for {
		batch, _ := p.after(g.seq)
		if len(batch) == 0 {
			return nil
		}
		for _, m := range batch {
			if err := g.take(m); err != nil {
				return err
			}
		}
	}
}

func drawView(t *rapid.T, old View) View {
	v := View{Replicas: map[string]*apiv1.Replica{}, Models: map[string]*apiv1.Model{}, Keys: map[string]*apiv1.Key{}, Settled: true}
	for i := range 4 {
		name := fmt.Sprint(i)
		switch kept := old.Replicas[name]; rapid.IntRange(0, 3).Draw(t, "replica") {
		case 0:
			v.Replicas[name] = &apiv1.Replica{Launch: name, Ready: rapid.Bool().Draw(t, "ready")}
		case 1:
			v.Replicas[name] = &apiv1.Replica{Launch: name, Load: &apiv1.EngineLoad{OpenRequests: rapid.Uint32().Draw(t, "load")}}
		case 2:
			if kept != nil {
				v.Replicas[name] = kept
			}
		}
		if rapid.Bool().Draw(t, "model") {
			v.Models[name] = &apiv1.Model{Name: name, Reason: rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "reason")}
		}
		if rapid.Bool().Draw(t, "key") {
			v.Keys[name] = &apiv1.Key{Id: name, Name: rapid.SampledFrom([]string{"", "x"}).Draw(t, "name")}
		}
	}
	return v
}

// Gateways that look now and then, or hardly ever, all have the published view once they have caught up.
func TestGatewaysConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := NewPublisher(PublisherOptions{Term: 3})
		gateways := []*received{{}, {}, {}}
		v := View{}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			v = drawView(t, v)
			p.publish(v, rapid.Bool().Draw(t, "loads"))
			for i, g := range gateways {
				if rapid.IntRange(0, 1<<(4*i)).Draw(t, "looks") == 0 {
					if err := g.follow(p); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		p.publish(v, true)
		for i, g := range gateways {
			if err := g.follow(p); err != nil {
				t.Fatal(err)
			}
			g.Settled = true
			if d := cmp.Diff(v, g.View, protocmp.Transform()); d != "" {
				t.Fatalf("gateway %d: %s", i, d)
			}
		}
	})
}

func TestNothingIsSentBeforeTheViewIsSettled(t *testing.T) {
	p := NewPublisher(PublisherOptions{})
	g := &received{}
	p.publish(View{Replicas: map[string]*apiv1.Replica{"a": {Launch: "a"}}}, true)
	if err := g.follow(p); err != nil || len(g.sent) != 0 {
		t.Fatalf("%v, sent %v", err, g.sent)
	}
	p.publish(View{Settled: true}, true)
	p.publish(View{}, true)
	if err := g.follow(p); err != nil || len(g.sent) != 1 || !g.sent[0].Full {
		t.Fatalf("%v, sent %v", err, g.sent)
	}
}

func TestOnlyChangesAreSentAndFiguresAreHeldBack(t *testing.T) {
	p := NewPublisher(PublisherOptions{})
	r := func(ready bool, load uint32) View {
		return View{Settled: true, Replicas: map[string]*apiv1.Replica{
			"same": {Launch: "same"}, "x": {Launch: "x", Ready: ready, Load: &apiv1.EngineLoad{OpenRequests: load}},
		}}
	}
	g := &received{}
	steps := []struct {
		v     View
		loads bool
		want  string // what a delta carries
	}{
		{r(false, 1), true, "full 2"},
		{r(false, 2), false, ""},       // a figure, and it is not their turn
		{r(false, 3), true, "delta 1"}, // it is
		{r(true, 4), false, "delta 1"}, // readiness is no figure
		{View{Settled: true, Replicas: map[string]*apiv1.Replica{"x": r(true, 4).Replicas["x"]}}, false, "delta 0"},
	}
	for i, s := range steps {
		g.sent = nil
		p.publish(s.v, s.loads)
		if err := g.follow(p); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, m := range g.sent {
			got += map[bool]string{true: "full ", false: "delta "}[m.Full] + fmt.Sprint(len(m.Replicas))
		}
		if got != s.want {
			t.Errorf("step %d: %q, want %q", i, got, s.want)
		}
	}
	if d := cmp.Diff([]string{"same"}, g.sent[0].Removed); d != "" {
		t.Error(d)
	}
}

func TestBacklogNeverOutgrowsTheView(t *testing.T) {
	p := NewPublisher(PublisherOptions{})
	slow := &received{}
	for i := range 1000 {
		p.publish(View{Settled: true, Replicas: map[string]*apiv1.Replica{"x": {Launch: "x", Epoch: uint64(i)}}}, true)
		if i == 0 {
			if err := slow.follow(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(p.deltas) > 64 {
		t.Errorf("%d deltas are kept", len(p.deltas))
	}
	if err := slow.follow(p); err != nil || slow.fulls != 2 || slow.Replicas["x"].Epoch != 999 {
		t.Errorf("%v: %d full states, %v", err, slow.fulls, slow.Replicas)
	}
}

// A gateway that stops reading holds nobody up.
func TestSlowGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := New(Options{})
		var n atomic.Int64
		p := NewPublisher(PublisherOptions{Changed: f.Changed, Source: func(time.Time) View {
			return View{Settled: true, Replicas: map[string]*apiv1.Replica{"x": {Launch: "x", Epoch: uint64(n.Load())}}}
		}})
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		stuck := make(chan struct{})
		fast, slow := &received{}, &received{}
		wg.Go(func() {
			if err := p.Watch(ctx, fast.take); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		wg.Go(func() {
			err := p.Watch(ctx, func(m *apiv1.WatchResponse) error {
				<-stuck
				return slow.take(m)
			})
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		for range 500 {
			n.Add(1)
			p.Wake()
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if fast.Replicas["x"].Epoch != 500 || len(fast.sent) != 501 && len(fast.sent) != 500 {
			t.Errorf("the fast gateway has epoch %d after %d messages", fast.Replicas["x"].Epoch, len(fast.sent))
		}
		close(stuck)
		synctest.Wait()
		if slow.Replicas["x"].Epoch != 500 || len(slow.sent) > 70 {
			t.Errorf("the slow gateway has epoch %d after %d messages", slow.Replicas["x"].Epoch, len(slow.sent))
		}
		cancel()
		wg.Wait()
		failing := errors.New("gateway is gone")
		if err := p.Watch(t.Context(), func(*apiv1.WatchResponse) error { return failing }); !errors.Is(err, failing) {
			t.Errorf("Watch: %v", err)
		}
	})
}
