package disk

import "encoding/binary"

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
