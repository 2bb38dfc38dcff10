package mem

import (
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Blocks of like size share a class: a row of slots of one size. Sizes are whole pages, in steps of a page up to 64 pages
// and of 1/32 above, so that a slot is 3 % larger than its block at most, and exactly its size where the number of pages
// has an odd factor below 64, as KV blocks have.
const (
	pageSize   = 4096
	finePages  = 64
	stepsShift = 5
	classes    = finePages + (32-6)<<stepsShift
	hugePage   = 2 << 20
	maxBlock   = 1<<32 - 1
)

// classOf is the class of blocks of n bytes, and the size of its slots.
func classOf(n int) (class int, size int64) {
	pages := max(1, (uint64(n)+pageSize-1)/pageSize)
	if pages <= finePages {
		return int(pages - 1), int64(pages) * pageSize
	}
	octave := bits.Len64(pages-1) - 1 // 2^octave <= pages-1
	shift := octave - stepsShift
	steps := (pages-1)>>shift + 1 // in (32, 64]
	return finePages + (octave-6)<<stepsShift + int(steps) - 33, int64(steps<<shift) * pageSize
}

// slotID names a slot: class and index. It is what Block.Slot holds.
type slotID uint64

func newSlotID(class int, index uint32) slotID { return slotID(class)<<32 | slotID(index) }

func (id slotID) class() int    { return int(id >> 32) }
func (id slotID) index() uint32 { return uint32(id) }

// row is a class: its regions of address space, and its slots that hold nothing. A slot is committed once its memory has
// been written; the kernel gives memory to committed slots only, and takes it back when a slot is cleared for another
// class. So room moves between classes page by page, and there is nothing that could fragment.
//
// Reading is a tenth faster in huge pages than in small ones. A row has them while all its slots are committed: where
// one was cleared, the kernel must not fill the gap again behind our back. At the end of a row a huge page may hold memory
// that no slot has taken yet; the arena keeps that much of its budget back for each row that has them.
type row struct {
	size    int64
	per     uint32 // slots in a region
	huge    bool
	shared  bool
	regions atomic.Pointer[[]*region]

	// Under the arena's lock:
	free    []uint32 // committed
	cleared []uint32 // not committed
	next    uint32   // the first that was never used
}

// region is a mapping. Its slots' counts of references lie beside it, outside of what engines' bytes can reach.
type region struct {
	raw   []byte // as mapped
	data  []byte // aligned
	state []atomic.Uint64

	shared *shared // nil: nobody else can see it

	cleared int // slots, under the arena's lock
}

const minRegion = 64 << 20

// newRow makes a class for an arena of so many bytes. Regions grow with the arena, so that their number stays small.
func newRow(size, budget int64, huge, shared bool) *row {
	n := max(min(minRegion, budget), budget/64) / size
	r := &row{size: size, per: uint32(max(1, n)), huge: huge, shared: shared}
	r.regions.Store(&[]*region{})
	return r
}

// grow adds a region. The caller holds the arena's lock.
func (r *row) grow() error {
	length := int64(r.per) * r.size
	raw, err := unix.Mmap(-1, 0, int(length+hugePage), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("map %d MiB of memory: %w", length>>20, err)
	}
	g := &region{raw: raw, data: align(raw, length), state: make([]atomic.Uint64, r.per)}
	if r.shared {
		if g.shared, err = mapShared(g.data, length); err != nil {
			return errors.Join(err, unix.Munmap(raw))
		}
	}
	_ = unix.Madvise(g.data, unix.MADV_DONTDUMP) // users' data is not for core files
	g.advise(r.huge)
	all := append(append([]*region{}, *r.regions.Load()...), g)
	r.regions.Store(&all)
	return nil
}

func align(raw []byte, length int64) []byte {
	skip := -address(raw) & (hugePage - 1)
	return raw[skip : int64(skip)+length]
}

// advise says whether the region may have huge pages. It is advice: a kernel that does not take it costs speed only.
func (g *region) advise(huge bool) {
	if huge {
		_ = unix.Madvise(g.data, unix.MADV_HUGEPAGE)
	} else {
		_ = unix.Madvise(g.data, unix.MADV_NOHUGEPAGE)
	}
}

// slots is how many the row's regions have.
func (r *row) slots() uint32 { return uint32(len(*r.regions.Load())) * r.per }

func (r *row) bytes(index uint32) []byte {
	g := (*r.regions.Load())[index/r.per]
	at := int64(index%r.per) * r.size
	return g.data[at : at+r.size : at+r.size]
}

func (r *row) state(index uint32) *atomic.Uint64 {
	return &(*r.regions.Load())[index/r.per].state[index%r.per]
}

// clear gives a slot's memory back to the kernel.
func (r *row) clear(index uint32) error {
	advice := unix.MADV_DONTNEED
	if r.shared {
		advice = unix.MADV_REMOVE // the memory is the file's
	}
	if err := unix.Madvise(r.bytes(index), advice); err != nil {
		return fmt.Errorf("give %d bytes of memory back: %w", r.size, err)
	}
	return nil
}

// gap notes that a slot of a region was cleared (1) or is committed again (-1). The caller holds the arena's lock.
func (r *row) gap(index uint32, by int) {
	g := (*r.regions.Load())[index/r.per]
	g.cleared += by
	if r.huge && g.cleared == max(by, 0) { // the first gap has come, or the last is gone
		g.advise(by < 0)
	}
}

func (r *row) unmap() (err error) {
	for _, g := range *r.regions.Load() {
		if e := unix.Munmap(g.raw); e != nil {
			err = e
		}
		if g.shared != nil {
			err = errors.Join(err, g.shared.ro.Close())
		}
	}
	r.regions.Store(&[]*region{})
	return err
}
