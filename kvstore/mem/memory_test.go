package mem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/kvstore"
)

func keyOf(n int) (k kvstore.Key) {
	binary.LittleEndian.PutUint64(k.Name[:], uint64(n)*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(k.Name[8:], uint64(n))
	return k
}

// fresh is a sealed block of the store's own with a number in it.
func fresh(t testing.TB, s *Store, n int, number uint64) (*kvstore.Block, error) {
	t.Helper()
	b, err := s.Alloc(n)
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint64(b.Bytes(), number)
	return b.Seal(), nil
}

func put(t testing.TB, s *Store, key, size int, h kvstore.Hint) error {
	t.Helper()
	b, err := fresh(t, s, size, uint64(key))
	if err != nil {
		return err
	}
	defer b.Release()
	return s.Put(t.Context(), keyOf(key), b, h)
}

func TestClasses(t *testing.T) {
	t.Parallel()
	sizes := map[int]int64{}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.IntRange(0, 1<<20), rapid.IntRange(0, maxBlock)).Draw(t, "n")
		class, size := classOf(n)
		if known, ok := sizes[class]; ok && known != size {
			t.Fatalf("class %d has slots of %d and of %d bytes", class, known, size)
		}
		sizes[class] = size
		waste := size - max(1, int64(n))
		if class < 0 || class >= classes || waste < 0 || waste >= pageSize+int64(n)/32 || size%pageSize != 0 {
			t.Fatalf("%d bytes lie in class %d of %d bytes", n, class, size)
		}
	})
	for odd := 1; odd < finePages; odd += 2 { // what KV blocks are: layers times a power of two
		for shift := 12; shift < 24; shift++ {
			if _, size := classOf(odd << shift); size != int64(odd)<<shift {
				t.Errorf("%d<<%d bytes waste %d", odd, shift, size-int64(odd)<<shift)
			}
		}
	}
}

