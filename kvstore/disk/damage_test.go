package disk

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
)

// TestDamage flips bits and tears files anywhere, of a closed folder and behind the back of an open store: what is found is
// right or a miss.
func TestDamage(t *testing.T) {
	ring, _ := keyring.New()
	for name, o := range map[string]Options{"clear": {}, "encrypted": {Keys: ring}, "buffered": {Buffered: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(8) {
				rng := rand.New(rand.NewPCG(seed, 3))
				o := o
				o.Dir, o.Budget, o.SegmentBytes = filepath.Join(t.TempDir(), "kv"), 4<<20, 256<<10
				s := mustOpen(t, o)
				fillFor(t, s)
				open := seed%2 == 0
				if !open {
					mustClose(t, s)
				}
				damage(t, o.Dir, rng)
				if !open {
					s = mustOpen(t, o)
				}
				for round := range 2 {
					for i := range 30 {
						for part := range 2 {
							want := content(key(i, part), 2-i%2, damagedSize(i))
							if got := get(t, s, key(i, part)); got != nil && (!bytes.Equal(got, want) || i == 0) {
								t.Fatalf("seed %d, round %d: %s: %d wrong bytes", seed, round, key(i, part), len(got))
							}
						}
					}
				}
				mustPut(t, s, key(0, 0), 9, 100)
				mustGet(t, s, key(0, 0), 9, 100)
				mustClose(t, s)
			}
		})
	}
}

func damagedSize(i int) int { return 500 + i*2500 }

// fillFor puts blocks of which some were replaced, and one was deleted.
func fillFor(t *testing.T, s *Store) {
	t.Helper()
	for version := 1; version <= 2; version++ {
		for i := range 30 {
			for part := range 2 {
				if version == 1 || i%2 == 0 {
					mustPut(t, s, key(i, part), version, damagedSize(i))
				}
			}
		}
	}
	for part := range 2 {
		if err := s.Delete(t.Context(), key(0, part)); err != nil {
			t.Fatal(err)
		}
	}
}

// damage changes one file at random: some bits, a torn end, a page of something else, nothing left.
func damage(t *testing.T, dir string, rng *rand.Rand) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "seg-*"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	name := files[rng.IntN(len(files))]
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	switch rng.IntN(4) {
	case 0:
		for range 1 + rng.IntN(20) {
			data[rng.IntN(len(data))] ^= 1 << rng.IntN(8)
		}
	case 1:
		data = data[:rng.IntN(len(data))]
	case 2:
		from, to := rng.IntN(len(data)/page)*page, rng.IntN(len(data)/page)*page
		copy(data[to:], bytes.Clone(data[from:from+page]))
	case 3:
		for i := range data[:min(len(data), 3*page)] {
			data[i] = byte(rng.Int())
		}
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustClose(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestRecordOfAnotherPlaceIsNone: a whole record that is copied over another one, in its segment or from another, is a miss.
func TestRecordOfAnotherPlaceIsNone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kv")
	s := mustOpen(t, Options{Dir: dir, Budget: 4 << 20, SegmentBytes: 64 << 10, Buffered: true})
	defer mustClose(t, s)
	for i := range 40 {
		mustPut(t, s, key(i, 0), 1, 3000)
	}
	a, _ := s.lookup(key(0, 0))
	b, _ := s.lookup(key(1, 0))
	far, _ := s.lookup(key(39, 0))
	if a.segment != b.segment || far.segment == a.segment {
		t.Fatal("the blocks do not lie as the test wants them")
	}
	raw := func(p place) []byte {
		data, err := os.ReadFile(filepath.Join(dir, segmentName(p.segment)))
		if err != nil {
			t.Fatal(err)
		}
		return data[p.offset():][:headerSize+p.size]
	}
	for _, from := range []place{b, far} {
		f, err := os.OpenFile(filepath.Join(dir, segmentName(a.segment)), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(raw(from), a.offset()); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		if got := get(t, s, key(0, 0)); got != nil {
			t.Fatalf("%d bytes of another block", len(got))
		}
		mustPut(t, s, key(0, 0), 1, 3000)
		a, _ = s.lookup(key(0, 0))
	}
	if c := s.Stats().Corrupt; c != 2 {
		t.Errorf("%d corrupt blocks are counted, not 2", c)
	}
}

// TestBlockThatLooksLikeASegment: bytes that somebody puts can hold whole records. A scan never takes them for its own.
func TestBlockThatLooksLikeASegment(t *testing.T) {
	m := newMemFS(false)
	o := Options{Dir: "memory", Budget: 8 << 20, SegmentBytes: 512 << 10}
	other := openMem(t, o, m)
	mustPut(t, other, key(7, 0), 1, 1000)
	mustClose(t, other)
	trojan := bytes.Clone(m.names[segmentName(1)].data)
	m = newMemFS(false)
	s := openMem(t, o, m)
	if err := put(t.Context(), s, key(1, 0), trojan, kvstore.Hint{}); err != nil {
		t.Fatal(err)
	}
	p, _ := s.lookup(key(1, 0))
	killed := m.killed()
	mustClose(t, s)
	killed.names[segmentName(p.segment)].data[p.offset()+20] ^= 1 // its header is torn, so that the scan looks into it
	after := openMem(t, o, killed)
	defer mustClose(t, after)
	if n := after.Stats().Blocks; n != 0 {
		t.Errorf("%d blocks were found in another one's bytes", n)
	}
}

// FuzzFolder gives a store any file as its segment.
func FuzzFolder(f *testing.F) {
	for _, keys := range []*keyring.Ring{nil} {
		m := newMemFS(false)
		o, _ := Options{Dir: "memory", Budget: 1 << 20, Keys: keys}.withDefaults()
		s, err := openOn(f.Context(), o, func() (fileSystem, error) { return m, nil })
		if err != nil {
			f.Fatal(err)
		}
		for i := range 5 {
			_ = put(f.Context(), s, key(i, 0), content(key(i, 0), 1, 100*i), kvstore.Hint{})
		}
		f.Add(bytes.Clone(m.killed().names[segmentName(1)].data[:16<<10]))
		_ = s.Close()
		f.Add(m.names[segmentName(1)].data)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newMemFS(false)
		m.names[segmentName(1)] = &memFile{data: data, durable: map[int64][sector]byte{}}
		s := openMem(t, Options{Dir: "memory", Budget: 1 << 20}, m)
		for i := range 5 {
			k := key(i, 0)
			if b, err := s.Get(t.Context(), k); err == nil {
				if b.Sum() != kvstore.Checksum(b.Bytes()) {
					t.Fatalf("%s: wrong bytes", k)
				}
				b.Release()
			}
		}
		mustPut(t, s, key(9, 0), 1, 100)
		mustGet(t, s, key(9, 0), 1, 100)
		mustClose(t, s)
	})
}
