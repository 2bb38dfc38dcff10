package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// corruption: bytes that have changed are a miss that is counted, and forgotten.
func corruption(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	if b.Corrupt == nil {
		t.Log("left out: the subject has no Corrupt")
		return
	}
	for i := range 4 {
		b.mustPut(key(i), 1, 10_000)
	}
	b.settle()
	b.Corrupt(key(0))
	b.Corrupt(key(1))
	blk, err := b.Store.Get(b.context(), key(0))
	if err == nil {
		blk.Release()
	}
	if !errors.Is(err, kvstore.ErrCorrupt) || !errors.Is(err, kvstore.ErrNotFound) {
		t.Errorf("get of a changed block: %v", err)
	}
	got, err := b.getMany(key(0), key(1), key(2))
	if err != nil || len(got) != 1 || got[2] == nil {
		t.Errorf("get many of two changed blocks and a good one: %d blocks, %v", len(got), err)
	}
	for i, blk := range got {
		b.isValue(blk, key(i), 1, 10_000)
		blk.Release()
	}
	b.mustMiss(key(0))
	b.mustMiss(key(1))
	if s := b.Store.Stats(); s.Corrupt != 2 {
		t.Errorf("%d corrupt blocks are counted, not 2", s.Corrupt)
	}
	b.mustPut(key(0), 2, 500)
	b.mustGet(key(0), 2, 500)
	b.mustGet(key(3), 1, 10_000)
}

// hanging: a medium that hangs costs each call its deadline and no more, and is used again when it goes on.
func hanging(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	if b.Hang == nil {
		t.Log("left out: the subject has no Hang")
		return
	}
	b.mustPut(key(1), 1, 10_000)
	b.settle()
	goOn := b.Hang()
	for call, do := range map[string]func(context.Context) error{
		"get": func(ctx context.Context) error {
			blk, err := b.Store.Get(ctx, key(1))
			if err == nil {
				b.isValue(blk, key(1), 1, 10_000)
				blk.Release()
			}
			return err
		},
		"get many": func(ctx context.Context) error {
			return b.Store.GetMany(ctx, []kvstore.Key{key(1)}, func(int, *kvstore.Block) error { return nil })
		},
		"put": func(ctx context.Context) error {
			blk := b.mem.value(key(2), 1, 10_000)
			defer blk.Release()
			return b.Store.Put(ctx, key(2), blk, kvstore.Hint{})
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		begun := time.Now()
		err := do(ctx)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, kvstore.ErrUnavailable) {
			t.Errorf("%s while the medium hangs: %v", call, err)
		}
		if took := time.Since(begun); took > patience {
			t.Errorf("%s came back after %v", call, took)
		}
	}
	goOn()
	b.settle()
	b.eventually(func() bool {
		blk, err := b.Store.Get(b.context(), key(1))
		if err != nil {
			return false
		}
		blk.Release()
		return true
	})
	b.mustGet(key(1), 1, 10_000)
}

// eventually waits for a store that has just been found dead to be tried again.
func (b *bench) eventually(ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatal("the store does not recover")
		}
	}
}

// restart: what was put before an orderly end is there after it; what was deleted is not.
func restart(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	if b.Reopen == nil {
		t.Log("left out: the store forgets with its process")
		return
	}
	for i, n := range sizes {
		b.mustPut(key(i), 1, n)
	}
	b.mustPut(key(0), 2, 77)
	b.mustPut(key(100), 1, 5000)
	if err := b.Store.Delete(b.context(), key(100)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b.reopen()
		b.mustGet(key(0), 2, 77)
		for i, n := range sizes[1:] {
			b.mustGet(key(i+1), 1, n)
		}
		b.mustMiss(key(100))
	}
	b.mustPut(key(100), 3, 600)
	b.mustGet(key(100), 3, 600)
}
