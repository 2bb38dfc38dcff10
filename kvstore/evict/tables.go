package evict

import "encoding/binary"

// nodes is an array that grows by pages, so that growing copies nothing and wastes a page at most.
type nodes struct {
	pages []*[pageSize]node
	free  uint32 // the first of a list through parent; none = empty
	taken uint32
}

const pageSize = 1024

func (a *nodes) at(i uint32) *node { return &a.pages[i/pageSize][i%pageSize] }

// len is one more than the highest node that was ever taken.
func (a *nodes) len() uint32 { return a.taken }

func (a *nodes) take(id ID) uint32 {
	i := a.free
	if i != none {
		a.free = a.at(i).parent
	} else {
		i = a.taken
		if a.taken++; int(i) == len(a.pages)*pageSize {
			a.pages = append(a.pages, new([pageSize]node))
		}
	}
	*a.at(i) = node{id: id, parent: none, pos: none}
	return i
}

func (a *nodes) give(i uint32) {
	*a.at(i) = node{parent: a.free, pos: none}
	a.free = i
}

// names finds nodes by ID: open addressing with linear probing, no tombstones.
type names struct {
	nodes *nodes
	slots []uint32 // node + 1; 0 = empty
	count int
}

func (t *names) home(id ID) int {
	return int(binary.LittleEndian.Uint64(id[:])>>1) & (len(t.slots) - 1)
}

func (t *names) find(id ID) uint32 {
	if len(t.slots) == 0 {
		return none
	}
	for s := t.home(id); ; s = (s + 1) & (len(t.slots) - 1) {
		switch i := t.slots[s]; {
		case i == 0:
			return none
		case t.nodes.at(i-1).id == id:
			return i - 1
		}
	}
}

func (t *names) put(i uint32) {
	if t.count++; t.count*8 > len(t.slots)*7 {
		t.grow()
	}
	t.place(i)
}

func (t *names) place(i uint32) {
	s := t.home(t.nodes.at(i).id)
	for t.slots[s] != 0 {
		s = (s + 1) & (len(t.slots) - 1)
	}
	t.slots[s] = i + 1
}

func (t *names) grow() {
	old := t.slots
	t.slots = make([]uint32, max(64, 2*len(old)))
	for _, i := range old {
		if i != 0 {
			t.place(i - 1)
		}
	}
}

// remove closes the gap by moving back what was pushed past it.
func (t *names) remove(i uint32) {
	mask := len(t.slots) - 1
	gap := t.home(t.nodes.at(i).id)
	for t.slots[gap] != i+1 {
		gap = (gap + 1) & mask
	}
	t.count--
	for s := (gap + 1) & mask; t.slots[s] != 0; s = (s + 1) & mask {
		if home := t.home(t.nodes.at(t.slots[s] - 1).id); (s-home)&mask >= (s-gap)&mask {
			t.slots[gap] = t.slots[s]
			gap = s
		}
	}
	t.slots[gap] = 0
}

// heap is a binary heap of nodes, the lowest rank on top, that knows where each node is.
type heap struct {
	nodes *nodes
	items []uint32
}

func (h *heap) push(i uint32) {
	h.items = append(h.items, i)
	h.nodes.at(i).pos = uint32(len(h.items) - 1)
	h.up(len(h.items) - 1)
}

func (h *heap) remove(i uint32) {
	pos, last := int(h.nodes.at(i).pos), len(h.items)-1
	h.swap(pos, last)
	h.items = h.items[:last]
	h.nodes.at(i).pos = none
	if pos < last {
		h.down(pos)
		h.up(pos)
	}
}

// fix moves a node whose rank has changed. A node that is not in the heap is left alone.
func (h *heap) fix(i uint32) {
	if pos := h.nodes.at(i).pos; pos != none {
		h.down(int(pos))
		h.up(int(pos))
	}
}

func (h *heap) less(a, b int) bool {
	x, y := h.nodes.at(h.items[a]), h.nodes.at(h.items[b])
	if x.rank != y.rank {
		return x.rank < y.rank
	}
	return x.depth > y.depth
}

func (h *heap) swap(a, b int) {
	h.items[a], h.items[b] = h.items[b], h.items[a]
	h.nodes.at(h.items[a]).pos, h.nodes.at(h.items[b]).pos = uint32(a), uint32(b)
}

func (h *heap) up(i int) {
	for i > 0 && h.less(i, (i-1)/2) {
		h.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (h *heap) down(i int) {
	for {
		least := i
		for _, c := range []int{2*i + 1, 2*i + 2} {
			if c < len(h.items) && h.less(c, least) {
				least = c
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}

// first is the lowest node that is not spared, or none. Spared ones are few: readers hold them.
func (h *heap) first(spare func(uint64) bool) uint32 {
	found := none
	var aside []uint32
	for len(h.items) > 0 {
		i := h.items[0]
		if spare == nil || !spare(h.nodes.at(i).tag) {
			found = i
			break
		}
		h.remove(i)
		aside = append(aside, i)
	}
	for _, i := range aside {
		h.push(i)
	}
	return found
}
