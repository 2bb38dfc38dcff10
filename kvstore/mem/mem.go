// Package mem keeps blocks in this process's memory, outside of Go's heap: the fastest tier, and the allocator from which
// doors and slower tiers take the memory into which they read.
//
// A block that was allocated here is stored where it lies: Put takes a reference, Get hands one out, no byte is copied.
// Blocks of others are copied once. The budget is exact (see arena); eviction is by evict, by whole groups; what is
// evicted is offered to Options.Overflow first. Each read checks the block's checksum, since memory errs too.
//
// Reads take one of many locks for a few instructions. Whatever changes what is held (Put, Delete, eviction) goes through
// one lock more, the order's, also for a few instructions and never while bytes are copied, so that news and evictions
// have one order. The package starts no goroutine. It knows nothing of other tiers; kvstore/tiered and the agent call it.
package mem

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/evict"
)

// Options of a store.
type Options struct {
	// Bytes is the budget: memory for blocks, in whole pages each. The index comes on top, below 200 bytes for each block.
	Bytes int64
	// MaxPinned is how many bytes readers and writers may hold at one time; 0 = half of the budget. Beyond it a Get is
	// ErrUnavailable and an Alloc ErrFull, so that a client that stops reading costs itself and not the cache.
	MaxPinned int64
	Policy    evict.Policy
	Moves     kvstore.Moves    // may be nil
	Overflow  kvstore.Overflow // may be nil; see also SetOverflow
	// Poison fills freed memory, so that who reads it too late sees it. For tests: it costs as much as a copy.
	Poison bool
	// Shared makes the memory such that other processes of the same user can be let look into it (Locate).
	Shared bool
}

// shards is how many locks the readers share.
const shards = 64

// Store is the store. Its methods may be called from several goroutines.
type Store struct {
	opts   Options
	arena  *arena
	spaces *spaces
	shards [shards]shard
	pinned atomic.Int64 // bytes of slots that blocks are out of
	out    atomic.Int64 // blocks that are out

	mu       sync.Mutex // the order's; taken before a shard's
	order    *evict.Order
	overflow kvstore.Overflow
	closed   bool

	overflows atomic.Bool // overflow is set
}

var (
	_ kvstore.Store     = (*Store)(nil)
	_ kvstore.Allocator = (*Store)(nil)
	_ kvstore.Lender    = (*Store)(nil)
)

// New makes an empty store. Memory is taken from the system as blocks come.
func New(o Options) *Store {
	if o.MaxPinned == 0 {
		o.MaxPinned = o.Bytes / 2
	}
	if o.Moves == nil {
		o.Moves = func(kvstore.Move) {}
	}
	s := &Store{opts: o, arena: newArena(o.Bytes, o.Poison, o.Shared), spaces: newSpaces(), order: evict.New(o.Policy, o.Bytes)}
	s.SetOverflow(o.Overflow)
	for i := range s.shards {
		s.shards[i].spaces = s.spaces
	}
	return s
}

// SetOverflow gives the store the place that its evicted blocks are offered to.
func (s *Store) SetOverflow(f kvstore.Overflow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.overflow = f
	s.overflows.Store(f != nil)
}

// Alloc implements kvstore.Allocator. It evicts what it must; what readers hold cannot be evicted.
func (s *Store) Alloc(n int) (*kvstore.Block, error) {
	_, size := classOf(n)
	if p := s.pinned.Load(); p+size > s.opts.MaxPinned {
		return nil, fmt.Errorf("%d bytes are held by readers and writers already: %w", p, kvstore.ErrFull)
	}
	id, err := s.takeSlot(n, s.held)
	if err != nil {
		return nil, err
	}
	s.refer(id, oneBlock)
	return s.wrap(id, n), nil
}

// takeSlot finds room for n bytes, by evicting what is not spared where it must. The slot is nobody's yet.
func (s *Store) takeSlot(n int, spare func(tag uint64) bool) (slotID, error) {
	s.makeRoom(n, spare)
	for {
		id, err := s.arena.take(n)
		if !errors.Is(err, errNoSlot) {
			return id, err
		}
		if _, ok := s.evictFirst(spare); !ok {
			return 0, fmt.Errorf("no room for %d bytes: all of it is held: %w", n, kvstore.ErrFull)
		}
	}
}

// makeRoom evicts as much as is about to be taken while there is still some room, where there is an overflow: what it
// takes is on its way down, and its memory free again, before it is needed.
func (s *Store) makeRoom(n int, spare func(tag uint64) bool) {
	if !s.overflows.Load() {
		return
	}
	_, size := classOf(n)
	if size > s.opts.Bytes || s.arena.room()-size >= s.opts.Bytes/aheadPart {
		return
	}
	for gone := int64(0); gone < size; {
		bytes, ok := s.evictFirst(spare)
		if !ok {
			return
		}
		gone += bytes
	}
}

const aheadPart = 16

// refer adds one block or one key to what refers to a slot.
func (s *Store) refer(id slotID, one uint64) {
	state := s.arena.state(id).Add(one)
	if one == oneBlock {
		s.out.Add(1)
		if blocksOf(state) == 1 {
			s.pinned.Add(s.arena.size(id))
		}
	}
}

// unrefer is the opposite of refer. The last reference takes the slot with it.
func (s *Store) unrefer(id slotID, one uint64) {
	size := s.arena.size(id)
	state := s.arena.state(id).Add(-one)
	if one == oneBlock {
		s.out.Add(-1)
		if blocksOf(state) == 0 {
			s.pinned.Add(-size)
		}
	}
	if state == 0 {
		s.arena.give(id)
	}
}

