package index

import "slices"

// A set of three or more holders lies once in memory, however many blocks have it, and is never changed: a block that gets
// another holder gets another set. In words:
//
//	[length][blocks that have it][hash][–][element] [element] …   in order of their numbers
//
// The hash is a sum over the elements, so that of a set with one element more or less is known without looking at the others.
const (
	wordLength = iota
	wordBlocks
	wordHash
	headerWords = unit
)

// entry of the table of all sets: hash above, ref below.
type entry uint64

// sets keeps them, and finds the one with given elements. Only elements is for readers.
type sets struct {
	slabs
	table   []entry // open addressing, linear
	count   int
	scratch []uint32
}

func (s *sets) init() {
	s.slabs.init()
	s.table = make([]entry, 64)
}

func (s *sets) bytes() int { return s.slabs.bytes() + 8*len(s.table) }

// elements of a shared value.
func (s *sets) elements(v value) []uint32 {
	w := s.words(v.ref())
	return w[headerWords : headerWords+w[wordLength]]
}

// mix is an element's share of a set's hash.
func mix(e element) uint32 {
	h := uint32(e)
	h ^= h >> 16
	h *= 0x85EBCA6B
	h ^= h >> 13
	h *= 0xC2B2AE35
	return h ^ h>>16
}

// edit gives the elements of v, with those of number n replaced by e or taken out if e is 0, in scratch memory, and their hash.
func (s *sets) edit(v value, n uint32, e element) (elements []uint32, hash uint32) {
	var two [2]element
	out := s.scratch[:0]
	if v.shared() {
		out = append(out, s.elements(v)...)
		hash = s.words(v.ref())[wordHash]
	} else {
		for _, e := range v.inline(&two) {
			out = append(out, uint32(e))
			hash += mix(e)
		}
	}
	at, _ := slices.BinarySearch(out, n<<Tiers)
	found := at < len(out) && element(out[at]).number() == n
	if found {
		hash -= mix(element(out[at]))
	}
	if e != 0 {
		hash += mix(e)
	}
	switch {
	case found && e != 0:
		out[at] = uint32(e)
	case found:
		out = slices.Delete(out, at, at+1)
	case e != 0:
		out = slices.Insert(out, at, uint32(e))
	}
	s.scratch = out
	return out, hash
}

// look finds the set of some elements.
func (s *sets) look(elements []uint32, hash uint32) (ref, bool) {
	for i := s.home(hash); s.table[i] != 0; i = s.next(i) {
		if e := s.table[i]; uint32(e>>32) == hash {
			w := s.words(ref(e))
			if int(w[wordLength]) == len(elements) && same(w[headerWords:], elements) {
				return ref(e), true
			}
		}
	}
	return 0, false
}

// same compares as many words as b has; eight at a time, which the compiler makes one or two comparisons of.
func same(a, b []uint32) bool {
	for len(b) >= 8 {
		if *(*[8]uint32)(a) != *(*[8]uint32)(b) {
			return false
		}
		a, b = a[8:], b[8:]
	}
	return slices.Equal(a[:len(b)], b)
}

func (s *sets) home(hash uint32) int { return int(hash) & (len(s.table) - 1) }

func (s *sets) next(i int) int { return (i + 1) & (len(s.table) - 1) }

// put takes in a set that look does not find; no block has it yet.
func (s *sets) put(elements []uint32, hash uint32) ref {
	r := s.alloc(headerWords + len(elements))
	w := s.words(r)
	w[wordLength], w[wordBlocks], w[wordHash] = uint32(len(elements)), 0, hash
	copy(w[headerWords:], elements)
	s.count++
	if s.count*4 > len(s.table)*3 {
		s.grow()
	}
	s.insert(entry(hash)<<32 | entry(r))
	return r
}

func (s *sets) insert(e entry) {
	i := s.home(uint32(e >> 32))
	for s.table[i] != 0 {
		i = s.next(i)
	}
	s.table[i] = e
}

func (s *sets) grow() {
	old := s.table
	s.table = make([]entry, 2*len(old))
	for _, e := range old {
		if e != 0 {
			s.insert(e)
		}
	}
}

// needs says how many bytes a new set of n elements would add.
func (s *sets) needs(n int) int {
	b := s.slabs.needs(headerWords + n)
	if (s.count+1)*4 > len(s.table)*3 {
		b += 8 * len(s.table)
	}
	return b
}

// hold counts one more block that has the set.
func (s *sets) hold(v value) { s.words(v.ref())[wordBlocks]++ }

// release counts one block less, and reports whether it was the last: the set is then no longer found, and its memory is the
// caller's to free when no reader can see it.
func (s *sets) release(v value) (last bool) {
	w := s.words(v.ref())
	w[wordBlocks]--
	if w[wordBlocks] > 0 {
		return false
	}
	s.unlink(entry(w[wordHash])<<32 | entry(v.ref()))
	s.count--
	return true
}

// unlink takes an entry out of the table and moves back those that were pushed on by it.
func (s *sets) unlink(e entry) {
	i := s.home(uint32(e >> 32))
	for s.table[i] != e {
		i = s.next(i)
	}
	for j := s.next(i); s.table[j] != 0; j = s.next(j) {
		if home := s.home(uint32(s.table[j] >> 32)); (j-home)&(len(s.table)-1) >= (j-i)&(len(s.table)-1) {
			s.table[i] = s.table[j]
			i = j
		}
	}
	s.table[i] = 0
}

// holder is the element of number n in v, 0 if it has none.
func (s *sets) holder(v value, n uint32) element {
	if !v.shared() {
		var two [2]element
		for _, e := range v.inline(&two) {
			if e.number() == n {
				return e
			}
		}
		return 0
	}
	return search(s.elements(v), n)
}

// search finds the element of number n in a set.
func search(elements []uint32, n uint32) element {
	at, _ := slices.BinarySearch(elements, n<<Tiers)
	if at < len(elements) && element(elements[at]).number() == n {
		return element(elements[at])
	}
	return 0
}
