// Package evict decides what a cache of chained blocks forgets first. It is pure: time comes as an argument, there is no
// lock (callers have their own), and its tables hold no pointers, so that millions of blocks cost the garbage collector
// nothing.
//
// A chain is worth only its leading run: a block whose parent is gone is dead weight. Therefore a victim is always a leaf,
// a block that no resident block follows, whatever the policy; what is resident is then usable. Which leaf, is the
// policy's choice. Of stores, bytes and keys the package knows nothing: kvstore/mem, kvstore/tiered and
// `penstock kv replay` give it names, weights and tags.
package evict

import "fmt"

// ID names a block, or a group of blocks that are forgotten together. Whoever makes one out of a longer name sees to it
// that equal IDs mean equal names but for a chance of 2^-64.
type ID [16]byte

// Policy is a way to choose among leaves.
type Policy uint8

const (
	// LRU forgets the leaf that was used longest ago. A block that is expected to be used again (Use.Stay) counts as used at
	// the end of that expectation.
	LRU Policy = iota
	// ARC parts blocks that were used once from those used again and learns from its own regrets how much room each of the
	// two is worth. It remembers as many forgotten names as there are resident ones.
	ARC
	// AgedLFU forgets the leaf that was used least often; what has just come starts at the count of what was forgotten
	// last, so that old fame fades.
	AgedLFU
)

var policyNames = [...]string{LRU: "lru", ARC: "arc", AgedLFU: "lfu"}

// Policies are all of them, the default first.
func Policies() []Policy { return []Policy{LRU, ARC, AgedLFU} }

func (p Policy) String() string { return policyNames[p] }

// ParsePolicy reads a policy's name: lru, arc or lfu.
func ParsePolicy(s string) (Policy, error) {
	for p, name := range policyNames {
		if s == name {
			return Policy(p), nil
		}
	}
	return 0, fmt.Errorf("eviction policy %q is none of lru, arc, lfu", s)
}

// Use is what is known when a block is stored or used.
type Use struct {
	Now int64 // on the caller's clock, in any unit
	// Stay is until when the block is expected to be used again. 0 = nothing is known, and what was expected before still
	// is; a time that is not after Now = its conversation has ended. It matters to LRU.
	Stay int64
}

// Entry is a block that becomes resident.
type Entry struct {
	Tag    uint64 // the caller's own; Victim returns it
	Weight int64  // bytes, or 1 where blocks are counted
	// Parent is the block that this one follows, where Chained says that it follows one; Depth is the number of blocks
	// before it. A chain that contradicts itself (a parent no higher than its child) is taken for none.
	Parent  ID
	Depth   uint32
	Chained bool
}

// Node is a resident block's handle. It stays good until the block is removed or was a victim; then it may come to mean
// another block.
type Node uint32

const none = ^uint32(0)

// where a node is counted.
const (
	absent uint8 = iota // a free node, or the place of a parent that has never been here
	once                // resident, used once (LRU and AgedLFU keep all residents here)
	again               // resident, used more than once (ARC)
	pastOnce
	pastAgain // forgotten, name remembered (ARC)
	lists
)

// node is without pointers on purpose.
type node struct {
	id     ID
	tag    uint64
	rank   uint64 // the lowest goes first, within a list
	weight int64
	parent uint32
	kids   uint32 // resident ones
	depth  uint32
	pos    uint32 // in the heap of its list; none = it is not in it
	freq   uint16
	list   uint8
}

func (n *node) resident() bool { return n.list == once || n.list == again }

// Order holds the resident blocks and their order. The zero Order is not usable; see New.
type Order struct {
	policy   Policy
	capacity int64
	nodes    nodes
	names    names
	heaps    [lists]heap
	weights  [lists]int64
	count    [lists]int
	seq      uint64
	age      uint64 // AgedLFU: the count of the last victim
	target   int64  // ARC: how much of the room those used once are worth
}

// New makes an empty order for a cache that holds weights up to the capacity. Only ARC needs the capacity.
func New(p Policy, capacity int64) *Order {
	o := &Order{policy: p, capacity: capacity, nodes: nodes{free: none}}
	for i := range o.heaps {
		o.heaps[i].nodes = &o.nodes
	}
	o.names.nodes = &o.nodes
	return o
}

// Len is the number of resident blocks.
func (o *Order) Len() int { return o.count[once] + o.count[again] }

// Weight is the sum of the residents' weights.
func (o *Order) Weight() int64 { return o.weights[once] + o.weights[again] }

// Find returns the resident block's node.
func (o *Order) Find(id ID) (Node, bool) {
	i := o.names.find(id)
	return Node(i), i != none && o.nodes.at(i).resident()
}

