package cli

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/disk"
	"github.com/penstock/penstock/kvstore/keyring"
	"github.com/penstock/penstock/kvstore/object"
)

func kvBenchCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "bench", Usage: "measure how fast a folder or a bucket takes and gives KV blocks",
		Description: "Blocks that do not compress are written, made durable, read back and checked, in a folder or a prefix of its own that is\n" +
			"removed afterwards. Blocks of less than 1 MiB go into a bucket packed.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "size", Usage: "of a block", Value: "4MiB"},
			&cli.StringFlag{Name: "total", Usage: "of all blocks", Value: "1GiB"},
			&cli.IntFlag{Name: "parallel", Usage: "reads, or writes, under way at one time", Value: 8},
		}, kvPlaceFlags()...),
		Action: action(std, parseKVBench, runKVBench),
	}
}

type kvBenchOptions struct {
	place        kvPlace
	size, blocks int
	total        int64
	parallel     int
	name         string
}

func parseKVBench(c *cli.Context) (o kvBenchOptions, err error) {
	if _, err := nothing(c); err != nil {
		return o, err
	}
	if o.place, err = offlinePlace(c); err != nil {
		return o, err
	}
	size, err := jobspecs.ParseBytes(c.String("size"))
	if err != nil || size < 4<<10 || size > 256<<20 {
		return o, usageError("--size %q: between 4KiB and 256MiB", c.String("size"))
	}
	total, err := jobspecs.ParseBytes(c.String("total"))
	if err != nil || total < size || total > 1<<44 {
		return o, usageError("--total %q: at least one block, e.g. 1GiB", c.String("total"))
	}
	if o.parallel = c.Int("parallel"); o.parallel < 1 || o.parallel > 256 {
		return o, usageError("--parallel %d: between 1 and 256", o.parallel)
	}
	o.size, o.blocks = int(size), int(total/size)
	o.total = int64(o.size) * int64(o.blocks)
	o.name = "penstock-bench-" + strings.ToLower(rand.Text()[:8])
	return o, nil
}

// pass is one way of a benchmark.
type pass struct {
	what     string
	took     time.Duration
	p50, p99 time.Duration // of one block
}

func runKVBench(ctx context.Context, inv *invocation, o kvBenchOptions) error {
	s, sync, remove, err := o.open(ctx, inv)
	if err != nil {
		return err
	}
	passes, err := o.measure(ctx, inv, s, sync)
	if err := errors.Join(err, remove()); err != nil {
		return err
	}
	if inv.json() {
		docs := []any{}
		for _, p := range passes {
			docs = append(docs, map[string]any{
				"what": p.what, "seconds": p.took.Seconds(), "bytes_per_second": float64(o.total) / p.took.Seconds(),
				"p50_seconds": p.p50.Seconds(), "p99_seconds": p.p99.Seconds(),
			})
		}
		return inv.printJSON("kv_bench", map[string]any{"block_bytes": o.size, "blocks": o.blocks, "parallel": o.parallel, "passes": docs})
	}
	var cells [][]string
	for _, p := range passes {
		cells = append(cells, []string{p.what, rateText(o.total, p.took) + "/s", fmt.Sprintf("%.0f", float64(o.blocks)/p.took.Seconds()), roundTime(p.p50), roundTime(p.p99)})
	}
	inv.say("%d blocks of %s, %d at one time", o.blocks, bytesText(uint64(o.size)), o.parallel)
	return inv.table([]string{"PASS", "RATE", "BLOCKS/S", "P50", "P99"}, cells)
}

func roundTime(d time.Duration) string {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(100 * time.Nanosecond).String()
}

