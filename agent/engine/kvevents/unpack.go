package kvevents

import (
	"encoding/binary"
	"math"
)

// kind of a msgpack value.
type kind uint8

const (
	broken kind = iota // the bytes are no msgpack, or end too early
	null
	boolean
	integer // number holds its 64 bits, whether it was signed or not
	float
	text
	binaryBytes
	array   // number items follow
	mapping // number pairs follow
	extension
)

// token is the next value, or the head of one that holds others.
type token struct {
	kind   kind
	number uint64
	bytes  []byte // of text and binaryBytes, in the payload
}

// unpacker reads msgpack without copying and without recursion: payloads are nested as deep as their sender likes, and may be
// cut anywhere. After the first broken value everything is broken.
type unpacker struct{ b []byte }

func (u *unpacker) fail() token {
	u.b = nil
	return token{}
}

// take gives the next n bytes, nil if there are fewer.
func (u *unpacker) take(n uint64) []byte {
	if n > uint64(len(u.b)) {
		return nil
	}
	b := u.b[:n:n]
	u.b = u.b[n:]
	return b
}

// big gives a big-endian number of n bytes.
func (u *unpacker) big(n int) (uint64, bool) {
	b := u.take(uint64(n))
	if b == nil {
		return 0, false
	}
	var full [8]byte
	copy(full[8-n:], b)
	return binary.BigEndian.Uint64(full[:]), true
}

// next reads one value's head.
func (u *unpacker) next() token {
	b := u.take(1)
	if b == nil {
		return u.fail()
	}
	c := b[0]
	switch {
	case c < 0x80:
		return token{kind: integer, number: uint64(c)}
	case c < 0x90:
		return token{kind: mapping, number: uint64(c & 15)}
	case c < 0xa0:
		return token{kind: array, number: uint64(c & 15)}
	case c < 0xc0:
		return u.bytes(text, uint64(c&31))
	case c >= 0xe0:
		return token{kind: integer, number: uint64(int64(int8(c)))}
	}
	switch c {
	case 0xc0:
		return token{kind: null}
	case 0xc2, 0xc3:
		return token{kind: boolean, number: uint64(c & 1)}
	case 0xc4, 0xc5, 0xc6:
		return u.sized(binaryBytes, 1<<(c-0xc4))
	case 0xc7, 0xc8, 0xc9:
		return u.extension(1 << (c - 0xc7))
	case 0xca:
		return u.float32()
	case 0xcb:
		return u.scalar(float, 8)
	case 0xcc, 0xcd, 0xce, 0xcf:
		return u.scalar(integer, 1<<(c-0xcc))
	case 0xd0, 0xd1, 0xd2, 0xd3:
		return u.signed(1 << (c - 0xd0))
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8:
		return u.bytes(extension, 1+1<<(c-0xd4))
	case 0xd9, 0xda, 0xdb:
		return u.sized(text, 1<<(c-0xd9))
	case 0xdc, 0xdd:
		return u.scalar(array, 2<<(c-0xdc))
	case 0xde, 0xdf:
		return u.scalar(mapping, 2<<(c-0xde))
	}
	return u.fail()
}

func (u *unpacker) scalar(k kind, n int) token {
	v, ok := u.big(n)
	if !ok {
		return u.fail()
	}
	return token{kind: k, number: v}
}

func (u *unpacker) signed(n int) token {
	t := u.scalar(integer, n)
	shift := 64 - 8*n
	t.number = uint64(int64(t.number<<shift) >> shift)
	return t
}

func (u *unpacker) float32() token {
	t := u.scalar(float, 4)
	t.number = math.Float64bits(float64(math.Float32frombits(uint32(t.number))))
	return t
}

func (u *unpacker) sized(k kind, n int) token {
	size, ok := u.big(n)
	if !ok {
		return u.fail()
	}
	return u.bytes(k, size)
}

func (u *unpacker) extension(n int) token {
	size, ok := u.big(n)
	if !ok {
		return u.fail()
	}
	return u.bytes(extension, size+1)
}

func (u *unpacker) bytes(k kind, n uint64) token {
	b := u.take(n)
	if b == nil && n > 0 {
		return u.fail()
	}
	return token{kind: k, bytes: b}
}

// skip passes over what belongs to a value whose head has been read.
func (u *unpacker) skip(t token) bool {
	for left := t.inside(); left > 0; left-- {
		t = u.next()
		if t.kind == broken {
			return false
		}
		left += t.inside()
		if left > uint64(len(u.b))+1 { // each value takes a byte at least
			u.fail()
			return false
		}
	}
	return t.kind != broken
}

// inside is how many values belong to a head.
func (t token) inside() uint64 {
	switch t.kind {
	case array:
		return t.number
	case mapping:
		return 2 * t.number
	}
	return 0
}

// whole reads one value with all that is in it and gives its bytes.
func (u *unpacker) whole() ([]byte, bool) {
	begin := u.b
	if !u.skip(u.next()) {
		return nil, false
	}
	return begin[:len(begin)-len(u.b)], true
}
