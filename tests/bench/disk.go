package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/disk"
)

const (
	diskWorkers = 8
	diskBytes   = 512 << 20 // of each measurement
)

// benchDisk measures the disk tier in a folder of its own under TMPDIR: writing and reading blocks of several sizes against
// fio with the same size, direct I/O and as many workers on the same file system; a restart; write amplification.
func benchDisk(ctx context.Context, _ *options, r *report) error {
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if _, err := exec.LookPath("fio"); err != nil {
		r.note("disk: fio is not installed (apt-get install fio), so reading and writing are not measured")
	} else {
		for _, size := range []int{256 << 10, 1 << 20, 4 << 20} {
			if err := diskThroughput(ctx, r, dir, size); err != nil {
				return err
			}
		}
	}
	if err := diskRestart(ctx, r, filepath.Join(dir, "restart")); err != nil {
		return err
	}
	return diskChurn(ctx, r, filepath.Join(dir, "churn"))
}

// diskThroughput alternates between the store and fio.
func diskThroughput(ctx context.Context, r *report, dir string, size int) error {
	var ours, theirs struct{ write, read []float64 }
	for round := range rounds {
		store := filepath.Join(dir, fmt.Sprintf("store-%d-%d", size, round))
		write, read, err := storeThroughput(ctx, store, size)
		if err != nil {
			return err
		}
		ours.write, ours.read = append(ours.write, write), append(ours.read, read)
		for rw, to := range map[string]*[]float64{"write": &theirs.write, "randread": &theirs.read} {
			rate, err := fio(ctx, dir, rw, size)
			if err != nil {
				return err
			}
			*to = append(*to, rate)
		}
		if err := errors.Join(os.RemoveAll(store), os.Remove(filepath.Join(dir, "fio"))); err != nil {
			return err
		}
	}
	name := fmt.Sprintf("disk_%%s_%dk", size>>10)
	r.figure(fmt.Sprintf(name, "write"), median(ours.write), "MB/s", "fio", median(theirs.write), more)
	r.figure(fmt.Sprintf(name, "read"), median(ours.read), "MB/s", "fio", median(theirs.read), more)
	return nil
}

// storeThroughput writes blocks and reads them in another order, each by all workers.
func storeThroughput(ctx context.Context, dir string, size int) (write, read float64, err error) {
	pool := newBlockPool(size)
	s, err := disk.Open(ctx, disk.Options{Dir: dir, Budget: 4 * diskBytes, Alloc: pool, Workers: diskWorkers})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if !s.Detail().Direct {
		return 0, 0, fmt.Errorf("%s has no direct I/O: set TMPDIR to a folder on a disk", dir)
	}
	data := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data)
	block := kvstore.NewBlock(data, nil).Seal()
	n := diskBytes / size
	write, err = rateOf(size, n, func(i int) error { return s.Put(ctx, diskKey(i), block, kvstore.Hint{}) })
	if err != nil {
		return 0, 0, err
	}
	order := rand.New(rng).Perm(n)
	read, err = rateOf(size, n, func(i int) error {
		b, err := s.Get(ctx, diskKey(order[i]))
		if err == nil {
			b.Release()
		}
		return err
	})
	return write, read, err
}

// rateOf runs n calls by all workers and returns MB/s.
func rateOf(size, n int, call func(i int) error) (float64, error) {
	var next atomic.Int64
	var workers errgroup.Group
	begin := time.Now()
	for range diskWorkers {
		workers.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := call(i); err != nil {
					return err
				}
			}
		})
	}
	err := workers.Wait()
	return float64(size) * float64(n) / 1e6 / time.Since(begin).Seconds(), err
}