// wrap makes the block for a reference that was taken.
func (s *Store) wrap(id slotID, n int) *kvstore.Block {
	b := kvstore.NewBlock(s.arena.bytes(id)[:n:n], s)
	b.Slot = uint64(id)
	return b
}

// Free implements kvstore.Owner.
func (s *Store) Free(b *kvstore.Block, _ []byte) { s.unrefer(slotID(b.Slot), oneBlock) }

func (s *Store) shardOf(id evict.ID) *shard { return &s.shards[hashOf(id)%shards] }

// Get implements kvstore.Store. The block lies in the store's own memory: nothing is copied.
func (s *Store) Get(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	return s.get(ctx, k, true)
}

// Lend implements kvstore.Lender.
func (s *Store) Lend(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	return s.get(ctx, k, false)
}

func (s *Store) get(ctx context.Context, k kvstore.Key, check bool) (*kvstore.Block, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	id := idOf(k.Group())
	sh := s.shardOf(id)
	was, node, err := s.pin(sh, k, hashOf(id))
	if err != nil {
		return nil, fmt.Errorf("get block %s from host memory: %w", k, err)
	}
	b := s.wrap(was.slot, int(was.size))
	if !check {
		b.SealUnchecked(was.sum)
	} else if err := b.SealAs(was.sum); err != nil {
		b.Release()
		s.forgetCorrupt(k, was)
		return nil, fmt.Errorf("get block %s from host memory: %w", k, err)
	}
	s.read(sh, node, was.size)
	return b, nil
}

// pin takes a reference to what is stored under the key.
func (s *Store) pin(sh *shard, k kvstore.Key, hash uint64) (stored, evict.Node, error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	was, row, ok := sh.look(k, hash)
	if !ok {
		sh.misses++
		return stored{}, 0, kvstore.ErrNotFound
	}
	if blocksOf(s.arena.state(was.slot).Load()) == 0 && s.pinned.Load()+s.arena.size(was.slot) > s.opts.MaxPinned {
		sh.misses++
		return stored{}, 0, fmt.Errorf("%d bytes are held by readers: %w", s.pinned.Load(), kvstore.ErrUnavailable)
	}
	s.refer(was.slot, oneBlock)
	return was, sh.groups.at(row).node, nil
}

// look finds what is stored under the key. The shard is locked.
func (s *shard) look(k kvstore.Key, hash uint64) (stored, uint32, bool) {
	space, ok := s.spaces.find(k.Space)
	if !ok {
		return stored{}, none, false
	}
	row := s.find(k.Name, space, hash)
	if row == none {
		return stored{}, none, false
	}
	part := s.part(row, k.Part)
	if part == none {
		return stored{}, none, false
	}
	return *s.parts.at(part), row, true
}

// read notes a use for the order, which looks at such notes when it has to choose.
func (s *Store) read(sh *shard, node evict.Node, size uint32) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.hits++
	sh.readBytes += int64(size)
	if sh.ntouched == len(sh.touched) {
		if s.mu.TryLock() {
			s.tell(sh, time.Now().UnixNano())
			s.mu.Unlock()
		} else {
			sh.ntouched-- // the order is busy: the last note is lost, and with it a little of its justice
		}
	}
	sh.touched[sh.ntouched] = node
	sh.ntouched++
}

// tell gives a shard's notes to the order. Both are locked.
func (s *Store) tell(sh *shard, now int64) {
	for _, node := range sh.touched[:sh.ntouched] {
		s.order.Touch(node, evict.Use{Now: now})
	}
	sh.ntouched = 0
}

// GetMany implements kvstore.Store: one Get after the other, since there is nothing to wait for.
func (s *Store) GetMany(ctx context.Context, keys []kvstore.Key, each func(i int, b *kvstore.Block) error) error {
	unavailable := error(nil)
	for i, k := range keys {
		b, err := s.Get(ctx, k)
		switch {
		case errors.Is(err, kvstore.ErrNotFound):
			continue
		case errors.Is(err, kvstore.ErrUnavailable):
			unavailable = err
			continue
		case err != nil:
			return err
		}
		err = each(i, b)
		b.Release()
		if err != nil {
			return err
		}
	}
	return unavailable
}

// Has implements kvstore.Store.
func (s *Store) Has(ctx context.Context, k kvstore.Key) (kvstore.Info, error) {
	if err := ctx.Err(); err != nil {
		return kvstore.Info{}, err
	}
	id := idOf(k.Group())
	sh := s.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	was, row, ok := sh.look(k, hashOf(id))
	if !ok {
		return kvstore.Info{}, kvstore.ErrNotFound
	}
	at := time.Unix(int64(sh.groups.at(row).storedAt), 0)
	return kvstore.Info{Size: int64(was.size), Sum: was.sum, StoredAt: at}, nil
}

// Stats implements kvstore.Store.
func (s *Store) Stats() kvstore.Stats {
	out := kvstore.Stats{Tier: kvstore.Host, Budget: s.opts.Bytes, Pinned: s.pinned.Load()}
	for i := range s.shards {
		s.shards[i].addTo(&out)
	}
	return out
}

func (s *shard) addTo(out *kvstore.Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Blocks += s.blocks
	out.Bytes += s.bytes
	out.Hits += s.hits
	out.Misses += s.misses
	out.Puts += s.puts
	out.Drops += s.drops
	out.Evicted += s.evicted
	out.Deleted += s.deleted
	out.Corrupt += s.corrupt
	out.ReadBytes += s.readBytes
	out.WrittenBytes += s.writtenBytes
}

// Memory is how many bytes the store has from the system for blocks: never more than its budget, and what it once had it
// keeps for the next blocks.
func (s *Store) Memory() int64 {
	committed, _ := s.arena.memory()
	return committed
}
