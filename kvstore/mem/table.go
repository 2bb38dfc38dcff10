package mem

import (
	"encoding/binary"
	"sync"

	"github.com/zeebo/xxh3"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/evict"
)

// shard is a part of the index: the groups whose hash falls into it, with all their parts. Groups and parts are rows of
// tables without pointers: nothing in them is the garbage collector's business.
type shard struct {
	spaces *spaces

	mu     sync.Mutex
	slots  []uint32 // group + 1; 0 = empty; linear probing
	count  int
	groups pool[group]
	parts  pool[stored]

	touched  [64]evict.Node // read since the order last looked
	ntouched int

	counters
}

type counters struct {
	hits, misses, puts, drops, evicted, deleted, corrupt int64
	readBytes, writtenBytes                              int64
	blocks, bytes                                        int64
}

// group is a name with at least one part.
type group struct {
	name      kvstore.Name
	session   uint64
	space     uint32 // see spaces
	depth     uint32 // none = its place in a chain is not known
	stay      uint32 // Unix seconds, as storedAt
	storedAt  uint32
	recompute uint32 // ms
	node      evict.Node
	first     uint32 // of its parts
}

// stored is one block.
type stored struct {
	slot   slotID
	size   uint32
	sum    uint32
	next   uint32 // the group's next part
	number uint16
}

const none = ^uint32(0)

// pool is a table that grows by pages and reuses its rows.
type pool[T any] struct {
	pages []*[poolPage]T
	taken uint32
	free  []uint32
}

const poolPage = 256

func (p *pool[T]) at(i uint32) *T { return &p.pages[i/poolPage][i%poolPage] }

func (p *pool[T]) take() uint32 {
	if n := len(p.free); n > 0 {
		i := p.free[n-1]
		p.free = p.free[:n-1]
		return i
	}
	if int(p.taken) == len(p.pages)*poolPage {
		p.pages = append(p.pages, new([poolPage]T))
	}
	p.taken++
	return p.taken - 1
}

func (p *pool[T]) give(i uint32) {
	var zero T
	*p.at(i) = zero
	p.free = append(p.free, i)
}

// idOf is the group's name in the order, and its hash: a digest of both parts, since who makes names may choose them.
func idOf(g kvstore.Group) evict.ID {
	var b [len(g.Space) + len(g.Name)]byte
	copy(b[copy(b[:], g.Space[:]):], g.Name[:])
	return evict.ID(xxh3.Hash128(b[:]).Bytes())
}

func hashOf(id evict.ID) uint64 { return binary.LittleEndian.Uint64(id[8:]) }

// find returns the group's row; none = it is not here. The shard is locked by the caller, as in all that follow.
func (s *shard) find(name kvstore.Name, space uint32, hash uint64) uint32 {
	if len(s.slots) == 0 {
		return none
	}
	mask := len(s.slots) - 1
	for i := int(hash>>8) & mask; ; i = (i + 1) & mask {
		switch row := s.slots[i]; {
		case row == 0:
			return none
		case s.groups.at(row-1).name == name && s.groups.at(row-1).space == space:
			return row - 1
		}
	}
}

// add makes a row for a group that is not here.
func (s *shard) add(hash uint64) uint32 {
	if s.count++; s.count*8 > len(s.slots)*7 {
		s.grow()
	}
	row := s.groups.take()
	s.groups.at(row).first = none
	s.place(row, hash)
	return row
}

func (s *shard) place(row uint32, hash uint64) {
	mask := len(s.slots) - 1
	i := int(hash>>8) & mask
	for s.slots[i] != 0 {
		i = (i + 1) & mask
	}
	s.slots[i] = row + 1
}

func (s *shard) grow() {
	old := s.slots
	s.slots = make([]uint32, max(16, 2*len(old)))
	for _, row := range old {
		if row != 0 {
			s.place(row-1, s.hash(row-1))
		}
	}
}

// hash is that of a row which is in use.
func (s *shard) hash(row uint32) uint64 { return hashOf(idOf(s.group(row))) }

// group is the name of a row which is in use.
func (s *shard) group(row uint32) kvstore.Group {
	g := s.groups.at(row)
	return kvstore.Group{Space: s.spaces.at(g.space), Name: g.name}
}

// drop removes a group without parts.
func (s *shard) drop(row uint32) {
	mask := len(s.slots) - 1
	gap := int(s.hash(row)>>8) & mask
	for s.slots[gap] != row+1 {
		gap = (gap + 1) & mask
	}
	s.count--
	for i := (gap + 1) & mask; s.slots[i] != 0; i = (i + 1) & mask {
		if home := int(s.hash(s.slots[i]-1)>>8) & mask; (i-home)&mask >= (i-gap)&mask {
			s.slots[gap] = s.slots[i]
			gap = i
		}
	}
	s.slots[gap] = 0
	s.groups.give(row)
}

// part returns the row of one block of a group.
func (s *shard) part(group uint32, number uint16) uint32 {
	for i := s.groups.at(group).first; i != none; i = s.parts.at(i).next {
		if s.parts.at(i).number == number {
			return i
		}
	}
	return none
}

// unlink takes one block out of its group and returns what it was.
func (s *shard) unlink(group, part uint32) stored {
	at := &s.groups.at(group).first
	for *at != part {
		at = &s.parts.at(*at).next
	}
	was := *s.parts.at(part)
	*at = was.next
	s.parts.give(part)
	s.blocks--
	s.bytes -= int64(was.size)
	return was
}
