package storetest

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/kvstore"
)

// getMany returns the blocks, each with a reference of the caller's, by index.
func (b *bench) getMany(keys ...kvstore.Key) (map[int]*kvstore.Block, error) {
	got := map[int]*kvstore.Block{}
	var inside atomic.Int32
	err := b.Store.GetMany(b.context(), keys, func(i int, blk *kvstore.Block) error {
		if inside.Add(1) != 1 {
			b.t.Error("two calls of each at one time")
		}
		defer inside.Add(-1)
		if got[i] != nil {
			b.t.Errorf("key %d came twice", i)
			return nil
		}
		got[i] = blk.Retain()
		return nil
	})
	return got, err
}

func getMany(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	b.mustPut(key(1), 1, 1000)
	b.mustPut(key(2), 1, 0)
	b.mustPut(part(2, 3), 1, 70000)
	for range 2 {
		keys := []kvstore.Key{key(1), key(9), part(2, 3), key(2), key(1), part(9, 1)}
		got, err := b.getMany(keys...)
		if err != nil || len(got) != 4 {
			t.Errorf("%d blocks, %v; want 4", len(got), err)
		}
		for i, size := range map[int]int{0: 1000, 2: 70000, 3: 0, 4: 1000} {
			if got[i] == nil {
				t.Errorf("key %d is left out", i)
				continue
			}
			b.isValue(got[i], keys[i], 1, size)
			got[i].Release()
		}
		b.settle()
	}
	if got, err := b.getMany(); err != nil || len(got) != 0 {
		t.Errorf("no keys: %d blocks, %v", len(got), err)
	}
}

// getManyOfMore: any number of keys, in chains of small blocks, none of which is kept.
func getManyOfMore(t *testing.T, open Open) {
	const n = 1000
	b := begin(t, open, Options{})
	var keys []kvstore.Key
	for i := range n {
		keys = append(keys, key(i))
		if i%3 != 0 {
			b.mustPut(key(i), 1, 2000)
		}
	}
	b.settle()
	seen := 0
	err := b.Store.GetMany(b.context(), keys, func(i int, blk *kvstore.Block) error {
		seen++
		b.isValue(blk, keys[i], 1, 2000)
		return nil
	})
	if want := n - (n+2)/3; err != nil || seen != want {
		t.Errorf("%d blocks of %d, %v", seen, want, err)
	}
}

func getManyStops(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	var keys []kvstore.Key
	for i := range 50 {
		b.mustPut(key(i), 1, 1000)
		keys = append(keys, key(i))
	}
	b.settle()
	enough, calls := errors.New("enough"), 0
	err := b.Store.GetMany(b.context(), keys, func(int, *kvstore.Block) error {
		if calls++; calls == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}
}