// TestNothingIsCopied: from Alloc through Put to Get a block lies in one place.
func TestNothingIsCopied(t *testing.T) {
	t.Parallel()
	s := New(Options{Bytes: 1 << 20})
	b, err := fresh(t, s, 100_000, 1)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 { // under two keys
		if err := s.Put(t.Context(), keyOf(n), b, kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
		got, err := s.Get(t.Context(), keyOf(n))
		if err != nil || address(got.Bytes()) != address(b.Bytes()) {
			t.Fatalf("the block has moved, %v", err)
		}
		got.Release()
	}
	b.Release()
	if committed, used := s.arena.memory(); used != 1 || committed > 104_000 {
		t.Errorf("%d slots, %d bytes", used, committed)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestPinnedIsCapped: a reader that keeps everything costs itself, and writers go on.
func TestPinnedIsCapped(t *testing.T) {
	t.Parallel()
	s := New(Options{Bytes: 1 << 20, MaxPinned: 300 << 10})
	var held []*kvstore.Block
	for n := range 8 {
		if err := put(t, s, n, 100_000, kvstore.Hint{}); err != nil && n < 2 {
			t.Fatal(err)
		}
		if b, err := s.Get(t.Context(), keyOf(n)); err == nil {
			held = append(held, b)
		}
	}
	if n := s.Stats().Pinned; len(held) < 2 || n > 300<<10 || n < 200_000 {
		t.Errorf("%d blocks are held, %d bytes", len(held), n)
	}
	if _, err := s.Alloc(200_000); !errors.Is(err, kvstore.ErrFull) {
		t.Errorf("alloc beyond the cap: %v", err)
	}
	foreign := kvstore.NewBlock(make([]byte, 100_000), nil).Seal()
	for n := range 30 {
		if err := s.Put(t.Context(), keyOf(100+n), foreign, kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Get(t.Context(), keyOf(129)); !errors.Is(err, kvstore.ErrUnavailable) {
		t.Errorf("get beyond the cap: %v", err)
	}
	if err := s.Close(); err == nil {
		t.Error("memory that is being read was unmapped")
	}
	for _, b := range held {
		b.Release()
	}
	if err := s.Close(); err != nil || s.Stats().Pinned != 0 || s.out.Load() != 0 {
		t.Errorf("after the last release: %v, %d bytes of %d blocks", err, s.Stats().Pinned, s.out.Load())
	}
}

// TestChurn is a day of an agent's life, two stores a second: sizes change with models that come and go, readers hold
// some. The budget is kept throughout, and at the end all of it can be used at any size.
func TestChurn(t *testing.T) {
	t.Parallel()
	const budget, day = 8 << 20, 24 * 3600 * 2
	s := New(Options{Bytes: budget})
	rng := rand.New(rand.NewPCG(1, 2))
	sizes := []int{1, 4096, 9000, 20_000, 5000, 33_000, 70_000, 12_288, 300_000}
	var held []*kvstore.Block
	for n := range day {
		phase := n / (day / 48) // a model for half an hour
		size := sizes[(phase+rng.IntN(2)*rng.IntN(2))%len(sizes)]
		if size > 10_000 && n%8 != 0 {
			size = 4096 // most are small, so that the test is quick
		}
		if err := put(t, s, n, max(8, size-rng.IntN(8)), kvstore.Hint{}); err != nil {
			t.Fatalf("store %d of %d bytes: %v", n, size, err)
		}
		switch b, err := s.Get(t.Context(), keyOf(n-rng.IntN(50))); {
		case err != nil:
		case len(held) < 20:
			held = append(held, b)
		default:
			held[n%20].Release()
			held[n%20] = b
		}
		if n%97 == 0 {
			if err := s.Delete(t.Context(), keyOf(n-rng.IntN(200))); err != nil {
				t.Fatal(err)
			}
		}
		if n%1000 == 0 && s.Memory() > budget {
			t.Fatalf("%d bytes are taken of %d", s.Memory(), budget)
		}
	}
	for _, b := range held {
		b.Release()
	}
	for _, size := range []int{4096, 65536, 40_960, 1 << 20} {
		s.fill(t, size, budget)
	}
	s.checkCounts(t)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// fill stores blocks of one size until others go, and wants all of the budget to be full of them.
func (s *Store) fill(t *testing.T, size, budget int) {
	t.Helper()
	for n := range 2 * budget / size {
		if err := put(t, s, 1<<40+size<<16+n, size, kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Stats().Bytes; got < int64(budget)-int64(size) {
		t.Errorf("blocks of %d bytes fill %d of %d", size, got, budget)
	}
}

// checkCounts compares what is out of the arena with what the index has.
func (s *Store) checkCounts(t *testing.T) {
	t.Helper()
	committed, used := s.arena.memory()
	if st := s.Stats(); used != st.Blocks || committed > st.Budget || st.Pinned != 0 || s.out.Load() != 0 {
		t.Errorf("%d slots for %d blocks, %d bytes of %d, %d pinned", used, st.Blocks, committed, st.Budget, st.Pinned)
	}
}

// TestIndexIsSmall: what there is for each block beside its bytes is below 200 bytes and holds no pointers.
func TestIndexIsSmall(t *testing.T) {
	for _, row := range []reflect.Type{reflect.TypeFor[group](), reflect.TypeFor[stored]()} {
		for i := range row.NumField() {
			switch f := row.Field(i); f.Type.Kind() {
			case reflect.Pointer, reflect.Slice, reflect.Map, reflect.String, reflect.Interface, reflect.Func:
				t.Errorf("%s.%s is a %s", row, f.Name, f.Type)
			}
		}
	}
	const n = 300_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := New(Options{Bytes: n * pageSize})
	b, err := fresh(t, s, 8, 1) // one slot under all keys: the index is what is measured
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		h := kvstore.Hint{Known: true, Depth: uint32(i % 100), Parent: keyOf(i - 1).Name, Session: 5}
		if err := s.Put(t.Context(), keyOf(i), b, h); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	perSlot := float64(reflect.TypeFor[region]().Field(2).Type.Elem().Size())
	per := float64(after.HeapAlloc-before.HeapAlloc)/n + perSlot
	t.Logf("BENCH kv_mem_index_bytes_per_block %.0f B", per)
	if per >= 200 {
		t.Errorf("%.0f bytes for each block", per)
	}
	b.Release()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestOverflow: what goes is offered with all its parts and its hint, and a keeper keeps the memory.
func TestOverflow(t *testing.T) {
	t.Parallel()
	type offer struct {
		key  kvstore.Key
		hint kvstore.Hint
		b    *kvstore.Block
	}
	var offers []offer
	s := New(Options{Bytes: 100 << 10, Poison: true, Overflow: func(k kvstore.Key, b *kvstore.Block, h kvstore.Hint) {
		offers = append(offers, offer{k, h, b.Retain()})
	}})
	for n := range 10 { // one chain in two parts each, of 20 slots; there is room for 25
		for part := range uint16(2) {
			b, err := fresh(t, s, pageSize, uint64(n))
			if err != nil {
				t.Fatal(err)
			}
			k := keyOf(n)
			k.Part = part
			if err := s.Put(t.Context(), k, b, kvstore.Hint{Known: true, Depth: uint32(n), Parent: keyOf(n - 1).Name}); err != nil {
				t.Fatal(err)
			}
			b.Release()
		}
	}
	for n := range 10 {
		if err := put(t, s, 100+n, pageSize, kvstore.Hint{}); err != nil {
			break // the offers are held, so that their memory does not come free
		}
	}
	if len(offers) < 20 {
		t.Fatalf("%d blocks were offered", len(offers))
	}
	for i, o := range offers[:20] {
		n := 9 - i/2
		want := kvstore.Hint{Known: true, Depth: uint32(n)}
		if n > 0 {
			want.Parent = keyOf(n - 1).Name
		}
		if o.key.Name != keyOf(n).Name || o.hint != want {
			t.Errorf("offer %d is %s with %+v, not block %d", i, o.key, o.hint, n)
		}
		if binary.LittleEndian.Uint64(o.b.Bytes()) != uint64(n) {
			t.Errorf("offer %d has other bytes", i)
		}
	}
	for _, o := range offers {
		o.b.Release()
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestUsed: of blocks whose chain is not known, but that were used as one, the end goes first.
func TestUsed(t *testing.T) {
	t.Parallel()
	s := New(Options{Bytes: 10 * pageSize})
	var keys []kvstore.Key
	for n := range 10 {
		if err := put(t, s, n, 8, kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
		if n >= 4 {
			keys = append(keys, keyOf(n))
		}
	}
	s.Used(append(keys, keyOf(99)))
	for n := range 7 { // 0 to 3 go, then 9, 8 and 7
		if err := put(t, s, 100+n, 8, kvstore.Hint{Session: 1, Stay: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 10 {
		_, err := s.Has(t.Context(), keyOf(n))
		if want := n >= 4 && n < 7; want != (err == nil) {
			t.Errorf("block %d: %v", n, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestRanked: roots come before leaves, the last used chain first.
func TestRanked(t *testing.T) {
	t.Parallel()
	s := New(Options{Bytes: 1 << 20})
	for chain := range 3 {
		for d := range 4 {
			h := kvstore.Hint{Known: true, Depth: uint32(d), Parent: keyOf(10*chain + d - 1).Name}
			if err := put(t, s, 10*chain+d, 8, h); err != nil {
				t.Fatal(err)
			}
		}
	}
	for d := range 4 {
		b, err := s.Get(t.Context(), keyOf(10+d))
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	got := ""
	s.Ranked(func(_ kvstore.Key, b *kvstore.Block, h kvstore.Hint) bool {
		got += fmt.Sprint(binary.LittleEndian.Uint64(b.Bytes()), ":", h.Depth, " ")
		return h.Depth < 3 || binary.LittleEndian.Uint64(b.Bytes()) != 23
	})
	if want := "10:0 11:1 12:2 13:3 20:0 21:1 22:2 23:3 "; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if s.Stats().Hits != 4 {
		t.Error("ranking counts as use")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
