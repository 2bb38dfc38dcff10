package evict

import (
	"cmp"
	"encoding/binary"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func id(n int) (x ID) {
	binary.LittleEndian.PutUint32(x[:], uint32(n)*2654435761)
	binary.LittleEndian.PutUint32(x[12:], uint32(n))
	return x
}

func chained(tag, parent, depth int) Entry {
	return Entry{Tag: uint64(tag), Weight: 1, Parent: id(parent), Depth: uint32(depth), Chained: true}
}

func victims(o *Order) (out []uint64) {
	for {
		gone, ok := o.Victim(nil)
		if !ok {
			return out
		}
		out = append(out, gone.Tag)
	}
}

// TestLeavesGoFirst: chain 1-2-3 and its branch 1-4, and the single blocks 8 and 9.
func TestLeavesGoFirst(t *testing.T) {
	for _, c := range []struct {
		policy Policy
		use    []int // touched afterwards, at times 10, 11, ...
		want   []uint64
	}{
		{LRU, nil, []uint64{3, 4, 8, 9, 2, 1}}, // 2 and 1 are as young as what was used with them
		{LRU, []int{1, 2, 3}, []uint64{4, 8, 9, 3, 2, 1}},
		{LRU, []int{8, 9}, []uint64{3, 4, 2, 1, 8, 9}},
		{AgedLFU, []int{8, 1, 4}, []uint64{3, 2, 9, 8, 4, 1}},
		{ARC, []int{8}, []uint64{3, 2, 4, 1, 9, 8}},
	} {
		o := New(c.policy, 6)
		nodes := map[int]Node{}
		add := func(n int, e Entry, at int64) { nodes[n] = o.Insert(id(n), e, Use{Now: at}) }
		add(1, chained(1, 0, 0), 5)
		add(2, chained(2, 1, 1), 5)
		add(3, chained(3, 2, 2), 1)
		add(4, chained(4, 1, 1), 2)
		add(8, Entry{Tag: 8, Weight: 1}, 3)
		add(9, Entry{Tag: 9, Weight: 1}, 4)
		for i, n := range c.use {
			o.Touch(nodes[n], Use{Now: int64(10 + i)})
		}
		if got := victims(o); !slices.Equal(got, c.want) {
			t.Errorf("%v after %v: %v, want %v", c.policy, c.use, got, c.want)
		}
	}
}

// TestStay: who is expected again outlives who is not, until the expectation is over or withdrawn.
func TestStay(t *testing.T) {
	o := New(LRU, 0)
	stays := o.Insert(id(1), Entry{Tag: 1, Weight: 1}, Use{Now: 1, Stay: 100})
	o.Insert(id(2), Entry{Tag: 2, Weight: 1}, Use{Now: 50})
	o.Insert(id(3), Entry{Tag: 3, Weight: 1}, Use{Now: 150})
	o.Touch(stays, Use{Now: 60}) // says nothing of the expectation
	if got := victims(o); !slices.Equal(got, []uint64{2, 1, 3}) {
		t.Errorf("%v", got)
	}
	ends := o.Insert(id(1), Entry{Tag: 1, Weight: 1}, Use{Now: 1, Stay: 100})
	o.Insert(id(2), Entry{Tag: 2, Weight: 1}, Use{Now: 50})
	o.Touch(ends, Use{Now: 20, Stay: 20})
	if got := victims(o); !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("after the end of its conversation: %v", got)
	}
}

func TestSpared(t *testing.T) {
	o := New(LRU, 0)
	for n := range 5 {
		o.Insert(id(n), Entry{Tag: uint64(n), Weight: 10}, Use{Now: int64(n)})
	}
	held := func(tag uint64) bool { return tag < 2 }
	for _, want := range []uint64{2, 3, 4} {
		if gone, ok := o.Victim(held); !ok || gone.Tag != want {
			t.Errorf("%+v %t, want %d", gone, ok, want)
		}
	}
	if gone, ok := o.Victim(held); ok {
		t.Errorf("%+v went although it was spared", gone)
	}
	if got := victims(o); !slices.Equal(got, []uint64{0, 1}) || o.Weight() != 0 {
		t.Errorf("%v are left, weight %d", got, o.Weight())
	}
}

// world is an order beside what a plain map knows of it.
type world struct {
	o     *Order
	nodes map[int]Node
	entry map[int]Entry
	now   int64
}

// TestNothingResidentIsUseless plays random stores, uses, deletes and evictions in chains that may lie about themselves.
func TestNothingResidentIsUseless(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world{o: New(rapid.SampledFrom(Policies()).Draw(t, "policy"), 30), nodes: map[int]Node{}, entry: map[int]Entry{}}
		lies := rapid.Bool().Draw(t, "lies")
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			w.now++
			w.step(t, lies)
			w.check(t, lies)
		}
		for len(w.nodes) > 0 {
			w.evict(t)
			w.check(t, lies)
		}
		if _, ok := w.o.Victim(nil); ok || w.o.Len() != 0 || w.o.Weight() != 0 {
			t.Fatalf("%d blocks of weight %d are left", w.o.Len(), w.o.Weight())
		}
	})
}