// open makes a store of its own in the place.
func (o kvBenchOptions) open(ctx context.Context, inv *invocation) (s kvstore.Store, sync func(context.Context) error, remove func() error, err error) {
	var keys *keyring.Ring
	if o.place.key != "" {
		if keys, err = keyring.Open(inv.path(o.place.key)); err != nil {
			return nil, nil, nil, err
		}
	}
	if o.place.disk != "" {
		parent := inv.path(o.place.disk)
		if _, err := os.Stat(parent); err != nil {
			return nil, nil, nil, fail(ExitNotFound, "", "open the folder: %w", err)
		}
		dir := filepath.Join(parent, o.name)
		d, err := disk.Open(ctx, disk.Options{Dir: dir, Budget: math.MaxInt64, Workers: o.parallel, Keys: keys, Timeout: time.Minute, Log: zerolog.Nop()})
		if err != nil {
			return nil, nil, nil, err
		}
		return d, d.Sync, func() error { return errors.Join(d.Close(), os.RemoveAll(dir)) }, nil
	}
	opts := o.place.objectOptions(inv, keys)
	opts.URL, opts.Workers = strings.TrimRight(opts.URL, "/")+"/"+o.name, o.parallel
	b, err := object.Open(ctx, opts)
	if err != nil {
		return nil, nil, nil, err
	}
	end := context.WithoutCancel(ctx)
	remove = func() error {
		err := errors.Join(b.Purge(end), b.Close(end))
		if dir, ok := strings.CutPrefix(opts.URL, "file://"); ok {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		return err
	}
	if err := b.Refresh(ctx); err != nil {
		return nil, nil, nil, errors.Join(err, b.Close(end))
	}
	return b, b.Sync, remove, nil
}

// measure writes and reads. Blocks differ in their first bytes; the rest is the same, random, so that making them costs nothing.
func (o kvBenchOptions) measure(ctx context.Context, inv *invocation, s kvstore.Store, durable func(context.Context) error) ([]pass, error) {
	var space kvstore.Space
	_, _ = rand.Read(space[:]) // never fails
	key := func(i int) kvstore.Key {
		return kvstore.Key{Space: space, Name: kvstore.OpaqueName(fmt.Sprint(i))}
	}
	noise := make([]byte, o.size)
	_, _ = rand.Read(noise)
	own := sync.Pool{New: func() any { b := slices.Clone(noise); return &b }}
	write, err := o.pass(ctx, inv, "write", func(i int) error {
		data := own.Get().(*[]byte)
		defer own.Put(data)
		binary.LittleEndian.PutUint64(*data, uint64(i))
		b := kvstore.NewBlock(*data, nil).Seal()
		defer b.Release()
		return s.Put(ctx, key(i), b, kvstore.Hint{})
	}, func() error { return durable(ctx) })
	if err != nil {
		return nil, err
	}
	read, err := o.pass(ctx, inv, "read", func(i int) error {
		b, err := s.Get(ctx, key(i))
		if err != nil {
			return err
		}
		defer b.Release()
		if b.Len() != o.size || binary.LittleEndian.Uint64(b.Bytes()) != uint64(i) {
			return fmt.Errorf("block %d is another one", i)
		}
		return nil
	}, func() error { return nil })
	return []pass{write, read}, err
}

func (o kvBenchOptions) pass(ctx context.Context, inv *invocation, what string, one func(i int) error, end func() error) (pass, error) {
	progress := inv.newBar(what, o.total, "bytes")
	defer progress.end()
	times := make([]time.Duration, o.blocks)
	var next atomic.Int64
	var mu sync.Mutex // of failed, done and progress
	var failed error
	var done int64
	var workers sync.WaitGroup
	begun := time.Now()
	for range o.parallel {
		workers.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= o.blocks {
					return
				}
				at := time.Now()
				err := one(i)
				times[i] = time.Since(at)
				mu.Lock()
				failed = errors.Join(failed, err)
				stop := failed != nil
				done += int64(o.size)
				progress.at(done)
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	workers.Wait()
	if err := errors.Join(failed, ctx.Err()); err != nil {
		return pass{}, fmt.Errorf("%s: %w", what, err)
	}
	if err := end(); err != nil {
		return pass{}, fmt.Errorf("make durable what was written: %w", err)
	}
	took := time.Since(begun)
	slices.Sort(times)
	return pass{what, took, times[len(times)/2], times[len(times)*99/100]}, nil
}
