package object

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
)

// The bytes of an object; FORMAT.md draws them. An object of one block and a pack of many have the same head and records; a
// pack ends in a footer with a line for each record.

const (
	objectMagic  = "PSTKOBJ1"
	headSize     = 64
	recordMagic  = 0x31424b50 // "PKB1"
	bodySize     = 96
	tagSize      = 16 // of AES-GCM
	headerSize   = 8 + bodySize + tagSize
	lineSize     = bodySize + 8
	overhead     = headSize + headerSize // of an object of one block in the clear
	maxBlockSize = 1 << 30
	aeadPurpose  = "penstock kv object 1"
)

var errFormat = errors.New("not a block's object")

// record is what an object says of one block.
type record struct {
	key    kvstore.Key
	size   uint32
	sum    uint32   // CRC-32C
	digest [16]byte // XXH3-128 of the block, so that a writer may leave alone what is there already; zero in a pack
	stored int64    // Unix nanoseconds by the writer's clock
	at     uint32   // where it begins; only in lines
}

func newRecord(k kvstore.Key, b *kvstore.Block) record {
	return record{key: k, size: uint32(b.Len()), sum: b.Sum()}
}

func digestOf(data []byte) [16]byte { return xxh3.Hash128(data).Bytes() }

// same says whether two records are of the same bytes.
func (r *record) same(o *record) bool {
	return r.key == o.key && r.size == o.size && r.sum == o.sum && r.digest == o.digest
}

func (r *record) appendBody(b []byte) []byte {
	le := binary.LittleEndian
	begin := len(b)
	b, _ = r.key.AppendBinary(b)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, r.size)
	b = le.AppendUint32(b, r.sum)
	b = append(b, r.digest[:]...)
	b = le.AppendUint64(b, uint64(r.stored))
	return append(b, make([]byte, begin+bodySize-len(b))...)
}

func (r *record) parseBody(b []byte) error {
	le := binary.LittleEndian
	if err := r.key.UnmarshalBinary(b[:kvstore.KeySize]); err != nil {
		return err
	}
	r.size, r.sum, r.digest, r.stored = le.Uint32(b[52:]), le.Uint32(b[56:]), [16]byte(b[60:76]), int64(le.Uint64(b[76:]))
	if r.size > maxBlockSize || le.Uint16(b[50:]) != 0 {
		return errFormat
	}
	return nil
}

// seal is how one object is encrypted, where it is.
type seal struct {
	aead cipher.AEAD // nil: in the clear
}

// appendHead draws a salt and appends an object's head.
func appendHead(b []byte, ring *keyring.Ring) ([]byte, seal, error) {
	var head [headSize]byte
	copy(head[:], objectMagic)
	var s seal
	if k := ring.Current(); k != nil {
		id := k.ID()
		copy(head[8:16], id[:])
		_, _ = rand.Read(head[16:48]) // never fails
		var err error
		if s.aead, err = k.AEAD(aeadPurpose, head[16:48]); err != nil {
			return nil, s, err
		}
	}
	binary.LittleEndian.PutUint32(head[60:], kvstore.Checksum(head[:60]))
	return append(b, head[:]...), s, nil
}

// parseHead reads an object's head. One in the clear is refused where there are keys: somebody else may have put it there.
func parseHead(head []byte, ring *keyring.Ring) (seal, error) {
	if len(head) < headSize || string(head[:8]) != objectMagic || binary.LittleEndian.Uint32(head[60:]) != kvstore.Checksum(head[:60]) {
		return seal{}, fmt.Errorf("head: %w", errFormat)
	}
	id := keyring.ID(head[8:16])
	if id == (keyring.ID{}) && ring == nil {
		return seal{}, nil
	}
	k := ring.Lookup(id)
	if k == nil {
		return seal{}, fmt.Errorf("%w: %s", errKey, id)
	}
	aead, err := k.AEAD(aeadPurpose, head[16:48])
	return seal{aead}, err
}

// errKey means that the key file lacks the key of an object. Nothing is wrong with the object.
var errKey = errors.New("the key file has no key for the object")

func nonce(at uint32, purpose uint32) []byte {
	n := binary.LittleEndian.AppendUint32(make([]byte, 0, 12), at)
	n = binary.LittleEndian.AppendUint32(n, purpose)
	return append(n, 0, 0, 0, 0)
}

