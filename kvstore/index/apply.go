package index

import "sync/atomic"

// batch is how many blocks are looked for together: their cache lines are on the way from memory at the same time.
const batch = 32

// Store records that w holds blocks in a tier, and returns how many of them are recorded: fewer than given only at the bound
// or if w is unknown. Blocks that w holds there already are recorded. The order of ids does not matter.
func (x *Index) Store(w Worker, t Tier, ids []uint64) (recorded int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n, ok := x.begin(w, len(ids))
	if !ok {
		return 0
	}
	e := newElement(n, Only(t))
	for part := ids; len(part) > 0; part = part[min(batch, len(part)):] {
		if len(part) >= batch {
			x.touch((*[batch]uint64)(part))
		}
		for _, id := range part[:min(batch, len(part))] {
			recorded += x.storeOne(name(id), e)
		}
	}
	x.refused += uint64(len(ids) - recorded)
	return recorded
}

// Remove records that w no longer holds blocks in a tier. Blocks that it did not hold are no error.
func (x *Index) Remove(w Worker, t Tier, ids []uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n, ok := x.begin(w, len(ids))
	if !ok {
		return
	}
	e := newElement(n, Only(t))
	for part := ids; len(part) > 0; part = part[min(batch, len(part)):] {
		if len(part) >= batch {
			x.touch((*[batch]uint64)(part))
		}
		for _, id := range part[:min(batch, len(part))] {
			x.removeOne(name(id), e)
		}
	}
}

// Clear records that w holds nothing any more in some tiers. Clearing all tiers costs nothing now (see Drop); else the whole
// table is walked, about 10 ms for a million blocks, and other writers wait meanwhile.
func (x *Index) Clear(w Worker, tiers TierSet) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n, ok := x.begin(w, 0)
	if !ok || tiers&AllTiers == 0 {
		return
	}
	if tiers&AllTiers == AllTiers {
		if fresh, ok := x.number(); ok {
			x.workers[w] = fresh
			x.bury(n)
			x.handles[fresh].Store(uint32(w))
			return
		}
	}
	x.everywhere(func(v value) value { return x.minus(v, newElement(n, tiers)) })
}

// begin is what every change does first: take back what is free, and sweep a little for the dead.
func (x *Index) begin(w Worker, blocks int) (number uint32, ok bool) {
	x.reclaim()
	x.memo = memo{}
	x.sweepSome(blocks)
	number, ok = x.workers[w]
	return number, ok
}

// touch loads the first cache line of each name's slot without waiting for any of them: nothing depends on what is there.
func (x *Index) touch(ids *[batch]uint64) {
	d := x.table.dir.Load()
	sum := uint64(0)
	for _, id := range ids {
		h := hash(id)
		sum += atomic.LoadUint64(&d.segments[d.at(h)].Load()[2*place(h)])
	}
	x.sink = sum
}

func (x *Index) storeOne(id uint64, e element) int {
	h := hash(id)
	d := x.table.dir.Load()
	at := d.at(h)
	s := d.segments[at].Load()
	slot, found := s.find(id, place(h))
	if !found {
		return x.storeNew(id, h, e)
	}
	old := s.value(slot)
	v, ok := x.plus(old, e)
	switch {
	case !ok:
		return 0
	case v == old:
		return 1
	case old == 0:
		d.keeping[at].live++
		x.table.live++
	}
	x.exchange(s, slot, old, v)
	return 1
}

// storeNew gives a block its first slot, copying a segment that is full.
func (x *Index) storeNew(id, h uint64, e element) int {
	d := x.table.dir.Load()
	at := d.at(h)
	if d.keeping[at].used >= fullAt {
		if !x.makeRoom(d.keeping[at], h) {
			return 0
		}
		d = x.table.dir.Load()
		at = d.at(h)
	}
	s, k := d.segments[at].Load(), d.keeping[at]
	slot, _ := s.find(id, place(h))
	s.put(slot, id, value(e))
	k.used++
	k.live++
	x.table.live++
	return 1
}

// nearlyFull is how far a segment that can't be copied may be filled: searches grow long, but end.
const nearlyFull = segmentSlots * 15 / 16

