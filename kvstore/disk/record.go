package disk

import (
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/penstock/penstock/kvstore"
)

const (
	headerSize   = 128 // of a record
	bodySize     = 96  // what of a header is encrypted with the rest
	tagSize      = 16  // of AES-GCM
	grain        = 64  // records begin at multiples of it
	pagedFrom    = 64 << 10
	recordMagic  = 0x31524b50 // "PKR1"
	maxBlockSize = 1 << 30
)

// record is what a header says of the block after it. FORMAT.md draws it.
type record struct {
	key     kvstore.Key
	size    uint32 // of the block
	sum     uint32 // CRC-32C of the block
	seq     uint64 // of two records of a key the higher is the newer; a copy keeps its own
	stored  int64  // Unix nanoseconds
	ordinal uint32 // in its segment, from 0
	depth   uint32
	stay    uint32 // Unix seconds; 0 = no stay
	session uint64
	known   bool // depth is known
	paged   bool // the data begin on the next page, so that they can be read straight into a block
}

// dataAt is where the data begin, counted from the record's begin.
func (r *record) dataAt() int64 {
	if r.paged {
		return page
	}
	return headerSize
}

// end is where the data with their tag end, counted from the record's begin.
func (r *record) end(sealed bool) int64 {
	n := r.dataAt() + int64(r.size)
	if sealed {
		n += tagSize
	}
	return n
}

const (
	flagKnown = 1 << iota
	flagPaged
	flagsAll = 1<<iota - 1
)

// appendBody appends the part of a header that tells something about the block.
func (r *record) appendBody(b []byte) []byte {
	var flags uint16
	if r.known {
		flags |= flagKnown
	}
	if r.paged {
		flags |= flagPaged
	}
	le := binary.LittleEndian
	b, _ = r.key.AppendBinary(b)
	b = le.AppendUint16(b, flags)
	b = le.AppendUint32(b, r.size)
	b = le.AppendUint32(b, r.sum)
	b = le.AppendUint32(b, r.depth)
	b = le.AppendUint64(b, r.seq)
	b = le.AppendUint64(b, uint64(r.stored))
	b = le.AppendUint32(b, r.stay)
	b = le.AppendUint32(b, 0)
	return le.AppendUint64(b, r.session)
}

var errRecord = errors.New("not a record of this place")

func (r *record) parseBody(b []byte) error {
	le := binary.LittleEndian
	if err := r.key.UnmarshalBinary(b[:kvstore.KeySize]); err != nil {
		return err
	}
	flags := le.Uint16(b[50:])
	r.known, r.paged = flags&flagKnown != 0, flags&flagPaged != 0
	r.size, r.sum, r.depth = le.Uint32(b[52:]), le.Uint32(b[56:]), le.Uint32(b[60:])
	r.seq, r.stored = le.Uint64(b[64:]), int64(le.Uint64(b[72:]))
	r.stay, r.session = le.Uint32(b[80:]), le.Uint64(b[88:])
	if flags&^flagsAll != 0 || r.size > maxBlockSize {
		return errRecord
	}
	return nil
}

// seal is how one segment's records are bound to their place, and encrypted where the segment has a key. No two segments
// have the same salt, so that a record which lies elsewhere, or was made by somebody who cannot read the disk, is none.
type seal struct {
	salt [32]byte
	aead cipher.AEAD // nil: plain
}

// nonce is unique within a segment, since nothing is written twice at one place.
func nonce(at int64, purpose uint32) []byte {
	n := binary.LittleEndian.AppendUint64(make([]byte, 0, 12), uint64(at))
	return binary.LittleEndian.AppendUint32(n, purpose)
}

const (
	forHeader = iota
	forData
)

// mac is a hash over some bytes and their place that nobody can make who does not know the salt.
func (s *seal) mac(at int64, parts ...[]byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	_, _ = h.Write(s.salt[:])
	_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(at)))
	for _, p := range parts {
		_, _ = h.Write(p)
	}
	h.Sum(sum[:0])
	return sum
}

// putHeader writes a record's header into b, for a record that begins at an offset of its segment.
func (s *seal) putHeader(b []byte, at int64, r *record) {
	clear(b[:headerSize])
	le := binary.LittleEndian
	le.PutUint32(b, recordMagic)
	le.PutUint32(b[4:], r.ordinal)
	body := r.appendBody(make([]byte, 0, bodySize+tagSize))
	if s.aead != nil {
		body = s.aead.Seal(body[:0], nonce(at, forHeader), body, b[:8])
	}
	copy(b[16:], body)
	mac := s.mac(at, b[:8], b[16:headerSize])
	copy(b[8:16], mac[:])
}

// header reads the header of a record that begins at an offset of its segment.
func (s *seal) header(b []byte, at int64) (record, error) {
	var r record
	le := binary.LittleEndian
	if len(b) < headerSize || le.Uint32(b) != recordMagic {
		return r, errRecord
	}
	if mac := s.mac(at, b[:8], b[16:headerSize]); string(b[8:16]) != string(mac[:8]) {
		return r, errRecord
	}
	body := b[16 : 16+bodySize]
	if s.aead != nil {
		var err error
		body, err = s.aead.Open(make([]byte, 0, bodySize), nonce(at, forHeader), b[16:headerSize], b[:8])
		if err != nil {
			return r, errRecord
		}
	}
	r.ordinal = le.Uint32(b[4:])
	return r, r.parseBody(body)
}

// putRecord writes a whole record, without what pads it, into b.
func (s *seal) putRecord(b []byte, at int64, r *record, data []byte) {
	s.putHeader(b, at, r)
	clear(b[headerSize:r.dataAt()])
	into := b[r.dataAt():]
	if s.aead == nil {
		copy(into, data)
		return
	}
	s.aead.Seal(into[:0], nonce(at, forData), data, b[:headerSize])
}

// decrypt turns what follows a header, the data with their tag, into the block's bytes. out may be where the data are.
func (s *seal) decrypt(out, header, data []byte, at int64) error {
	if s.aead == nil {
		if len(out) > 0 && &out[0] != &data[0] {
			copy(out, data)
		}
		return nil
	}
	if _, err := s.aead.Open(out[:0], nonce(at, forData), data, header[:headerSize]); err != nil {
		return fmt.Errorf("decrypt %d bytes: %w", len(out), err)
	}
	return nil
}
