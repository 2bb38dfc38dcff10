package disk

import (
	"hash/maphash"
	"unsafe"

	"github.com/penstock/penstock/kvstore"
)

// entry is what is known of one block in memory. It holds no pointer, so that a million of them cost the garbage collector
// nothing.
type entry struct {
	key     kvstore.Key
	flags   uint16
	segment uint32
	at      uint32 // in grains
	ordinal uint32
	size    uint32
	sum     uint32
	stored  uint32 // Unix seconds
	stay    uint32 // as in record
	depth   uint32
	part    slot // the next part of the same group, in a ring
	prev    slot // in the segment's list
	next    slot
	seq     uint64
}

const (
	entryPaged = 1 << iota
	entryKnown
	entryRead // since it was written where it is now
)

// offset is where the record begins.
func (e *entry) offset() int64 { return int64(e.at) * grain }

// slot is the place of an entry; 0 = none.
type slot uint32

const slabSize = 1 << 12

// index finds entries by key. It is not safe for concurrent use.
//
// Entries lie in slabs that never move. The table holds one slot for each group of parts, by open addressing with linear
// probing; the parts of a group are a ring.
type index struct {
	slabs []*[slabSize]entry
	used  slot // slots ever given out; slot 0 is not
	free  slot // a list through next
	count int

	table  []slot
	groups int
	seed   maphash.Seed
}

func newIndex() *index {
	return &index{used: 1, seed: maphash.MakeSeed(), table: make([]slot, 64)}
}

func (x *index) entry(s slot) *entry { return &x.slabs[s/slabSize][s%slabSize] }

func (x *index) hash(g kvstore.Group) int {
	var b [len(g.Space) + len(g.Name)]byte
	copy(b[:], g.Space[:])
	copy(b[len(g.Space):], g.Name[:])
	return int(maphash.Bytes(x.seed, b[:]) & uint64(len(x.table)-1))
}

// at returns where in the table the group is or would be.
func (x *index) at(g kvstore.Group) int {
	i := x.hash(g)
	for x.table[i] != 0 && x.entry(x.table[i]).key.Group() != g {
		i = (i + 1) & (len(x.table) - 1)
	}
	return i
}

// find returns the slot of a key, 0 where it is not there.
func (x *index) find(k kvstore.Key) slot {
	first := x.table[x.at(k.Group())]
	for s := first; s != 0; {
		e := x.entry(s)
		if e.key.Part == k.Part {
			return s
		}
		if s = e.part; s == first {
			break
		}
	}
	return 0
}

// group appends the slots of all parts of a group.
func (x *index) group(g kvstore.Group, to []slot) []slot {
	first := x.table[x.at(g)]
	for s := first; s != 0; {
		to = append(to, s)
		if s = x.entry(s).part; s == first {
			break
		}
	}
	return to
}

// insert adds an entry whose key is not there.
func (x *index) insert(e entry) slot {
	s := x.take()
	i := x.at(e.key.Group())
	if head := x.table[i]; head != 0 {
		e.part, x.entry(head).part = x.entry(head).part, s
	} else {
		e.part = s
		x.table[i] = s
		x.groups++
	}
	*x.entry(s) = e
	x.count++
	if x.groups*4 > len(x.table)*3 {
		x.grow()
	}
	return s
}

// remove forgets an entry.
func (x *index) remove(s slot) {
	e := x.entry(s)
	i := x.at(e.key.Group())
	if e.part == s {
		x.unlink(i)
	} else {
		before := e.part
		for x.entry(before).part != s {
			before = x.entry(before).part
		}
		x.entry(before).part = e.part
		x.table[i] = before
	}
	*e = entry{next: x.free}
	x.free = s
	x.count--
}

// unlink empties a place of the table and moves up what was pushed away from it.
func (x *index) unlink(i int) {
	mask := len(x.table) - 1
	x.groups--
	for j := (i + 1) & mask; x.table[j] != 0; j = (j + 1) & mask {
		home := x.hash(x.entry(x.table[j]).key.Group())
		if (j-home)&mask >= (j-i)&mask {
			x.table[i] = x.table[j]
			i = j
		}
	}
	x.table[i] = 0
}

func (x *index) take() slot {
	if s := x.free; s != 0 {
		x.free = x.entry(s).next
		return s
	}
	s := x.used
	x.used++
	if int(s/slabSize) == len(x.slabs) {
		x.slabs = append(x.slabs, new([slabSize]entry))
	}
	return s
}

func (x *index) grow() {
	old := x.table
	x.table = make([]slot, 2*len(old))
	for _, s := range old {
		if s != 0 {
			x.table[x.at(x.entry(s).key.Group())] = s
		}
	}
}

// memory is how many bytes the index takes.
func (x *index) memory() int64 {
	return int64(len(x.slabs))*int64(unsafe.Sizeof(entry{}))*slabSize + int64(len(x.table))*4
}
