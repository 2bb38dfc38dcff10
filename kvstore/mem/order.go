package mem

import (
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/evict"
)

// evictFirst forgets the group that goes first, all its parts, and offers them to the overflow. bytes is their memory, which
// is free once nobody holds it; false: there is no group that is not spared.
func (s *Store) evictFirst(spare func(tag uint64) bool) (bytes int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tellAll()
	item, ok := s.order.Victim(spare)
	if !ok {
		return 0, false
	}
	hint := s.hintOf(item)
	sh, row := s.rowOf(item.Tag)
	gone := s.offer(sh, row, hint)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, k := range gone {
		s.opts.Moves(kvstore.Move{Key: k, Tier: kvstore.Host})
		was := sh.unlink(row, sh.part(row, k.Part))
		bytes += s.arena.size(was.slot)
		s.unrefer(was.slot, oneKey)
		sh.evicted++
	}
	sh.drop(row)
	return bytes, true
}

// offer gives a group's blocks to the overflow, where there is one, and returns their keys. The order is locked, so that
// the group stays as it is; readers go on.
func (s *Store) offer(sh *shard, row uint32, hint kvstore.Hint) (keys []kvstore.Key) {
	sh.mu.Lock()
	name := sh.group(row)
	var parts []stored
	for i := sh.groups.at(row).first; i != none; i = sh.parts.at(i).next {
		parts = append(parts, *sh.parts.at(i))
	}
	sh.mu.Unlock()
	for _, p := range parts {
		k := kvstore.Key{Space: name.Space, Name: name.Name, Part: p.number}
		keys = append(keys, k)
		if s.overflow != nil {
			s.refer(p.slot, oneBlock)
			b := s.wrap(p.slot, int(p.size)).SealUnchecked(p.sum)
			s.overflow(k, b, hint)
			b.Release()
		}
	}
	return keys
}

// tellAll gives all notes of reads to the order, which is locked.
func (s *Store) tellAll() {
	now := time.Now().UnixNano()
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		s.tell(sh, now)
		sh.mu.Unlock()
	}
}

// Used notes that blocks were used together, as the beginning of a chain that the store may not know of: of those, the last
// goes first.
func (s *Store) Used(keys []kvstore.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tellAll()
	now := time.Now().UnixNano() + int64(len(keys))
	for i, k := range keys {
		id := idOf(k.Group())
		if node, ok := s.order.Find(id); ok {
			s.order.Touch(node, evict.Use{Now: now - int64(i)})
		}
	}
}

// held says whether a block of the group is out. The order is locked.
func (s *Store) held(tag uint64) bool {
	sh, row := s.rowOf(tag)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for part := sh.groups.at(row).first; part != none; part = sh.parts.at(part).next {
		if blocksOf(s.arena.state(sh.parts.at(part).slot).Load()) > 0 {
			return true
		}
	}
	return false
}

func (s *Store) rowOf(tag uint64) (*shard, uint32) { return &s.shards[tag>>32], uint32(tag) }

// hintOf makes the hint of a group again, for who gets it next. Its parent's name is the parent's own: while a block is
// here, what it follows is too. The order is locked.
func (s *Store) hintOf(item evict.Item) (h kvstore.Hint) {
	sh, row := s.rowOf(item.Tag)
	sh.mu.Lock()
	g := *sh.groups.at(row)
	sh.mu.Unlock()
	h = kvstore.Hint{Session: g.session, Recompute: time.Duration(g.recompute) * time.Millisecond}
	if g.stay > 0 {
		h.Stay = time.Unix(int64(g.stay), 0)
	}
	if g.depth != none && (g.depth == 0 || item.HasParent) {
		h.Depth, h.Known = g.depth, true
	}
	if h.Known && h.Depth > 0 {
		parent, row := s.rowOf(item.Parent)
		parent.mu.Lock()
		h.Parent = parent.groups.at(row).name
		parent.mu.Unlock()
	}
	return h
}

// Ranked calls each with every block, the most valuable first and a chain's beginning always before its end, so that who
// stops half-way has seen whole chains. The block is lent. Blocks that go meanwhile are left out. It stops when each says
// false.
func (s *Store) Ranked(each func(kvstore.Key, *kvstore.Block, kvstore.Hint) bool) {
	for _, g := range s.ranking() {
		for _, number := range s.partsOf(g.name) {
			k := kvstore.Key{Space: g.name.Space, Name: g.name.Name, Part: number}
			b, ok := s.lend(k)
			if !ok {
				continue
			}
			on := each(k, b, g.hint)
			b.Release()
			if !on {
				return
			}
		}
	}
}

type ranked struct {
	name kvstore.Group
	hint kvstore.Hint
}

func (s *Store) ranking() (out []ranked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tellAll()
	out = make([]ranked, 0, s.order.Len())
	s.order.Ranked(func(item evict.Item) bool {
		hint := s.hintOf(item)
		sh, row := s.rowOf(item.Tag)
		sh.mu.Lock()
		defer sh.mu.Unlock()
		out = append(out, ranked{sh.group(row), hint})
		return true
	})
	return out
}

func (s *Store) partsOf(name kvstore.Group) (numbers []uint16) {
	id := idOf(name)
	sh := s.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	row := sh.find(name.Name, s.spaces.number(name.Space), hashOf(id))
	if row == none {
		return nil
	}
	for part := sh.groups.at(row).first; part != none; part = sh.parts.at(part).next {
		numbers = append(numbers, sh.parts.at(part).number)
	}
	return numbers
}

// lend is Get without being a use.
func (s *Store) lend(k kvstore.Key) (*kvstore.Block, bool) {
	id := idOf(k.Group())
	sh := s.shardOf(id)
	sh.mu.Lock()
	was, _, ok := sh.look(k, hashOf(id))
	if ok {
		s.refer(was.slot, oneBlock)
	}
	sh.mu.Unlock()
	if !ok {
		return nil, false
	}
	b := s.wrap(was.slot, int(was.size))
	if b.SealAs(was.sum) != nil {
		b.Release()
		s.forgetCorrupt(k, was)
		return nil, false
	}
	return b, true
}
