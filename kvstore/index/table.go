package index

import (
	"sync/atomic"
)

// The table maps a block's name to its value: extendible hashing over segments of 4,096 slots. A slot is 16 bytes, name and
// value side by side, four to a cache line, with nothing for the garbage collector to look at; a lookup that finds its slot
// at the first place touches one line. A segment that is full is split in two, or cleaned when it is full of the dead: so
// one write copies at most 64 KiB, whatever the size of the whole.
//
// Readers and the one writer meet in a segment without a lock: a slot's name is written once in the life of a segment (after
// its value), and only its value changes. A block that nobody holds any more keeps its slot, with no holders, until the
// segment is copied; names are never replaced in place, so what a reader finds beside a name belongs to it. A segment that was
// copied is left as it is for those who still read it, and the garbage collector takes it away.
const (
	slotBits     = 12
	segmentSlots = 1 << slotBits
	segmentBytes = segmentSlots * 16
	fullAt       = segmentSlots * 13 / 16 // slots with a name, dead or alive, at which a segment is copied
	splitAt      = segmentSlots * 9 / 16  // living ones from which copying means to split
	maxDepth     = 20                     // 4 billion blocks
)

// segment holds slots: name, value, name, value, … An empty slot has the name 0.
type segment [2 * segmentSlots]uint64

// keeping is what the writer keeps of a segment.
type keeping struct {
	depth uint8 // how many leading bits of the hash all its names share
	used  int32 // slots with a name
	live  int32 // of them, with a holder
}

// directory leads from the leading bits of a hash to a segment; one of less depth than the directory stands in several places.
type directory struct {
	depth    uint8
	segments []atomic.Pointer[segment]
	keeping  []*keeping // writer only
}

type table struct {
	dir   atomic.Pointer[directory]
	count int // segments
	live  int // blocks with a holder
}

func (t *table) init() {
	d := &directory{segments: make([]atomic.Pointer[segment], 1), keeping: []*keeping{{}}}
	d.segments[0].Store(new(segment))
	t.count = 1
	t.dir.Store(d)
}

func (t *table) bytes() int { return t.count*segmentBytes + len(t.dir.Load().segments)*16 }

// hash spreads a name. Names are hashes already, but not of ours to rely on: callers may number blocks.
func hash(id uint64) uint64 {
	id ^= id >> 32
	return id * 0x9E3779B97F4A7C15
}

// place is the slot where the search for a hash begins; its bits are none of those that choose the segment.
func place(h uint64) uint32 { return uint32(h>>(64-maxDepth-slotBits)) & (segmentSlots - 1) }

// name replaces the one name that marks an empty slot.
func name(id uint64) uint64 {
	if id == 0 {
		return 0x9E3779B97F4A7C15
	}
	return id
}

func (d *directory) at(h uint64) uint64 { return h >> (64 - d.depth) } // depth 0: a shift by 64 gives 0

// find returns the slot of a name, or the empty slot where it would go. There always is one: segments are never full.
func (s *segment) find(id uint64, at uint32) (slot uint32, found bool) {
	for ; ; at++ {
		at &= segmentSlots - 1
		switch atomic.LoadUint64(&s[2*at]) {
		case id:
			return at, true
		case 0:
			return at, false
		}
	}
}

// value of a name's slot.
func (s *segment) value(slot uint32) value {
	return value(atomic.LoadUint64(&s[2*(slot&(segmentSlots-1))+1]))
}

func (s *segment) set(slot uint32, v value) {
	atomic.StoreUint64(&s[2*(slot&(segmentSlots-1))+1], uint64(v))
}

// put gives an empty slot its value, then its name.
func (s *segment) put(slot uint32, id uint64, v value) {
	s.set(slot, v)
	atomic.StoreUint64(&s[2*(slot&(segmentSlots-1))], id)
}

// copyAt replaces the segment that h leads to by a clean copy, or by two, and gives the directory to go on with. False: its
// names can't be told apart by their leading bits.
func (t *table) copyAt(h uint64, split bool) bool {
	d := t.dir.Load()
	at := d.at(h)
	k, old := d.keeping[at], d.segments[at].Load()
	if !split {
		clean, kept := new(segment), &keeping{depth: k.depth}
		old.each(func(id uint64, v value) { kept.add(clean, id, v) })
		d.replace(at, clean, kept, clean, kept)
		return true
	}
	if k.depth == maxDepth {
		return false
	}
	if k.depth == d.depth {
		d = d.double()
		at = d.at(h)
		t.dir.Store(d)
	}
	low, high := new(segment), new(segment)
	lowKept, highKept := &keeping{depth: k.depth + 1}, &keeping{depth: k.depth + 1}
	bit := uint64(1) << (63 - k.depth)
	old.each(func(id uint64, v value) {
		if hash(id)&bit == 0 {
			lowKept.add(low, id, v)
		} else {
			highKept.add(high, id, v)
		}
	})
	d.replace(at, low, lowKept, high, highKept)
	t.count++
	return true
}

// each calls f for every name with a holder.
func (s *segment) each(f func(id uint64, v value)) {
	for i := 0; i < len(s); i += 2 {
		if s[i] != 0 && s[i+1] != 0 {
			f(s[i], value(s[i+1]))
		}
	}
}

// add fills a segment that nobody else sees yet.
func (k *keeping) add(s *segment, id uint64, v value) {
	slot, _ := s.find(id, place(hash(id)))
	s[2*slot], s[2*slot+1] = id, uint64(v)
	k.used++
	k.live++
}

// double returns a directory of one more bit.
func (d *directory) double() *directory {
	n := &directory{
		depth:    d.depth + 1,
		segments: make([]atomic.Pointer[segment], 2*len(d.segments)), keeping: make([]*keeping, 2*len(d.segments)),
	}
	for i := range n.segments {
		n.segments[i].Store(d.segments[i/2].Load())
		n.keeping[i] = d.keeping[i/2]
	}
	return n
}

// replace puts two halves in all places of the segment at i; a clean copy is both halves.
func (d *directory) replace(i uint64, low *segment, lowKept *keeping, high *segment, highKept *keeping) {
	span := uint64(1) << (d.depth - d.keeping[i].depth)
	first := i &^ (span - 1)
	for j := range span {
		s, k := low, lowKept
		if j >= span/2 {
			s, k = high, highKept
		}
		d.keeping[first+j] = k
		d.segments[first+j].Store(s)
	}
}
