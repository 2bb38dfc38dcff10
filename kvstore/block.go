package kvstore

import (
	"errors"
	"fmt"
	"hash/crc32"
	"sync/atomic"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C (Castagnoli) of bytes, which every block carries through all tiers.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// ExtendChecksum is the checksum of bytes that end with b, where sum is that of what comes before it; 0 = nothing.
func ExtendChecksum(sum uint32, b []byte) uint32 { return crc32.Update(sum, castagnoli, b) }

// Block is a run of bytes that is allocated once, filled once, sealed, and then shared by counting references. The bytes may
// lie outside of Go's heap: they are gone with the last reference.
type Block struct {
	data   []byte
	owner  Owner
	refs   atomic.Int32
	sum    uint32
	sealed bool
	// Slot is the owner's own note of where the bytes lie. Nobody else reads or writes it.
	Slot uint64
}

// Owner takes a block's memory back when its last reference is gone.
type Owner interface {
	// Free is called once for each block, from whichever goroutine released it last.
	Free(b *Block, data []byte)
}

// NewBlock wraps memory as a block with one reference. It is for allocators; others call Alloc. A nil owner leaves the
// memory to the garbage collector.
func NewBlock(data []byte, owner Owner) *Block {
	b := &Block{data: data, owner: owner}
	b.refs.Store(1)
	return b
}

// Heap is an Allocator on Go's heap without a bound, for stores that are given no other.
type Heap struct{}

// Alloc implements Allocator. It never fails.
func (Heap) Alloc(n int) (*Block, error) { return NewBlock(make([]byte, n), nil), nil }

// Bytes are the block's bytes, valid as long as the caller holds a reference. Only who allocated the block writes them, and
// only before Seal.
func (b *Block) Bytes() []byte {
	b.mustLive()
	return b.data
}

// Owner is whose memory the block is; nil = the garbage collector's. A store knows its own blocks by it, and keeps them where
// they are.
func (b *Block) Owner() Owner { return b.owner }

// Len is the number of bytes.
func (b *Block) Len() int { return len(b.data) }

// Seal computes the checksum over the bytes as they are, and ends the writing. It must come before the block is shared.
func (b *Block) Seal() *Block {
	b.mustLive()
	if b.sealed {
		panic("kvstore: block sealed twice")
	}
	b.sum, b.sealed = Checksum(b.data), true
	return b
}

// SealAs ends the writing of bytes that come from a store with the checksum they must have. An error wraps ErrCorrupt, and
// the block is then not sealed.
func (b *Block) SealAs(sum uint32) error {
	b.mustLive()
	if b.sealed {
		panic("kvstore: block sealed twice")
	}
	if got := Checksum(b.data); got != sum {
		return Corrupt(fmt.Errorf("%d bytes have checksum %08x, not %08x", len(b.data), got, sum))
	}
	b.sum, b.sealed = sum, true
	return nil
}

// SealUnchecked ends the writing of bytes whose checksum is known and that are not looked at now: who moves them on, or
// reads them, checks them by Check.
func (b *Block) SealUnchecked(sum uint32) *Block {
	b.mustLive()
	if b.sealed {
		panic("kvstore: block sealed twice")
	}
	b.sum, b.sealed = sum, true
	return b
}

// Check compares the bytes with the checksum. An error wraps ErrCorrupt.
func (b *Block) Check() error {
	if got, want := Checksum(b.Bytes()), b.Sum(); got != want {
		return Corrupt(fmt.Errorf("%d bytes have checksum %08x, not %08x", len(b.data), got, want))
	}
	return nil
}

// Sum is the CRC-32C of the bytes, once sealed.
func (b *Block) Sum() uint32 {
	if !b.sealed {
		panic("kvstore: checksum of a block that is not sealed")
	}
	return b.sum
}

// Retain takes one more reference, for which one more Release is due.
func (b *Block) Retain() *Block {
	for {
		n := b.refs.Load()
		if n < 1 {
			panic("kvstore: block retained after its last release")
		}
		if b.refs.CompareAndSwap(n, n+1) {
			return b
		}
	}
}

// Release gives one reference back. With the last one the bytes are gone.
func (b *Block) Release() {
	switch n := b.refs.Add(-1); {
	case n < 0:
		panic("kvstore: block released once too often")
	case n > 0:
		return
	}
	data := b.data
	b.data = nil
	if b.owner != nil {
		b.owner.Free(b, data)
	}
}

// Shared says whether anybody but the caller holds a reference.
func (b *Block) Shared() bool { return b.refs.Load() > 1 }

func (b *Block) mustLive() {
	if b.refs.Load() < 1 {
		panic("kvstore: block used after its last release")
	}
}

// Corrupt wraps the reason why stored bytes are not what they should be, so that it is ErrCorrupt and ErrNotFound.
func Corrupt(reason error) error {
	return fmt.Errorf("%w (%w): %w", ErrCorrupt, ErrNotFound, reason)
}

// IsMiss says whether an error of Get or Has leaves the caller with a plain miss: the store has no right bytes for the key,
// or cannot tell. A context's end is none.
func IsMiss(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnavailable)
}
