package disk

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
)

const (
	segmentMagic   = "PSTKSEG1"
	trailerMagic   = "PSTKEND1"
	formatVersion  = 1
	lineSize       = bodySize + 8 // of the footer: a header's body, ordinal, begin in grains
	maxMarksPages  = 8
	maxFooterBytes = maxMarksPages * marksPerPage * lineSize
)

type phase uint8

const (
	filling phase = iota // records are added
	closing              // no more are added; the last writers and the footer are awaited
	sealed               // it has a footer
	broken               // it cannot be read, or could not be sealed; it is evicted first where it has nothing live
)

// segment is one file. What has no other guard is guarded by the store's mutex.
type segment struct {
	number uint32
	seal   seal
	size   int64 // that it may grow to
	align  int64 // of records

	phase     phase
	tail      int64  // where the next record begins
	ordinals  uint32 // given out
	held      int64  // room that is kept for records which are copied on
	writers   int
	allocated int64 // bytes of the medium
	marks     *marks
	lines     []byte // of the footer to come
	first     slot   // of its entries
	live      int64  // bytes of its live records' blocks
	blocks    int
	removed   bool

	handle handle
}

func segmentName(number uint32) string { return fmt.Sprintf("seg-%08x.kv", number) }

func segmentNumber(name string) (uint32, bool) {
	var n uint32
	if _, err := fmt.Sscanf(name, "seg-%08x.kv", &n); err != nil || name != segmentName(n) || n == 0 {
		return 0, false
	}
	return n, true
}

// newSegment draws a salt and takes the ring's current key.
func newSegment(number uint32, size, align int64, ring *keyring.Ring) (*segment, keyring.ID, error) {
	g := &segment{number: number, size: size, align: align, allocated: size}
	_, _ = rand.Read(g.seal.salt[:])
	pages := min(maxMarksPages, (size/(align+headerSize)+marksPerPage-1)/marksPerPage)
	g.marks = newMarks(int(max(1, pages)))
	g.tail = g.begin()
	k := ring.Current()
	if k == nil {
		return g, keyring.ID{}, nil
	}
	var err error
	g.seal.aead, err = k.AEAD(aeadPurpose, g.seal.salt[:])
	return g, k.ID(), err
}

const aeadPurpose = "penstock kv disk segment 1"

func (g *segment) marksPages() int { return len(g.marks.bits) / wordsPerPage }

// begin is where the first record may begin.
func (g *segment) begin() int64 { return int64(1+g.marksPages()) * page }

// footprint is how many bytes a record takes, with what pads it.
func (g *segment) footprint(r *record) int64 { return roundUp(r.end(g.seal.aead != nil), g.align) }

// fits says whether a record can be added so that the footer still has room, and what is held for copies.
func (g *segment) fits(r *record, isCopy bool) bool {
	held := g.held
	if isCopy {
		held = 0
	}
	return g.phase == filling && g.ordinals < g.marks.room() &&
		g.tail+g.footprint(r)+held+footerRoom(int(g.ordinals)+1) <= g.size
}

// footerRoom is how many bytes the footer and the trailer take at most.
func footerRoom(lines int) int64 {
	return page + roundUp(int64(lines*lineSize+tagSize), page) + page
}

// putHeader writes the first page of a segment.
func (g *segment) putHeader(b []byte, id keyring.ID, now time.Time) {
	le := binary.LittleEndian
	clear(b[:page])
	copy(b, segmentMagic)
	le.PutUint32(b[8:], formatVersion)
	le.PutUint32(b[12:], g.number)
	le.PutUint32(b[16:], uint32(g.marksPages()))
	le.PutUint32(b[20:], uint32(g.align))
	le.PutUint64(b[24:], uint64(now.UnixNano()))
	copy(b[32:40], id[:])
	copy(b[40:72], g.seal.salt[:])
	le.PutUint32(b[72:], kvstore.Checksum(b[:72]))
}

var errSegment = errors.New("not a segment of this store")

// parseHeader reads the first page of a segment. A segment in the clear is refused where there is a key: somebody else may
// have put it there.
func parseHeader(b []byte, number uint32, ring *keyring.Ring) (*segment, error) {
	le := binary.LittleEndian
	if len(b) < page || string(b[:8]) != segmentMagic || le.Uint32(b[72:]) != kvstore.Checksum(b[:72]) || le.Uint32(b[12:]) != number {
		return nil, fmt.Errorf("segment %08x: %w", number, errSegment)
	}
	pages, align := int(le.Uint32(b[16:])), int64(le.Uint32(b[20:]))
	if v := le.Uint32(b[8:]); v != formatVersion || pages < 1 || pages > maxMarksPages || (align != page && align != grain) {
		return nil, fmt.Errorf("segment %08x: format %d is not known: %w", number, v, errSegment)
	}
	g := &segment{number: number, align: align, marks: newMarks(pages), seal: seal{salt: [32]byte(b[40:72])}}
	id := keyring.ID(b[32:40])
	if id == (keyring.ID{}) && ring == nil {
		return g, nil
	}
	k := ring.Lookup(id)
	if k == nil {
		return nil, fmt.Errorf("segment %08x: the key file has no key %s: %w", number, id, errSegment)
	}
	var err error
	g.seal.aead, err = k.AEAD(aeadPurpose, g.seal.salt[:])
	return g, err
}

// handle is a segment's open file, opened when it is first used.
type handle struct {
	mu    sync.Mutex
	file  file
	users int
	gone  bool
}

// use opens the file where it is not open. done must be called once the file is not used any more. Where too many files are
// open, this one is closed with its last user.
func (h *handle) use(open func() (file, error), limit *fileLimit) (f file, done func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file == nil {
		if h.file, err = open(); err != nil {
			h.file = nil
			return nil, nil, err
		}
		limit.open.Add(1)
	}
	h.users++
	return h.file, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.users--; h.users == 0 && (h.gone || limit.exceeded()) {
			h.close(limit)
		}
	}, nil
}

// end closes the file, at once or with its last user.
func (h *handle) end(limit *fileLimit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone = true; h.users == 0 {
		h.close(limit)
	}
}

func (h *handle) close(limit *fileLimit) {
	if h.file != nil {
		_ = h.file.Close() // everything that matters was synced
		h.file = nil
		limit.open.Add(-1)
	}
}
