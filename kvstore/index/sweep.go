package index

import "slices"

// sweep takes dead numbers out of the records, a chunk at a time, as other changes come by. Numbers that die during a round
// wait for the next.
type sweep struct {
	waiting []uint32 // died, not yet in a round
	round   []uint32 // being taken out
	is      map[uint32]bool
	at      int // the next chunk
	credit  int // records that may be looked at
}

func (s *sweep) dead(n uint32) { s.waiting = append(s.waiting, n) }

// sweepPerBlock is how many records are looked at for each block that is stored or removed while something is dead.
const sweepPerBlock = 4

func (x *Index) sweepSome(blocks int) {
	if len(x.sweep.waiting)+len(x.sweep.round) == 0 {
		x.sweep.credit = 0
		return
	}
	for x.sweep.credit += sweepPerBlock*blocks + 64; x.sweep.credit >= chunkRecords; x.sweep.credit -= chunkRecords {
		if !x.sweepStep() {
			return
		}
	}
}

// Sweep takes dropped and cleared workers out of the next chunks of 4,096 blocks, and reports whether more is to do. It need not be called: changes do it by the way. Who has nothing to do may call it to get memory back sooner.
func (x *Index) Sweep(chunks int) (more bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.reclaim()
	for range chunks {
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

// sweepStep sweeps one chunk. False: nothing is dead.
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
	x.walk(s.at, x.bereave)
	if s.at++; s.at < len(*x.records.dir.Load()) {
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

// walk changes every value of a chunk. What f made of a value is remembered for a while, since many blocks share theirs.
func (x *Index) walk(c int, f func(value) value) {
	words := (*x.records.dir.Load())[c]
	var seen [64]struct{ from, to value }
	for i := range position(chunkRecords) {
		id, old := words[2*i], value(words[2*i+1])
		if old == 0 {
			continue
		}
		m := &seen[uint64(old)*0x9E3779B97F4A7C15>>58]
		if m.from != old {
			m.from, m.to = old, f(old)
		}
		if m.to != old {
			x.take(position(c)*chunkRecords+i, id, old, m.to)
		}
	}
}
