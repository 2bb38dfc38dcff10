package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/penstock/penstock/kvstore"
)

var sizes = []int{0, 1, 15, 16, 511, 512, 4095, 4096, 4097, 65537, 1 << 20, 1<<20 + 1}

func putGet(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	for i, n := range sizes {
		b.mustPut(key(i), 1, n)
		b.mustGet(key(i), 1, n)
	}
	b.settle()
	for i, n := range sizes {
		b.mustGet(key(i), 1, n)
	}
}

func miss(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	b.mustMiss(key(1))
	if err := b.Store.Delete(b.context(), key(1)); err != nil {
		t.Errorf("delete of what is not there: %v", err)
	}
	if _, err := b.getMany(key(1), key(2)); err != nil {
		t.Errorf("get many of what is not there: %v", err)
	}
}

func wantMiss(t *testing.T, call string, err error) {
	t.Helper()
	if !errors.Is(err, kvstore.ErrNotFound) || errors.Is(err, kvstore.ErrCorrupt) || !kvstore.IsMiss(err) {
		t.Errorf("%s: %v, want a plain miss", call, err)
	}
}

// keysAreApart: keys that differ in one field are different blocks.
func keysAreApart(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	space, name := part(1, 1), part(1, 1)
	space.Space[0] ^= 1
	name.Name[31] ^= 1
	keys := []kvstore.Key{part(1, 1), part(1, 0), part(1, 257), space, name}
	for i, k := range keys {
		for _, other := range keys[i:] {
			b.mustMiss(other)
		}
		b.mustPut(k, 1, 100+i)
	}
	b.settle()
	for i, k := range keys {
		b.mustGet(k, 1, 100+i)
	}
	if err := b.Store.Delete(b.context(), keys[0]); err != nil {
		t.Fatal(err)
	}
	b.mustMiss(keys[0])
	for i, k := range keys[1:] {
		b.mustGet(k, 1, 101+i)
	}
}

func replace(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	for i, n := range []int{1000, 1000, 5, 70000, 0, 300} {
		b.mustPut(key(1), uint64(i), n)
		b.mustGet(key(1), uint64(i), n)
		if i%2 == 0 {
			b.settle()
		}
	}
	b.settle()
	b.mustGet(key(1), 5, 300)
}

func deleteForgets(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	for _, settle := range []func(){func() {}, b.settle} {
		b.mustPut(key(1), 1, 1000)
		b.mustPut(key(2), 1, 1000)
		settle()
		for range 2 {
			if err := b.Store.Delete(b.context(), key(1)); err != nil {
				t.Fatal(err)
			}
		}
		settle()
		b.mustMiss(key(1))
		b.mustGet(key(2), 1, 1000)
	}
	b.mustPut(key(1), 2, 10)
	b.mustGet(key(1), 2, 10)
}

func has(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	before := time.Now().Add(-time.Minute)
	b.mustPut(key(1), 1, 12345)
	want := b.mem.value(key(1), 1, 12345)
	defer want.Release()
	info, err := b.Store.Has(b.context(), key(1))
	if err != nil || info.Size != 12345 || info.Sum != want.Sum() {
		t.Errorf("has %+v, %v", info, err)
	}
	if at := info.StoredAt; !at.IsZero() && (at.Before(before) || at.After(time.Now().Add(time.Minute))) {
		t.Errorf("stored at %v", at)
	}
}

// hints: they never change what is returned, whatever they say.
func hints(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	odd := []kvstore.Hint{
		{},
		{Known: true},
		{Known: true, Parent: key(1).Name, Depth: 1},
		{Parent: key(9).Name, Depth: 1 << 31, Known: true},
		{Session: 1, Stay: time.Unix(1<<40, 0)},
		{Session: 1, Stay: time.Unix(-1<<40, 0)},
		{Recompute: -1, Session: 1<<64 - 1},
	}
	for n, h := range odd { // the third is its own parent
		for range 2 {
			blk := b.mem.value(key(n-1), 1, 5000)
			if err := b.Store.Put(b.context(), key(n-1), blk, h); err != nil {
				t.Errorf("hint %+v: %v", h, err)
			}
			blk.Release()
		}
	}
	b.settle()
	for n := range odd {
		b.mustGet(key(n-1), 1, 5000)
	}
}

func stats(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	b.mustPut(key(1), 1, 1000)
	b.mustPut(key(2), 1, 3000)
	b.mustPut(key(2), 2, 2000)
	b.settle()
	s := b.Store.Stats()
	if s.Blocks != kvstore.Unknown && (s.Blocks != 2 || s.Bytes < 3000) || s.Puts != 3 || s.Drops != 0 || s.Errors != 0 {
		t.Errorf("after three puts under two keys: %+v", s)
	}
	b.mustGet(key(1), 1, 1000)
	b.mustMiss(key(3))
	blk, err := b.Store.Get(b.context(), key(2))
	if err != nil {
		t.Fatal(err)
	}
	blk.Release()
	if err := b.Store.Delete(b.context(), key(1)); err != nil {
		t.Fatal(err)
	}
	b.settle()
	now := b.Store.Stats()
	if now.Hits != s.Hits+2 || now.Misses != s.Misses+1 || now.Deleted < s.Deleted+1 {
		t.Errorf("after two hits, one miss, one delete: %+v, was %+v", now, s)
	}
	if s.Blocks != kvstore.Unknown && now.Blocks != 1 {
		t.Errorf("%d blocks are left of 2 after a delete", now.Blocks)
	}
}

// endedContext: no call says anything of the block when its context has ended before it.
func endedContext(t *testing.T, open Open) {
	b := begin(t, open, Options{})
	b.mustPut(key(1), 1, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	blk := b.mem.value(key(2), 1, 1000)
	defer blk.Release()
	got, err := b.Store.Get(ctx, key(1))
	if err == nil {
		got.Release()
	}
	_, has := b.Store.Has(ctx, key(1))
	for call, err := range map[string]error{
		"get": err, "has": has, "put": b.Store.Put(ctx, key(2), blk, kvstore.Hint{}), "delete": b.Store.Delete(ctx, key(1)),
		"get many": b.Store.GetMany(ctx, []kvstore.Key{key(1)}, func(int, *kvstore.Block) error { return nil }),
	} {
		if !errors.Is(err, context.Canceled) || kvstore.IsMiss(err) {
			t.Errorf("%s: %v, want the context's error", call, err)
		}
	}
	b.mustGet(key(1), 1, 1000)
}
