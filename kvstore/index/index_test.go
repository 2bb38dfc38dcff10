package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zeebo/xxh3"
)

func chainOf(rng *rand.Rand, n int) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = rng.Uint64()
	}
	return out
}

// TestLead says what the counts mean, on one prompt of six blocks.
func TestLead(t *testing.T) {
	x := New(Limit{})
	ids := chainOf(rand.New(rand.NewPCG(1, 1)), 6)
	type stored struct {
		tier     Tier
		from, to int
	}
	for name, tc := range map[string]struct {
		stored []stored
		want   [Tiers]uint32
	}{
		"all on the GPU":               {[]stored{{GPU, 0, 6}}, [Tiers]uint32{6, 6, 6, 6}},
		"tail in host memory":          {[]stored{{GPU, 0, 2}, {Host, 2, 6}}, [Tiers]uint32{2, 6, 6, 6}},
		"all in host, head on GPU":     {[]stored{{Host, 0, 6}, {GPU, 0, 1}}, [Tiers]uint32{1, 6, 6, 6}},
		"slower first":                 {[]stored{{Disk, 0, 2}, {GPU, 2, 6}}, [Tiers]uint32{0, 0, 6, 6}},
		"a hole":                       {[]stored{{GPU, 0, 2}, {GPU, 3, 6}}, [Tiers]uint32{2, 2, 2, 2}},
		"every tier":                   {[]stored{{GPU, 0, 1}, {Host, 1, 2}, {Disk, 2, 3}, {Object, 3, 4}}, [Tiers]uint32{1, 2, 3, 4}},
		"object only":                  {[]stored{{Object, 0, 5}}, [Tiers]uint32{0, 0, 0, 5}},
		"a later GPU block counts not": {[]stored{{Host, 0, 1}, {GPU, 1, 6}}, [Tiers]uint32{0, 6, 6, 6}},
	} {
		w, err := x.Add()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range tc.stored {
			if n := x.Store(w, s.tier, ids[s.from:s.to]); n != s.to-s.from {
				t.Fatalf("%s: %d recorded", name, n)
			}
		}
		if got := matches(t, x.NewReader(), ids)[w]; got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestUnknownWorker(t *testing.T) {
	x := New(Limit{})
	if n := x.Store(7, GPU, []uint64{1}); n != 0 {
		t.Errorf("%d blocks recorded for nobody", n)
	}
	x.Remove(7, GPU, []uint64{1})
	x.Clear(7, AllTiers)
	x.Drop(7)
	if s := x.Stats(); s.Blocks != 0 {
		t.Errorf("%+v", s)
	}
}

// TestWorkersRunOut: numbers come back as workers go, and names never do.
func TestWorkersRunOut(t *testing.T) {
	x := New(Limit{})
	for range MaxWorkers {
		if _, err := x.Add(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.Add(); !errors.Is(err, ErrWorkers) {
		t.Fatalf("one worker too many: %v", err)
	}
	x.Store(1, GPU, []uint64{1, 2, 3})
	x.Drop(1)
	w, err := x.Add()
	if err != nil || w != MaxWorkers+1 {
		t.Fatalf("after one went: %d, %v", w, err)
	}
	if got := matches(t, x.NewReader(), []uint64{1, 2, 3}); len(got) != 0 {
		t.Errorf("the new worker got the old one's blocks: %v", got)
	}
}

// TestBound: at the bound an index knows less than the truth, never more, and stays within it.
func TestBound(t *testing.T) {
	const limit = 640 << 10
	w := newWorld(20, 150, 700, 3)
	w.x = New(Limit{Bytes: limit})
	w.r = w.x.NewReader()
	for range w.workers {
		if _, err := w.x.Add(); err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(4, 4))
	for range 700 {
		w.step(rng.IntN)
		if b := w.x.Stats().Bytes; b > limit {
			t.Fatalf("%d bytes, the bound is %d", b, limit)
		}
	}
	known := 0
	for _, chain := range w.chains {
		want := w.m.match(chain)
		for worker, lead := range matches(t, w.r, chain) {
			for tier := range lead {
				if known += int(lead[tier]); lead[tier] > want[worker][tier] {
					t.Fatalf("worker %d, tier %d: %d blocks, it has %d", worker, tier, lead[tier], want[worker][tier])
				}
			}
		}
	}
	if s := w.x.Stats(); s.Refused == 0 || known == 0 {
		t.Errorf("the test has not come to the bound, or nothing is known there: %+v, %d", s, known)
	}
}

// TestReadersBesideAWriter: whatever a reader sees was true at some moment. Worker 1 always holds the whole prompt; the others
// come and go, each with its own length, and no more than that is ever seen of them.
func TestReadersBesideAWriter(t *testing.T) {
	x := New(Limit{})
	rng := rand.New(rand.NewPCG(1, 1))
	prompt := chainOf(rng, 400)
	keeper, err := x.Add()
	if err != nil {
		t.Fatal(err)
	}
	x.Store(keeper, GPU, prompt)
	var ends sync.Map // worker → its length
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			r := x.NewReader()
			var out []Match
			for !stop.Load() {
				out = r.Match(prompt, out[:0])
				seen := false
				for _, m := range out {
					seen = seen || m.Worker == keeper && m.Lead == [Tiers]uint32{400, 400, 400, 400}
					if end, ok := ends.Load(m.Worker); ok && int(m.Lead[Object]) > end.(int) {
						t.Errorf("worker %d: %v of %d", m.Worker, m.Lead, end)
					}
				}
				if !seen {
					t.Errorf("the keeper is missing in %v", out)
					return
				}
			}
		})
	}
	var workers []Worker
	for i := range 600 {
		w, err := x.Add()
		if err != nil {
			t.Fatal(err)
		}
		end := 1 + rng.IntN(400)
		ends.Store(w, end)
		workers = append(workers, w)
		x.Store(w, Tier(i%Tiers), prompt[:end])
		x.Store(w, GPU, chainOf(rng, 50)) // splits segments, reuses records
		if old := workers[rng.IntN(len(workers))]; i%3 == 0 {
			x.Drop(old)
		} else {
			from := rng.IntN(400)
			x.Remove(old, Tier(i%Tiers), prompt[from:])
		}
	}
	stop.Store(true)
	readers.Wait()
}

// FuzzApply applies what bytes say to an index and to its model.
func FuzzApply(f *testing.F) {
	f.Add([]byte("a small seed of some length, so that several changes come of it"))
	f.Add(bytes.Repeat([]byte{0, 0, 0, 0, 12, 1, 2, 3, 1, 1, 3, 14}, 40))
	f.Fuzz(func(t *testing.T, data []byte) {
		w := newWorld(3, 4, 12, 1)
		for len(data) > 8 {
			w.step(func(n int) int {
				if len(data) == 0 {
					return 0
				}
				k := int(data[0]) % n
				data = data[1:]
				return k
			})
		}
		w.check(t)
		w.exact(t)
	})
}

func TestSnapshot(t *testing.T) {
	w := newWorld(30, 40, 200, 9)
	rng := rand.New(rand.NewPCG(4, 4))
	for range 800 {
		w.step(rng.IntN)
	}
	b := w.x.AppendSnapshot(nil)
	x, workers, err := Restore(Limit{}, b)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Sort(w.workers); !slices.Equal(workers, w.workers) {
		t.Errorf("workers %v, want %v", workers, w.workers)
	}
	if again := x.AppendSnapshot(nil); len(again) != len(b) {
		t.Errorf("a snapshot of %d bytes gives one of %d", len(b), len(again))
	}
	w.x, w.r = x, x.NewReader()
	w.check(t)
	w.exact(t)
	if _, err := w.x.Add(); err != nil || w.x.last <= workers[len(workers)-1] {
		t.Errorf("a worker's name is given twice: %d, %v", w.x.last, err)
	}
}

// FuzzRestore has damaged snapshots, with a checksum that fits, give an error or an index that can be used.
func FuzzRestore(f *testing.F) {
	w := newWorld(5, 4, 9, 9)
	rng := rand.New(rand.NewPCG(4, 4))
	for range 40 {
		w.step(rng.IntN)
	}
	whole := w.x.AppendSnapshot(nil)
	f.Add(whole[:len(whole)-8])
	f.Add(New(Limit{}).AppendSnapshot(nil)[:10])
	f.Fuzz(func(t *testing.T, data []byte) {
		x, workers, err := Restore(Limit{Bytes: 1 << 22}, binary.LittleEndian.AppendUint64(data, hashOf(data)))
		if err != nil {
			return
		}
		for _, w := range workers {
			x.Store(w, GPU, []uint64{1, 2, 3})
		}
		if got := matches(t, x.NewReader(), []uint64{1, 2, 3}); len(got) != len(workers) {
			t.Fatalf("%d workers, %d match", len(workers), len(got))
		}
	})
}

func TestDamagedSnapshot(t *testing.T) {
	w := newWorld(5, 4, 9, 9)
	w.x.Store(w.workers[0], GPU, w.chains[0])
	whole := w.x.AppendSnapshot(nil)
	for i := range whole {
		bent := slices.Clone(whole)
		bent[i] ^= 1
		if _, _, err := Restore(Limit{}, bent); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, _, err := Restore(Limit{}, whole[:i]); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}

// TestChain: a name stands for all tokens before it and for the whole identity, and nothing else.
func TestChain(t *testing.T) {
	tokens := make([]uint32, 64)
	for i := range tokens {
		tokens[i] = uint32(i)
	}
	base := Identity{Seed: 1, Namespace: "m", BlockTokens: 16, Salt: "s", LoRA: "l"}
	seen := map[uint64]Identity{}
	for _, i := range []Identity{
		base,
		{2, "m", 16, "s", "l"},
		{1, "n", 16, "s", "l"},
		{1, "m", 32, "s", "l"},
		{1, "m", 16, "t", "l"},
		{1, "m", 16, "s", "k"},
		{1, "ms", 16, "", "l"},
		{1, "m", 16, "sl", ""},
		{1, "m", 16, "", "sl"},
	} {
		chain := AppendChain(nil, ChainRoot(i), tokens, 16)
		if len(chain) != 4 {
			t.Fatalf("%d names", len(chain))
		}
		for _, id := range chain {
			if other, ok := seen[id]; ok {
				t.Fatalf("%+v and %+v share a name", i, other)
			}
			seen[id] = i
		}
	}
	root := ChainRoot(base)
	long := AppendChain(nil, root, tokens, 16)
	if short := AppendChain(nil, root, tokens[:63], 16); !slices.Equal(short, long[:3]) {
		t.Errorf("a prefix has other names: %x, %x", short, long)
	}
	tokens[20] = 99
	if other := AppendChain(nil, root, tokens, 16); other[0] != long[0] || other[1] == long[1] || other[3] == long[3] {
		t.Errorf("another token in block 1: %x, then %x", long, other)
	}
	if a, b := ChainBlock(root, 5, tokens[:16], ""), ChainBlock(root, 5, tokens[:16], "image"); a == b {
		t.Error("an image makes no difference")
	}
	if got := AppendChain(nil, root, tokens, 0); got != nil {
		t.Errorf("blocks of no tokens: %x", got)
	}
}

// TestEqualHashes: names that share their hash's upper half are told apart by their records.
func TestEqualHashes(t *testing.T) {
	x := New(Limit{})
	w, err := x.Add()
	if err != nil {
		t.Fatal(err)
	}
	const odd = 0xF1DE83E19937733D // inverse of hash's multiplier
	var ids []uint64
	for i := range uint64(3000) { // far more than fit into one segment, all in the same line
		id := (0xABCDEF12<<32 | i) * odd
		ids = append(ids, id^id>>32)
	}
	if a, b := hash(ids[0]), hash(ids[2999]); a>>32 != b>>32 || a == b {
		t.Fatalf("the test's names do not collide: %x, %x", a, b)
	}
	n := x.Store(w, GPU, ids)
	r := x.NewReader()
	found := 0
	for _, id := range ids {
		found += len(r.Match([]uint64{id}, nil))
	}
	if found != n || n < 2000 {
		t.Errorf("%d recorded, %d found", n, found)
	}
	x.Remove(w, GPU, ids)
	if s := x.Stats(); s.Blocks != 0 {
		t.Errorf("left: %+v", s)
	}
}

func hashOf(b []byte) uint64 { return xxh3.Hash(b) }
