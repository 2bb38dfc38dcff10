// Package index knows which worker holds which block of KV cache, and answers for a whole prompt at once how much of it
// each worker holds: Reader.Match.
//
// A block is named by a chain hash of 64 bits (ChainRoot, AppendChain): it stands for the block's tokens and for all that
// comes before them, so equal names mean equal prefixes. Tenant, model and LoRA are in the root of the chain. A worker is
// whatever has a cache of its own: one data-parallel rank of an engine, or a store that several nodes share. It holds a block
// in one or more tiers.
//
// The index is an exact mirror of what it was told, with no limit on holders and no expiry. It may know too little (Limit, a
// worker that was never added), never too much: what it cannot keep it forgets.
//
// It does no I/O, reads no clock, starts nothing, and knows neither engines nor their own block hashes: agents translate
// events first (agent/engine). Its callers are the gateway and the simulator.
//
// Writers take turns on a lock. Readers take no lock and never wait, neither for writers nor for each other.
package index

import (
	"errors"
	"sync"
	"sync/atomic"
)

// Tier is where a worker holds a block. Lower is faster.
type Tier uint8

// The tiers, fastest first.
const (
	GPU Tier = iota
	Host
	Disk
	Object
	Tiers = 4
)

// String is the tier's name, as in reports and in what people read.
func (t Tier) String() string {
	switch t {
	case GPU:
		return "gpu"
	case Host:
		return "host"
	case Disk:
		return "disk"
	case Object:
		return "object"
	}
	return "unknown tier"
}

// TierSet is a set of tiers.
type TierSet uint8

// AllTiers holds every tier.
const AllTiers TierSet = 1<<Tiers - 1

// Only is the set of one tier.
func Only(t Tier) TierSet { return 1 << t }

// Worker names a worker for as long as it is in the index. No two workers ever have the same name; 0 is none's.
type Worker uint32

// MaxWorkers is how many workers one index can hold. Those that were removed count until their blocks have been swept.
const MaxWorkers = 16_000

// ErrWorkers means that the index holds MaxWorkers already.
var ErrWorkers = errors.New("the index is full of workers")

// Index is the mirror. Its methods may be called from several goroutines.
type Index struct {
	mu      sync.Mutex // writers
	table   table
	records records
	sets    sets
	workers map[Worker]uint32 // to their numbers
	last    Worker
	handles [MaxWorkers + 1]atomic.Uint32 // of numbers: the worker, 0 = none any more
	numbers numbers
	sweep   sweep
	epochs  epochs
	memo    memo
	limit   int
	refused uint64
	dropped uint64
	sink    uint64 // keeps touch's loads alive
}

// Limit bounds what an index takes.
type Limit struct {
	// Bytes is the most memory for blocks and their holders. At the bound a new block or holder is not recorded, and a removal
	// that would need memory forgets the block for all: matches become shorter than the truth, never longer. Zero = no bound.
	Bytes int
}

// New returns an empty index.
func New(l Limit) *Index {
	x := &Index{workers: map[Worker]uint32{}, limit: l.Bytes}
	x.table.init()
	x.records.init()
	x.sets.init()
	x.epochs.init()
	x.numbers.init()
	return x
}

// Add takes in a worker that holds nothing yet.
func (x *Index) Add() (Worker, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n, ok := x.number()
	if !ok {
		return 0, ErrWorkers
	}
	x.last++
	x.workers[x.last] = n
	x.handles[n].Store(uint32(x.last))
	return x.last, nil
}

// Drop forgets a worker and all that it holds. It costs nothing now: its blocks are no longer found from this moment, and
// their memory comes back as later calls sweep the table (Sweep). An unknown worker is no error.
func (x *Index) Drop(w Worker) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n, ok := x.workers[w]; ok {
		delete(x.workers, w)
		x.bury(n)
	}
}

// number takes a free number, sweeping at once if that is what frees one.
func (x *Index) number() (uint32, bool) {
	x.reclaim()
	if n, ok := x.numbers.take(); ok {
		return n, true
	}
	for range 4 { // a dead number is free after a sweep and two epochs
		x.sweepAll()
		x.reclaim()
		if n, ok := x.numbers.take(); ok {
			return n, true
		}
	}
	return 0, false
}

// bury makes a number nobody's: readers skip it from now on.
func (x *Index) bury(n uint32) {
	x.handles[n].Store(0)
	x.sweep.dead(n)
}

// Stats says how full an index is.
type Stats struct {
	Workers int
	Blocks  int // distinct, with at least one holder or not yet swept
	Sets    int // distinct sets of three or more holders
	Bytes   int // memory for blocks and holders
	Refused uint64
	Dropped uint64 // blocks forgotten because a removal needed memory at the bound
}

// Stats of the index at this moment. Refused counts blocks and holders that were not recorded because of the bound.
func (x *Index) Stats() Stats {
	x.mu.Lock()
	defer x.mu.Unlock()
	return Stats{
		Workers: len(x.workers), Blocks: x.records.live, Sets: x.sets.count, Bytes: x.bytes(),
		Refused: x.refused, Dropped: x.dropped,
	}
}

func (x *Index) bytes() int { return x.table.bytes() + x.records.bytes() + x.sets.bytes() }

// room reports whether n more bytes may be taken.
func (x *Index) room(n int) bool { return x.limit == 0 || x.bytes()+n <= x.limit }