func (w *world) step(t *rapid.T, lies bool) {
	n := rapid.IntRange(1, 40).Draw(t, "block")
	u := Use{Now: w.now, Stay: rapid.SampledFrom([]int64{0, 0, 0, 1, w.now + 20}).Draw(t, "stay")}
	node, there := w.nodes[n]
	switch rapid.IntRange(0, 5).Draw(t, "op") {
	case 0:
		if there {
			w.o.Touch(node, u)
		}
	case 1:
		if there && lies {
			w.o.Remove(node)
			delete(w.nodes, n)
		}
	case 2:
		w.evict(t)
	default:
		e := Entry{Tag: uint64(n), Weight: 1, Parent: id(n / 2), Depth: depthOf(n), Chained: n > 1}
		if lies {
			e.Parent, e.Depth = id(rapid.IntRange(0, 45).Draw(t, "parent")), uint32(rapid.IntRange(0, 4).Draw(t, "depth"))
		}
		if _, parent := w.nodes[n/2]; !lies && n > 1 && !parent {
			return
		}
		if there {
			e.Weight = 0
		}
		if w.nodes[n] = w.o.Insert(id(n), e, u); !there { // a second store keeps the chain of the first
			w.entry[n] = e
		}
	}
}

func depthOf(n int) (d uint32) {
	for ; n > 1; n /= 2 {
		d++
	}
	return d
}

func (w *world) evict(t *rapid.T) {
	gone, ok := w.o.Victim(nil)
	if ok == (len(w.nodes) == 0) {
		t.Fatalf("a victim: %t, of %d blocks", ok, len(w.nodes))
	}
	delete(w.nodes, int(gone.Tag))
	if e := w.entry[int(gone.Tag)]; gone.HasParent && id(int(gone.Parent)) != e.Parent {
		t.Fatalf("%+v went, whose parent was to be %x", gone, e.Parent)
	}
}

func (w *world) check(t *rapid.T, lies bool) {
	if w.o.Len() != len(w.nodes) || w.o.Weight() != int64(len(w.nodes)) {
		t.Fatalf("%d blocks of weight %d, not %d", w.o.Len(), w.o.Weight(), len(w.nodes))
	}
	seen := map[int]bool{}
	w.o.Ranked(func(is Item) bool {
		n := int(is.Tag)
		if seen[n] {
			t.Fatalf("%d is ranked twice", n)
		}
		if seen[n] = true; !lies && n > 1 && !seen[n/2] {
			t.Fatalf("%d is ranked before its parent or without it: it is of no use", n)
		}
		return true
	})
	for n, node := range w.nodes {
		if got, ok := w.o.Find(id(n)); !ok || got != node || !seen[n] {
			t.Fatalf("%d is lost", n)
		}
	}
	for list := range w.o.heaps {
		w.checkHeap(t, &w.o.heaps[list])
	}
}

func (w *world) checkHeap(t *rapid.T, h *heap) {
	for pos, i := range h.items {
		if n := h.nodes.at(i); int(n.pos) != pos || n.resident() && n.kids > 0 {
			t.Fatalf("node %d, %d children, is at %d, not %d", i, n.kids, pos, n.pos)
		}
		if pos > 0 && h.less(pos, (pos-1)/2) {
			t.Fatalf("rank %d is above its parent's", pos)
		}
	}
}

// TestLRUIsLRU compares with the plainest tree LRU.
func TestLRUIsLRU(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o, last, now := New(LRU, 0), map[int]int64{}, int64(0)
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			n := rapid.IntRange(1, 31).Draw(t, "block")
			for ; n >= 1; n /= 2 { // the whole chain is used, leaf first
				now++
				o.Insert(id(n), Entry{Tag: uint64(n), Depth: depthOf(n), Parent: id(n / 2), Chained: true}, Use{Now: now})
				last[n] = now
			}
			for len(last) > 12 {
				got, _ := o.Victim(nil)
				if want := oldestLeaf(last); int(got.Tag) != want {
					t.Fatalf("%d went, not %d, of %v", got.Tag, want, last)
				}
				delete(last, int(got.Tag))
			}
		}
	})
}

func oldestLeaf(last map[int]int64) int {
	var leaves []int
	for n := range last {
		_, left := last[2*n]
		_, right := last[2*n+1]
		if !left && !right {
			leaves = append(leaves, n)
		}
	}
	return slices.MinFunc(leaves, func(a, b int) int { return cmp.Compare(last[a], last[b]) })
}

// TestTablesHoldNoPointers: what there is one of for each block is nothing to the garbage collector, and small.
func TestTablesHoldNoPointers(t *testing.T) {
	for i := range reflect.TypeFor[node]().NumField() {
		switch f := reflect.TypeFor[node]().Field(i); f.Type.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map, reflect.String, reflect.Interface, reflect.Func:
			t.Errorf("node.%s is a %s", f.Name, f.Type)
		}
	}
	const n = 500_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	o := New(LRU, 0)
	for i := range n {
		o.Insert(id(i), Entry{Tag: uint64(i), Weight: 1}, Use{Now: int64(i)})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := float64(after.HeapAlloc-before.HeapAlloc) / n
	if per > 90 {
		t.Errorf("%.0f bytes for each block", per)
	}
	t.Logf("%.0f bytes for each block, %d in all", per, o.Len())
}

func TestParsePolicy(t *testing.T) {
	for _, p := range Policies() {
		if got, err := ParsePolicy(p.String()); err != nil || got != p {
			t.Errorf("%v: %v, %v", p, got, err)
		}
	}
	if _, err := ParsePolicy("LRU2"); err == nil {
		t.Error("an unknown policy was taken")
	}
}
