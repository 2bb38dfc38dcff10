package storetest

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/kvstore"
)

// replaceIsAtomic: readers beside a writer get one whole version or another, never an older one than they have seen.
func replaceIsAtomic(t *testing.T, open Open) {
	const rounds = 150
	b := begin(t, open, Options{})
	b.mustPut(key(1), 0, sizeOf(0))
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for last := uint64(0); !stop.Load(); {
				blk, err := b.Store.Get(b.context(), key(1))
				if err != nil {
					t.Errorf("get between two puts: %v", err)
					return
				}
				v, ok := versionOf(blk.Bytes(), key(1))
				if !ok || blk.Len() != sizeOf(v) || v < last {
					t.Errorf("%d bytes, version %d (%t) after %d", blk.Len(), v, ok, last)
				}
				last = v
				blk.Release()
			}
		})
	}
	for v := range uint64(rounds) {
		if err := b.put(key(1), v, sizeOf(v)); err != nil {
			t.Errorf("put: %v", err)
		}
	}
	stop.Store(true)
	wg.Wait()
	b.mustGet(key(1), rounds-1, sizeOf(rounds-1))
}

func sizeOf(v uint64) int { return 20 + int(v*7919%30011) }

// concurrency: all calls at one time on few keys in little room; every block that is found is whole and the key's own.
func concurrency(t *testing.T, open Open) {
	const workers, calls, keys = 8, 250, 40
	b := begin(t, open, Options{Budget: 4 << 20})
	var version atomic.Uint64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for range calls {
				b.anyCall(rng, keys, &version)
			}
		})
	}
	wg.Wait()
	b.settle()
	if s := b.Store.Stats(); b.Bounded && s.Bytes > s.Budget {
		t.Errorf("%d bytes are held in a budget of %d", s.Bytes, s.Budget)
	}
}

func (b *bench) anyCall(rng *rand.Rand, keys int, version *atomic.Uint64) {
	k := part(rng.IntN(keys), rng.IntN(2))
	var err error
	switch rng.IntN(10) {
	case 0:
		err = b.Store.Delete(b.context(), k)
	case 1:
		_, err = b.Store.Has(b.context(), k)
	case 2:
		ks := []kvstore.Key{k, part(rng.IntN(keys), 0), part(rng.IntN(keys), 1)}
		err = b.Store.GetMany(b.context(), ks, func(i int, blk *kvstore.Block) error {
			b.isSome(blk, ks[i])
			return nil
		})
	case 3, 4, 5:
		if err = b.put(k, version.Add(1), 16+rng.IntN(200_000)); errors.Is(err, kvstore.ErrFull) {
			err = nil
		}
	default:
		var blk *kvstore.Block
		if blk, err = b.Store.Get(b.context(), k); err == nil {
			b.isSome(blk, k)
			blk.Release()
		}
	}
	if err != nil && !kvstore.IsMiss(err) {
		b.t.Errorf("%s: %v", k, err)
	}
}

// isSome fails unless the block is some version of the key's value.
func (b *bench) isSome(blk *kvstore.Block, k kvstore.Key) {
	if _, ok := versionOf(blk.Bytes(), k); !ok || blk.Sum() != kvstore.Checksum(blk.Bytes()) {
		b.t.Errorf("%s: %d bytes that are no version of it", k, blk.Len())
	}
}

// news: who follows the news knows in the end what the store has.
func news(t *testing.T, open Open) {
	const keys = 60
	var mu sync.Mutex
	held := map[kvstore.Key]map[kvstore.Tier]bool{}
	b := begin(t, open, Options{Budget: 4 << 20, Moves: func(m kvstore.Move) {
		mu.Lock()
		defer mu.Unlock()
		if held[m.Key] == nil {
			held[m.Key] = map[kvstore.Tier]bool{}
		}
		held[m.Key][m.Tier] = m.Held
	}})
	if b.Silent {
		t.Log("left out: the store brings no news of its own")
		return
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		k := key(rng.IntN(keys))
		if i%5 == 0 {
			if err := b.Store.Delete(b.context(), k); err != nil {
				t.Fatal(err)
			}
		} else if err := b.put(k, uint64(i), 16+rng.IntN(300_000)); err != nil && !errors.Is(err, kvstore.ErrFull) {
			t.Fatal(err)
		}
	}
	b.settle()
	found := 0
	for i := range keys {
		_, err := b.Store.Has(b.context(), key(i))
		known := false
		mu.Lock()
		for _, h := range held[key(i)] {
			known = known || h
		}
		mu.Unlock()
		if known != (err == nil) {
			t.Errorf("%s: known %t, has: %v", key(i), known, err)
		}
		if err == nil {
			found++
		}
	}
	if found == 0 {
		t.Error("nothing is left at all")
	}
}
