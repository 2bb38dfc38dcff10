package tiered

import (
	"context"
	"encoding/binary"
	"errors"
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

const size = 4096

func keyOf(n int) (k kvstore.Key) {
	binary.LittleEndian.PutUint64(k.Name[:], uint64(n)*0x9e3779b97f4a7c15+1)
	return k
}

// put stores block n of a chain with a number in it.
func (r *rig) put(t testing.TB, n int, number uint64, h kvstore.Hint) error {
	t.Helper()
	data := make([]byte, size)
	binary.LittleEndian.PutUint64(data, number)
	b := kvstore.NewBlock(data, nil).Seal()
	defer b.Release()
	return r.Put(t.Context(), keyOf(n), b, h)
}

func chainHint(n int) kvstore.Hint {
	return kvstore.Hint{Known: true, Depth: uint32(n), Parent: keyOf(n - 1).Name}
}

// get returns the number in a block; 0 = a miss.
func get(t testing.TB, s kvstore.Store, n int) (uint64, error) {
	t.Helper()
	b, err := s.Get(t.Context(), keyOf(n))
	if err != nil {
		return 0, err
	}
	defer b.Release()
	return binary.LittleEndian.Uint64(b.Bytes()), nil
}

// TestOverflowAndPromotion: all of three times the first tier's room can be had back, and what is had is up again.
func TestOverflowAndPromotion(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{host: 32 * size, below: 200 * size, tier: Tier{QueueBytes: 16 * size}})
	for n := range 96 {
		if err := r.put(t, n, uint64(n+1), kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
		r.settle()
	}
	for n := range 96 {
		if got, err := get(t, r, n); got != uint64(n+1) {
			t.Fatalf("block %d is %d, %v", n, got, err)
		}
		if _, err := r.host.Has(t.Context(), keyOf(n)); err != nil {
			t.Fatalf("block %d was not promoted: %v", n, err)
		}
		r.settle()
	}
	l := r.lanes[0]
	if moved, there := l.moved.Load(), l.there.Load(); moved != 96 || there < 30 || l.full.Load() != 0 {
		t.Errorf("%d blocks were written, %d were there, %d dropped", moved, there, l.full.Load())
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
}

// TestQueueIsBounded: nobody moves, so what does not fit into the queue is dropped and counted, and writers go on.
func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{host: 32 * size, below: 200 * size, tier: Tier{QueueBytes: 8 * size}, idle: true})
	for n := range 100 {
		if err := r.put(t, n, uint64(n+1), chainHint(n)); err != nil {
			t.Fatal(err)
		}
	}
	l := r.lanes[0]
	held := r.host.Stats().Blocks
	if _, bytes := l.waiting(); bytes != 8*size || l.full.Load() != 100-8-held || held < 20 {
		t.Errorf("%d bytes wait, %d blocks were dropped", bytes, l.full.Load())
	}
	found := 0
	for n := range 100 {
		if got, err := get(t, r, n); err == nil {
			found++
			if got != uint64(n+1) {
				t.Errorf("block %d is %d", n, got)
			}
		}
	}
	if found != int(held)+8 { // with the queued ones
		t.Errorf("%d blocks are left, %d in memory", found, held)
	}
	if err := r.close(); err != nil || l.ended.Load() != 8 {
		t.Errorf("%v, %d blocks were dropped at the end", err, l.ended.Load())
	}
}

