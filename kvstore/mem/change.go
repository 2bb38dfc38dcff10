package mem

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/evict"
)

// Put implements kvstore.Store. A block of this store's own stays where it lies; another is copied.
func (s *Store) Put(ctx context.Context, k kvstore.Key, b *kvstore.Block, h kvstore.Hint) error {
	sum := b.Sum()
	if err := ctx.Err(); err != nil {
		return err
	}
	id := idOf(k.Group())
	slot, err := s.own(b, k, id)
	if err == nil {
		err = s.store(k, id, stored{slot: slot, size: uint32(b.Len()), sum: sum, number: k.Part}, h)
		if err != nil {
			s.unrefer(slot, oneKey)
		}
	}
	if err != nil {
		sh := s.shardOf(id)
		sh.mu.Lock()
		sh.drops++
		sh.mu.Unlock()
		return fmt.Errorf("put block %s into host memory: %w", k, err)
	}
	return nil
}

// own returns a slot with the block's bytes that a key refers to. The key's own group makes no room for it.
func (s *Store) own(b *kvstore.Block, k kvstore.Key, id evict.ID) (slotID, error) {
	if b.Owner() == s {
		s.refer(slotID(b.Slot), oneKey)
		return slotID(b.Slot), nil
	}
	slot, err := s.takeSlot(b.Len(), func(tag uint64) bool { return s.isGroup(tag, k, id) || s.held(tag) })
	if err != nil {
		return 0, err
	}
	copy(s.arena.bytes(slot), b.Bytes())
	s.refer(slot, oneKey)
	return slot, nil
}

func (s *Store) isGroup(tag uint64, k kvstore.Key, id evict.ID) bool {
	sh, row := s.rowOf(tag)
	if sh != s.shardOf(id) {
		return false
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.group(row) == k.Group()
}

// store puts a slot under a key, and gives the slot that was there before back.
func (s *Store) store(k kvstore.Key, id evict.ID, new stored, h kvstore.Hint) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("the memory store is closed: %w", kvstore.ErrUnavailable)
	}
	now := time.Now()
	sh := s.shardOf(id)
	row, old, replaced := sh.set(k, hashOf(id), new, h, now)
	weight := s.arena.size(new.slot)
	if replaced {
		weight -= s.arena.size(old.slot)
		s.unrefer(old.slot, oneKey)
	}
	e := evict.Entry{Tag: tagOf(hashOf(id), row), Weight: weight, Parent: idOf(kvstore.Group{Space: k.Space, Name: h.Parent}), Depth: h.Depth, Chained: h.Known}
	node := s.order.Insert(id, e, useOf(h, now))
	sh.mu.Lock()
	sh.groups.at(row).node = node
	sh.mu.Unlock()
	s.opts.Moves(kvstore.Move{Key: k, Tier: kvstore.Host, Held: true})
	return nil
}

func tagOf(hash uint64, row uint32) uint64 { return hash%shards<<32 | uint64(row) }

// useOf is what a hint says to the order.
func useOf(h kvstore.Hint, now time.Time) evict.Use {
	u := evict.Use{Now: now.UnixNano()}
	if h.Session != 0 {
		u.Stay = max(u.Now, seconds(h.Stay)*int64(time.Second))
	}
	return u
}

// seconds is a time as the tables hold it; what does not fit is as good as never or for ever.
func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return min(max(t.Unix(), 0), math.MaxUint32)
}

// set enters a block and returns what was there under its key.
func (s *shard) set(k kvstore.Key, hash uint64, new stored, h kvstore.Hint, now time.Time) (row uint32, old stored, replaced bool) {
	space := s.spaces.number(k.Space)
	s.mu.Lock()
	defer s.mu.Unlock()
	if row = s.find(k.Name, space, hash); row == none {
		row = s.add(hash)
		*s.groups.at(row) = group{name: k.Name, space: space, first: none, depth: none}
	}
	if part := s.part(row, k.Part); part != none {
		old, replaced = s.unlink(row, part), true
	}
	g := s.groups.at(row)
	if g.storedAt = uint32(now.Unix()); h.Known {
		g.depth = min(h.Depth, none-1)
	}
	if h.Session != 0 {
		g.session, g.stay = h.Session, uint32(seconds(h.Stay))
	}
	g.recompute = uint32(min(max(h.Recompute.Milliseconds(), 0), math.MaxUint32))
	new.next = g.first
	part := s.parts.take()
	*s.parts.at(part), g.first = new, part
	s.puts++
	s.writtenBytes += int64(new.size)
	s.blocks++
	s.bytes += int64(new.size)
	return row, old, replaced
}

// Delete implements kvstore.Store.
func (s *Store) Delete(ctx context.Context, k kvstore.Key) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	id := idOf(k.Group())
	if was, ok := s.remove(k, id, func(stored) bool { return true }); ok {
		s.unrefer(was.slot, oneKey)
		sh := s.shardOf(id)
		sh.mu.Lock()
		sh.deleted++
		sh.mu.Unlock()
	}
	return nil
}

// forgetCorrupt removes a block that failed its check, unless another has taken its place, and counts it.
func (s *Store) forgetCorrupt(k kvstore.Key, bad stored) {
	id := idOf(k.Group())
	if _, ok := s.remove(k, id, func(now stored) bool { return now.slot == bad.slot }); ok {
		s.unrefer(bad.slot, oneKey)
	}
	sh := s.shardOf(id)
	sh.mu.Lock()
	sh.corrupt++
	sh.misses++
	sh.mu.Unlock()
}

// remove takes one block out, if it is there and is the one.
func (s *Store) remove(k kvstore.Key, id evict.ID, is func(stored) bool) (was stored, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	was, row, ok := sh.look(k, hashOf(id))
	if !ok || !is(was) {
		return was, false
	}
	s.opts.Moves(kvstore.Move{Key: k, Tier: kvstore.Host})
	s.order.Grow(sh.groups.at(row).node, -s.arena.size(was.slot))
	sh.unlink(row, sh.part(row, k.Part))
	if g := sh.groups.at(row); g.first == none {
		s.order.Remove(g.node)
		sh.drop(row)
	}
	return was, true
}

// Close ends the store: it forgets everything and gives the memory back. An error says that blocks are still held; their
// memory then stays.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.SetOverflow(nil)
	for ok := true; ok; {
		_, ok = s.evictFirst(nil) // also what readers hold: its memory goes with them
	}
	return s.arena.close()
}
