package index

import (
	"math/bits"
	"sync/atomic"
)

// A block is a record of two words, its name and its value. The blocks of one event are put beside each other in the order of
// their chain, so a prompt is mostly read as one run of memory, which processors are quickest at: the table is asked only
// where the run is broken (see Reader.Match).
//
// Records lie in chunks of 64 KiB without pointers, and are handed out by extents of 64. A record that nobody holds any more
// loses its name at once, so that no reader takes it for another, and is used again when no reader can still look at it.
// Extents that are free as a whole come first, so that new chains lie in one piece; those that are free by half are filled
// up only when a quarter of all records is free, and any hole only at the bound.
const (
	chunkRecords   = 4096
	chunkBytes     = chunkRecords * 16
	extentRecords  = 64
	chunkExtents   = chunkRecords / extentRecords
	halfFree       = extentRecords / 2
	wastefulShare  = 4 // of all records, one in so many may be free before holes are filled
	extentOverhead = 24
)

type chunk [2 * chunkRecords]uint64

// position of a record; 0 is none's.
type position uint32

// extent is what the writer keeps of 64 records.
type extent struct {
	free  uint64 // a bit for each free record
	whole bool   // stands in records.whole
	holed bool   // stands in records.holed
}

type records struct {
	dir     atomic.Pointer[[]*chunk]
	extents []extent
	whole   []uint32 // free as a whole, and some that were
	holed   []uint32 // half free, and some that were
	open    uint32   // the extent that is being filled
	rest    uint64   // its free records that have not been passed yet
	hand    uint32   // where the search for any hole goes on
	free    int      // free records
	live    int
}

func (r *records) init() {
	r.dir.Store(&[]*chunk{})
	r.grow()
	r.extents[0].free &^= 1 // record 0 is none's
	r.free--
	r.rest = r.extents[0].free
}

// grow adds a chunk. Its extents are queued so that the first comes first.
func (r *records) grow() {
	dir := append(*r.dir.Load(), new(chunk)) // readers know the shorter one, and only what lies in it
	r.dir.Store(&dir)
	first := uint32(len(r.extents))
	for i := range uint32(chunkExtents) {
		r.extents = append(r.extents, extent{free: ^uint64(0), whole: true})
		r.whole = append(r.whole, first+chunkExtents-1-i)
	}
	r.free += chunkRecords
}

func (r *records) bytes() int { return len(*r.dir.Load())*chunkBytes + len(r.extents)*extentOverhead }

// at gives the two words of a record.
func (r *records) at(p position) (name, value *uint64) {
	c := (*r.dir.Load())[p/chunkRecords]
	i := 2 * (p % chunkRecords)
	return &c[i], &c[i+1]
}

func (r *records) value(p position) value {
	_, v := r.at(p)
	return value(atomic.LoadUint64(v))
}

func (r *records) set(p position, v value) {
	_, w := r.at(p)
	atomic.StoreUint64(w, uint64(v))
}

func (r *records) is(p position, id uint64) bool {
	n, _ := r.at(p)
	return atomic.LoadUint64(n) == id
}

// take hands out the record after the last one if it is free, else a better or worse one. False: there is none without grow.
func (r *records) take(anyHole bool) (position, bool) {
	if r.rest == 0 && !r.next(anyHole) {
		return 0, false
	}
	bit := bits.TrailingZeros64(r.rest)
	r.rest &= r.rest - 1
	r.extents[r.open].free &^= 1 << bit
	r.free--
	r.live++
	return position(r.open*extentRecords) + position(bit), true
}

// next opens another extent.
func (r *records) next(anyHole bool) bool {
	if after := r.open + 1; after < uint32(len(r.extents)) && r.extents[after].free == ^uint64(0) {
		return r.use(after)
	}
	for n := len(r.whole); n > 0; n = len(r.whole) {
		e := r.whole[n-1]
		r.whole = r.whole[:n-1]
		r.extents[e].whole = false
		if r.extents[e].free == ^uint64(0) {
			return r.use(e)
		}
	}
	if !anyHole && r.free*wastefulShare < len(r.extents)*extentRecords {
		return false
	}
	for n := len(r.holed); n > 0; n = len(r.holed) {
		e := r.holed[n-1]
		r.holed = r.holed[:n-1]
		r.extents[e].holed = false
		if bits.OnesCount64(r.extents[e].free) >= halfFree {
			return r.use(e)
		}
	}
	for range r.extents {
		if !anyHole || r.free == 0 {
			return false
		}
		r.hand = (r.hand + 1) % uint32(len(r.extents))
		if r.extents[r.hand].free != 0 {
			return r.use(r.hand)
		}
	}
	return false
}

func (r *records) use(e uint32) bool {
	left := r.open
	r.open, r.rest = e, r.extents[e].free
	r.queue(left) // what came free while it was open
	return true
}

// queue puts an extent where next finds it, if there is enough in it.
func (r *records) queue(i uint32) {
	e := &r.extents[i]
	switch {
	case e.free == ^uint64(0) && !e.whole:
		e.whole = true
		r.whole = append(r.whole, i)
	case i != r.open && !e.holed && bits.OnesCount64(e.free) >= halfFree:
		e.holed = true
		r.holed = append(r.holed, i)
	}
}

// put fills a record that readers may already stumble over: the name comes last.
func (r *records) put(p position, id uint64, v value) {
	n, w := r.at(p)
	atomic.StoreUint64(w, uint64(v))
	atomic.StoreUint64(n, id)
}

// forget takes the name of a record away; who looked at it before still finds the value of nobody.
func (r *records) forget(p position) {
	n, w := r.at(p)
	atomic.StoreUint64(w, 0)
	atomic.StoreUint64(n, 0)
	r.live--
}

// giveBack makes a forgotten record free.
func (r *records) giveBack(p position) {
	i := uint32(p) / extentRecords
	r.extents[i].free |= 1 << (p % extentRecords)
	r.free++
	r.queue(i)
}