// TestPromotedChain: of a chain that has come up from below, the end is forgotten before its beginning.
func TestPromotedChain(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{host: 64 * size, below: 200 * size, tier: Tier{Write: Through}})
	var keys []kvstore.Key
	for n := range 60 {
		h := chainHint(n)
		if n >= 20 { // others
			h = kvstore.Hint{Known: true}
		}
		if err := r.put(t, n, uint64(n+1), h); err != nil {
			t.Fatal(err)
		}
		if n < 20 {
			keys = append(keys, keyOf(n))
		}
		r.settle()
	}
	for _, k := range keys { // as after a restart: none is in memory
		if err := r.host.Delete(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	found := 0
	if err := r.GetMany(t.Context(), keys, func(int, *kvstore.Block) error { found++; return nil }); err != nil || found != 20 {
		t.Fatalf("%d blocks, %v", found, err)
	}
	for n := range 50 {
		if err := r.put(t, 1000+n, 1, kvstore.Hint{Known: true}); err != nil {
			t.Fatal(err)
		}
		r.settle()
	}
	here := true
	for n, k := range keys {
		_, err := r.host.Has(t.Context(), k)
		if err == nil && !here {
			t.Errorf("block %d is in memory without what is before it", n)
		}
		here = err == nil
	}
	if _, err := r.host.Has(t.Context(), keys[0]); err != nil || here {
		t.Errorf("the beginning: %v; the end is there: %t", err, here)
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
}

// TestLargeBlock: a block that is larger than the whole queue goes down too.
func TestLargeBlock(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{host: 1 << 20, below: 1 << 20, tier: Tier{Write: Through, QueueBytes: 1000}})
	if err := r.put(t, 1, 5, chainHint(0)); err != nil {
		t.Fatal(err)
	}
	r.settle()
	if got, err := get(t, r.below, 1); got != 5 {
		t.Errorf("%d, %v", got, err)
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
}

// slow is a tier that counts reads, and keeps what it has read until the gate opens.
type slow struct {
	kvstore.Store
	reads atomic.Int64
	gate  chan struct{}
}

func (s *slow) Get(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	s.reads.Add(1)
	b, err := s.Store.Get(ctx, k)
	select {
	case <-s.gate:
		return b, err
	case <-ctx.Done():
		b.Release()
		return nil, ctx.Err()
	}
}

// TestOneReadForMany: equal Gets are one read; one that gives up, even the one that reads, leaves the others unharmed.
func TestOneReadForMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		below := &slow{Store: mem.New(mem.Options{Bytes: 1 << 20}), gate: make(chan struct{})}
		host := mem.New(mem.Options{Bytes: 1 << 20})
		s, err := New(zerolog.Nop(), Tier{Store: host}, Tier{Store: below, Deadline: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{Store: s}
		blk := kvstore.NewBlock(make([]byte, size), nil).Seal()
		if err := below.Put(t.Context(), keyOf(1), blk, kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
		leader, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		get := func(ctx context.Context, want error) {
			wg.Go(func() {
				b, err := r.Get(ctx, keyOf(1))
				if !errors.Is(err, want) {
					t.Errorf("%v, want %v", err, want)
				}
				if err == nil {
					b.Release()
				}
			})
			synctest.Wait()
		}
		get(leader, context.Canceled)
		for range 5 {
			get(t.Context(), nil)
		}
		get(leader, context.Canceled)
		if n := below.reads.Load(); n != 1 {
			t.Errorf("%d reads for 7 equal Gets", n)
		}
		cancel()
		synctest.Wait()
		if n := below.reads.Load(); n != 2 {
			t.Errorf("%d reads once the reader has gone away", n)
		}
		close(below.gate)
		wg.Wait()
		if n := below.reads.Load(); n != 2 {
			t.Errorf("%d reads in all", n)
		}
		if p := host.Stats().Pinned + below.Stats().Pinned; p != 0 {
			t.Errorf("%d bytes are still held", p)
		}
		if err := errors.Join(s.Close(), host.Close()); err != nil {
			t.Error(err)
		}
	})
}

// TestReplacedWhileRead: what was read before its key got new bytes is neither promoted over them nor given to who asks
// after that.
func TestReplacedWhileRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		below := &slow{Store: mem.New(mem.Options{Bytes: 1 << 20}), gate: make(chan struct{})}
		host := mem.New(mem.Options{Bytes: 1 << 20})
		s, err := New(zerolog.Nop(), Tier{Store: host}, Tier{Store: below, Deadline: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{Store: s}
		old := kvstore.NewBlock(make([]byte, size), nil).Seal()
		if err := below.Put(t.Context(), keyOf(1), old, kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if b, err := r.Get(t.Context(), keyOf(1)); err == nil {
				b.Release()
			}
		})
		synctest.Wait()
		if err := r.put(t, 1, 7, kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.lanes[0].clear(t.Context(), keyOf(1)); err != nil {
			t.Fatal(err)
		}
		if err := host.Delete(t.Context(), keyOf(1)); err != nil { // as if it had been evicted and dropped
			t.Fatal(err)
		}
		wg.Go(func() { // comes while the old bytes are being read
			if got, err := get(t, r, 1); !errors.Is(err, kvstore.ErrNotFound) {
				t.Errorf("who came after the change got %d, %v", got, err)
			}
		})
		synctest.Wait()
		close(below.gate)
		wg.Wait()
		if got, err := get(t, host, 1); !errors.Is(err, kvstore.ErrNotFound) {
			t.Errorf("older bytes were promoted: %d, %v", got, err)
		}
		if err := errors.Join(s.Close(), host.Close()); err != nil {
			t.Error(err)
		}
	})
}

func TestBackNeedsOverflow(t *testing.T) {
	t.Parallel()
	host := mem.New(mem.Options{Bytes: 1 << 20})
	if _, err := New(zerolog.Nop(), Tier{Store: faulty.New(host, none)}, Tier{Store: host}); err == nil {
		t.Error("a tier that nothing would ever reach was taken")
	}
	if _, err := New(zerolog.Nop()); err == nil {
		t.Error("a store of nothing was made")
	}
}