// makeRoom splits or cleans the full segment that h leads to. False: there is no room for one more block.
func (x *Index) makeRoom(k *keeping, h uint64) bool {
	if k.live >= splitAt && x.room(segmentBytes+8*len(x.table.dir.Load().segments)) && x.table.copyAt(h, true) {
		return true
	}
	if k.live < splitAt || k.used >= nearlyFull && k.live < nearlyFull*15/16 {
		return x.table.copyAt(h, false)
	}
	return k.used < nearlyFull
}

func (x *Index) removeOne(id uint64, e element) {
	h := hash(id)
	d := x.table.dir.Load()
	at := d.at(h)
	s := d.segments[at].Load()
	slot, found := s.find(id, place(h))
	if !found {
		return
	}
	old := s.value(slot)
	if v := x.minus(old, e); v != old {
		x.take(d.keeping[at], s, slot, old, v)
	}
}

// take puts a smaller set into a slot.
func (x *Index) take(k *keeping, s *segment, slot uint32, old, v value) {
	if v == 0 {
		k.live--
		x.table.live--
	}
	x.exchange(s, slot, old, v)
}

// exchange puts another set into a slot and counts the blocks of both.
func (x *Index) exchange(s *segment, slot uint32, old, v value) {
	if v.shared() {
		x.sets.hold(v)
	}
	s.set(slot, v)
	if old.shared() && x.sets.release(old) {
		x.epochs.retire(old.ref())
	}
}

// plus is the set v with e's tiers added. False: the bound does not allow it.
func (x *Index) plus(v value, e element) (value, bool) {
	if v.shared() {
		return x.recall(v, e, true)
	}
	low, high := v.low(), v.high()
	switch {
	case v == 0:
		return value(e), true
	case low.number() == e.number():
		return value(high)<<32 | value(low|e), true
	case high == 0:
		return pair(low, e), true
	case high.number() == e.number():
		return value(high|e)<<32 | value(low), true
	}
	return x.recall(v, e, true)
}

// minus is the set v with e's tiers taken out. At the bound it may be the empty set instead, which is true of fewer.
func (x *Index) minus(v value, e element) value {
	if v.shared() {
		v, _ = x.recall(v, e, false)
		return v
	}
	if low := v.low(); low != 0 && low.number() == e.number() {
		if low = low.without(e); low == 0 {
			return value(v.high())
		}
		return v&^(1<<32-1) | value(low)
	}
	if high := v.high(); high != 0 && high.number() == e.number() {
		return value(high.without(e))<<32 | value(v.low())
	}
	return v
}

// memo remembers what the change in hand makes of a set: the blocks of one event mostly have few sets among them. It must be
// emptied before any piece of memory is used again.
type memo [16]struct{ from, to value }

// recall is plus and minus where a shared set comes in or goes out.
func (x *Index) recall(v value, e element, add bool) (value, bool) {
	m := &x.memo[uint64(v)*0x9E3779B97F4A7C15>>60]
	if m.from == v {
		return m.to, true
	}
	to, ok := x.derive(v, e, add)
	if ok {
		m.from, m.to = v, to
	}
	return to, ok
}

// derive finds or makes the set.
func (x *Index) derive(v value, e element, add bool) (value, bool) {
	n := e.number()
	had := x.sets.holder(v, n)
	now := had.without(e)
	if add {
		now = had.with(e)
	}
	if now == had {
		return v, true
	}
	elements, hash := x.sets.edit(v, n, now)
	return x.intern(elements, hash, add)
}

// intern is the value of some elements. At the bound it is nothing: false if they are to be added, the empty set if they are
// what is left.
func (x *Index) intern(elements []uint32, hash uint32, add bool) (value, bool) {
	if len(elements) < 3 {
		var two [2]element
		for i, w := range elements {
			two[i] = element(w)
		}
		return fold(two[:len(elements)]), true
	}
	if r, ok := x.sets.look(elements, hash); ok {
		return shared | value(r), true
	}
	if !x.room(x.sets.needs(len(elements))) {
		if !add {
			x.dropped++
		}
		return 0, !add
	}
	return shared | value(x.sets.put(elements, hash)), true
}