const (
	forHeader = iota
	forData
	forFooter
)

func (s seal) tags() int {
	if s.aead == nil {
		return 0
	}
	return tagSize
}

// length is how many bytes a record takes, from its header to the end of its data.
func (s seal) length(r *record) int { return headerSize + int(r.size) + s.tags() }

// appendRecord appends a header and data. The record begins at the end of b, which is the object so far.
func (s seal) appendRecord(b []byte, r *record, data []byte) []byte {
	at := uint32(len(b))
	b = binary.LittleEndian.AppendUint32(b, recordMagic)
	b = append(b, 0, 0, 0, 0)
	b = r.appendBody(b)
	if s.aead == nil {
		b = append(b, make([]byte, tagSize)...)
	} else {
		body := b[len(b)-bodySize:]
		b = s.aead.Seal(b[:len(b)-bodySize], nonce(at, forHeader), body, nil)
	}
	header := b[at:]
	binary.LittleEndian.PutUint32(header[4:], kvstore.Checksum(header[8:]))
	if s.aead == nil {
		return append(b, data...)
	}
	return s.aead.Seal(b, nonce(at, forData), data, header[:headerSize:headerSize])
}

// parseHeader reads a record's header that begins at an offset of its object.
func (s seal) parseHeader(header []byte, at uint32) (r record, err error) {
	le := binary.LittleEndian
	if len(header) < headerSize || le.Uint32(header) != recordMagic || le.Uint32(header[4:]) != kvstore.Checksum(header[8:headerSize]) {
		return r, fmt.Errorf("header: %w", errFormat)
	}
	body := header[8 : 8+bodySize]
	if s.aead != nil {
		if body, err = s.aead.Open(nil, nonce(at, forHeader), header[8:headerSize], nil); err != nil {
			return r, fmt.Errorf("header: %w", err)
		}
	}
	r.at = at
	return r, r.parseBody(body)
}

// open writes a record's data into out; data may be out itself where it is in the clear.
func (s seal) open(out, header, data []byte, at uint32) error {
	if s.aead == nil {
		if len(out) > 0 && &out[0] != &data[0] {
			copy(out, data)
		}
		return nil
	}
	_, err := s.aead.Open(out[:0], nonce(at, forData), data, header[:headerSize])
	return err
}

// A pack's name says how long its footer is, so that a reader gets it with one request.

func appendLine(b []byte, r *record) []byte {
	b = r.appendBody(b)
	b = binary.LittleEndian.AppendUint32(b, r.at)
	return append(b, 0, 0, 0, 0)
}

// footer returns what is written behind the last record, which ends at an offset.
func (s seal) footer(lines []byte, at uint32) []byte {
	if s.aead != nil {
		lines = s.aead.Seal(nil, nonce(at, forFooter), lines, nil)
	}
	return binary.LittleEndian.AppendUint32(append([]byte(nil), lines...), kvstore.Checksum(lines))
}

// parseFooter is the inverse of footer.
func (s seal) parseFooter(b []byte, at uint32) ([]record, error) {
	if len(b) < 4 || binary.LittleEndian.Uint32(b[len(b)-4:]) != kvstore.Checksum(b[:len(b)-4]) {
		return nil, fmt.Errorf("footer: %w", errFormat)
	}
	lines := b[:len(b)-4]
	if s.aead != nil {
		var err error
		if lines, err = s.aead.Open(nil, nonce(at, forFooter), lines, nil); err != nil {
			return nil, fmt.Errorf("footer: %w", err)
		}
	}
	if len(lines)%lineSize != 0 {
		return nil, fmt.Errorf("footer of %d bytes: %w", len(lines), errFormat)
	}
	var all []record
	for ; len(lines) > 0; lines = lines[lineSize:] {
		var r record
		if err := r.parseBody(lines[:bodySize]); err != nil {
			return nil, err
		}
		r.at = binary.LittleEndian.Uint32(lines[bodySize:])
		if int64(r.at)+int64(s.length(&r)) > int64(at) {
			return nil, fmt.Errorf("footer: a record beyond the end: %w", errFormat)
		}
		all = append(all, r)
	}
	return all, nil
}
