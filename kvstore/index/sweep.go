package index

import "slices"

// sweep takes dead numbers out of the table, a segment at a time, as other changes come by. The position is a hash, so that
// segments may be split meanwhile. Numbers that die during a round wait for the next.
type sweep struct {
	waiting []uint32 // died, not yet in a round
	round   []uint32 // being taken out
	is      map[uint32]bool
	at      uint64 // everything below has been swept in this round
	credit  int    // slots that may be looked at
}

func (s *sweep) dead(n uint32) { s.waiting = append(s.waiting, n) }

// sweepPerBlock is how many slots are looked at for each block that is stored or removed while something is dead.
const sweepPerBlock = 4

func (x *Index) sweepSome(blocks int) {
	if len(x.sweep.waiting)+len(x.sweep.round) == 0 {
		x.sweep.credit = 0
		return
	}
	for x.sweep.credit += sweepPerBlock*blocks + 64; x.sweep.credit >= segmentSlots; x.sweep.credit -= segmentSlots {
		if !x.sweepStep() {
			return
		}
	}
}

// Sweep takes the blocks of dropped and cleared workers out of the next segments of the table, and reports whether more is to
// do. It need not be called: changes do it by the way. Who has nothing to do may call it to get memory back sooner.
func (x *Index) Sweep(segments int) (more bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.reclaim()
	for range segments {
		if !x.sweepStep() {
			return false
		}
	}
	return true
}

func (x *Index) sweepAll() {
	for x.sweepStep() {
	}
}

// sweepStep sweeps one segment. False: nothing is dead.
func (x *Index) sweepStep() bool {
	s := &x.sweep
	if len(s.round) == 0 {
		if len(s.waiting) == 0 {
			return false
		}
		s.round, s.waiting, s.at = s.waiting, nil, 0
		s.is = make(map[uint32]bool, len(s.round))
		for _, n := range s.round {
			s.is[n] = true
		}
	}
	d := x.table.dir.Load()
	at := d.at(s.at)
	k := d.keeping[at]
	x.walk(d.segments[at].Load(), k, x.bereave)
	if s.at += uint64(1) << (64 - k.depth); s.at != 0 { // depth 0 ends the round: 1<<64 is 0
		return true
	}
	l := &x.epochs.limbo[x.epochs.current.Load()%3]
	l.numbers = append(l.numbers, s.round...)
	s.round, s.is = nil, nil
	return len(s.waiting) > 0
}

// bereave is v without the dead.
func (x *Index) bereave(v value) value {
	if !v.shared() {
		var two [2]element
		kept := two[:0]
		for _, e := range v.inline(new([2]element)) {
			if !x.sweep.is[e.number()] {
				kept = append(kept, e)
			}
		}
		return fold(kept)
	}
	elements := x.sets.elements(v)
	if !slices.ContainsFunc(elements, x.isDead) {
		return v
	}
	x.sets.scratch = slices.DeleteFunc(append(x.sets.scratch[:0], elements...), x.isDead)
	hash := uint32(0)
	for _, w := range x.sets.scratch {
		hash += mix(element(w))
	}
	to, _ := x.intern(x.sets.scratch, hash, false)
	return to
}

func (x *Index) isDead(w uint32) bool { return x.sweep.is[element(w).number()] }

// everywhere changes every value of the table.
func (x *Index) everywhere(f func(value) value) {
	d := x.table.dir.Load()
	for i := 0; i < len(d.segments); {
		k := d.keeping[i]
		x.walk(d.segments[i].Load(), k, f)
		i += 1 << (d.depth - k.depth)
	}
}

// walk changes every value of a segment. What f made of a value is remembered for a while, since many blocks share theirs.
func (x *Index) walk(s *segment, k *keeping, f func(value) value) {
	var seen [64]struct{ from, to value }
	for slot := range uint32(segmentSlots) {
		old := s.value(slot)
		if old == 0 {
			continue
		}
		m := &seen[uint64(old)*0x9E3779B97F4A7C15>>58]
		if m.from != old {
			m.from, m.to = old, f(old)
		}
		if m.to != old {
			x.take(k, s, slot, old, m.to)
		}
	}
}
