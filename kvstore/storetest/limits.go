package storetest

import (
	"errors"
	"testing"

	"github.com/penstock/penstock/kvstore"
)

// full: four times the budget is put. The budget is kept, old blocks make room or the new one is refused, and what is
// found is right.
func full(t *testing.T, open Open) {
	const budget, size = 4 << 20, 100_000
	b := begin(t, open, Options{Budget: budget})
	n := 4 * budget / size
	for i := range n {
		if err := b.put(key(i), 1, size); err != nil && !errors.Is(err, kvstore.ErrFull) {
			t.Fatalf("put %d: %v", i, err)
		}
	}
	b.settle()
	s := b.Store.Stats()
	if b.Bounded && (s.Bytes > budget || s.Budget != budget) {
		t.Errorf("%d bytes are held in a budget of %d, which was to be %d", s.Bytes, s.Budget, budget)
	}
	found := 0
	for i := range n {
		blk, err := b.Store.Get(b.context(), key(i))
		if err == nil {
			b.isValue(blk, key(i), 1, size)
			blk.Release()
			found++
		} else if !kvstore.IsMiss(err) {
			t.Fatal(err)
		}
	}
	if found < budget/size/2 {
		t.Errorf("%d blocks of %d bytes are left in a budget of %d", found, size, budget)
	}
}

// tooLarge: a block that can never fit is refused, and costs nobody else's place.
func tooLarge(t *testing.T, open Open) {
	b := begin(t, open, Options{Budget: 4 << 20})
	if !b.Bounded {
		t.Log("left out: the store has no bound")
		return
	}
	b.mustPut(key(1), 1, 1000)
	if err := b.put(key(2), 1, 5<<20); !errors.Is(err, kvstore.ErrFull) {
		t.Errorf("put of more than the budget: %v", err)
	}
	b.mustMiss(key(2))
	b.mustGet(key(1), 1, 1000)
}

// groupsGoTogether: of a name whose parts were all stored, all or none are left.
func groupsGoTogether(t *testing.T, open Open) {
	const parts, size, groups = 4, 50_000, 80
	b := begin(t, open, Options{Budget: 4 << 20})
	if !b.Groups {
		t.Log("left out: the store forgets parts one by one")
		return
	}
	whole := map[int]bool{}
	for i := range groups {
		whole[i] = true
		for p := range parts {
			if err := b.put(part(i, p), 1, size); err != nil {
				whole[i] = false
			}
		}
	}
	b.settle()
	kept := 0
	for i := range groups {
		n := 0
		for p := range parts {
			if _, err := b.Store.Has(b.context(), part(i, p)); err == nil {
				n++
			}
		}
		if whole[i] && n != 0 && n != parts {
			t.Errorf("group %d has %d parts of %d", i, n, parts)
		}
		kept += n
	}
	if kept == 0 || kept == groups*parts {
		t.Errorf("%d parts of %d are left: the test saw no eviction", kept, groups*parts)
	}
}
