package object

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// Get implements kvstore.Store.
func (s *Store) Get(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := s.get(ctx, k)
	return b, s.counted(k, b, err)
}

// counted counts what came of a read and names the block in its error.
func (s *Store) counted(k kvstore.Key, b *kvstore.Block, err error) error {
	switch {
	case err == nil:
		s.count.hits.Add(1)
		s.count.read.Add(int64(b.Len()))
		return nil
	case errors.Is(err, errNoObject):
		err = kvstore.ErrNotFound
	case errors.Is(err, kvstore.ErrCorrupt):
		s.count.corrupt.Add(1)
		s.opts.Log.Warn().Err(err).Str("block", k.String()).Msg("a block in the bucket is corrupt and is removed")
	case errors.Is(err, kvstore.ErrUnavailable):
		s.count.errors.Add(1)
	}
	if kvstore.IsMiss(err) {
		s.count.misses.Add(1)
	}
	if err == kvstore.ErrNotFound { //nolint:errorlint // plain
		return err
	}
	return fmt.Errorf("get block %s: %w", k, err)
}

func (s *Store) get(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	if s.closed.Load() {
		return nil, errClosed
	}
	s.mu.Lock()
	if p, r, ok := s.waiting(k); ok {
		data := p.bytes[r.at:][:p.seal.length(&r)] // what is written is never changed
		s.mu.Unlock()
		return s.block(p.seal, k, data, r.at)
	}
	at, ok := s.index[k]
	var where *packed
	if ok {
		where = s.packs[at.pack]
	}
	s.mu.Unlock()
	if !ok {
		return s.getLarge(ctx, k)
	}
	blocks, err := s.getRun(ctx, where, []wanted{{key: k, spot: at}})
	if err != nil {
		return nil, err
	}
	return blocks[0].b, blocks[0].err
}

// block makes a sealed block of a record's bytes.
func (s *Store) block(sl seal, k kvstore.Key, data []byte, at uint32) (*kvstore.Block, error) {
	r, err := sl.parseHeader(data, at)
	switch {
	case err != nil:
		return nil, kvstore.Corrupt(err)
	case r.key != k || sl.length(&r) != len(data):
		return nil, kvstore.Corrupt(fmt.Errorf("block %s of %d bytes in its place", r.key, r.size))
	}
	b, err := s.alloc(int(r.size))
	if err != nil {
		return nil, err
	}
	if err = sl.open(b.Bytes(), data, data[headerSize:], at); err != nil {
		err = kvstore.Corrupt(err)
	} else {
		err = b.SealAs(r.sum)
	}
	if err != nil {
		b.Release()
		return nil, err
	}
	return b, nil
}

func (s *Store) alloc(n int) (*kvstore.Block, error) {
	b, err := s.opts.Alloc.Alloc(n)
	if err != nil {
		return nil, fmt.Errorf("no memory to read %d bytes into: %w: %w", n, errMemory, err)
	}
	return b, nil
}

var errMemory = fmt.Errorf("out of memory: %w", kvstore.ErrUnavailable)

// getLarge reads a block's own object, straight into the block.
func (s *Store) getLarge(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	name := blockName(k)
	b, err := ask(ctx, s.patience, s.patience.reads, int(s.largest.Load()), true,
		func(ctx context.Context) (*kvstore.Block, error) { return s.readLarge(ctx, name, k) }, (*kvstore.Block).Release)
	if errors.Is(err, kvstore.ErrCorrupt) {
		s.behind(func(ctx context.Context) error { return s.deleteObject(ctx, name) })
		s.opts.Moves(kvstore.Move{Key: k, Tier: kvstore.Object})
	}
	return b, err
}

// behind does something in the background, for as long as the store lives.
func (s *Store) behind(do func(context.Context) error) {
	s.patience.running.Go(func() {
		if err := do(s.life); err != nil && s.life.Err() == nil {
			s.opts.Log.Debug().Err(err).Msg("something in the background of the object tier failed")
		}
	})
}

func (s *Store) readLarge(ctx context.Context, name string, k kvstore.Key) (*kvstore.Block, error) {
	body, err := s.bucket.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	r, sl, header, err := s.readHeader(body)
	if err != nil {
		return nil, err
	}
	if r.key != k {
		return nil, kvstore.Corrupt(fmt.Errorf("block %s in its place", r.key))
	}
	s.touch(name, r.stored)
	b, err := s.alloc(int(r.size))
	if err != nil {
		return nil, err
	}
	if sl.aead == nil {
		err = readPlain(body, b, r.sum)
	} else {
		err = readSealed(body, b, sl, header, r.sum)
	}
	if err != nil {
		b.Release()
		return nil, err
	}
	return b, nil
}

