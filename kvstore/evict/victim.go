package evict

import "slices"

// Item is a resident block by its tag, and by the tag of the resident block that it follows, where there is one.
type Item struct {
	Tag, Parent uint64
	HasParent   bool
}

func (o *Order) item(n *node) Item {
	if n.parent == none || !o.nodes.at(n.parent).resident() {
		return Item{Tag: n.tag}
	}
	return Item{Tag: n.tag, Parent: o.nodes.at(n.parent).tag, HasParent: true}
}

// Victim takes out the block that goes first; false: there is none, or spare has refused every leaf. spare may be nil;
// blocks that it says yes to are left where they are (a reader holds them).
func (o *Order) Victim(spare func(tag uint64) bool) (Item, bool) {
	first, second := once, again
	if o.policy == ARC && o.weights[once] <= o.target {
		first, second = again, once
	}
	for _, list := range []uint8{first, second} {
		if i := o.heaps[list].first(spare); i != none {
			out := o.item(o.nodes.at(i))
			o.evict(i)
			return out, true
		}
	}
	return Item{}, false
}

func (o *Order) evict(i uint32) {
	n := o.nodes.at(i)
	switch o.policy {
	case AgedLFU:
		o.age = max(o.age, n.rank>>ageShift)
		o.depart(i, absent)
	case ARC:
		o.depart(i, n.list-once+pastOnce)
		o.forgetNames()
	default:
		o.depart(i, absent)
	}
}

// arrival is the list that a block joins which was not resident, and ARC's lesson from it: a name that was forgotten too
// early makes more room for its kind.
func (o *Order) arrival(i uint32, weight int64) uint8 {
	if o.policy != ARC {
		return once
	}
	a, b := max(o.weights[pastOnce], 1), max(o.weights[pastAgain], 1)
	switch o.nodes.at(i).list {
	case pastOnce:
		o.target = min(o.capacity, o.target+weight*max(1, b/a))
	case pastAgain:
		o.target = max(0, o.target-weight*max(1, a/b))
	default:
		return once
	}
	return again
}

// forgetNames bounds ARC's memory of what it forgot: once and pastOnce together, and all four lists, as in the paper.
func (o *Order) forgetNames() {
	for o.weights[once]+o.weights[pastOnce] > o.capacity && o.count[pastOnce] > 0 {
		o.drop(pastOnce)
	}
	for o.weights[once]+o.weights[again]+o.weights[pastOnce]+o.weights[pastAgain] > 2*o.capacity && o.count[pastAgain] > 0 {
		o.drop(pastAgain)
	}
}

func (o *Order) drop(list uint8) {
	i := o.heaps[list].items[0]
	o.leave(i)
	o.free(i)
}

// Ranked calls each with every resident block, those that would be forgotten last first, and always a parent
// before what follows it: whoever stops half-way has kept whole chains of the best. It stops when each says false.
func (o *Order) Ranked(each func(Item) bool) {
	var all []uint32
	for i := range o.nodes.len() {
		if o.nodes.at(i).resident() {
			all = append(all, i)
		}
	}
	slices.SortFunc(all, o.betterFirst)
	done := make(map[uint32]bool, len(all))
	for _, i := range all {
		if !o.withParents(i, done, each) {
			return
		}
	}
}

func (o *Order) betterFirst(a, b uint32) int {
	x, y := o.nodes.at(a), o.nodes.at(b)
	switch {
	case x.list != y.list:
		return int(y.list) - int(x.list) // used again before used once
	case x.rank != y.rank:
		return map[bool]int{true: -1, false: 1}[x.rank > y.rank]
	}
	return int(x.depth) - int(y.depth)
}

// withParents gives out the chain of a node down to it, from its highest resident that was not given out yet.
func (o *Order) withParents(i uint32, done map[uint32]bool, each func(Item) bool) bool {
	var chain []uint32
	for ; i != none && !done[i]; i = o.nodes.at(i).parent {
		chain = append(chain, i)
		done[i] = true
	}
	for _, i := range slices.Backward(chain) {
		if n := o.nodes.at(i); n.resident() && !each(o.item(n)) {
			return false
		}
	}
	return true
}
