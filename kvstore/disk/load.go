package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/penstock/penstock/kvstore"
)

// loaders is how many segments are read at one time after a restart.
const loaders = 8

// found is what a segment's file holds.
type found struct {
	g       *segment
	records []placed
	lines   []byte // where it has no footer
	damaged int    // pages of marks, or a footer
}

// forgetAll begins with nothing.
func (s *Store) forgetAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.order {
		for at := g.first; at != 0; at = s.index.entry(at).next {
			s.opts.Moves(kvstore.Move{Key: s.index.entry(at).key, Tier: kvstore.Disk})
		}
		g.removed = true
		g.handle.end(&s.limit)
	}
	s.index = newIndex()
	s.segments, s.marked, s.unsynced = map[uint32]*segment{}, map[*segment]bool{}, map[*segment]bool{}
	s.order, s.active = nil, nil
}

// remake begins anew after somebody has taken the folder away.
func (s *Store) remake() error {
	s.opts.Log.Warn().Str("folder", s.opts.Dir).Msg("the folder of the disk tier was removed; it is made anew, its blocks are forgotten")
	s.count.errors.Add(1)
	s.forgetAll()
	return errors.Join(s.leave(), s.take())
}

// load reads what is in the folder: footers, and the whole of what has none.
func (s *Store) load(ctx context.Context) error {
	names, err := s.fs.List()
	if err != nil {
		return err
	}
	var numbers []uint32
	for _, name := range names {
		if n, ok := segmentNumber(name); ok {
			numbers = append(numbers, n)
			s.number = max(s.number, n)
		}
	}
	slices.Sort(numbers)
	all := make([]found, len(numbers))
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(loaders, len(numbers)) {
		wg.Go(func() {
			for i := range next {
				all[i] = s.loadSegment(ctx, numbers[i])
			}
		})
	}
	for i := range numbers {
		next <- i
	}
	close(next)
	wg.Wait()
	return s.enterAll(all)
}

// enterAll enters what was found, seals what had no footer, and brings the folder within its budget.
func (s *Store) enterAll(all []found) error {
	var unsealed []*segment
	s.mu.Lock()
	for _, f := range all {
		s.add(f.g)
		s.count.corrupt.Add(int64(f.damaged))
	}
	for _, f := range all {
		for i := range f.records {
			s.seq = max(s.seq, f.records[i].seq)
			if !f.g.marks.dead(f.records[i].ordinal) {
				s.enterRecord(f.g, &f.records[i].record, f.records[i].at)
			}
		}
		if f.g.phase == closing {
			f.g.lines = f.lines
			unsealed = append(unsealed, f.g)
		}
	}
	blocks := s.index.count
	s.mu.Unlock()
	for _, g := range unsealed {
		s.sealOrBreak(g)
	}
	for s.missing(0) > 0 && s.evictOne(false) {
	}
	_ = s.writeMarks() // again with the next
	s.opts.Log.Info().Str("folder", s.opts.Dir).Int("segments", len(all)).Int("blocks", blocks).Int("without_footer", len(unsealed)).
		Bool("direct", s.fs.Direct()).Bool("encrypted", s.opts.Keys != nil).Msg("disk tier is open")
	return nil
}

// loadSegment reads one segment. One that is not ours, or that cannot be read, is kept as broken and empty, so that its bytes
// are counted and its room is the first to be taken.
func (s *Store) loadSegment(ctx context.Context, number uint32) found {
	f, err := s.tryLoad(ctx, number)
	if err == nil {
		return f
	}
	if ctx.Err() == nil && !errors.Is(err, errNotBegun) {
		s.opts.Log.Warn().Err(err).Str("segment", segmentName(number)).Msg("a segment of the disk tier cannot be used and will be evicted")
	}
	g := &segment{number: number, phase: broken, marks: newMarks(1), align: page, allocated: s.opts.SegmentBytes}
	if f.g != nil {
		g.allocated = f.g.allocated
	}
	if errors.Is(err, errSegment) {
		f.damaged++
	}
	return found{g: g, damaged: f.damaged}
}

