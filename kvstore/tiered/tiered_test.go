package tiered

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/faulty"
	"github.com/penstock/penstock/kvstore/mem"
	"github.com/penstock/penstock/kvstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a composition over memory, with its movers at work.
type rig struct {
	*Store
	host, below *mem.Store
	stop        func()
}

type rigOptions struct {
	host, below int64 // budgets
	tier        Tier  // of the one below; its Store is filled in
	fault       func(faulty.Op, kvstore.Key) faulty.Fault
	idle        bool // nobody moves
	keep        *mem.Store
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	r := &rig{host: mem.New(mem.Options{Bytes: o.host, Poison: true}), below: o.keep}
	if r.below == nil {
		r.below = mem.New(mem.Options{Bytes: o.below, Poison: true})
	}
	o.tier.Store, o.tier.Name = r.below, "below"
	if o.fault != nil {
		o.tier.Store = faulty.New(r.below, o.fault)
	}
	s, err := New(zerolog.Nop(), Tier{Store: r.host}, o.tier)
	if err != nil {
		t.Fatal(err)
	}
	r.Store = s
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	if !o.idle {
		wg.Go(func() { _ = s.Run(ctx) })
	}
	r.stop = func() { cancel(); wg.Wait() }
	return r
}

// end ends the composition and its first tier.
func (r *rig) end() error {
	r.stop()
	return errors.Join(r.Store.Close(), r.host.Close())
}

func (r *rig) close() error { return errors.Join(r.end(), r.below.Close()) }

// settle waits until nothing is on its way.
func (r *rig) settle() {
	for {
		if jobs, _ := r.lanes[0].waiting(); jobs == 0 {
			return
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func (r *rig) subject(t *testing.T, o rigOptions) storetest.Subject {
	return storetest.Subject{
		Store: r, Close: r.close, Settle: r.settle, Silent: true,
		Reopen: func() storetest.Subject {
			if f, err := r.Flush(t.Context(), nil); err != nil || f.Left || f.Failed > 0 {
				t.Errorf("flush: %+v, %v", f, err)
			}
			if err := r.end(); err != nil {
				t.Error(err)
			}
			o.keep = r.below
			return newRig(t, o).subject(t, o)
		},
	}
}

func none(faulty.Op, kvstore.Key) faulty.Fault { return faulty.Fault{} }

// TestStore: in enough room a composition is a store like any other, whichever way it writes.
func TestStore(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]rigOptions{
		"back":    {},
		"through": {tier: Tier{Write: Through, QueueBytes: 64 << 20}},
		"wrapped": {tier: Tier{Write: Through, QueueBytes: 64 << 20}, fault: none},
	} {
		o.host, o.below = 128<<20, 256<<20
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T, _ storetest.Options) storetest.Subject { return newRig(t, o).subject(t, o) })
		})
	}
}

// TestSameAnswerOrMiss: the same histories on compositions that forget, fail and lie give the answers of a map, or misses.
func TestSameAnswerOrMiss(t *testing.T) {
	t.Parallel()
	small := rigOptions{host: 160 << 10, below: 1 << 20}
	through, tight, broken := small, small, small
	through.tier = Tier{Write: Through}
	tight.below = 100 << 10
	broken.tier = Tier{Failures: 3, Cooldown: time.Millisecond, Deadline: 20 * time.Millisecond}
	for name, o := range map[string]rigOptions{"back": small, "through": through, "tight": tight, "faulty": broken, "faulty through": broken} {
		if name == "faulty through" {
			o.tier.Write = Through
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(rt *rapid.T) {
				steps := storetest.Steps(rt)
				if o.tier.Deadline > 0 {
					o.fault = randomFaults(rt)
				}
				r := newRig(t, o)
				err := storetest.Play(t, storetest.Subject{Store: r, Settle: func() { time.Sleep(time.Millisecond) }}, steps, false)
				if err = errors.Join(err, r.close()); err != nil {
					rt.Fatal(err)
				}
			})
		})
	}
}

// randomFaults gives each call the next fault of a drawn list.
func randomFaults(t *rapid.T) func(faulty.Op, kvstore.Key) faulty.Fault {
	away := kvstore.ErrUnavailable
	kinds := []faulty.Fault{
		{},
		{},
		{},
		{Err: away},
		{Err: away, AfterAll: true},
		{Torn: true},
		{Lost: true},
		{Delay: time.Millisecond},
		{Hang: true},
		{Err: errors.New("input/output error")},
	}
	list := rapid.SliceOfN(rapid.SampledFrom(kinds), 1, 20).Draw(t, "faults")
	var mu sync.Mutex
	next := 0
	return func(faulty.Op, kvstore.Key) faulty.Fault {
		mu.Lock()
		defer mu.Unlock()
		next++
		return list[next%len(list)]
	}
}
