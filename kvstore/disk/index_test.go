package disk

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/kvstore"
)

// TestIndexIsAMap: whatever is inserted and removed, the index finds what a plain map has, by key and by group.
func TestIndexIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, want := newIndex(), map[kvstore.Key]uint64{}
		for i := range rapid.IntRange(0, 300).Draw(t, "steps") {
			k := key(rapid.IntRange(0, 90).Draw(t, "key"), rapid.IntRange(0, 2).Draw(t, "part"))
			n := x.find(k)
			if seq, ok := want[k]; ok != (n != 0) || ok && (x.entry(n).seq != seq || x.entry(n).key != k) {
				t.Fatalf("%s: slot %d, want it %t", k, n, ok)
			}
			if n != 0 {
				x.remove(n)
				delete(want, k)
			} else {
				x.insert(entry{key: k, seq: uint64(i)})
				want[k] = uint64(i)
			}
		}
		groups := map[kvstore.Group]int{}
		for k := range want {
			groups[k.Group()]++
		}
		for g, parts := range groups {
			if got := x.group(g, nil); len(got) != parts {
				t.Fatalf("a group has %d parts, not %d", len(got), parts)
			}
		}
		if x.count != len(want) || x.groups != len(groups) {
			t.Fatalf("%d entries in %d groups, not %d in %d", x.count, x.groups, len(want), len(groups))
		}
	})
}

func TestIndexIsSmall(t *testing.T) {
	const n = 300_000
	x := newIndex()
	for i := range n {
		x.insert(entry{key: key(i, 0)})
	}
	if per := float64(x.memory()) / n; per > 200 {
		t.Errorf("%.0f bytes for each block, more than 200", per)
	}
	for i := range n {
		x.remove(x.find(key(i, 0)))
	}
	before := x.memory()
	for i := range n {
		x.insert(entry{key: key(n+i, 0)})
	}
	if x.memory() != before {
		t.Errorf("%d bytes after as many blocks were removed and added, were %d", x.memory(), before)
	}
}
