package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/kvstore"
)

// history puts, replaces and deletes at random in little room, so that segments fill and are evicted. It notes which versions
// of a key may be found: those since the last Sync, and the one that was there then. 0 stands for none.
type history struct {
	s    *Store
	rng  *rand.Rand
	may  map[kvstore.Key][]int
	last int
	cut  kvstore.Key // whose call failed, and so may or may not have taken place
}

const (
	crashKeys   = 24
	crashBudget = 1 << 20
	crashSeeds  = 24
)

// sizeOf is the size of a version of a block: in both forms of a record.
func sizeOf(version int) int {
	if version%5 == 0 {
		return pagedFrom + version%5000
	}
	return 100 + version*977%9000
}

func (h *history) step() error {
	k := key(h.rng.IntN(crashKeys), h.rng.IntN(2))
	h.cut = k
	ctx := context.Background()
	switch n := h.rng.IntN(20); {
	case n == 0:
		if err := h.s.Sync(ctx); err != nil {
			return err
		}
		for k, versions := range h.may {
			h.may[k] = append(versions[len(versions)-1:], 0)[:1]
		}
	case n < 4:
		h.may[k] = append(h.may[k], 0)
		return h.s.Delete(ctx, k)
	case n < 8:
		if b, err := h.s.Get(ctx, k); err == nil {
			b.Release()
		}
	default:
		h.last++
		h.may[k] = append(h.may[k], h.last)
		return put(ctx, h.s, k, content(k, h.last, sizeOf(h.last)), kvstore.Hint{})
	}
	return nil
}

// check fails where a store that was opened after the crash has something that was never put, or was gone before the last Sync.
// exact: only the last is right, of all keys but the one whose call failed.
func (h *history) check(t *testing.T, crash string, s *Store) {
	t.Helper()
	exact := crash == "killed"
	defer func() {
		if c := s.Stats().Corrupt; exact && c != 0 {
			t.Errorf("%s: %d blocks or segments are corrupt", crash, c)
		}
	}()
	for n := range crashKeys {
		for part := range 2 {
			k := key(n, part)
			got := get(t, s, k)
			if got == nil {
				continue
			}
			may := h.may[k]
			if exact && len(may) > 0 && k != h.cut {
				may = may[len(may)-1:]
			}
			ok := false
			for _, v := range may {
				ok = ok || v != 0 && bytes.Equal(got, content(k, v, sizeOf(v)))
			}
			if !ok {
				t.Errorf("%s: %s: %d bytes that are none of the versions %v of %v", crash, k, len(got), may, h.may[k])
			}
		}
	}
}

// goOn makes what was found of the last call's key the truth, and of the others what was done last.
func (h *history) goOn(cut []byte) {
	for k, versions := range h.may {
		h.may[k] = versions[len(versions)-1:]
		if k != h.cut {
			continue
		}
		h.may[k] = []int{0}
		for _, v := range versions {
			if v != 0 && bytes.Equal(cut, content(k, v, sizeOf(v))) {
				h.may[k] = []int{v}
			}
		}
	}
}

var errPower = errors.New("the power is gone")

// TestCrash stops a history at a random step of the file system and looks at what a new process finds, after a kill and after
// crashes of the machine that lose what was not synced, wholly or by luck. It goes on from there, several times.
func TestCrash(t *testing.T) {
	for seed := range uint64(crashSeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 7))
			m := newMemFS(seed%2 == 0)
			o := Options{Dir: "memory", Budget: crashBudget, Retry: 1}
			h := &history{rng: rng, may: map[kvstore.Key][]int{}}
			for range 3 {
				h.s = openMem(t, o, m)
				var left atomic.Int64 // steps are the store's own goroutines' too
				left.Store(int64(rng.IntN(400)))
				m.setBefore(func(op, _ string) error {
					if op == "read" || op == "open" || op == "list" {
						return nil
					}
					if left.Add(-1) < 0 {
						return errPower
					}
					return nil
				})
				for range 300 {
					if h.step() != nil {
						break
					}
				}
				waitUntil(t, h.s.quiet)
				m.setBefore(func(string, string) error { return errPower })
				_ = h.s.Close()
				var truth []byte
				crashes := map[string]*memFS{
					"killed": m.killed(), "all lost": m.crashed(func() bool { return false }),
					"some lost": m.crashed(func() bool { return rng.IntN(2) == 0 }), "one lost": m.crashed(func() bool { return rng.IntN(30) != 0 }),
				}
				for name, c := range crashes {
					s := openMem(t, o, c)
					h.check(t, name, s)
					if name == "killed" {
						truth = get(t, s, h.cut)
					}
					if err := s.Close(); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					again := openMem(t, o, c)
					h.check(t, name+" and opened again", again)
					_ = again.Close()
				}
				m = crashes["killed"]
				h.goOn(truth)
			}
		})
	}
}

// TestSyncKeepsWhatWasPut: nothing that was put before a Sync is lost in a crash that loses all that was not synced.
func TestSyncKeepsWhatWasPut(t *testing.T) {
	for name, direct := range map[string]bool{"direct": true, "buffered": false} {
		t.Run(name, func(t *testing.T) {
			m := newMemFS(direct)
			o := Options{Dir: "memory", Budget: 8 << 20, SegmentBytes: 128 << 10}
			s := openMem(t, o, m)
			for i := range 40 {
				mustPut(t, s, key(i, 0), 1, 5000)
			}
			mustPut(t, s, key(1, 0), 2, 70000)
			if err := errors.Join(s.Delete(t.Context(), key(0, 0)), s.Sync(t.Context())); err != nil {
				t.Fatal(err)
			}
			mustPut(t, s, key(100, 0), 1, 5000)
			after := openMem(t, o, m.crashed(func() bool { return false }))
			if get(t, after, key(0, 0)) != nil {
				t.Error("what was deleted is there again")
			}
			mustGet(t, after, key(1, 0), 2, 70000)
			for i := 2; i < 40; i++ {
				mustGet(t, after, key(i, 0), 1, 5000)
			}
			if st := after.Stats(); st.Corrupt != 0 || st.Errors != 0 {
				t.Errorf("after the crash: %+v", st)
			}
			if err := errors.Join(after.Close(), s.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSegmentThatWasNotBegun: a process that is killed between making a segment's file and writing its head leaves no damage, and
// its room is used again.
func TestSegmentThatWasNotBegun(t *testing.T) {
	for name, op := range map[string]string{"made": "reserve", "reserved": "write"} {
		t.Run(name, func(t *testing.T) {
			m := newMemFS(true)
			o := Options{Dir: "memory", Budget: 1 << 20}
			s := openMem(t, o, m)
			m.setBefore(func(at, _ string) error {
				if at == op || at == "remove" {
					return errPower
				}
				return nil
			})
			if err := put(t.Context(), s, key(1, 0), nil, kvstore.Hint{}); !errors.Is(err, kvstore.ErrUnavailable) {
				t.Fatal(err)
			}
			m.setBefore(nil)
			mustClose(t, s)
			after := openMem(t, o, m)
			if st := after.Stats(); len(m.names) != 1 || st.Corrupt != 0 || st.Errors != 0 {
				t.Errorf("%d files, %+v", len(m.names), st)
			}
			for i := range 100 {
				mustPut(t, after, key(i, 0), 1, 20_000)
			}
			if d := after.Detail(); d.Live < 500_000 {
				t.Errorf("%d bytes live", d.Live)
			}
			mustClose(t, after)
		})
	}
}