// readPiece is what is read and then summed up while the processor's cache has it.
const readPiece = 256 << 10

func readPlain(body io.Reader, b *kvstore.Block, want uint32) error {
	sum := uint32(0)
	for rest := b.Bytes(); len(rest) > 0; {
		piece := rest[:min(len(rest), readPiece)]
		if _, err := io.ReadFull(body, piece); err != nil {
			return damaged(err)
		}
		sum, rest = kvstore.ExtendChecksum(sum, piece), rest[len(piece):]
	}
	if sum != want {
		return kvstore.Corrupt(fmt.Errorf("%d bytes have checksum %08x, not %08x", b.Len(), sum, want))
	}
	b.SealUnchecked(sum)
	return nil
}

func readSealed(body io.Reader, b *kvstore.Block, sl seal, header []byte, want uint32) error {
	data := make([]byte, b.Len()+tagSize)
	if _, err := io.ReadFull(body, data); err != nil {
		return damaged(err)
	}
	if err := sl.open(b.Bytes(), header, data, headSize); err != nil {
		return kvstore.Corrupt(err)
	}
	return b.SealAs(want)
}

// damaged says what it means that an object is shorter than it should be.
func damaged(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return kvstore.Corrupt(err)
	}
	return err
}

// readHeader reads the head and the first record's header of an object.
func (s *Store) readHeader(body io.Reader) (r record, sl seal, header []byte, err error) {
	b := make([]byte, overhead)
	if _, err := io.ReadFull(body, b); err != nil {
		return r, sl, nil, damaged(err)
	}
	if sl, err = parseHead(b, s.opts.Keys); err != nil {
		if !errors.Is(err, errKey) {
			err = kvstore.Corrupt(err)
		}
		return r, sl, nil, err
	}
	if r, err = sl.parseHeader(b[headSize:], headSize); err != nil {
		return r, sl, nil, kvstore.Corrupt(err)
	}
	return r, sl, b[headSize:], nil
}

// header reads what a block's own object says of it.
func (s *Store) header(ctx context.Context, name string) (record, error) {
	b, err := s.getBytes(ctx, name, 0, overhead)
	if err != nil {
		return record{}, err
	}
	r, _, _, err := s.readHeader(bytes.NewReader(b))
	return r, err
}

// getBytes reads a part of an object.
func (s *Store) getBytes(ctx context.Context, name string, at, n int64) ([]byte, error) {
	return ask(ctx, s.patience, s.patience.reads, int(n), true, func(ctx context.Context) ([]byte, error) {
		body, err := s.bucket.Get(ctx, name, at, n)
		if err != nil {
			return nil, err
		}
		defer body.Close()
		b, err := io.ReadAll(io.LimitReader(body, n))
		return b, err
	}, func([]byte) {})
}

// Has implements kvstore.Store. A block that is not packed costs a request.
func (s *Store) Has(ctx context.Context, k kvstore.Key) (kvstore.Info, error) {
	if err := ctx.Err(); err != nil {
		return kvstore.Info{}, err
	}
	s.mu.Lock()
	info, ok := s.find(k)
	s.mu.Unlock()
	if ok {
		return info, nil
	}
	r, err := s.header(ctx, blockName(k))
	switch {
	case errors.Is(err, errNoObject):
		return kvstore.Info{}, kvstore.ErrNotFound
	case err != nil:
		return kvstore.Info{}, fmt.Errorf("look for block %s: %w", k, err)
	case r.key != k:
		return kvstore.Info{}, kvstore.ErrNotFound
	}
	return kvstore.Info{Size: int64(r.size), Sum: r.sum, StoredAt: time.Unix(0, r.stored)}, nil
}

// wanted is a packed block that is asked for, and the indexes of those who ask.
type wanted struct {
	key kvstore.Key
	spot
	i int
}

// got is what came of it.
type got struct {
	b   *kvstore.Block
	err error
}

// getRun reads blocks that lie near each other in one pack, in the order of their offsets, with one request.
func (s *Store) getRun(ctx context.Context, p *packed, run []wanted) ([]got, error) {
	length := func(w wanted) int { r := record{size: w.size}; return p.seal.length(&r) }
	first, last := run[0], run[len(run)-1]
	n := int(last.at-first.at) + length(last)
	blocks, err := ask(ctx, s.patience, s.patience.reads, n, true, func(ctx context.Context) ([]got, error) {
		body, err := s.bucket.Get(ctx, p.name, int64(first.at), int64(n))
		if err != nil {
			return nil, err
		}
		defer body.Close()
		b := make([]byte, n)
		if _, err := io.ReadFull(body, b); err != nil {
			return nil, damaged(err)
		}
		all := make([]got, len(run))
		for i, w := range run {
			at := int(w.at - first.at)
			all[i].b, all[i].err = s.block(p.seal, w.key, b[at:at+length(w)], w.at)
		}
		if len(run) == 1 && all[0].err != nil {
			return nil, all[0].err // once more, in case that the way was at fault
		}
		return all, nil
	}, releaseAll)
	switch {
	case errors.Is(err, errNoObject): // collected by somebody
		s.mu.Lock()
		n, ok := s.byName[p.name]
		s.mu.Unlock()
		if ok {
			s.dropPacks(map[uint32]bool{n: true})
		}
	case errors.Is(err, kvstore.ErrCorrupt) && len(run) == 1:
		s.lose(p, run[0])
	case err == nil:
		s.touch(p.name, first.stored)
	}
	return blocks, err
}

