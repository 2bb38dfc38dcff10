// Package shm lets processes of the same user on one node read each other's blocks where they lie: a door at a unix socket that
// hands out read-only descriptors of the memory they are in, and the client that maps it. No byte is copied on the way.
//
// A client leases blocks by key and gives them back; as long as a lease lasts, the block stays where it is, unchanged. Leases end
// with the connection, so that a client that dies keeps nothing. What they may hold is bounded for each connection. A client can't
// write to what it maps (the descriptors don't allow it, and the file is sealed), and each block goes out with its
// checksum, which whoever takes the bytes compares: once, since both sides see the same memory.
//
// Who may map a region sees all of it, also blocks that it has not asked for: the door is for processes that could read each
// other's memory anyway, those of one user, and the kernel says whose they are.
//
// The package knows no store's layout: the door is told where blocks lie.
package shm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/penstock/penstock/kvstore"
)

// Packets are of at most this many keys; a client asks as often as it must.
const maxKeys = 128

// A request is u32 op, u32 count, then count keys (ask) or leases of u32 (release; it has no answer). An answer is u32 count,
// then count places, and descriptors for those that are the first of their region on this connection, in their order:
//
//	u32 index of the key, u32 lease, u32 CRC-32C, u32 region, u64 size, u64 offset in the region, u64 bytes of the region
//
// Numbers are little-endian. What is not answered is not there, or can't be leased now.
const (
	opAsk     = 1
	opRelease = 2
	headSize  = 8
	placeSize = 40
	maxPacket = headSize + maxKeys*kvstore.KeySize
	maxAnswer = 4 + maxKeys*placeSize
)

// place is one leased block.
type place struct {
	index, lease, sum, region uint32
	size, offset, bytes       uint64
}

func (p place) append(b []byte) []byte {
	for _, v := range []uint32{p.index, p.lease, p.sum, p.region} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	for _, v := range []uint64{p.size, p.offset, p.bytes} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

var errProtocol = errors.New("the other side breaks the protocol of shared blocks")

// readPlaces reads an answer to a request of so many keys.
func readPlaces(b []byte, keys int) ([]place, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("%w: an answer of %d bytes", errProtocol, len(b))
	}
	n := binary.LittleEndian.Uint32(b)
	if n > uint32(keys) || len(b) != 4+int(n)*placeSize {
		return nil, fmt.Errorf("%w: %d places in %d bytes, for %d keys", errProtocol, n, len(b), keys)
	}
	places := make([]place, n)
	for i := range places {
		at := b[4+i*placeSize:]
		u32, u64 := binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
		p := place{u32(at), u32(at[4:]), u32(at[8:]), u32(at[12:]), u64(at[16:]), u64(at[24:]), u64(at[32:])}
		if p.index >= uint32(keys) || p.bytes > maxRegion || p.offset > p.bytes || p.size > p.bytes-p.offset {
			return nil, fmt.Errorf("%w: block %d of %d bytes at %d of %d", errProtocol, p.index, p.size, p.offset, p.bytes)
		}
		places[i] = p
	}
	return places, nil
}

const maxRegion = 1 << 46

// request is what a client wants: keys, or leases that it gives back.
type request struct {
	op     uint32
	keys   []kvstore.Key
	leases []uint32
}

func (q request) bytes() []byte {
	b := binary.LittleEndian.AppendUint32(nil, q.op)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(q.keys)+len(q.leases)))
	for _, k := range q.keys {
		b, _ = k.AppendBinary(b)
	}
	for _, l := range q.leases {
		b = binary.LittleEndian.AppendUint32(b, l)
	}
	return b
}

func readRequest(b []byte) (q request, err error) {
	if len(b) < headSize {
		return q, fmt.Errorf("%w: a request of %d bytes", errProtocol, len(b))
	}
	q.op = binary.LittleEndian.Uint32(b)
	n, rest := int(binary.LittleEndian.Uint32(b[4:])), b[headSize:]
	switch {
	case q.op == opAsk && n <= maxKeys && len(rest) == n*kvstore.KeySize:
		q.keys = make([]kvstore.Key, n)
		for i := range q.keys {
			if err := q.keys[i].UnmarshalBinary(rest[i*kvstore.KeySize:][:kvstore.KeySize]); err != nil {
				return q, err
			}
		}
	case q.op == opRelease && n <= maxPacket && len(rest) == n*4:
		q.leases = make([]uint32, n)
		for i := range q.leases {
			q.leases[i] = binary.LittleEndian.Uint32(rest[i*4:])
		}
	default:
		return q, fmt.Errorf("%w: operation %d with %d of %d bytes", errProtocol, q.op, n, len(rest))
	}
	return q, nil
}
