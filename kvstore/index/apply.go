package index

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
	x.eachBlock(ids, func(id uint64, p position) position {
		p = x.storeOne(id, e, p)
		if p != 0 {
			recorded++
		} else {
			x.refused++
		}
		return p
	})
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
	x.eachBlock(ids, func(id uint64, p position) position { return x.removeOne(id, e, p) })
}

// eachBlock calls f for each block and its record, 0 if it has none; f returns the record it has afterwards. The record is
// likely to be beside that of the block before; where it is not, a whole batch is looked for at once.
func (x *Index) eachBlock(ids []uint64, f func(id uint64, p position) position) {
	last := position(0)
	for len(ids) > 0 {
		part := ids[:min(batch, len(ids))]
		ids = ids[len(part):]
		if p, ok := x.beside(last, name(part[0])); ok {
			last = f(name(part[0]), p)
			part = part[1:]
		} else {
			x.touch(part)
		}
		for _, id := range part {
			id = name(id)
			last = f(id, x.locate(id, last))
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
	for c := range *x.records.dir.Load() {
		x.walk(c, func(v value) value { return x.minus(v, newElement(n, tiers)) })
	}
}

// begin is what every change does first: take back what is free, and sweep a little for the dead.
func (x *Index) begin(w Worker, blocks int) (number uint32, ok bool) {
	x.reclaim()
	x.memo = memo{}
	x.sweepSome(blocks)
	number, ok = x.workers[w]
	return number, ok
}

// touch has the processor load what some blocks need, all at once: no load waits for another of its pass.
func (x *Index) touch(ids []uint64) {
	var segments [batch]*segment
	d := x.table.dir.Load()
	sum := uint64(0)
	for i, id := range ids {
		h := hash(name(id))
		s := d.segments[d.at(h)].Load()
		segments[i%batch] = s
		sum += s[home(h)]
	}
	for i, id := range ids {
		h := hash(name(id))
		w, _ := segments[i%batch].look(h, home(h))
		name, _ := x.records.at(w.position())
		sum += *name
	}
	x.sink = sum
}

// beside gives the record after or before p if it has the name, without asking the table.
func (x *Index) beside(p position, id uint64) (position, bool) {
	switch {
	case p == 0:
		return 0, false
	case (p+1)%chunkRecords != 0 && x.records.is(p+1, id):
		return p + 1, true
	case p%chunkRecords != 0 && x.records.is(p-1, id):
		return p - 1, true
	}
	return 0, false
}

// locate finds the record of a block, 0 if there is none.
func (x *Index) locate(id uint64, last position) position {
	if p, ok := x.beside(last, id); ok {
		return p
	}
	h := hash(id)
	d := x.table.dir.Load()
	p, _ := x.find(d.segments[d.at(h)].Load(), id, h)
	return p
}

// storeOne gives the block's record; 0 if it is not recorded.
func (x *Index) storeOne(id uint64, e element, p position) position {
	if p == 0 {
		return x.storeNew(id, e)
	}
	old := x.records.value(p)
	v, ok := x.plus(old, e)
	if !ok {
		return 0
	}
	if v != old {
		x.exchange(p, old, v)
	}
	return p
}

// storeNew makes a block's record and its slot.
func (x *Index) storeNew(id uint64, e element) position {
	h := hash(id)
	d := x.table.dir.Load()
	at := d.at(h)
	if d.keeping[at].used >= fullAt {
		if !x.makeRoom(d.keeping[at], h) {
			return 0
		}
		d = x.table.dir.Load()
		at = d.at(h)
	}
	p, ok := x.record()
	if !ok {
		return 0
	}
	x.records.put(p, id, value(e))
	d.segments[at].Load().insert(d.keeping[at], newSlot(h, p))
	return p
}

// record takes a free record, or new memory for some.
func (x *Index) record() (position, bool) {
	if p, ok := x.records.take(false); ok {
		return p, true
	}
	if !x.room(chunkBytes + chunkExtents*extentOverhead) {
		return x.records.take(true)
	}
	x.records.grow()
	return x.records.take(false)
}

// makeRoom splits or cleans the full segment that h leads to. False: there is no room for one more block.
func (x *Index) makeRoom(k *keeping, h uint64) bool {
	if k.live >= splitAt && x.room(segmentBytes+16*len(x.table.dir.Load().segments)) && x.table.copyAt(h, true) {
		return true
	}
	if k.live < splitAt || k.used >= nearlyFull && k.live < nearlyFull*15/16 {
		return x.table.copyAt(h, false)
	}
	return k.used < nearlyFull
}

// removeOne gives the place of the block's record, even if it is no longer there; 0 if there was none.
func (x *Index) removeOne(id uint64, e element, p position) position {
	if p == 0 {
		return 0
	}
	old := x.records.value(p)
	if v := x.minus(old, e); v != old {
		x.take(p, id, old, v)
	}
	return p
}

// take gives a block fewer holders; one that has none left is forgotten.
func (x *Index) take(p position, id uint64, old, v value) {
	x.exchange(p, old, v)
	if v != 0 {
		return
	}
	h := hash(id)
	d := x.table.dir.Load()
	at := d.at(h)
	s := d.segments[at].Load()
	i := home(h)
	for slot(s[i]) != newSlot(h, p) {
		i = (i + 1) & (segmentSlots - 1)
	}
	k := d.keeping[at]
	s.remove(k, i)
	if k.used-k.live >= manyDead {
		x.table.copyAt(h, false)
	}
	x.records.forget(p)
	x.epochs.retireRecord(p)
}

// exchange gives a block another set and counts the blocks of both.
func (x *Index) exchange(p position, old, v value) {
	if v.shared() {
		x.sets.hold(v)
	}
	x.records.set(p, v)
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
