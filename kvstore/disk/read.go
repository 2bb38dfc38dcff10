package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/kvstore"
)

// place is where a block lies, as it was looked up.
type place struct {
	entry
	g *segment
}

// lookup finds a block and notes that it is wanted.
func (s *Store) lookup(k kvstore.Key) (place, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.index.find(k)
	if n == 0 {
		return place{}, false
	}
	e := s.index.entry(n)
	e.flags |= entryRead
	return place{*e, s.segments[e.segment]}, true
}

// Has implements kvstore.Store.
func (s *Store) Has(ctx context.Context, k kvstore.Key) (kvstore.Info, error) {
	if err := ctx.Err(); err != nil {
		return kvstore.Info{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.index.find(k)
	if n == 0 {
		return kvstore.Info{}, kvstore.ErrNotFound
	}
	return s.index.entry(n).info(), nil
}

// Get implements kvstore.Store.
func (s *Store) Get(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.life.begin(); err != nil {
		return nil, wrap("get", k, err)
	}
	defer s.life.done()
	b, err := s.get(ctx, k)
	switch {
	case err == nil:
		s.count.hits.Add(1)
		s.count.read.Add(int64(b.Len()))
	case kvstore.IsMiss(err):
		s.count.misses.Add(1)
	}
	return b, err
}

// get reads a block. One that was copied on while it was being read is looked for again.
func (s *Store) get(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	for {
		p, ok := s.lookup(k)
		if !ok {
			return nil, kvstore.ErrNotFound
		}
		type result struct {
			b   *kvstore.Block
			err error
		}
		r, err := throughLane(ctx, s, &s.reads,
			func() result { b, err := s.read(p); return result{b, err} },
			func(r result) {
				if r.b != nil {
					r.b.Release()
				}
			})
		if err == nil {
			err = r.err
		}
		switch {
		case err == nil:
			return r.b, nil
		case errors.Is(err, fs.ErrNotExist):
			if s.vanished(p) {
				continue
			}
			return nil, kvstore.ErrNotFound
		case errors.Is(err, kvstore.ErrCorrupt):
			s.corrupt(p, err)
		}
		return nil, wrap("get", k, err)
	}
}

// wrap says which call on which block an error belongs to. A plain miss stays plain.
func wrap(call string, k kvstore.Key, err error) error {
	if err == nil || err == kvstore.ErrNotFound { //nolint:errorlint // plain
		return err
	}
	return fmt.Errorf("%s block %s on disk: %w", call, k, err)
}

// read reads the block at a place, checks it, and returns it sealed.
func (s *Store) read(p place) (*kvstore.Block, error) {
	f, done, err := p.g.handle.use(func() (file, error) { return s.folder().Open(segmentName(p.g.number)) }, &s.limit)
	if err != nil {
		return nil, s.medium(err)
	}
	defer done()
	b, err := s.opts.Alloc.Alloc(int(p.size))
	if err != nil {
		return nil, fmt.Errorf("no memory to read %d bytes into: %w: %w", p.size, kvstore.ErrUnavailable, err)
	}
	if err := s.readInto(b, f, p); err != nil {
		b.Release()
		return nil, err
	}
	return b, nil
}

// folder is the folder that is in use now.
func (s *Store) folder() fileSystem {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fs
}

// readInto reads straight into the block where its memory and the record are aligned, or where nothing has to be, and by way
// of a buffer else.
func (s *Store) readInto(b *kvstore.Block, f file, p place) error {
	r := record{size: p.size, paged: p.flags&entryPaged != 0}
	at, n := p.offset(), int64(p.size)
	encrypted := p.g.seal.aead != nil
	direct := p.g.align == page // such segments are read in whole pages, so that O_DIRECT takes them
	switch {
	case !encrypted && !direct:
		head := make([]byte, headerSize)
		if err := s.whole(f.ReadAt(at, head, b.Bytes())); err != nil {
			return err
		}
		return p.check(b, head, nil)
	case !encrypted && r.paged && isAligned(b.Bytes()):
		edges := s.buffers.get(2 * page)
		defer s.buffers.put(edges)
		head, tail := edges[:page], edges[page:]
		body := n / page * page
		if n == body {
			tail = nil
		}
		if err := s.whole(f.ReadAt(at, head, b.Bytes()[:body], tail)); err != nil {
			return err
		}
		copy(b.Bytes()[body:], tail)
		return p.check(b, head, nil)
	}
	buf := s.buffers.get(int(roundUp(r.end(encrypted), p.g.align)))
	defer s.buffers.put(buf)
	if err := s.whole(f.ReadAt(at, buf)); err != nil {
		return err
	}
	return p.check(b, buf, buf[r.dataAt():r.end(encrypted)])
}

// check verifies that a header is that of the place's block, decrypts or copies data into the block where they are not there
// yet (nil), and seals it.
func (p place) check(b *kvstore.Block, header, data []byte) error {
	r, err := p.g.seal.header(header, p.offset())
	switch {
	case err != nil:
		return kvstore.Corrupt(err)
	case r.key != p.key || r.size != p.size || r.sum != p.sum || r.seq != p.seq:
		return kvstore.Corrupt(fmt.Errorf("block of %s in its place", r.key))
	}
	if data != nil {
		if err := p.g.seal.decrypt(b.Bytes(), header, data, p.offset()); err != nil {
			return kvstore.Corrupt(err)
		}
	}
	return b.SealAs(p.sum)
}

// whole says what the end of a read means: a file that ends too early is corrupt.
func (s *Store) whole(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return kvstore.Corrupt(err)
	}
	return s.medium(err)
}

// medium makes an error of the disk one of the contract, and counts it.
func (s *Store) medium(err error) error {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.count.errors.Add(1)
	return fmt.Errorf("%w: %w", kvstore.ErrUnavailable, err)
}

// corrupt counts a block that failed its check and forgets it with the other parts of its group.
func (s *Store) corrupt(p place, err error) {
	s.count.corrupt.Add(1)
	s.opts.Log.Warn().Err(err).Str("block", p.key.String()).Str("segment", segmentName(p.segment)).Msg("a block on disk is corrupt and forgotten")
	s.mu.Lock()
	if n := s.index.find(p.key); n != 0 && s.index.entry(n).seq == p.seq {
		s.dropGroup(p.key.Group())
	}
	s.mu.Unlock()
	s.background(func() { _ = s.writeMarks() }) // again with the next
}

// vanished handles a place whose file is gone. It says whether the block is elsewhere by now. A file that somebody else
// removed takes its blocks with it.
func (s *Store) vanished(p place) bool {
	s.mu.Lock()
	n := s.index.find(p.key)
	elsewhere := n != 0 && s.index.entry(n).segment != p.segment
	lost := n != 0 && !elsewhere && !p.g.removed
	s.mu.Unlock()
	if lost {
		s.count.errors.Add(1)
		s.opts.Log.Warn().Str("segment", segmentName(p.segment)).Msg("somebody removed a file of the disk tier; its blocks are forgotten")
		s.forget(p.g)
		s.leaveOut(p.g, nil)
	}
	return elsewhere
}

// GetMany implements kvstore.Store. It reads ahead as many blocks as the store has workers.
func (s *Store) GetMany(ctx context.Context, keys []kvstore.Key, each func(int, *kvstore.Block) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		i   int
		b   *kvstore.Block
		err error
	}
	results := make(chan result)
	var next atomic.Int64
	var readers sync.WaitGroup
	for range min(len(keys), s.opts.Workers) {
		readers.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(keys) {
					return
				}
				b, err := s.Get(ctx, keys[i])
				results <- result{i, b, err}
			}
		})
	}
	go func() { readers.Wait(); close(results) }()
	var failed error
	for r := range results {
		if r.err != nil && failed == nil && (!kvstore.IsMiss(r.err) || errors.Is(r.err, kvstore.ErrUnavailable)) {
			failed = r.err
			cancel()
		}
		if r.b == nil {
			continue
		}
		if failed == nil {
			if failed = each(r.i, r.b); failed != nil {
				cancel()
			}
		}
		r.b.Release()
	}
	if failed == nil {
		failed = ctx.Err() // of the caller's: ours is not cancelled
	}
	cancel()
	return failed
}
