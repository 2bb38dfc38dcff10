package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/evict"
	"github.com/penstock/penstock/kvstore/mem"
)

const (
	kvBudget     = 256 << 20 // as much as no cache holds
	kvRound      = 512 << 20 // bytes in each round
	kvIndexGoal  = 200       // bytes for each block
	kvManyBlocks = 1_000_000
	traceTokens  = 512 // of a block of the trace
)

// the trace's goals, by the size of the cache in blocks
var kvHitGoals = map[int64]float64{10_000: 0.21, 30_000: 0.32}

// benchKV measures the memory tier and the eviction policies.
func benchKV(ctx context.Context, o *options, r *report) error {
	for _, size := range []int{256 << 10, 1 << 20, 4 << 20, 16 << 20} {
		if err := kvCopies(ctx, r, size); err != nil {
			return err
		}
	}
	if err := kvMany(ctx, r); err != nil {
		return err
	}
	if o.trace == "" {
		r.note("kv: hit ratios left out, they need -trace FILE")
		return nil
	}
	return kvReplay(o.trace, r)
}

// kvCopies compares Put and Get, in a store that is full, with copying the same bytes between as large regions, and Get with
// only computing the checksum: a Put copies into the store; a Get checks all bytes and copies none.
func kvCopies(ctx context.Context, r *report, size int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := mem.New(mem.Options{Bytes: kvBudget})
	from := make([]*kvstore.Block, kvBudget/size)
	for i := range from {
		data := make([]byte, size)
		for j := range data { // pages that were never written are all one page
			data[j] = byte(i + j*7)
		}
		from[i] = kvstore.NewBlock(data, nil).Seal()
	}
	to := make([]byte, kvBudget)
	for i := range to {
		to[i] = 1
	}
	n, next := kvRound/size, 0
	var puts, gets, copies, sums []float64
	for range rounds + 1 { // the first warms up
		if ctx.Err() != nil {
			return ctx.Err()
		}
		copied, err := rate(n*size, func() error {
			for i := range n {
				at := i % len(from) * size
				copy(to[at:at+size], from[i%len(from)].Bytes())
			}
			return nil
		})
		copies = append(copies, copied)
		summed, _ := rate(n*size, func() error {
			for i := range n {
				kvstore.Checksum(from[i%len(from)].Bytes())
			}
			return nil
		})
		sums = append(sums, summed)
		put, e := rate(n*size, func() error {
			for range n {
				if err := s.Put(ctx, kvKey(next), from[next%len(from)], kvstore.Hint{}); err != nil {
					return err
				}
				next++
			}
			return nil
		})
		puts, err = append(puts, put), errors.Join(err, e)
		got, e := rate(n*size, func() error {
			for i := range n {
				b, err := s.Get(ctx, kvKey(next-1-i%(len(from)/2)))
				if err != nil {
					return err
				}
				b.Release()
			}
			return nil
		})
		if gets, err = append(gets, got), errors.Join(err, e); err != nil {
			return err
		}
	}
	name := sizeName(size)
	r.figure("kv_mem_put_"+name, median(puts[1:]), "GB/s", "memcpy", median(copies[1:]), more)
	r.figure("kv_mem_get_"+name, median(gets[1:]), "GB/s", "memcpy", median(copies[1:]), more)
	r.figure("kv_mem_get_"+name, median(gets[1:]), "GB/s", "crc32c", median(sums[1:]), more)
	return s.Close()
}

// rate is GB for each second of this thread's CPU time.
func rate(bytes int, do func() error) (float64, error) {
	begin := threadClock()
	err := do()
	return float64(bytes) / float64(threadClock()-begin), err
}

// threadClock is this thread's CPU time in ns, which the kernel counts more finely than threadTime's.
func threadClock() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return t.Nano()
}

func sizeName(n int) string {
	if n < 1<<20 {
		return fmt.Sprintf("%dKiB", n>>10)
	}
	return fmt.Sprintf("%dMiB", n>>20)
}

func kvKey(n int) (k kvstore.Key) {
	binary.LittleEndian.PutUint64(k.Name[:], uint64(n)*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(k.Name[8:], uint64(n))
	return k
}

// kvMany counts what a million blocks cost beside their bytes: index, and time of a collection of garbage.
func kvMany(ctx context.Context, r *report) error {
	empty, before := collection()
	s := mem.New(mem.Options{Bytes: 1 << 20})
	b, err := s.Alloc(8)
	if err != nil {
		return err
	}
	clear(b.Bytes())
	b.Seal()
	for i := range kvManyBlocks { // all of one slot, since the index is what counts
		h := kvstore.Hint{Known: true, Depth: uint32(i % 100), Parent: kvKey(i - 1).Name}
		if err := s.Put(ctx, kvKey(i), b, h); err != nil {
			return err
		}
	}
	const slotState = 8 // bytes for each slot, which all blocks here share
	full, after := collection()
	r.figure("kv_mem_index_per_block", float64(after-before)/kvManyBlocks+slotState, "B", "goal", kvIndexGoal, less)
	r.figure("kv_mem_collection_1000000_blocks", full, "ms", "empty", empty, less)
	b.Release()
	return s.Close()
}

// collection is the time of one collection, ms, and the heap after it.
func collection() (ms float64, heap uint64) {
	runtime.GC()
	begin := time.Now()
	runtime.GC()
	ms = time.Since(begin).Seconds() * 1e3
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return ms, m.HeapAlloc
}

// kvReplay plays a trace, as `penstock kv replay` does.
func kvReplay(file string, r *report) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var trace []evict.Request
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		q, err := evict.ParseRequest(lines.Bytes(), traceTokens)
		if err != nil {
			return err
		}
		trace = append(trace, q)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	evict.Conversations(trace)
	for _, blocks := range []int64{10_000, 30_000} {
		lru, hinted := evict.NewReplay(evict.LRU, blocks, 0), evict.NewReplay(evict.LRU, blocks, (15*time.Minute).Milliseconds())
		bound := evict.NewClairvoyant(trace, blocks)
		for _, q := range trace {
			lru.Serve(q)
			hinted.Serve(q)
			bound.Serve(q)
		}
		usable, best := lru.Ratio(lru.Usable), bound.Ratio(bound.Usable)
		r.figure(fmt.Sprintf("kv_hit_ratio_lru_%d", blocks), usable, "ratio", "goal", kvHitGoals[blocks], more)
		r.figure(fmt.Sprintf("kv_usable_of_resident_%d", blocks), usable, "ratio", "resident", lru.Ratio(lru.Resident), more)
		r.figure(fmt.Sprintf("kv_hit_ratio_session_hint_%d", blocks), hinted.Ratio(hinted.Usable), "ratio", "clairvoyant", best, more)
	}
	return nil
}
