package index

import "sync/atomic"

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
	values [chunk]value
	active []candidate
	sink   uint64
}

// chunk is the most blocks that are looked for together; the first chunks are smaller, since many prompts are held by nobody.
const (
	chunk      = 64
	firstChunk = 8
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
	last := value(0)
	for done, size := 0, firstChunk; done < len(ids); size = min(2*size, chunk) {
		part := ids[done:min(done+size, len(ids))]
		n := r.load(part)
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
		done += n
		if n < len(part) || len(r.active) == 0 {
			return r.name(dst, begin, done)
		}
	}
	return r.name(dst, begin, len(ids))
}

// load looks up some blocks, up to the first that nobody holds.
func (r *Reader) load(ids []uint64) int {
	d := r.x.table.dir.Load()
	var segments [chunk]*segment
	sum := uint64(0)
	for i, id := range ids { // nothing here depends on what is loaded, so the loads overlap
		h := hash(name(id))
		s := d.segments[d.at(h)].Load()
		segments[i&(chunk-1)] = s
		sum += atomic.LoadUint64(&s[2*place(h)])
	}
	r.sink = sum
	for i, id := range ids {
		id = name(id)
		s := segments[i&(chunk-1)]
		slot, found := s.find(id, place(hash(id)))
		if !found {
			return i
		}
		v := s.value(slot)
		if v == 0 {
			return i
		}
		r.values[i&(chunk-1)] = v
	}
	return len(ids)
}

// start makes a match of every holder of the first block.
func (r *Reader) start(v value, dst []Match) []Match {
	var two [2]element
	if !v.shared() {
		for i, e := range v.inline(&two) {
			r.active = append(r.active, candidate{e.number(), e.level(), uint32(i)})
			dst = append(dst, Match{Worker: Worker(e.number())})
		}
		return dst
	}
	for i, w := range r.x.sets.elements(v) {
		e := element(w)
		r.active = append(r.active, candidate{e.number(), e.level(), uint32(i)})
		dst = append(dst, Match{Worker: Worker(e.number())})
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
