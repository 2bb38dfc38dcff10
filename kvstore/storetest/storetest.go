// Package storetest is the suite that every kvstore.Store and every composition of stores passes: what calls return, that
// replacing is atomic, whose memory is whose, what happens when the medium lies, fills up, hangs, and after a restart.
//
// A store's whole test is one call of Run with a function that opens an empty store. Memory is an allocator that poisons
// what is freed and counts what is not; stores that need one for reading take it in their tests.
package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// Options is what a test wants of the store that it is given.
type Options struct {
	// Budget is how many bytes the store may hold; 0 = more than the test will put (64 MiB are enough).
	Budget int64
	// Moves is to get the store's news. It is never nil.
	Moves kvstore.Moves
}

// Subject is an open, empty store with what only its package can do to it. The fields beside Store may be nil: what they
// are needed for is then left out and named in the test's log.
type Subject struct {
	Store kvstore.Store
	// Close ends the store. All memory must be back after it, save what the test itself holds.
	Close func() error
	// Settle returns when what goes on in the background has come to rest, so that what was put has arrived where it goes.
	Settle func()
	// Reopen ends the store in good order and opens it again over the same medium. The new one is ended by the new Close.
	Reopen func() Subject
	// Corrupt changes a bit of the bytes that are stored under the key, behind the store's back.
	Corrupt func(k kvstore.Key)
	// Hang makes the medium hang until the returned function is called.
	Hang func() (goOn func())
	// Live counts the blocks that were taken from the store's own allocator and are not freed: it is 0 after Close.
	Live func() int64
	// Bounded says that the store keeps to Options.Budget.
	Bounded bool
	// Groups says that all parts of a name go together when room is made.
	Groups bool
	// Silent says that the store brings no news, since the stores under it do.
	Silent bool
}

// Open opens an empty store for one test, with its files under t.TempDir().
type Open func(t *testing.T, o Options) Subject

// patience is for calls that must come back at some time: never a measure of speed.
const patience = 30 * time.Second

type check struct {
	name string
	run  func(t *testing.T, open Open)
}

// checks is the suite, in the order in which a new store should learn to pass it.
var checks = []check{
	{"PutGet", putGet},
	{"Miss", miss},
	{"KeysAreApart", keysAreApart},
	{"Replace", replace},
	{"Delete", deleteForgets},
	{"Has", has},
	{"Hints", hints},
	{"GetMany", getMany},
	{"GetManyOfMore", getManyOfMore},
	{"GetManyStops", getManyStops},
	{"Stats", stats},
	{"CallersMemory", callersMemory},
	{"ReadersMemory", readersMemory},
	{"EndedContext", endedContext},
	{"ReplaceIsAtomic", replaceIsAtomic},
	{"Concurrency", concurrency},
	{"Full", full},
	{"TooLarge", tooLarge},
	{"GroupsGoTogether", groupsGoTogether},
	{"News", news},
	{"Corruption", corruption},
	{"Hanging", hanging},
	{"Restart", restart},
	{"Model", model},
}

// Run runs the suite, each test on a store of its own.
func Run(t *testing.T, open Open) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) { c.run(t, open) })
	}
}

// bench is a store under one test.
type bench struct {
	Subject
	t   *testing.T
	mem *Memory // of the blocks that the test puts
}

func begin(t *testing.T, open Open, o Options) *bench {
	t.Helper()
	if o.Moves == nil {
		o.Moves = func(kvstore.Move) {}
	}
	b := &bench{Subject: open(t, o), t: t, mem: NewMemory()}
	t.Cleanup(b.end)
	return b
}

// end closes the store and counts memory.
func (b *bench) end() {
	b.t.Helper()
	if b.Close != nil {
		if err := b.Close(); err != nil {
			b.t.Errorf("close: %v", err)
		}
	}
	if n := b.mem.Live(); n != 0 {
		b.t.Errorf("%d of the caller's blocks are still held after the end", n)
	}
	if b.Live != nil {
		if n := b.Live(); n != 0 {
			b.t.Errorf("%d of the store's blocks are not given back after the end", n)
		}
	}
}

// reopen goes through a restart.
func (b *bench) reopen() { b.Subject = b.Reopen() }

func (b *bench) settle() {
	if b.Settle != nil {
		b.Settle()
	}
}

func (b *bench) context() context.Context {
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	b.t.Cleanup(cancel)
	return ctx
}

// put stores a value of the test's and gives the own reference back.
func (b *bench) put(k kvstore.Key, version uint64, size int) error {
	blk := b.mem.value(k, version, size)
	defer blk.Release()
	return b.Store.Put(b.context(), k, blk, kvstore.Hint{})
}

func (b *bench) mustPut(k kvstore.Key, version uint64, size int) {
	b.t.Helper()
	if err := b.put(k, version, size); err != nil {
		b.t.Fatalf("put %s, %d bytes: %v", k, size, err)
	}
}

// mustGet fails unless the store has exactly this value.
func (b *bench) mustGet(k kvstore.Key, version uint64, size int) {
	b.t.Helper()
	blk, err := b.Store.Get(b.context(), k)
	if err != nil {
		b.t.Fatalf("get %s: %v", k, err)
	}
	defer blk.Release()
	b.isValue(blk, k, version, size)
}

func (b *bench) isValue(blk *kvstore.Block, k kvstore.Key, version uint64, size int) {
	b.t.Helper()
	if blk.Len() != size || !isValue(blk.Bytes(), k, version) {
		b.t.Errorf("%s: %d bytes are not version %d of %d bytes", k, blk.Len(), version, size)
	}
	if blk.Sum() != kvstore.Checksum(blk.Bytes()) {
		b.t.Errorf("%s: the checksum is not that of the bytes", k)
	}
}

// mustMiss fails unless the store says that it does not have the block.
func (b *bench) mustMiss(k kvstore.Key) {
	b.t.Helper()
	blk, err := b.Store.Get(b.context(), k)
	if err == nil {
		blk.Release()
		b.t.Fatalf("get %s found a block", k)
	}
	wantMiss(b.t, "get", err)
	_, err = b.Store.Has(b.context(), k)
	wantMiss(b.t, "has", err)
}
