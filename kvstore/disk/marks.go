package disk

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/penstock/penstock/kvstore"
)

// marksPerPage is how many records one page of marks speaks of.
const marksPerPage = (page - marksHead) * 8

const marksHead = 16 // check, number of the page

// marks say which records of a segment are dead: deleted, replaced, or of a group of which another part is gone. They lie
// in front of the records and are the only part of a segment that is written again and again. A page that was never written
// is empty and says that all live; one that fails its check says that all are dead, since nobody knows better.
type marks struct {
	bits  []uint64
	dirty map[int]bool // pages
}

func newMarks(pages int) *marks {
	return &marks{bits: make([]uint64, pages*marksPerPage/64), dirty: map[int]bool{}}
}

// room is how many records can be marked.
func (m *marks) room() uint32 { return uint32(len(m.bits) * 64) }

func (m *marks) dead(ordinal uint32) bool {
	return ordinal >= m.room() || m.bits[ordinal/64]>>(ordinal%64)&1 != 0
}

func (m *marks) set(ordinal uint32) {
	if !m.dead(ordinal) {
		m.bits[ordinal/64] |= 1 << (ordinal % 64)
		m.dirty[int(ordinal/marksPerPage)] = true
	}
}

const wordsPerPage = marksPerPage / 64

// put writes a page of marks into b.
func (m *marks) put(b []byte, number int, s *seal) {
	le := binary.LittleEndian
	clear(b[:marksHead])
	le.PutUint32(b[8:], uint32(number))
	for i, word := range m.bits[number*wordsPerPage:][:wordsPerPage] {
		le.PutUint64(b[marksHead+8*i:], word)
	}
	mac := s.mac(int64(number+1)*page, b[8:page])
	copy(b[:8], mac[:])
}

// parse reads a page of marks. False: it is damaged, and everything that it speaks of is dead.
func (m *marks) parse(b []byte, number int, s *seal) bool {
	if allZero(b) {
		return true
	}
	words := m.bits[number*wordsPerPage:][:wordsPerPage]
	if mac := s.mac(int64(number+1)*page, b[8:page]); string(b[:8]) != string(mac[:8]) {
		for i := range words {
			words[i] = ^uint64(0)
		}
		return false
	}
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(b[marksHead+8*i:])
	}
	return true
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// markPage is a page of marks on its way to the disk.
type markPage struct {
	g      *segment
	number int
	bytes  []byte
}

// takeMarks returns the pages of marks that have changed, those of the oldest records first. The lock is not held.
func (s *Store) takeMarks() (pages []markPage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range slices.SortedFunc(maps.Keys(s.marked), func(a, b *segment) int { return cmp.Compare(a.number, b.number) }) {
		for _, number := range slices.Sorted(maps.Keys(g.marks.dirty)) {
			b := s.buffers.get(page)
			g.marks.put(b, number, &g.seal)
			pages = append(pages, markPage{g, number, b})
		}
		clear(g.marks.dirty)
		s.unsynced[g] = true
	}
	clear(s.marked)
	s.marksOut = true
	return pages
}

// writeMarks writes all pages of marks that have changed. They are taken at one moment and written with the oldest first, so
// that however far it gets before the process ends, no record that was replaced is found without the one that replaced it.
// What cannot be written stays for the next time.
func (s *Store) writeMarks() error {
	s.marking.Lock()
	defer s.marking.Unlock()
	var failed error
	for _, p := range s.takeMarks() {
		if failed == nil {
			failed = s.writeMarkPage(p)
		}
		if failed != nil {
			s.mu.Lock()
			p.g.marks.dirty[p.number] = true
			s.marked[p.g] = !p.g.removed
			s.mu.Unlock()
		}
		s.buffers.put(p.bytes)
	}
	s.mu.Lock()
	s.marksOut = false
	s.mu.Unlock()
	if failed == nil {
		return nil
	}
	s.count.errors.Add(1)
	return fmt.Errorf("mark dead records: %w: %w", kvstore.ErrUnavailable, failed)
}

func (s *Store) writeMarkPage(p markPage) error {
	f, done, err := p.g.handle.use(func() (file, error) { return s.folder().Open(segmentName(p.g.number)) }, &s.limit)
	if err != nil {
		if s.isRemoved(p.g) {
			return nil
		}
		return err
	}
	defer done()
	return f.WriteAt(p.bytes, int64(1+p.number)*page)
}

func (s *Store) isRemoved(g *segment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return g.removed
}
