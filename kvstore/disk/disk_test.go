package disk

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
	"github.com/penstock/penstock/kvstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestStore runs the suite on a real folder, past the page cache and through it, in the clear and encrypted.
func TestStore(t *testing.T) {
	ring, _ := keyring.New()
	for name, o := range map[string]Options{
		"direct": {}, "buffered": {Buffered: true}, "encrypted": {Keys: ring}, "encrypted and buffered": {Keys: ring, Buffered: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T, want storetest.Options) storetest.Subject {
				o := o
				o.Dir, o.Budget, o.Moves = filepath.Join(t.TempDir(), "kv"), want.Budget, want.Moves
				if o.Budget == 0 {
					o.Budget = 256 << 20
				}
				return subject(t, o, nil)
			})
		})
	}
}

// TestStoreInMemory runs it on the file system of the crash tests, which can hang.
func TestStoreInMemory(t *testing.T) {
	for name, direct := range map[string]bool{"direct": true, "buffered": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T, want storetest.Options) storetest.Subject {
				o := Options{Dir: "memory", Budget: want.Budget, Moves: want.Moves, Retry: 1}
				if o.Budget == 0 {
					o.Budget = 64 << 20
				}
				return subject(t, o, newMemFS(direct))
			})
		})
	}
}

// subject opens a store on a real folder or, where m is set, on one in memory.
func subject(t *testing.T, o Options, m *memFS) storetest.Subject {
	t.Helper()
	memory := storetest.NewMemory()
	o.Alloc = memory
	var s *Store
	if m == nil {
		s = mustOpen(t, o)
	} else {
		s = openMem(t, o, m)
	}
	sub := storetest.Subject{
		Store: s, Close: s.Close, Bounded: true, Groups: true, Live: memory.Live,
		Settle: func() {
			if err := s.Sync(t.Context()); err != nil {
				t.Error(err)
			}
			waitUntil(t, s.quiet)
		},
		Reopen: func() storetest.Subject {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			return subject(t, o, m)
		},
		Corrupt: func(k kvstore.Key) { s.flip(t, k, m) },
	}
	if m != nil {
		sub.Hang = func() func() {
			goOn := make(chan struct{})
			m.setBefore(func(string, string) error { <-goOn; return nil })
			return func() { m.setBefore(nil); close(goOn) }
		}
	}
	return sub
}

// quiet says that nothing is under way.
func (s *Store) quiet() bool {
	s.life.mu.Lock()
	defer s.life.mu.Unlock()
	return s.life.n == 0
}

func mustOpen(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openMem(t *testing.T, o Options, m *memFS) *Store {
	t.Helper()
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s, err := openOn(t.Context(), o, func() (fileSystem, error) { return m, nil })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// flip changes one bit in the middle of what is stored under the key.
func (s *Store) flip(t *testing.T, k kvstore.Key, m *memFS) {
	t.Helper()
	p, ok := s.lookup(k)
	if !ok {
		t.Fatalf("%s is not there", k)
	}
	r := record{size: p.size, paged: p.flags&entryPaged != 0}
	s.flipAt(t, p.segment, p.offset()+r.dataAt()+int64(p.size/2), m)
}

func (s *Store) flipAt(t *testing.T, number uint32, at int64, m *memFS) {
	t.Helper()
	if m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.names[segmentName(number)].data[at] ^= 4
		return
	}
	f, err := os.OpenFile(filepath.Join(s.opts.Dir, segmentName(number)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// key is the n-th block's, part its part.
func key(n, part int) kvstore.Key {
	return kvstore.Key{Space: kvstore.Space{1}, Name: kvstore.Name{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}, Part: uint16(part)}
}

// content is what a version of a block is made of.
func content(k kvstore.Key, version, size int) []byte {
	b := make([]byte, size)
	x := uint64(k.Name[0])<<32 + uint64(k.Name[1])<<40 + uint64(k.Part)<<20 + uint64(version)*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = byte(x >> 56)
	}
	return b
}

func put(ctx context.Context, s *Store, k kvstore.Key, data []byte, h kvstore.Hint) error {
	b := kvstore.NewBlock(data, nil).Seal()
	defer b.Release()
	return s.Put(ctx, k, b, h)
}

func mustPut(t *testing.T, s *Store, k kvstore.Key, version, size int) {
	t.Helper()
	if err := put(t.Context(), s, k, content(k, version, size), kvstore.Hint{}); err != nil {
		t.Fatal(err)
	}
}

// get returns a block's bytes, nil for a miss.
func get(t *testing.T, s *Store, k kvstore.Key) []byte {
	t.Helper()
	b, err := s.Get(t.Context(), k)
	if err != nil {
		if !kvstore.IsMiss(err) {
			t.Fatal(err)
		}
		return nil
	}
	defer b.Release()
	return bytes.Clone(b.Bytes())
}

func mustGet(t *testing.T, s *Store, k kvstore.Key, version, size int) {
	t.Helper()
	if !bytes.Equal(get(t, s, k), content(k, version, size)) {
		t.Fatalf("%s is not version %d of %d bytes", k, version, size)
	}
}

func waitUntil(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come about")
		}
	}
}

// TestFolderFromElsewhere: blocks that were written where the page cache cannot be passed by are read where it can, from a
// segment with a footer and from one that has to be read whole.
func TestFolderFromElsewhere(t *testing.T) {
	for _, killed := range []bool{false, true} {
		o := Options{Dir: filepath.Join(t.TempDir(), "kv"), Budget: 16 << 20, Buffered: true}
		s := mustOpen(t, o)
		for i := range 10 {
			mustPut(t, s, key(i, 0), 1, 90_001)
		}
		if killed {
			copied := filepath.Join(t.TempDir(), "kv")
			if err := os.CopyFS(copied, os.DirFS(o.Dir)); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(copied, 0o700); err != nil {
				t.Fatal(err)
			}
			mustClose(t, s)
			o.Dir = copied
		} else {
			mustClose(t, s)
		}
		o.Buffered = false
		s = mustOpen(t, o)
		for i := range 10 {
			if !bytes.Equal(get(t, s, key(i, 0)), content(key(i, 0), 1, 90_001)) {
				t.Errorf("killed %t: block %d is gone", killed, i)
			}
		}
		mustClose(t, s)
	}
}
