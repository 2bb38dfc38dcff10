package storetest

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/penstock/penstock/kvstore"
)

// Memory is an allocator on Go's heap for tests: freed memory is poisoned, so that whoever reads it after the last release
// sees wrong bytes, and what is not given back is counted.
type Memory struct {
	live  atomic.Int64
	limit int64 // bytes at one time; 0 = none
	bytes atomic.Int64
}

// NewMemory is memory without a limit.
func NewMemory() *Memory { return &Memory{} }

// NewLimitedMemory is memory that has no more than so many bytes at one time.
func NewLimitedMemory(bytes int64) *Memory { return &Memory{limit: bytes} }

var _ kvstore.Allocator = (*Memory)(nil)

// Alloc returns a block full of poison.
func (m *Memory) Alloc(n int) (*kvstore.Block, error) {
	if got := m.bytes.Add(int64(n)); m.limit > 0 && got > m.limit {
		m.bytes.Add(-int64(n))
		return nil, fmt.Errorf("%d bytes are taken of %d: %w", got-int64(n), m.limit, kvstore.ErrFull)
	}
	m.live.Add(1)
	data := make([]byte, n)
	poison(data)
	return kvstore.NewBlock(data, m), nil
}

// Free is the allocator's side of the last release.
func (m *Memory) Free(_ *kvstore.Block, data []byte) {
	poison(data)
	m.bytes.Add(-int64(len(data)))
	m.live.Add(-1)
}

// Live is the number of blocks that are not freed.
func (m *Memory) Live() int64 { return m.live.Load() }

func poison(data []byte) {
	for i := range data {
		data[i] = 0xdb
	}
}

// value is a sealed block whose bytes follow from its key, version and size, so that every reader can tell whether they
// are whole and the key's own.
func (m *Memory) value(k kvstore.Key, version uint64, size int) *kvstore.Block {
	b, err := m.Alloc(size)
	if err != nil {
		panic(err)
	}
	fill(b.Bytes(), k, version)
	return b.Seal()
}

const headSize = 16 // version, checksum of the key

func fill(data []byte, k kvstore.Key, version uint64) {
	x := keySum(k) ^ version*0x9e3779b97f4a7c15 ^ uint64(len(data))
	body := data
	if len(data) >= headSize {
		binary.LittleEndian.PutUint64(data, version)
		binary.LittleEndian.PutUint64(data[8:], keySum(k))
		body = data[headSize:]
	}
	for len(body) >= 8 {
		x = x*6364136223846793005 + 1442695040888963407
		binary.LittleEndian.PutUint64(body, x)
		body = body[8:]
	}
	for i := range body {
		body[i] = byte(x >> (8 * i))
	}
}

func isValue(data []byte, k kvstore.Key, version uint64) bool {
	want := make([]byte, len(data))
	fill(want, k, version)
	return slices.Equal(want, data)
}

// versionOf says which version of the key's value the bytes are; false: of none.
func versionOf(data []byte, k kvstore.Key) (uint64, bool) {
	if len(data) < headSize {
		return 0, false
	}
	v := binary.LittleEndian.Uint64(data)
	return v, isValue(data, k, v)
}

func keySum(k kvstore.Key) uint64 {
	raw, _ := k.AppendBinary(nil)
	x := uint64(14695981039346656037)
	for _, c := range raw {
		x = (x ^ uint64(c)) * 1099511628211
	}
	return x
}

// key is the n-th key of the suite's own space.
func key(n int) kvstore.Key { return part(n, 0) }

func part(n, p int) kvstore.Key {
	return kvstore.Key{
		Space: kvstore.NewSpace(kvstore.Layout{Weights: "storetest", BlockTokens: 16, Ranks: 1}, ""),
		Name:  kvstore.OpaqueName(fmt.Sprint("storetest ", n)), Part: uint16(p),
	}
}
