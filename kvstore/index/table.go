package index

import "sync/atomic"

// The table leads from a block's name to its record: extendible hashing over segments of 4,096 slots. A slot is one word, half
// of the name's hash and the record's position, eight slots to a cache line. A segment that is full is split in two, or
// cleaned when it is full of the dead: so one write copies at most 32 KiB, whatever the size of the whole.
//
// Readers and the one writer meet in a segment without a lock, since a slot changes in one step, and whoever follows it
// compares the name in the record. A segment that was copied is left as it is for those who still read it, and the garbage
// collector takes it away.
const (
	slotBits     = 12
	segmentSlots = 1 << slotBits
	segmentBytes = segmentSlots * 8
	lineSlots    = 8
	fullAt       = segmentSlots * 23 / 32 // slots not empty, dead or alive, at which a segment is copied
	splitAt      = segmentSlots * 9 / 16  // living ones from which copying means to split
	manyDead     = segmentSlots / 16      // dead ones from which a segment is cleaned
	nearlyFull   = segmentSlots * 15 / 16 // where a segment that can't be copied takes no more
	maxDepth     = 20                     // 4 billion blocks
)

// slot holds the upper half of the hash above, the position below. The dead have position 0; 0 is an empty one.
type slot uint64

const dead slot = 1 << 32

func newSlot(h uint64, p position) slot { return slot(h&^(1<<32-1) | uint64(p)) }

func (s slot) position() position { return position(s) }

// of reports whether the slot may be that of a hash.
func (s slot) of(h uint64) bool { return (uint64(s)^h)>>32 == 0 && s.position() != 0 }

type segment [segmentSlots]uint64

// keeping is what the writer keeps of a segment.
type keeping struct {
	depth uint8 // how many leading bits of the hash all its names share
	used  int32 // slots that are not empty
	live  int32 // of them, with a position
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

// home is the slot where the search for a hash begins: the first of a cache line, which is nearly always the only one. Its
// bits come after those that choose the segment, and like them are in the half of the hash that slots hold: a segment is
// copied without a look at the records.
func home(h uint64) uint32 {
	return uint32(h>>(64-maxDepth-slotBits)) & (segmentSlots - lineSlots)
}

// name replaces the one name that marks a free record.
func name(id uint64) uint64 {
	if id == 0 {
		return 0x9E3779B97F4A7C15
	}
	return id
}

// at is the place of a hash in the directory; a shift by 64, at depth 0, gives 0.
func (d *directory) at(h uint64) uint64 { return h >> (64 - d.depth) }

// look goes on to the next slot at or after i that may be a hash's, and returns it; at the end of the search, the empty slot.
func (s *segment) look(h uint64, i uint32) (slot, uint32) {
	for ; ; i++ {
		i &= segmentSlots - 1
		if w := slot(atomic.LoadUint64(&s[i])); w == 0 || w.of(h) {
			return w, i
		}
	}
}

// find returns the position of a name, 0 if there is none.
func (x *Index) find(s *segment, id, h uint64) (position, uint32) {
	for i := home(h); ; i++ {
		w, at := s.look(h, i)
		if w == 0 || x.records.is(w.position(), id) {
			return w.position(), at
		}
		i = at
	}
}

// insert puts a slot of a name that is not there into the first slot that is free.
func (s *segment) insert(k *keeping, w slot) {
	i := home(uint64(w))
	for slot(s[i]).position() != 0 {
		i = (i + 1) & (segmentSlots - 1)
	}
	if s[i] == 0 {
		k.used++
	}
	k.live++
	atomic.StoreUint64(&s[i], uint64(w))
}

// remove makes a slot dead, or empty with all the dead before it if no search goes on beyond it.
func (s *segment) remove(k *keeping, i uint32) {
	k.live--
	if s[(i+1)&(segmentSlots-1)] != 0 {
		atomic.StoreUint64(&s[i], uint64(dead))
		return
	}
	atomic.StoreUint64(&s[i], 0)
	k.used--
	for i = (i - 1) & (segmentSlots - 1); slot(s[i]) == dead; i = (i - 1) & (segmentSlots - 1) {
		atomic.StoreUint64(&s[i], 0)
		k.used--
	}
}

// copyAt replaces the segment that h leads to by a clean copy, or by two. False: its names can't be told apart any further.
func (t *table) copyAt(h uint64, split bool) bool {
	d := t.dir.Load()
	at := d.at(h)
	k, old := d.keeping[at], d.segments[at].Load()
	if !split {
		clean, kept := new(segment), &keeping{depth: k.depth}
		old.each(func(w slot) { clean.insert(kept, w) })
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
	bit := slot(1) << (63 - k.depth)
	old.each(func(w slot) {
		if w&bit == 0 {
			low.insert(lowKept, w)
		} else {
			high.insert(highKept, w)
		}
	})
	d.replace(at, low, lowKept, high, highKept)
	t.count++
	return true
}

// each calls f for every slot with a position.
func (s *segment) each(f func(slot)) {
	for _, w := range s {
		if slot(w).position() != 0 {
			f(slot(w))
		}
	}
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
