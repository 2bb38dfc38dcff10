package disk

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// TestHotBlocksStay: what is read between evictions, and what its session is expected to need, outlives many times the budget,
// though it lies among what is neither. Most of that goes.
func TestHotBlocksStay(t *testing.T) {
	s := openMem(t, Options{Dir: "memory", Budget: 1 << 20}, newMemFS(true))
	defer mustClose(t, s)
	const few = 6
	stay := kvstore.Hint{Session: 7, Stay: time.Now().Add(time.Hour)}
	for i := range 36 {
		mustPut(t, s, key(i, 0), 1, 10_000)
		if i%6 == 0 {
			mustPut(t, s, key(1000+i/6, 0), 1, 10_000)
			if err := put(t.Context(), s, key(2000+i/6, 0), content(key(2000+i/6, 0), 1, 10_000), stay); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 500 {
		mustPut(t, s, key(100+i, 0), 1, 10_000)
		mustGet(t, s, key(1000+i%few, 0), 1, 10_000)
	}
	for i := range few {
		mustGet(t, s, key(2000+i, 0), 1, 10_000)
	}
	cold := 0
	for i := range 36 {
		if get(t, s, key(i, 0)) != nil {
			cold++
		}
	}
	if cold > 18 {
		t.Errorf("%d cold blocks of 36 are still there", cold)
	}
	if d := s.Detail(); d.Copied == 0 || d.WriteAmplification() > 2 {
		t.Errorf("%d bytes were copied on, write amplification %.2f", d.Copied, d.WriteAmplification())
	}
}

// TestNothingIsCopiedOn where that is switched off.
func TestNothingIsCopiedOn(t *testing.T) {
	s := openMem(t, Options{Dir: "memory", Budget: 1 << 20, CopyShare: -1}, newMemFS(true))
	defer mustClose(t, s)
	for i := range 300 {
		mustPut(t, s, key(i, 0), 1, 10_000)
		get(t, s, key(0, 0))
	}
	if d := s.Detail(); d.Copied != 0 || d.WriteAmplification() != 1 {
		t.Errorf("%d bytes were copied on", d.Copied)
	}
}

// TestChurn: a hundred times the budget goes through, with deletions and replacements. Nothing leaks, the budget holds, room
// does not fragment away, and write amplification stays below its bound.
func TestChurn(t *testing.T) {
	m := newMemFS(true)
	const budget = 4 << 20
	s := openMem(t, Options{Dir: "memory", Budget: budget}, m)
	rng := rand.New(rand.NewPCG(5, 6))
	want := map[int]int{}
	for version := 1; s.Detail().Put < 100*budget; version++ {
		n := rng.IntN(400)
		n = min(n, rng.IntN(400)) // some are wanted more than others
		switch k := key(n, 0); rng.IntN(10) {
		case 0:
			if err := s.Delete(t.Context(), k); err != nil {
				t.Fatal(err)
			}
			delete(want, n)
		case 1, 2, 3:
			if got := get(t, s, k); got != nil && !bytes.Equal(got[:8], content(k, want[n], 8)) {
				t.Fatalf("%s is not version %d", k, want[n])
			}
		default:
			mustPut(t, s, k, version, 50_000+rng.IntN(100_000))
			want[n] = version
		}
		if got := s.Stats().Bytes; got > budget {
			t.Fatalf("%d bytes are taken of %d", got, budget)
		}
	}
	waitUntil(t, s.quiet)
	d := s.Detail()
	m.mu.Lock()
	files, bytes := len(m.names), m.allocated()
	m.mu.Unlock()
	if files != d.Segments || bytes != d.Allocated {
		t.Errorf("%d files of %d bytes, %d segments of %d", files, bytes, d.Segments, d.Allocated)
	}
	if d.Live < budget/3 || d.WriteAmplification() > 2 || len(s.index.slabs) > 1 {
		t.Errorf("%d bytes live of %d, write amplification %.2f, %d slabs", d.Live, budget, d.WriteAmplification(), len(s.index.slabs))
	}
	t.Logf("write amplification %.2f, %d of %d bytes live", d.WriteAmplification(), d.Live, d.Allocated)
	mustClose(t, s)
	if open := s.limit.open.Load(); open != 0 {
		t.Errorf("%d files are still open", open)
	}
}