// errNotBegun means that the process ended between making a segment's file and writing its head.
var errNotBegun = errors.New("the segment was not begun")

func (s *Store) tryLoad(ctx context.Context, number uint32) (result found, err error) {
	if err := ctx.Err(); err != nil {
		return result, err
	}
	f, err := s.fs.Open(segmentName(number))
	if err != nil {
		return result, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return result, err
	}
	allocated, err := f.Allocated()
	if err != nil {
		return result, err
	}
	result.g = &segment{allocated: allocated}
	if size == 0 {
		return result, errNotBegun
	}
	if size < page {
		return result, fmt.Errorf("segment %08x has %d bytes: %w", number, size, errSegment)
	}
	buf := aligned(page)
	if err := f.ReadAt(0, buf); err != nil {
		return result, err
	}
	if allZero(buf) {
		return result, errNotBegun
	}
	g, err := parseHeader(buf, number, s.opts.Keys)
	if err != nil {
		return result, err
	}
	g.allocated, g.size, g.tail = allocated, size, size
	result.g = g
	if err := result.loadMarks(f); err != nil {
		return result, err
	}
	if err := result.loadFooter(f, size); err == nil {
		g.phase = sealed
		return result, nil
	}
	g.phase = closing
	return result, s.scan(ctx, f, size, &result)
}

func (r *found) loadMarks(f file) error {
	buf := aligned(r.g.marksPages() * page)
	if err := f.ReadAt(page, buf); err != nil {
		return err
	}
	for i := range r.g.marksPages() {
		if !r.g.marks.parse(buf[i*page:][:page], i, &r.g.seal) {
			r.damaged++
		}
	}
	return nil
}

// loadFooter reads the footer; an error means that there is none.
func (r *found) loadFooter(f file, size int64) error {
	if size%page != 0 || size < r.g.begin()+page {
		return fs.ErrNotExist
	}
	trailer := aligned(page)
	if err := f.ReadAt(size-page, trailer); err != nil {
		return err
	}
	at, n, err := parseTrailer(trailer, size)
	if err != nil {
		return err
	}
	footer := aligned(int(roundUp(int64(n), page)))
	if err := f.ReadAt(at, footer); err != nil {
		return err
	}
	r.records, err = r.g.seal.parseFooter(footer[:n], trailer, at)
	return err
}

// scan reads a segment that has no footer from one record to the next. Where there is no whole record, because the machine
// crashed before it was written or because bytes have changed, it goes on with the next place where one could begin.
func (s *Store) scan(ctx context.Context, f file, size int64, r *found) error {
	g := r.g
	g.tail = g.begin()
	window := aligned(scanWindow)
	for at := g.begin(); at+headerSize <= size && ctx.Err() == nil; {
		base := at / page * page
		n := min(int64(len(window)), size-base)
		if g.align == page {
			n = n / page * page
		}
		if err := f.ReadAt(base, window[:n]); err != nil {
			return err
		}
		next := at
		for next+headerSize <= base+n {
			head, err := g.seal.header(window[next-base:], next)
			if err != nil {
				next += g.align
				continue
			}
			p := placed{head, next}
			if end := next + head.end(g.seal.aead != nil); end > size || !s.wholeRecord(f, g, p) {
				next += g.align
				continue
			}
			r.records = append(r.records, p)
			r.lines = appendLine(r.lines, &p.record, p.at)
			g.ordinals = max(g.ordinals, head.ordinal+1)
			next += g.footprint(&p.record)
			g.tail = next
		}
		if next == at {
			break
		}
		at = next
	}
	return ctx.Err()
}

const scanWindow = 1 << 20

// wholeRecord says whether the data behind a header are what they should be.
func (s *Store) wholeRecord(f file, g *segment, p placed) bool {
	e := entry{key: p.key, at: uint32(p.at / grain), size: p.size, sum: p.sum, seq: p.seq}
	if p.paged {
		e.flags = entryPaged
	}
	b := kvstore.NewBlock(make([]byte, p.size), nil)
	defer b.Release()
	return s.readInto(b, f, place{e, g}) == nil
}
