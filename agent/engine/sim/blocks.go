package sim

// block is one page of the simulated KV cache.
type block struct {
	id      int32
	refs    int32 // sequences and leases that use it
	cached  bool  // hash and content are valid and it can be found by hash
	hash    blockHash
	content prefix // the text function's state after the block's last token: what stands for its KV
	damage  uint64 // not 0: the content is spoiled, and so is all that is computed from it

	prev, next *block // neighbours in the free list while refs is 0
	twin       *block // another block with the same hash, as vLLM too keeps both
}

// blockPool holds all blocks. A block is used (refs > 0), or in the free list, where cached blocks stay findable until
// they are needed: the list's order is the order of eviction. Only the scheduler's goroutine touches it.
type blockPool struct {
	blocks []block
	byHash map[blockHash]*block
	free   block // ring: free.next goes first
	unused int   // blocks in the free list
	// evicted is called for every cached block that loses its content.
	evicted func(blockHash)
}

func newBlockPool(n int, evicted func(blockHash)) *blockPool {
	p := &blockPool{blocks: make([]block, n), byHash: map[blockHash]*block{}, evicted: evicted}
	p.free.prev, p.free.next = &p.free, &p.free
	for i := range p.blocks {
		p.blocks[i].id = int32(i)
		p.append(&p.blocks[i])
	}
	return p
}

// usage is the used share of all blocks, 0 to 1. Cached blocks that nobody uses count as free.
func (p *blockPool) usage() float64 { return 1 - float64(p.unused)/float64(len(p.blocks)) }

// find is a block with that content, or nil. It stays where it is until acquire.
func (p *blockPool) find(h blockHash) *block { return p.byHash[h] }

// acquire adds a user to a block.
func (p *blockPool) acquire(b *block) {
	if b.refs == 0 {
		p.unlink(b)
	}
	b.refs++
}

// take gives out a block with no content to one user; nil if all are used. The least recently used one goes, and what it
// cached is forgotten.
func (p *blockPool) take() *block {
	b := p.free.next
	if b == &p.free {
		return nil
	}
	p.forget(b)
	p.acquire(b)
	return b
}

// release takes a user from each block. Later blocks are evicted before earlier ones: a prefix lives longer than what
// follows it. The slice is no longer the caller's.
func (p *blockPool) release(blocks []*block) {
	for i := len(blocks) - 1; i >= 0; i-- {
		b := blocks[i]
		if b.refs <= 0 {
			panic("sim: block released twice")
		}
		if b.refs--; b.refs == 0 {
			p.append(b)
		}
	}
}

// store makes a used block findable.
func (p *blockPool) store(b *block, h blockHash, content prefix) {
	b.hash, b.content, b.damage, b.cached = h, content, 0, true
	b.twin = p.byHash[h]
	p.byHash[h] = b
}

// clear forgets all cached content; false if a block is in use, and then nothing happens, as in vLLM.
func (p *blockPool) clear() bool {
	if p.unused != len(p.blocks) {
		return false
	}
	for i := range p.blocks {
		p.blocks[i].cached, p.blocks[i].twin = false, nil
	}
	p.byHash = map[blockHash]*block{}
	return true
}

// kv is what a reader of the block gets.
func (b *block) kv() prefix { return b.content.damaged(b.damage) }

func (p *blockPool) forget(b *block) {
	if !b.cached {
		return
	}
	if head := p.byHash[b.hash]; head != b {
		for head.twin != b {
			head = head.twin
		}
		head.twin = b.twin
	} else if b.twin != nil {
		p.byHash[b.hash] = b.twin
	} else {
		delete(p.byHash, b.hash)
	}
	b.cached, b.twin = false, nil
	p.evicted(b.hash)
}

func (p *blockPool) append(b *block) {
	last := p.free.prev
	b.prev, b.next = last, &p.free
	last.next, p.free.prev = b, b
	p.unused++
}

func (p *blockPool) unlink(b *block) {
	b.prev.next, b.next.prev = b.next, b.prev
	b.prev, b.next = nil, nil
	p.unused--
}
