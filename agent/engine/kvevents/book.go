package kvevents

import (
	"strconv"
	"strings"

	"github.com/penstock/penstock/kvstore/index"
)

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// Change is one thing to tell the index of a worker.
type Change struct {
	Kind   Kind
	Tier   index.Tier // of Stored and Removed
	Tiers  index.TierSet
	Blocks []uint64 // our chain hashes
}

// Kind of a change.
type Kind uint8

// The kinds. Cleared concerns Tiers.
const (
	BlocksStored Kind = iota + 1
	BlocksRemoved
	TiersCleared
)

// Counts say what a Book could not use. They only grow.
type Counts struct {
	Blocks    int    // known now
	Unmapped  uint64 // stored blocks whose parent is not known, or which are no full block: they are never a hit
	Full      uint64 // stored blocks that were left out because the book was full
	Strangers uint64 // removals of blocks that are not known; normal after a gap, and for blocks that were not mapped
}

// Book maps one engine rank's block hashes to ours and counts how often the engine holds each block in each tier. It is used
// by one goroutine.
//
// A block's name needs its parent's: a block that is no longer held anywhere is remembered for a while, for children and
// for tiers that name blocks by hash alone.
type Book struct {
	identity index.Identity
	roots    map[rootKey]index.Root
	blocks   map[uint64]entry
	windows  map[int]bool // groups that are left out
	gone     []uint64     // engine's hashes of blocks that nobody holds, oldest first
	most     int
	counts   Counts
	out      []Change
}

type rootKey struct {
	salt, lora string
	tokens     int
}

// entry holds no pointers, so that a book of millions of blocks costs the garbage collector nothing.
type entry struct {
	id   uint64
	root index.Root
	held [index.Tiers]uint16
}

func (e *entry) idle() bool { return e.held == [index.Tiers]uint16{} }

const (
	// defaultMost is some 500 MB of memory at worst, and more blocks than any engine of today has.
	defaultMost = 8 << 20
	// remembered is how many blocks that nobody holds any more a book keeps.
	remembered = 1 << 16
)

// NewBook returns an empty book. Of identity, BlockTokens, Salt and LoRA come from the events. At most so many blocks are
// known at a time; 0 = 8 million.
func NewBook(identity index.Identity, most int) *Book {
	if most <= 0 {
		most = defaultMost
	}
	return &Book{
		identity: identity, roots: map[rootKey]index.Root{}, blocks: map[uint64]entry{}, windows: map[int]bool{}, most: most,
	}
}

// Counts of this moment.
func (b *Book) Counts() Counts {
	b.counts.Blocks = len(b.blocks)
	return b.counts
}

// Apply takes in a batch and returns what changed, in order. The slices are valid until the next call.
func (b *Book) Apply(batch Batch) []Change {
	b.out = b.out[:0]
	for _, e := range batch.Events {
		switch {
		case e.Cleared:
			b.clear(e.Tier)
		case e.Stored != nil:
			b.store(e)
		default:
			b.remove(e)
		}
	}
	return b.out
}

// Reset forgets everything: the engine was started again, or events were lost for good.
func (b *Book) Reset() []Change {
	clear(b.blocks)
	clear(b.windows)
	b.gone = b.gone[:0]
	return []Change{{Kind: TiersCleared, Tiers: index.AllTiers}}
}

// emit adds a block to the last change if it is of the same kind.
func (b *Book) emit(k Kind, t index.Tier, id uint64) {
	if n := len(b.out); n > 0 && b.out[n-1].Kind == k && b.out[n-1].Tier == t {
		b.out[n-1].Blocks = append(b.out[n-1].Blocks, id)
		return
	}
	b.out = append(b.out, Change{Kind: k, Tier: t, Blocks: []uint64{id}})
}

func (b *Book) store(e Event) {
	s := e.Stored
	if s.Window {
		b.windows[e.Group] = true
		return
	}
	parent, known := entry{root: b.root(s)}, true
	parent.id = uint64(parent.root)
	if s.HasParent {
		parent, known = b.blocks[s.Parent]
	}
	for i, hash := range s.Hashes {
		it, mapped := b.blocks[hash]
		if !mapped {
			if !known || !s.full(i) {
				b.counts.Unmapped++
				known = false
				continue
			}
			if len(b.blocks) >= b.most && !b.forget() {
				b.counts.Full++
				known = false
				continue
			}
			it = entry{id: index.ChainBlock(parent.root, parent.id, s.block(i), s.extra(i)), root: parent.root}
		}
		if it.held[e.Tier] < 1<<16-1 {
			it.held[e.Tier]++
		}
		b.blocks[hash] = it
		if it.held[e.Tier] == 1 {
			b.emit(BlocksStored, e.Tier, it.id)
		}
		parent, known = it, true
	}
}

func (b *Book) root(s *Stored) index.Root {
	k := rootKey{s.Salt, s.LoRA, s.BlockTokens}
	r, ok := b.roots[k]
	if !ok {
		if len(b.roots) >= 1<<16 { // as many tenants and adapters: begin again rather than grow
			clear(b.roots)
		}
		i := b.identity
		i.BlockTokens, i.Salt, i.LoRA = s.BlockTokens, s.Salt, s.LoRA
		r = index.ChainRoot(i)
		b.roots[k] = r
	}
	return r
}

// full reports whether the tokens of block i are there, all of them.
func (s *Stored) full(i int) bool { return (i+1)*s.BlockTokens <= len(s.Tokens) }

func (s *Stored) block(i int) []uint32 { return s.Tokens[i*s.BlockTokens : (i+1)*s.BlockTokens] }

func (s *Stored) extra(i int) string {
	if i >= len(s.Extra) || len(s.Extra[i]) == 0 {
		return ""
	}
	return strings.Join(s.Extra[i], "\x00")
}

func (b *Book) remove(e Event) {
	if b.windows[e.Group] {
		return
	}
	for _, hash := range e.Removed {
		it, ok := b.blocks[hash]
		if !ok || it.held[e.Tier] == 0 {
			b.counts.Strangers++
			continue
		}
		it.held[e.Tier]--
		b.blocks[hash] = it
		if it.held[e.Tier] == 0 {
			b.emit(BlocksRemoved, e.Tier, it.id)
			b.retire(hash, it)
		}
	}
}

// retire remembers a block that nobody holds, in place of the one that has been so for longest.
func (b *Book) retire(hash uint64, it entry) {
	if !it.idle() {
		return
	}
	if b.gone = append(b.gone, hash); len(b.gone) > remembered {
		b.forget()
	}
}

// forget drops the oldest that nobody holds. False: there is none.
func (b *Book) forget() bool {
	for len(b.gone) > 0 {
		hash := b.gone[0]
		b.gone = b.gone[1:]
		if it, ok := b.blocks[hash]; ok && it.idle() {
			delete(b.blocks, hash)
			return true
		}
	}
	return false
}

func (b *Book) clear(t index.Tier) {
	for hash, it := range b.blocks {
		if it.held[t] == 0 {
			continue
		}
		it.held[t] = 0
		b.blocks[hash] = it
		b.retire(hash, it)
	}
	b.out = append(b.out, Change{Kind: TiersCleared, Tiers: index.Only(t)})
}
