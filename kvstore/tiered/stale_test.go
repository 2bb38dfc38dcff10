package tiered

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/faulty"
)

// TestNeverOlderBytes: keys are replaced all the time in little room, so that versions of them are in memory, on their way
// down, below, and being promoted; the tier below is slow and sometimes fails. Whoever asks after a Put has returned gets
// that version, a newer one, or a miss.
func TestNeverOlderBytes(t *testing.T) {
	t.Parallel()
	const keys, rounds = 6, 150
	var calls atomic.Int64
	for name, write := range map[string]Write{"back": Back, "through": Through} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{
				host: 16 * size, below: 400 * size, tier: Tier{Write: write, QueueBytes: 3 * size, Failures: 1 << 20},
				fault: func(faulty.Op, kvstore.Key) faulty.Fault {
					switch n := calls.Add(1); {
					case n%17 == 0:
						return faulty.Fault{Err: kvstore.ErrUnavailable, AfterAll: n%2 == 0}
					case n%3 == 0:
						return faulty.Fault{Delay: 200 * time.Microsecond}
					}
					return faulty.Fault{}
				},
			})
			var put [keys]atomic.Uint64 // the last version whose Put has returned
			var stop atomic.Bool
			var writers, readers sync.WaitGroup
			var found atomic.Int64
			for k := range keys {
				writers.Go(func() {
					for v := range uint64(rounds) {
						if r.put(t, k, v+1, kvstore.Hint{}) == nil {
							put[k].Store(v + 1)
						}
						for n := range 12 { // others push it down
							_ = r.put(t, 100+100*k+n+int(v%7), 1, chainHint(0))
						}
						time.Sleep(100 * time.Microsecond)
					}
				})
				readers.Go(func() {
					for n := 0; !stop.Load(); n++ {
						r.notOlder(t, k, &put[k], n%4 == 0, &found)
						time.Sleep(time.Duration(n%7) * 100 * time.Microsecond)
					}
				})
			}
			writers.Wait()
			stop.Store(true)
			readers.Wait()
			if err := r.close(); err != nil {
				t.Error(err)
			}
			if p := r.lanes[0].promoted.Load(); found.Load() == 0 || p == 0 {
				t.Errorf("%d reads found a block, %d were promoted: the test saw nothing", found.Load(), p)
			}
		})
	}
}

// notOlder reads a key and compares with what was put before.
func (r *rig) notOlder(t *testing.T, k int, put *atomic.Uint64, many bool, found *atomic.Int64) {
	least := put.Load()
	check := func(b *kvstore.Block) {
		found.Add(1)
		if v := binary.LittleEndian.Uint64(b.Bytes()); v < least {
			t.Errorf("key %d: version %d after a Put of %d had returned", k, v, least)
		}
	}
	if many {
		err := r.GetMany(t.Context(), []kvstore.Key{keyOf(k)}, func(_ int, b *kvstore.Block) error { check(b); return nil })
		if err != nil && !kvstore.IsMiss(err) {
			t.Error(err)
		}
		return
	}
	b, err := r.Get(t.Context(), keyOf(k))
	if err == nil {
		check(b)
		b.Release()
	} else if !kvstore.IsMiss(err) || errors.Is(err, kvstore.ErrCorrupt) {
		t.Error(err)
	}
}
