// Package peer moves blocks between the agents of an installation: a door at which one agent asks for many blocks at once, and
// the client that asks. It runs over whatever HTTP/1.1 connections the agents have between them (mTLS), and is to be as fast as these.
//
// A request is a list of keys; the answer is a stream of those that are there, in the order in which the store has them at hand.
// Each comes with its size and checksum in front, is read from the socket straight into a block, and is checked before anybody
// sees it. A connection that breaks costs what had not come yet, which is asked for again.
//
// It knows stores and HTTP. Who may ask, and which agent to ask, is the caller's affair.
package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/penstock/penstock/kvstore"
)

// Path is where the door is, and ContentType what is spoken there.
const (
	Path        = "/penstock/kv"
	ContentType = "application/x-penstock-kv-1"
)

// MaxKeys is how many keys one request may have, and MaxBlock how large a block may be, in bytes.
const (
	MaxKeys  = 1 << 14
	MaxBlock = 1 << 30
)

// A request is MaxKeys or fewer keys in their binary form. An answer is records, and one at the end without which it was cut:
//
//	u32 index of the key, u32 CRC-32C of the bytes, u64 size;  bytes
//	u32 0xffffffff, u32 records before, u64 0
const (
	recordHead = 16
	theEnd     = 1<<32 - 1
)

type record struct {
	index, sum uint32
	size       uint64
}

func (r record) bytes() (b [recordHead]byte) {
	binary.LittleEndian.PutUint32(b[:], r.index)
	binary.LittleEndian.PutUint32(b[4:], r.sum)
	binary.LittleEndian.PutUint64(b[8:], r.size)
	return b
}

func readRecord(r io.Reader) (record, error) {
	var b [recordHead]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return record{}, fmt.Errorf("the answer was cut: %w", err)
	}
	return record{binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint64(b[8:])}, nil
}

// ErrProtocol means that the other side does not speak as it should.
var ErrProtocol = errors.New("peer breaks the protocol of blocks")

func packKeys(keys []kvstore.Key) []byte {
	b := make([]byte, 0, len(keys)*kvstore.KeySize)
	for _, k := range keys {
		b, _ = k.AppendBinary(b)
	}
	return b
}

// readKeys reads all keys of a request.
func readKeys(r io.Reader) ([]kvstore.Key, error) {
	var b [kvstore.KeySize]byte
	var keys []kvstore.Key
	for {
		switch _, err := io.ReadFull(r, b[:]); {
		case errors.Is(err, io.EOF):
			return keys, nil
		case err != nil:
			return nil, fmt.Errorf("read keys: %w", err)
		case len(keys) == MaxKeys:
			return nil, fmt.Errorf("%w: more than %d keys", ErrProtocol, MaxKeys)
		}
		var k kvstore.Key
		if err := k.UnmarshalBinary(b[:]); err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
}
