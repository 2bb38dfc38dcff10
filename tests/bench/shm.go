package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front/shm"
	"github.com/penstock/penstock/kvstore/mem"
	"github.com/penstock/penstock/scheduler/identity"
)

// benchSHM compares blocks in another process's shared memory with copying as many bytes within this one: "lease" is until a
// block can be read, "get" until it is known to be right, which is the time of its checksum; "copy" until it is in a block of our own, and checked there.
func benchSHM(ctx context.Context, o *options, r *report) error {
	for _, size := range []int{256 << 10, 1 << 20, 4 << 20, 16 << 20} {
		if err := withPeer(ctx, o, size, func(at peerPlaces) error { return shmFigures(ctx, r, at, size) }); err != nil {
			return err
		}
	}
	return nil
}

func shmFigures(ctx context.Context, r *report, at peerPlaces, size int) error {
	c, err := shm.Dial(ctx, at.Socket, identity.PeerUID)
	if err != nil {
		return err
	}
	defer c.Close()
	n := peerBytes / size
	keys := make([]kvstore.Key, n)
	for i := range keys {
		keys[i] = kvKey(i)
	}
	from, to := make([]byte, peerBytes), make([]byte, peerBytes)
	for i := range from {
		from[i], to[i] = byte(i*7), 1
	}
	alloc := mem.New(mem.Options{Bytes: peerBytes, MaxPinned: peerBytes})
	defer alloc.Close()
	var copies, sums, leases, gets, takes []float64
	for round := range rounds + 1 {
		copied := timed(func() error {
			for i := range n {
				copy(to[i*size:(i+1)*size], from[i*size:])
			}
			return nil
		})
		summed := timed(func() error {
			for i := range n {
				kvstore.Checksum(from[i*size : (i+1)*size])
			}
			return nil
		})
		leased := timed(func() error { return shmFetch(ctx, c, keys, func(*kvstore.Block) error { return nil }) })
		got := timed(func() error { return shmFetch(ctx, c, keys, (*kvstore.Block).Check) })
		taken := timed(func() error {
			return shmFetch(ctx, c, keys, func(b *kvstore.Block) error {
				own, err := alloc.Alloc(b.Len())
				if err != nil {
					return err
				}
				defer own.Release()
				copy(own.Bytes(), b.Bytes())
				return own.SealAs(b.Sum())
			})
		})
		if err := errors.Join(copied.err, leased.err, got.err, taken.err); err != nil {
			return err
		}
		if round > 0 { // the first warms up
			copies, sums, leases = append(copies, copied.rate()), append(sums, summed.rate()), append(leases, leased.rate())
			gets, takes = append(gets, got.rate()), append(takes, taken.rate())
		}
	}
	r.figure("kv_shm_lease_"+sizeName(size), median(leases), "GB/s", "memcpy", median(copies), more)
	r.figure("kv_shm_get_"+sizeName(size), median(gets), "GB/s", "memcpy", median(copies), more)
	r.figure("kv_shm_get_"+sizeName(size), median(gets), "GB/s", "crc32c", median(sums), more)
	r.figure("kv_shm_copy_"+sizeName(size), median(takes), "GB/s", "memcpy", median(copies), more)
	return nil
}

func shmFetch(ctx context.Context, c *shm.Client, keys []kvstore.Key, use func(*kvstore.Block) error) error {
	came := 0
	err := c.Fetch(ctx, keys, func(_ int, b *kvstore.Block) error { came++; return use(b) })
	if err == nil && came != len(keys) {
		err = fmt.Errorf("%d of %d blocks came", came, len(keys))
	}
	return err
}

// timing is how long it took to move peerBytes.
type timing struct {
	took time.Duration
	err  error
}

func timed(do func() error) (t timing) {
	begin := time.Now()
	t.err = do()
	t.took = time.Since(begin)
	return t
}

func (t timing) rate() float64 { return float64(peerBytes) / float64(t.took) }
