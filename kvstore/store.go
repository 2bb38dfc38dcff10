// Package kvstore is the contract for places that keep blocks of KV cache outside of the engine: host memory, NVMe, object
// storage, and compositions of them. It holds the nouns (Space, Key, Block, Hint), the interfaces, and what errors mean.
//
// Cache is never truth and never wrong. A store may forget any block at any time; what it returns is byte for byte what
// was put under that key, checked against the checksum that the block got when its bytes were complete, or it is a miss.
// A key holds the space of its block, so that a block of another model, layout or tenant cannot be asked for at all.
//
// The package keeps no bytes, opens no file, and knows no engine. storetest holds the suite that every store passes.
package kvstore

import (
	"context"
	"errors"
	"time"
)

// ErrNotFound means a miss. It is not a fault, and is never logged.
var ErrNotFound = errors.New("block not found")

// ErrCorrupt means that the store held bytes under the key that fail their checksum, or belong to another key. The store
// has counted it and forgotten the block before it answers; for the caller it is a miss. Errors that wrap ErrCorrupt wrap
// ErrNotFound too, by Corrupt.
var ErrCorrupt = errors.New("block is corrupt")

// ErrFull means that there is no room and that none could be made: the block was not stored. Callers drop it and count.
var ErrFull = errors.New("store is full")

// ErrUnavailable means that the store cannot be reached or used now (a dead bucket, a read-only disk, an open circuit
// breaker): nothing is known about the block. For a reader it is a miss, for a writer a drop.
var ErrUnavailable = errors.New("store is unavailable")

// Store keeps blocks. All calls may be made from several goroutines, honour the context's end, and leave no goroutine
// behind that holds the caller's block.
//
// Ownership: a *Block is counted. Whoever holds a reference may read the bytes; nobody may write them after Seal. Put
// takes a reference of its own where it keeps the block, and the caller keeps its own. Get returns a reference that the
// caller gives back by Release, exactly once.
type Store interface {
	// Get returns the block under the key. Errors: ErrNotFound, ErrCorrupt, ErrUnavailable, the context's.
	Get(ctx context.Context, k Key) (*Block, error)
	// GetMany calls each for every block that is there, with the index of its key, in any order but never two at a time,
	// while later ones are still being read; what is not there is left out. The block is lent: who keeps it beyond the
	// call retains it. It stops with each's error, and returns an error only where not all keys could be looked for. Reads
	// ahead are bounded by the store, so that any number of keys may be asked for.
	GetMany(ctx context.Context, keys []Key, each func(i int, b *Block) error) error
	// Put stores a sealed block. A block that is there under the key already is replaced: a reader gets all of the one or
	// all of the other. A nil error means that Get would find it, not that it is durable. Errors: ErrFull,
	// ErrUnavailable, the context's.
	Put(ctx context.Context, k Key, b *Block, h Hint) error
	// Has says what is known of the block under the key without reading its bytes. Errors as of Get.
	Has(ctx context.Context, k Key) (Info, error)
	// Delete forgets the block. That it was not there is no error.
	Delete(ctx context.Context, k Key) error
	// Stats is a moment's picture; counters count since the store was opened.
	Stats() Stats
}

// Lender is a Store that can give a block out whose bytes have not been checked, to who checks them on their way: so they are
// read from memory once and not twice.
type Lender interface {
	// Lend is Get without the check. Nobody may be let take the bytes for whole before Block.Check has passed, or what comes
	// to the same. Who finds them wrong calls Get, which finds it too, counts it and forgets the block.
	Lend(ctx context.Context, k Key) (*Block, error)
}

// Allocator gives out memory for blocks. Stores that read from files or sockets read straight into what it gives.
type Allocator interface {
	// Alloc returns an unsealed block of n bytes (their content is undefined) with one reference, the caller's. It makes
	// room by forgetting others where it may. Errors: ErrFull, also for more bytes than there can ever be.
	Alloc(n int) (*Block, error)
}

// Info is what is known of a stored block without its bytes.
type Info struct {
	Size     int64     // bytes
	Sum      uint32    // as Block.Sum
	StoredAt time.Time // zero = unknown
}

// Stats is the state of one store. A quantity that the store has no way to know is Unknown.
type Stats struct {
	Tier             Tier
	Blocks, Bytes    int64 // held now
	Budget           int64 // bytes; 0 = none set
	Pinned           int64 // bytes that readers hold and that therefore cannot be evicted
	Hits, Misses     int64
	Puts, Drops      int64 // stored; refused or given up with ErrFull or ErrUnavailable
	Evicted, Deleted int64
	Corrupt          int64 // reads that failed their check; each was a miss
	Errors           int64 // of the medium; each was a miss or a drop
	ReadBytes        int64
	WrittenBytes     int64
	Tiers            []Stats // of a composition: its parts, fastest first
}

// Unknown stands in Stats for a quantity that the store has no way to know, such as the bytes in a shared bucket before the
// first listing.
const Unknown int64 = -1

// Tier names where a block lies, from the fastest to the one that outlives all jobs.
type Tier uint8

// The tiers. GPU blocks belong to the engine; no Store holds them.
const (
	GPU Tier = iota
	Host
	Disk
	Object
)

// String is the tier's name as people, metrics and configuration have it.
func (t Tier) String() string {
	if int(t) < len(tierNames) {
		return tierNames[t]
	}
	return "unknown"
}

var tierNames = [...]string{GPU: "gpu", Host: "host", Disk: "disk", Object: "object"}

// Move is one change of what a tier holds: the news from which the index is built.
type Move struct {
	Key  Key
	Tier Tier
	Held bool // false: the tier has forgotten it
}

// Moves takes the news. A store calls it after a block can be read, and before it can no longer: who hears of a removal
// late may be sent to a block that is gone, never the other way round. It must be quick and must not call the store back.
type Moves func(Move)

// Overflow takes what a store is about to forget to make room, while it can still be read: all parts of a group, one call
// each. The block is lent: who keeps it beyond the call retains it, and its memory is not free until then. Its checksum may
// not have been checked since it was stored (Block.Check). The call must be quick and must not call the store back. What it
// does not take is forgotten.
type Overflow func(k Key, b *Block, h Hint)