func releaseAll(all []got) {
	for _, g := range all {
		if g.b != nil {
			g.b.Release()
		}
	}
}

// lose forgets a packed block that is corrupt, for all.
func (s *Store) lose(p *packed, w wanted) {
	m := marks{}
	s.mu.Lock()
	if s.index[w.key] == w.spot {
		s.takeOut(w.key, w.stored, m)
		if _, _, ok := s.waiting(w.key); !ok {
			s.opts.Moves(kvstore.Move{Key: w.key, Tier: kvstore.Object})
		}
	} else {
		m[p.id] = []uint32{w.at}
	}
	s.mu.Unlock()
	s.behind(func(ctx context.Context) error { return s.putMarks(ctx, m) })
}

// nearby is how far apart blocks may lie that are read with one request, and longestRun how much that may be.
const (
	nearby     = 64 << 10
	longestRun = 4 << 20
)

// GetMany implements kvstore.Store. Blocks that were packed together are read together. As many requests are under way as the
// store has workers.
func (s *Store) GetMany(ctx context.Context, keys []kvstore.Key, each func(int, *kvstore.Block) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	runs := s.plan(keys)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan answer)
	work := make(chan []wanted)
	var readers sync.WaitGroup
	for range min(len(runs), s.opts.Workers) {
		readers.Go(func() {
			for run := range work {
				s.readRun(ctx, run, results)
			}
		})
	}
	go func() {
		defer func() { readers.Wait(); close(results) }()
		defer close(work)
		for _, run := range runs {
			select {
			case work <- run:
			case <-ctx.Done():
				return
			}
		}
	}()
	var failed error
	for a := range results {
		if failed == nil && a.err != nil && (!kvstore.IsMiss(a.err) || errors.Is(a.err, kvstore.ErrUnavailable)) {
			failed = a.err
			cancel()
		}
		if a.b == nil {
			continue
		}
		if failed == nil {
			if failed = each(a.i, a.b); failed != nil {
				cancel()
			}
		}
		a.b.Release()
	}
	if failed == nil {
		failed = ctx.Err()
	}
	return failed
}

// answer is what came of one key of GetMany.
type answer struct {
	i   int
	b   *kvstore.Block
	err error
}

// plan puts keys into runs of what can be read with one request.
func (s *Store) plan(keys []kvstore.Key) (runs [][]wanted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var packedOnes []wanted
	for i, k := range keys {
		_, _, waits := s.waiting(k)
		if at, ok := s.index[k]; ok && !waits {
			packedOnes = append(packedOnes, wanted{k, at, i})
		} else {
			runs = append(runs, []wanted{{key: k, i: i}})
		}
	}
	slices.SortStableFunc(packedOnes, func(a, b wanted) int { return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.at, b.at)) })
	var run []wanted
	for _, w := range packedOnes {
		if len(run) > 0 {
			first, last := run[0], run[len(run)-1]
			end := int64(last.at) + int64(last.size) + headerSize + tagSize
			if w.pack != first.pack || int64(w.at)-end > nearby || int64(w.at)+int64(w.size)-int64(first.at) > longestRun {
				runs, run = append(runs, run), nil
			}
		}
		run = append(run, w)
	}
	if len(run) > 0 {
		runs = append(runs, run)
	}
	return runs
}

// readRun reads a run and sends what came of it. What is wrong with a block of a run is looked at again by itself.
func (s *Store) readRun(ctx context.Context, run []wanted, results chan<- answer) {
	var blocks []got
	if len(run) > 1 {
		s.mu.Lock()
		p := s.packs[run[0].pack]
		s.mu.Unlock()
		if p != nil {
			blocks, _ = s.getRun(ctx, p, run)
		}
	}
	for i, w := range run {
		if len(blocks) > 0 && blocks[i].err == nil {
			_ = s.counted(w.key, blocks[i].b, nil)
			results <- answer{w.i, blocks[i].b, nil}
			continue
		}
		b, err := s.Get(ctx, w.key)
		results <- answer{w.i, b, err}
	}
}
