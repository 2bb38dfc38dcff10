package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
)

// probesOf writes down when each launch is probed, in seconds, and what the answer was.
type probesOf struct {
	mu    sync.Mutex
	began time.Time
	list  []string
}

func (p *probesOf) note(t Target, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := "ok"
	if err != nil {
		answer = err.Error()
	}
	p.list = append(p.list, fmt.Sprintf("%.0fs %s %s", time.Since(p.began).Seconds(), t.Role, answer))
	return err
}

func TestProbesBackOff(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		p := &probesOf{began: time.Now()}
		in.set(func() {
			in.load = time.Second
			in.probe = func(target Target) error {
				if time.Since(p.began) < 40*time.Second {
					return p.note(target, errProbe)
				}
				return p.note(target, nil)
			}
		})
		in.ledger.apply(spec("d", 1))
		in.pass(3 * time.Minute)
		p.mu.Lock()
		defer p.mu.Unlock()
		n := len(p.list)
		if n < 5 || n > 9 || p.list[n-1][len(p.list[n-1])-2:] != "ok" {
			t.Errorf("probes: %v", p.list)
		}
		in.expect("d", 1, 1)
	})
}

// Another engine start makes the last probe worthless, and the next is made at once whatever the back-off.
func TestEngineStartIsProbedAgain(t *testing.T) {
	p := newProbes(1)
	r := replica("a", 1)
	now := time.Now()
	if !p.due(r, now) || p.due(r, now) {
		t.Fatal("the first probe is due, a second beside it is not")
	}
	p.done("a", now, errProbe)
	if p.due(r, now) || !p.due(r, now.Add(probeFirst)) {
		t.Fatal("no back-off")
	}
	p.done("a", now, errProbe)
	if !p.due(replica("a", 2), now) {
		t.Fatal("a new engine start waits for the back-off of the old one")
	}
	for range 100 {
		p.done("a", now, errProbe)
	}
	if !p.due(replica("a", 2), now.Add(probeMost)) {
		t.Fatal("the back-off has no bound")
	}
}

// A disaggregated replica is probed through a pair, and says so as long as it has no other half.
func TestPairIsProbed(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		var mu sync.Mutex
		pairs := map[string]bool{}
		in.set(func() {
			in.probe = func(target Target) error {
				mu.Lock()
				defer mu.Unlock()
				if target.Peer == nil || target.Peer.Address == "" {
					return errors.New("no peer")
				}
				pairs[string(target.Role+"+"+target.Peer.Role)] = true
				return nil
			}
		})
		d := spec("d", 0)
		d.Roles = map[jobspecs.RoleKind]jobspecs.Role{jobspecs.Prefill: {Replicas: 1, GPUs: jobspecs.GPURequest{Count: 1}}, jobspecs.Decode: {GPUs: jobspecs.GPURequest{Count: 1}}}
		in.ledger.apply(d)
		time.Sleep(20 * time.Second)
		f, _, _ := in.now()
		for _, r := range f.Snapshot(time.Now()).Replicas {
			if r.Ready || r.NotReady != errNoPeer.Error() {
				t.Errorf("ready %v, %q", r.Ready, r.NotReady)
			}
		}
		d.Roles = map[jobspecs.RoleKind]jobspecs.Role{jobspecs.Prefill: d.Roles[jobspecs.Prefill], jobspecs.Decode: {Replicas: 1, GPUs: jobspecs.GPURequest{Count: 1}}}
		in.ledger.apply(d)
		time.Sleep(60 * time.Second)
		in.expect("d", 2, 2)
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff(map[string]bool{"prefill+decode": true, "decode+prefill": true}, pairs); diff != "" {
			t.Error(diff)
		}
	})
}

// Probes that hang hold up neither each other nor the loop.
func TestHangingProbes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := install(t, clustertest.SimOptions{Nodes: clustertest.Nodes(2, 2)})
		in.ledger.apply(spec("d", 2))
		first := true
		hang := proberFunc(func(ctx context.Context, target Target) error {
			in.mu.Lock()
			stuck := first
			first = false
			in.mu.Unlock()
			if stuck {
				<-ctx.Done()
			}
			return ctx.Err()
		})
		c := in.control(func(o *Options) { o.Prober = hang })
		in.pass(20 * time.Second)
		in.expect("d", 1, 2)
		in.pass(40 * time.Second)
		in.expect("d", 2, 2)
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

type proberFunc func(context.Context, Target) error

func (f proberFunc) Probe(ctx context.Context, t Target) error { return f(ctx, t) }