// fio returns MB/s of fio on a file of its own.
func fio(ctx context.Context, dir, rw string, size int) (float64, error) {
	const each = diskBytes / diskWorkers
	out, err := exec.CommandContext(ctx, "fio", "--name=b", "--filename="+filepath.Join(dir, "fio"), "--rw="+rw, "--bs="+strconv.Itoa(size),
		"--direct=1", "--ioengine=psync", "--thread", "--numjobs="+strconv.Itoa(diskWorkers), "--size="+strconv.Itoa(each),
		"--offset_increment="+strconv.Itoa(each), "--group_reporting", "--output-format=json").Output()
	if err != nil {
		return 0, fmt.Errorf("fio --rw=%s: %w", rw, err)
	}
	var result struct {
		Jobs []struct {
			Read, Write struct {
				Bytes float64 `json:"bw_bytes"`
			}
		}
	}
	if err := json.Unmarshal(out, &result); err != nil || len(result.Jobs) != 1 {
		return 0, fmt.Errorf("fio --rw=%s: its answer is not understood (%w)", rw, err)
	}
	return max(result.Jobs[0].Read.Bytes, result.Jobs[0].Write.Bytes) / 1e6, nil
}

// diskRestart measures how long a store takes until it has found a million blocks again.
func diskRestart(ctx context.Context, r *report, dir string) error {
	const n = 1_000_000
	o := disk.Options{Dir: dir, Budget: 4 << 30, Buffered: true}
	s, err := disk.Open(ctx, o)
	if err != nil {
		return err
	}
	block := kvstore.NewBlock(make([]byte, 8), nil).Seal()
	if _, err = rateOf(8, n, func(i int) error { return s.Put(ctx, diskKey(i), block, kvstore.Hint{}) }); err != nil {
		return errors.Join(err, s.Close())
	}
	if err := s.Close(); err != nil {
		return err
	}
	var took []float64
	for range rounds {
		begin := time.Now()
		if s, err = disk.Open(ctx, o); err != nil {
			return err
		}
		took = append(took, time.Since(begin).Seconds())
		d := s.Detail()
		if err := s.Close(); err != nil {
			return err
		}
		if d.Blocks != n {
			return fmt.Errorf("%d blocks of %d are there after a restart", d.Blocks, n)
		}
		if len(took) == rounds {
			r.figure("disk_index_bytes_per_block", float64(d.IndexBytes)/n, "B", "goal", 200, less)
		}
	}
	r.figure("disk_restart_per_million", median(took), "s", "goal", 5, less)
	return nil
}

// diskChurn puts twenty times the budget of blocks that are wanted as unevenly as prefixes are.
func diskChurn(ctx context.Context, r *report, dir string) error {
	const budget, size = 64 << 20, 64 << 10
	pool := newBlockPool(size)
	s, err := disk.Open(ctx, disk.Options{Dir: dir, Budget: budget, Alloc: pool})
	if err != nil {
		return err
	}
	defer s.Close()
	block := kvstore.NewBlock(make([]byte, size), nil).Seal()
	wanted := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 8, 20_000)
	hits, asked := 0, 0
	for s.Detail().Put < 20*budget {
		k := diskKey(int(wanted.Uint64()))
		asked++
		b, err := s.Get(ctx, k)
		switch {
		case err == nil:
			hits++
			b.Release()
		case !kvstore.IsMiss(err):
			return err
		default:
			if err := s.Put(ctx, k, block, kvstore.Hint{}); err != nil {
				return err
			}
		}
	}
	r.figure("disk_write_amplification", s.Detail().WriteAmplification(), "×", "bound", 2, less)
	r.note("disk churn: %d of %d gets were hits", hits, asked)
	return nil
}

func diskKey(i int) (k kvstore.Key) {
	binary.LittleEndian.PutUint64(k.Name[:], uint64(i))
	return k
}

// blockPool is memory for blocks of one size that is used again, as the host tier's is.
type blockPool struct {
	pool sync.Pool
	size int
}

func newBlockPool(size int) *blockPool { return &blockPool{size: size} }

// Alloc implements kvstore.Allocator.
func (p *blockPool) Alloc(n int) (*kvstore.Block, error) {
	if n > p.size {
		return nil, kvstore.ErrFull
	}
	if b, ok := p.pool.Get().(*[]byte); ok {
		return kvstore.NewBlock((*b)[:n], p), nil
	}
	return kvstore.NewBlock(make([]byte, p.size)[:n], p), nil
}

// Free implements kvstore.Owner.
func (p *blockPool) Free(_ *kvstore.Block, data []byte) {
	data = data[:cap(data)]
	p.pool.Put(&data)
}