// Insert makes a block resident. One that is there already keeps its chain and adds the weight: more of it has come, which
// is no use of it.
func (o *Order) Insert(id ID, e Entry, u Use) Node {
	i := o.names.find(id)
	switch {
	case i == none:
		i = o.nodes.take(id)
		o.names.put(i)
		o.nodes.at(i).depth = e.Depth
	case o.nodes.at(i).resident():
		n := o.nodes.at(i)
		o.Grow(Node(i), e.Weight)
		n.rank = o.rankOf(n, u)
		o.heaps[n.list].fix(i)
		return Node(i)
	}
	n := o.nodes.at(i)
	n.tag = e.Tag
	to := o.arrival(i, e.Weight)
	o.leave(i)
	n.weight, n.freq = e.Weight, 1
	n.rank = o.rankOf(n, u)
	o.join(i, to)
	o.follow(i, e)
	return Node(i)
}

// follow ties a new resident to its parent, whose place is kept when it is not here.
func (o *Order) follow(i uint32, e Entry) {
	n := o.nodes.at(i)
	if n.parent = none; !e.Chained || n.depth == 0 {
		return
	}
	p := o.names.find(e.Parent)
	if p == none {
		p = o.nodes.take(e.Parent)
		o.nodes.at(p).depth = n.depth - 1
		o.names.put(p)
	}
	parent := o.nodes.at(p)
	if parent.depth >= n.depth {
		return
	}
	n.parent = p
	if parent.kids++; parent.kids == 1 && parent.resident() {
		o.heaps[parent.list].remove(p)
	}
}

// Touch notes a use of a resident block.
func (o *Order) Touch(h Node, u Use) {
	n := o.nodes.at(uint32(h))
	if !n.resident() {
		return
	}
	if n.freq < 1<<16-1 {
		n.freq++
	}
	n.rank = o.rankOf(n, u)
	if o.policy == ARC && n.list == once {
		o.leave(uint32(h))
		o.join(uint32(h), again)
		return
	}
	o.heaps[n.list].fix(uint32(h))
}

// Grow changes a resident block's weight.
func (o *Order) Grow(h Node, by int64) {
	n := o.nodes.at(uint32(h))
	n.weight += by
	o.weights[n.list] += by
}

// Remove takes out a resident block that its owner deleted. Nothing is learnt from it.
func (o *Order) Remove(h Node) {
	if n := o.nodes.at(uint32(h)); n.resident() {
		o.depart(uint32(h), absent)
	}
}

// rankOf is the node's place in its list after a use now.
func (o *Order) rankOf(n *node, u Use) uint64 {
	o.seq++
	switch o.policy {
	case AgedLFU:
		return (o.age+uint64(n.freq))<<ageShift | o.seq&(1<<ageShift-1)
	case ARC:
		return o.seq
	}
	if u.Stay != 0 {
		return uint64(max(u.Now, u.Stay, 0))
	}
	return max(n.rank, uint64(max(u.Now, 0)))
}

const ageShift = 40

// join counts a node in a list, and queues it there if nothing resident follows it.
func (o *Order) join(i uint32, list uint8) {
	n := o.nodes.at(i)
	n.list = list
	o.weights[list] += n.weight
	o.count[list]++
	if n.kids == 0 || !n.resident() {
		o.heaps[list].push(i)
	}
}

// leave is the opposite of join.
func (o *Order) leave(i uint32) {
	n := o.nodes.at(i)
	if n.list == absent {
		return
	}
	if n.pos != none {
		o.heaps[n.list].remove(i)
	}
	o.weights[n.list] -= n.weight
	o.count[n.list]--
	n.list = absent
}

// depart takes a resident out and remembers it in the list; absent = not at all.
func (o *Order) depart(i uint32, to uint8) {
	o.leave(i)
	n := o.nodes.at(i)
	if p := n.parent; p != none {
		n.parent = none
		o.childLeft(p)
	}
	if to != absent {
		n.rank, n.freq = o.seq, 0
		o.seq++
		o.join(i, to)
		return
	}
	o.free(i)
}

func (o *Order) childLeft(p uint32) {
	n := o.nodes.at(p)
	if n.kids--; n.kids > 0 {
		return
	}
	if n.resident() {
		o.heaps[n.list].push(p)
	} else if n.list == absent {
		o.free(p)
	}
}

// free forgets a node altogether, unless it keeps the place of a parent.
func (o *Order) free(i uint32) {
	n := o.nodes.at(i)
	if n.kids > 0 {
		return
	}
	o.names.remove(i)
	o.nodes.give(i)
}
