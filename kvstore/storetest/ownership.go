package storetest

import (
	"testing"

	"github.com/penstock/penstock/kvstore"
)

// callersMemory: after Put the caller may forget its block; while it keeps it, nobody else frees it.
func callersMemory(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	blk := b.mem.value(key(1), 1, 100_000)
	for i := range 3 { // the same block under several keys, as a store of several ranks may have it
		if err := b.Store.Put(b.context(), part(1, i), blk, kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
	}
	b.settle()
	b.isValue(blk, key(1), 1, 100_000)
	blk.Release()
	for i := range 3 {
		got, err := b.Store.Get(b.context(), part(1, i))
		if err != nil {
			t.Fatal(err)
		}
		b.isValue(got, key(1), 1, 100_000)
		if err := b.Store.Delete(b.context(), part(1, i)); err != nil {
			t.Fatal(err)
		}
		b.isValue(got, key(1), 1, 100_000)
		got.Release()
	}
}

// readersMemory: what a reader holds stays as it is through replacing, deleting and eviction.
func readersMemory(t *testing.T, open Open) {
	const n, size = 8, 100_000
	b := begin(t, open, Options{Budget: 4 << 20})
	var held []*kvstore.Block
	for i := range n {
		b.mustPut(key(i), 1, size)
		blk, err := b.Store.Get(b.context(), key(i))
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, blk)
	}
	for i := range n / 2 {
		b.mustPut(key(2*i), 2, size)
		if err := b.Store.Delete(b.context(), key(2*i+1)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		_ = b.put(key(n+i), 1, size) // may be full
	}
	b.settle()
	for i, blk := range held {
		b.isValue(blk, key(i), 1, size)
		blk.Release()
	}
}
