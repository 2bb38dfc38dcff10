package tiered

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/faulty"
	"github.com/penstock/penstock/kvstore/mem"
)

// TestDeadTier: a tier that hangs costs its deadline a few times, then nothing, and is used again when it answers.
func TestDeadTier(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var hangs atomic.Bool
		r := newRig(t, rigOptions{
			host: 64 * size, below: 200 * size,
			tier:  Tier{Deadline: time.Second, Failures: 3, Cooldown: time.Minute, Workers: 1},
			fault: func(faulty.Op, kvstore.Key) faulty.Fault { return faulty.Fault{Hang: hangs.Load()} },
		})
		if err := r.put(t, 1, 5, chainHint(0)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Flush(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := r.host.Delete(t.Context(), keyOf(1)); err != nil {
			t.Fatal(err)
		}
		hangs.Store(true)
		begun := time.Now()
		for range 1000 {
			if _, err := get(t, r, 1); !errors.Is(err, kvstore.ErrUnavailable) {
				t.Fatal(err)
			}
		}
		for n := range 1000 { // overflows all the time
			if err := r.put(t, 10+n, 1, chainHint(n)); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begun); took > 4*time.Second {
			t.Errorf("a dead tier cost %v", took)
		}
		if f, err := r.Flush(t.Context(), nil); !errors.Is(err, kvstore.ErrUnavailable) {
			t.Errorf("flush to a dead tier: %+v, %v", f, err)
		}
		hangs.Store(false)
		time.Sleep(time.Hour)
		if got, err := get(t, r, 1); got != 5 {
			t.Errorf("after its recovery: %d, %v", got, err)
		}
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
}

// TestFlush: what fits before the deadline is whole chains, the last used first.
func TestFlush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var order []kvstore.Name
		var mu sync.Mutex
		r := newRig(t, rigOptions{
			host: 1 << 20, below: 1 << 20, idle: true, tier: Tier{Workers: 1},
			fault: func(op faulty.Op, k kvstore.Key) faulty.Fault {
				if op != faulty.Put {
					return faulty.Fault{}
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, k.Name)
				return faulty.Fault{Delay: time.Second}
			},
		})
		for chain := range 3 {
			for d := range 5 {
				h := kvstore.Hint{Known: true, Depth: uint32(d), Parent: keyOf(10*chain + d - 1).Name}
				if err := r.put(t, 10*chain+d, 1, h); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
		}
		for d := range 5 {
			if _, err := get(t, r, 10+d); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 7500*time.Millisecond)
		defer cancel()
		var last Flushed
		f, err := r.Flush(ctx, func(f Flushed) { last = f })
		if err != nil || !f.Left || f.Blocks != 7 || f.Bytes != 7*size || last.Blocks != 7 {
			t.Errorf("%+v, %v; last told %+v", f, err, last)
		}
		var want []kvstore.Name
		for _, n := range []int{10, 11, 12, 13, 14, 20, 21, 22} { // 22 was cut off
			want = append(want, keyOf(n).Name)
		}
		if !slices.Equal(order, want) {
			t.Errorf("written in another order than by value: %x", order)
		}
		f, err = r.Flush(t.Context(), nil)
		if err != nil || f.Left || f.Blocks != 8 || f.There < 7 {
			t.Errorf("the rest: %+v, %v", f, err)
		}
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
}

// TestDeleteOnDeadTier: what was deleted stays so although the tier that has it could not be asked.
func TestDeleteOnDeadTier(t *testing.T) {
	t.Parallel()
	var dead atomic.Bool
	r := newRig(t, rigOptions{host: 64 * size, below: 200 * size, tier: Tier{Cooldown: time.Millisecond}, fault: func(faulty.Op, kvstore.Key) faulty.Fault {
		if dead.Load() {
			return faulty.Fault{Err: kvstore.ErrUnavailable}
		}
		return faulty.Fault{}
	}})
	if err := r.put(t, 1, 5, kvstore.Hint{}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Flush(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	dead.Store(true)
	if err := r.Delete(t.Context(), keyOf(1)); !errors.Is(err, kvstore.ErrUnavailable) {
		t.Errorf("delete: %v", err)
	}
	dead.Store(false)
	if got, err := get(t, r, 1); !errors.Is(err, kvstore.ErrNotFound) {
		t.Errorf("it came back: %d, %v", got, err)
	}
	r.settle()
	if _, err := r.below.Has(t.Context(), keyOf(1)); !errors.Is(err, kvstore.ErrNotFound) {
		t.Errorf("it was not deleted when the tier answered again: %v", err)
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
}

// TestMoreDoubtsThanAreKept: with a tier dead for long, replaced keys are remembered roughly, and never answered wrongly.
func TestMoreDoubtsThanAreKept(t *testing.T) {
	t.Parallel()
	l := newLane(Tier{QueueBytes: 1 << 20}, zerolog.Nop())
	for n := range maxChecks + 1000 {
		l.forget(keyOf(n))
	}
	if jobs, _ := l.waiting(); jobs != maxChecks {
		t.Errorf("%d keys are remembered one by one", jobs)
	}
	wrong := 0
	for n := range maxChecks + 1000 {
		if !l.doubtful(keyOf(n)) {
			t.Fatalf("key %d is trusted", n)
		}
		if l.doubtful(keyOf(1<<30 + n)) {
			wrong++
		}
	}
	if wrong > maxChecks/100 {
		t.Errorf("%d good keys are doubted", wrong)
	}
	l.close()
}

// TestRecoversFromBelow: where the first tier's copy is bad, the one below is as good.
func TestRecoversFromBelow(t *testing.T) {
	t.Parallel()
	host, below := mem.New(mem.Options{Bytes: 1 << 20}), mem.New(mem.Options{Bytes: 1 << 20})
	torn := faulty.New(host, func(op faulty.Op, _ kvstore.Key) faulty.Fault { return faulty.Fault{Torn: op == faulty.Put} })
	s, err := New(zerolog.Nop(), Tier{Store: torn}, Tier{Store: below, Write: Through})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Store: s}
	if err := r.put(t, 1, 5, kvstore.Hint{}); err != nil {
		t.Fatal(err)
	}
	if got, err := get(t, s, 1); got != 5 {
		t.Errorf("%d, %v", got, err)
	}
	if n := s.Stats().Corrupt; n != 1 {
		t.Errorf("%d corrupt blocks are counted", n)
	}
	if err := errors.Join(s.Close(), host.Close(), below.Close()); err != nil {
		t.Error(err)
	}
}
