package index

import (
	"slices"
	"sync/atomic"
)

// Match is how much of a prompt a worker holds.
type Match struct {
	Worker Worker
	// Lead counts the prompt's leading blocks that the worker holds in this tier or a faster one. It never falls from one tier
	// to the next: Lead[GPU] blocks need nothing, Lead[Host]−Lead[GPU] more come from host memory, and so on; from
	// Lead[Object] on, all must be computed. Of a chain with a hole only what is before the hole counts.
	Lead [Tiers]uint32
}

// Reader matches prompts against an index. It keeps scratch memory, so each goroutine needs its own; it holds nothing that
// must be given back.
type Reader struct {
	x      *Index
	stripe *stripe
	values [step]value
	active []candidate
	sink   uint64
}

const (
	step  = 64 // the most blocks that are read before their holders are compared
	apart = 32 // the most blocks that are looked for in the table together
	long  = 8  // a run of records from which on the next break counts as the first
)

// candidate is a worker that holds the prompt so far.
type candidate struct {
	number uint32
	level  uint8  // slowest of the fastest tiers so far
	at     uint32 // its place among the matches
}

// NewReader returns a reader of x.
func (x *Index) NewReader() *Reader {
	n := x.epochs.next.Add(1)
	return &Reader{x: x, stripe: &x.epochs.stripes[n%stripes]}
}

// Match appends to dst one match for every worker that holds the first of ids, in no order, and returns it. Ids are the chain
// of one prompt. Each block is seen as it was at some moment during the call.
func (r *Reader) Match(ids []uint64, dst []Match) []Match {
	epoch := r.x.epochs.enter(r.stripe)
	defer r.x.epochs.leave(r.stripe, epoch)
	begin := len(dst)
	r.active = r.active[:0]
	last, p := value(0), position(0)
	for done, breaks, run := 0, 0, 0; done < len(ids); {
		n := r.follow(p, ids[done:])
		if run += n; n == 0 {
			// The records go elsewhere. Where that happens often, several blocks are looked for at once.
			if run >= long {
				breaks = 0
			}
			part := ids[done:min(done+1<<breaks, len(ids))]
			if n, p = r.lookUp(part); n < len(part) {
				ids = ids[:done+n]
			}
			breaks, run = min(breaks+1, 5), 0
		} else {
			p += position(n)
		}
		r.touch(r.values[:n])
		for i, v := range r.values[:n] {
			switch {
			case v == last:
			case done+i == 0:
				dst = r.start(v, dst)
			default:
				r.narrow(v, uint32(done+i), dst[begin:])
			}
			last = v
		}
		if done += n; len(r.active) == 0 {
			break
		}
	}
	return r.name(dst, begin, len(ids))
}

// touch has the processor load the sets that are going to be compared, all at once.
func (r *Reader) touch(values []value) {
	last, sum := value(0), uint32(0)
	for _, v := range values {
		if v != last && v.shared() {
			sum += r.x.sets.words(v.ref())[headerWords]
		}
		last = v
	}
	r.sink = uint64(sum)
}

// follow reads the values of ids from the record at p on, as long as the records are theirs.
func (r *Reader) follow(p position, ids []uint64) int {
	if p%chunkRecords == 0 {
		return 0
	}
	records := (*r.x.records.dir.Load())[p/chunkRecords][2*(p%chunkRecords):]
	ids = ids[:min(len(ids), step, len(records)/2)]
	for i, id := range ids {
		if atomic.LoadUint64(&records[2*i]) != name(id) {
			return i
		}
		v := atomic.LoadUint64(&records[2*i+1])
		if v == 0 {
			return i
		}
		r.values[i] = value(v)
	}
	return len(ids)
}

// lookUp finds some blocks by the table, up to the first that nobody holds, and gives the position after the last of them.
// Each pass loads what the next one needs, and nothing in a pass depends on it, so the loads overlap.
func (r *Reader) lookUp(ids []uint64) (n int, after position) {
	var segments [apart]*segment
	var positions [apart]position
	d := r.x.table.dir.Load()
	sum := uint64(0)
	for i, id := range ids {
		h := hash(name(id))
		s := d.segments[d.at(h)].Load()
		segments[i%apart] = s
		sum += atomic.LoadUint64(&s[home(h)])
	}
	for i, id := range ids {
		h := hash(name(id))
		w, _ := segments[i%apart].look(h, home(h))
		positions[i%apart] = w.position()
		name, _ := r.x.records.at(w.position())
		sum += atomic.LoadUint64(name)
	}
	r.sink = sum
	for i, id := range ids {
		p := positions[i%apart]
		if !r.x.records.is(p, name(id)) { // seldom: another name with the same half of a hash
			p, _ = r.x.find(segments[i%apart], name(id), hash(name(id)))
		}
		v := r.x.records.value(p)
		if p == 0 || v == 0 {
			return i, 0
		}
		r.values[i%step], after = v, p+1
	}
	return len(ids), after
}

// start makes a match of every holder of the first block.
func (r *Reader) start(v value, dst []Match) []Match {
	var two [2]element
	var elements []uint32
	if v.shared() {
		elements = r.x.sets.elements(v)
	} else {
		var inline [2]uint32
		for i, e := range v.inline(&two) {
			inline[i] = uint32(e)
			elements = inline[:i+1]
		}
	}
	begin := len(dst)
	dst = slices.Grow(dst, len(elements))[:begin+len(elements)]
	r.active = slices.Grow(r.active[:0], len(elements))[:len(elements)]
	for i, w := range elements {
		e := element(w)
		r.active[i] = candidate{e.number(), e.level(), uint32(i)}
		dst[begin+i] = Match{Worker: Worker(e.number())}
	}
	return dst
}

// narrow compares those that hold all blocks before position at with the holders of this one.
func (r *Reader) narrow(v value, at uint32, matches []Match) {
	var two [2]element
	kept := r.active[:0]
	if !v.shared() {
		holders := v.inline(&two)
		for _, c := range r.active {
			e := element(0)
			for _, h := range holders {
				if h.number() == c.number {
					e = h
				}
			}
			if c.meet(e, at, matches) {
				kept = append(kept, c)
			}
		}
		r.active = kept
		return
	}
	elements := r.x.sets.elements(v)
	few := len(r.active)*8 < len(elements)
	next := 0
	for _, c := range r.active {
		e := element(0)
		if few {
			e = search(elements, c.number)
		} else {
			for next < len(elements) && element(elements[next]).number() < c.number {
				next++
			}
			if next < len(elements) && element(elements[next]).number() == c.number {
				e = element(elements[next])
			}
		}
		if c.meet(e, at, matches) {
			kept = append(kept, c)
		}
	}
	r.active = kept
}

// meet goes on to the block at a position, which the candidate holds as e says. False: it does not hold it, and is done.
func (c *candidate) meet(e element, at uint32, matches []Match) bool {
	level := uint8(Tiers)
	if e != 0 {
		level = e.level()
	}
	for ; c.level < level; c.level++ {
		matches[c.at].Lead[c.level] = at
	}
	return level < Tiers
}

// name ends those that held all of the n blocks, and puts workers in place of numbers; of the dead nothing is told.
func (r *Reader) name(dst []Match, begin, n int) []Match {
	for _, c := range r.active {
		for ; c.level < Tiers; c.level++ {
			dst[begin+int(c.at)].Lead[c.level] = uint32(n)
		}
	}
	out := dst[:begin]
	for _, m := range dst[begin:] {
		if w := r.x.handles[m.Worker].Load(); w != 0 {
			m.Worker = Worker(w)
			out = append(out, m)
		}
	}
	return out
}
