package index

import "sync/atomic"

// Sets lie in slabs of 64 KiB without pointers, each cut into pieces of one size; a slab whose pieces are all free can be cut
// anew for another size, so that sets that grow together leave no holes behind. Memory of a set is used again only when no
// reader can still look at it (epochs), and a slab is never given back: what an index once needed it keeps for its own use.
const (
	slabWords = 1 << 14
	slabBytes = slabWords * 4
	unit      = 4 // words; the smallest step of a piece, and a set's header
	unitBits  = 12
)

// ref names a piece: the slab above unitBits, the unit below. Slab 0 does not exist, so 0 names nothing.
type ref uint32

func (r ref) slab() uint32 { return uint32(r) >> unitBits }

func (r ref) word() uint32 { return uint32(r) & (1<<unitBits - 1) * unit }

type slab [slabWords]uint32

// cutting is what the writer keeps of a slab.
type cutting struct {
	class  int8  // of size; -1 = not cut
	queued bool  // stands in its class's list of those with room
	used   int32 // pieces in use
	cut    int32 // words handed out once; those beyond are untouched
	free   ref   // first free piece, which holds the next in its second word
}

type slabs struct {
	dir     atomic.Pointer[[]*slab]
	cutting []cutting
	room    [][]uint32 // by class: slabs that have free pieces, and some that had
	empty   []uint32   // slabs of no class
}

// sizes of pieces in words, each at most a quarter larger than the one before.
var sizes = func() (s []uint32) {
	for n := uint32(2 * unit); n < slabWords; n = max(n+unit, n*5/4) / unit * unit {
		s = append(s, n)
	}
	return append(s, slabWords)
}()

// classes of sizes by the number of units.
var classes = func() []int8 {
	c, class := make([]int8, slabWords/unit+1), int8(0)
	for i := range c {
		if uint32(i)*unit > sizes[class] {
			class++
		}
		c[i] = class
	}
	return c
}()

func classFor(words int) int8 { return classes[(words+unit-1)/unit] }

func (s *slabs) init() {
	s.dir.Store(&[]*slab{nil})
	s.cutting = []cutting{{class: -1}}
	s.room = make([][]uint32, len(sizes))
}

// words of a piece. Readers call it too.
func (s *slabs) words(r ref) []uint32 {
	return (*s.dir.Load())[r.slab()][r.word():]
}

// needs says how many bytes alloc would add to the index for a piece of so many words.
func (s *slabs) needs(words int) int {
	if c := classFor(words); s.partial(c) != 0 || len(s.empty) > 0 {
		return 0
	}
	return slabBytes
}

// partial is a slab of the class with a free piece, 0 if there is none.
func (s *slabs) partial(class int8) uint32 {
	for list := s.room[class]; len(list) > 0; list = list[:len(list)-1] {
		i := list[len(list)-1]
		if c := &s.cutting[i]; c.class == class && c.queued && c.hasRoom() {
			s.room[class] = list
			return i
		} else if c.class == class {
			c.queued = false
		}
	}
	s.room[class] = s.room[class][:0]
	return 0
}

func (c *cutting) hasRoom() bool { return c.free != 0 || c.cut+int32(sizes[c.class]) <= slabWords }

// alloc gives a piece of at least so many words, its content undefined.
func (s *slabs) alloc(words int) ref {
	class := classFor(words)
	i := s.partial(class)
	if i == 0 {
		i = s.fresh(class)
	}
	c := &s.cutting[i]
	c.used++
	if r := c.free; r != 0 {
		c.free = ref(s.words(r)[1])
		return r
	}
	r := ref(i<<unitBits | uint32(c.cut)/unit)
	c.cut += int32(sizes[class])
	return r
}

// fresh cuts an empty slab, or a new one, for a class.
func (s *slabs) fresh(class int8) (i uint32) {
	if n := len(s.empty); n > 0 {
		i, s.empty = s.empty[n-1], s.empty[:n-1]
	} else {
		i = uint32(len(s.cutting))
		s.cutting = append(s.cutting, cutting{})
		dir := append(*s.dir.Load(), new(slab)) // readers know the shorter one, and only what lies in it
		s.dir.Store(&dir)
	}
	s.cutting[i] = cutting{class: class, queued: true}
	s.room[class] = append(s.room[class], i)
	return i
}

// free takes a piece back that nobody looks at any more.
func (s *slabs) free(r ref) {
	i := r.slab()
	c := &s.cutting[i]
	c.used--
	if c.used == 0 {
		*c = cutting{class: -1}
		s.empty = append(s.empty, i)
		return
	}
	s.words(r)[1] = uint32(c.free)
	c.free = r
	if !c.queued {
		c.queued = true
		s.room[c.class] = append(s.room[c.class], i)
	}
}

func (s *slabs) bytes() int { return (len(s.cutting) - 1) * (slabBytes + 32) }
