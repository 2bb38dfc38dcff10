package sim

import (
	"testing"

	"pgregory.net/rapid"
)

// poolModel checks the pool against what its users hold.
type poolModel struct {
	pool   *blockPool
	held   [][]*block        // by user
	stored map[blockHash]int // times stored minus times evicted
}

func TestBlockPool(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &poolModel{stored: map[blockHash]int{}}
		n := rapid.IntRange(1, 12).Draw(t, "blocks")
		m.pool = newBlockPool(n, func(h blockHash) { m.stored[h]-- })
		t.Repeat(map[string]func(*rapid.T){
			"take":    m.take,
			"share":   m.share,
			"store":   m.store,
			"release": m.release,
			"clear":   m.clear,
			"":        m.check,
		})
	})
}

func (m *poolModel) take(t *rapid.T) {
	b := m.pool.take()
	if (b == nil) != (m.free() == 0) {
		t.Fatalf("took %v with %d free blocks", b, m.free())
	}
	if b == nil {
		return
	}
	if b.refs != 1 || b.cached {
		t.Fatalf("a fresh block has %d users and cached=%v", b.refs, b.cached)
	}
	m.held = append(m.held, []*block{b})
}

// share finds a cached block again.
func (m *poolModel) share(t *rapid.T) {
	for h := range m.stored {
		if b := m.pool.find(h); b != nil {
			m.pool.acquire(b)
			m.held = append(m.held, []*block{b})
			return
		}
	}
}

func (m *poolModel) store(t *rapid.T) {
	for _, h := range m.held {
		if b := h[0]; !b.cached {
			var hash blockHash
			hash[0] = byte(rapid.IntRange(0, 5).Draw(t, "hash")) // so that twins happen
			m.pool.store(b, hash, prefix{hash: uint64(hash[0])})
			m.stored[hash]++
			return
		}
	}
}

func (m *poolModel) release(t *rapid.T) {
	if len(m.held) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.held)-1).Draw(t, "user")
	m.pool.release(m.held[i])
	m.held = append(m.held[:i], m.held[i+1:]...)
}

func (m *poolModel) clear(t *rapid.T) {
	if ok := m.pool.clear(); ok != (len(m.held) == 0) {
		t.Fatalf("clear is %v with %d users", ok, len(m.held))
	} else if ok {
		m.stored = map[blockHash]int{}
		m.pool.evicted = func(h blockHash) { m.stored[h]-- }
	}
}

func (m *poolModel) free() int {
	used := map[*block]bool{}
	for _, h := range m.held {
		used[h[0]] = true
	}
	return len(m.pool.blocks) - len(used)
}

func (m *poolModel) check(t *rapid.T) {
	users := map[*block]int32{}
	for _, h := range m.held {
		users[h[0]]++
	}
	inList := 0
	for b := m.pool.free.next; b != &m.pool.free; b = b.next {
		if inList++; b.refs != 0 {
			t.Fatalf("block %d is free and has %d users", b.id, b.refs)
		}
	}
	if inList != m.pool.unused || inList != m.free() {
		t.Fatalf("%d in the free list, %d counted, %d unused", inList, m.pool.unused, m.free())
	}
	for i := range m.pool.blocks {
		if b := &m.pool.blocks[i]; b.refs != users[b] {
			t.Fatalf("block %d counts %d users, has %d", b.id, b.refs, users[b])
		}
	}
	for h, n := range m.stored {
		found := 0
		for b := m.pool.find(h); b != nil; b = b.twin {
			if found++; b.hash != h || !b.cached || b.content.hash != uint64(h[0]) {
				t.Fatalf("found a wrong block for %v", h[0])
			}
		}
		if found != n {
			t.Fatalf("hash %v: %d blocks can be found, %d were stored and not evicted", h[0], found, n)
		}
	}
}

func TestLeastRecentlyUsedGoesFirst(t *testing.T) {
	t.Parallel()
	var gone []byte
	p := newBlockPool(3, func(h blockHash) { gone = append(gone, h[0]) })
	chain := []*block{p.take(), p.take(), p.take()}
	for i, b := range chain {
		p.store(b, blockHash{byte(i)}, prefix{})
	}
	p.release(chain)
	p.acquire(p.find(blockHash{2})) // used again: goes last
	p.release([]*block{p.find(blockHash{2})})
	for range 3 {
		p.take()
	}
	if string(gone) != string([]byte{1, 0, 2}) {
		t.Errorf("evicted in the order %v, want the end of the chain first and the block used last at the end", gone)
	}
}

func TestReleasedTwicePanics(t *testing.T) {
	t.Parallel()
	p := newBlockPool(1, nil)
	b := p.take()
	p.release([]*block{b})
	defer func() {
		if recover() == nil {
			t.Error("a block could be released twice")
		}
	}()
	p.release([]*block{b})
}
