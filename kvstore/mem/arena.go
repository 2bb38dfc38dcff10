package mem

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/penstock/penstock/kvstore"
)

// arena gives out slots of memory outside of Go's heap and keeps to its budget exactly: what is committed, used or free, is
// never more. Its lock is held for a few instructions, never while memory is copied, cleared or checked.
type arena struct {
	budget int64 // for slots
	huge   int64 // rows that may have huge pages
	poison bool  // fill what is freed, for tests
	shared bool  // other processes may map it
	rows   [classes]atomic.Pointer[row]

	mu        sync.Mutex
	committed int64
	used      int64 // slots that are out
	usedBytes int64
	closed    bool
}

// maxHugeRows is how many sizes of blocks get huge pages, if the budget is large enough: those that come first.
const maxHugeRows = 16

func newArena(budget int64, poison, shared bool) *arena {
	huge := min(maxHugeRows, budget/32/hugePage)
	return &arena{budget: budget - huge*hugePage, huge: huge, poison: poison, shared: shared}
}

var errNoSlot = errors.New("no slot is free")

// take returns a slot for n bytes, or errNoSlot where others have to be forgotten first.
func (a *arena) take(n int) (slotID, error) {
	class, size := classOf(n)
	if n > maxBlock || size > a.budget {
		return 0, fmt.Errorf("a block of %d bytes in a budget of %d: %w", n, a.budget, kvstore.ErrFull)
	}
	for {
		id, over, err := a.tryTake(class, size)
		if err == nil || !errors.Is(err, errNoSlot) {
			return id, err
		}
		if !a.clearOther(class, over) {
			return 0, err
		}
	}
}

// tryTake returns a free slot of the class or commits one more; over is by how many bytes that would break the budget.
func (a *arena) tryTake(class int, size int64) (id slotID, over int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return 0, 0, fmt.Errorf("the memory store is closed: %w", kvstore.ErrUnavailable)
	}
	r := a.rows[class].Load()
	if r == nil {
		r = newRow(size, a.budget, a.huge > 0, a.shared)
		a.huge--
		a.rows[class].Store(r)
	}
	if n := len(r.free); n > 0 {
		id, r.free = newSlotID(class, r.free[n-1]), r.free[:n-1]
		a.used++
		a.usedBytes += size
		return id, 0, nil
	}
	if over = a.committed + size - a.budget; over > 0 {
		return 0, over, errNoSlot
	}
	index, err := r.uncommitted()
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", kvstore.ErrFull, err)
	}
	a.committed += size
	a.used++
	a.usedBytes += size
	return newSlotID(class, index), 0, nil
}

// uncommitted takes a slot that has no memory yet. The caller holds the arena's lock.
func (r *row) uncommitted() (index uint32, err error) {
	if n := len(r.cleared); n > 0 {
		index, r.cleared = r.cleared[n-1], r.cleared[:n-1]
		r.gap(index, -1)
		return index, nil
	}
	if r.next == r.slots() {
		if err := r.grow(); err != nil {
			return 0, err
		}
	}
	r.next++
	return r.next - 1, nil
}

// clearOther clears free slots of other classes until so many bytes are uncommitted; false: there are not so many.
func (a *arena) clearOther(class int, want int64) bool {
	for c := range a.rows {
		for r := a.rows[c].Load(); r != nil && c != class && want > 0; {
			index, ok := a.takeFree(r)
			if !ok {
				break
			}
			a.mu.Lock()
			r.gap(index, 1)
			a.mu.Unlock()
			err := r.clear(index)
			a.mu.Lock()
			if err == nil {
				a.committed -= r.size
				r.cleared = append(r.cleared, index)
				want -= r.size
			} else {
				r.gap(index, -1)
				r.free = append(r.free, index)
			}
			a.mu.Unlock()
			if err != nil {
				break
			}
		}
	}
	return want <= 0
}

func (a *arena) takeFree(r *row) (uint32, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(r.free)
	if n == 0 {
		return 0, false
	}
	index := r.free[n-1]
	r.free = r.free[:n-1]
	return index, true
}

// give takes a slot back that nobody refers to any more.
func (a *arena) give(id slotID) {
	r := a.rows[id.class()].Load()
	if a.poison {
		b := r.bytes(id.index())
		for i := range b {
			b[i] = 0xdb
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r.free = append(r.free, id.index())
	a.used--
	a.usedBytes -= r.size
}

// room is how many bytes nobody uses.
func (a *arena) room() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.budget - a.usedBytes
}

func (a *arena) bytes(id slotID) []byte { return a.rows[id.class()].Load().bytes(id.index()) }

func (a *arena) size(id slotID) int64 { return a.rows[id.class()].Load().size }

// A slot's state counts who refers to it: in the low half blocks that are out, in the high half keys it is stored under.
// Whoever takes the state to zero gives the slot back.
const (
	oneBlock = uint64(1)
	oneKey   = uint64(1) << 32
)

func blocksOf(state uint64) uint32 { return uint32(state) }

func (a *arena) state(id slotID) *atomic.Uint64 { return a.rows[id.class()].Load().state(id.index()) }

// memory is what is committed, and how many slots are out.
func (a *arena) memory() (committed, used int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.committed, a.used
}

// close unmaps everything, unless slots are still out: their memory then stays, since somebody reads it.
func (a *arena) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	if a.used > 0 {
		return fmt.Errorf("%d blocks of memory are still held; they stay mapped", a.used)
	}
	var errs []error
	for i := range a.rows {
		if r := a.rows[i].Load(); r != nil {
			errs = append(errs, r.unmap())
		}
	}
	a.committed = 0
	return errors.Join(errs...)
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
