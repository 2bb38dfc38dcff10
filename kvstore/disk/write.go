package disk

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/kvstore"
)

// Put implements kvstore.Store. The block's bytes are copied before the disk is asked, so that a disk which hangs holds
// nobody's memory but the store's own. What was put is durable after the next Sync.
func (s *Store) Put(ctx context.Context, k kvstore.Key, b *kvstore.Block, h kvstore.Hint) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.life.begin(); err != nil {
		return wrap("put", k, err)
	}
	defer s.life.done()
	err := s.put(ctx, newRecord(k, b, h, time.Now()), b.Bytes())
	switch {
	case err == nil:
		s.count.puts.Add(1)
		s.count.put.Add(int64(b.Len()))
	case errors.Is(err, kvstore.ErrFull) || errors.Is(err, kvstore.ErrUnavailable):
		s.count.drops.Add(1)
	}
	return wrap("put", k, err)
}

func newRecord(k kvstore.Key, b *kvstore.Block, h kvstore.Hint, now time.Time) *record {
	r := &record{
		key: k, size: uint32(b.Len()), sum: b.Sum(), stored: now.UnixNano(), known: h.Known, depth: h.Depth, session: h.Session,
	}
	if stay := h.Stay.Unix(); stay > 0 {
		r.stay = uint32(min(stay, math.MaxUint32))
	}
	return r
}

// spot is a record's reserved place.
type spot struct {
	g   *segment
	r   record
	at  int64
	buf []byte // the whole record
}

func (s *Store) put(ctx context.Context, r *record, data []byte) error {
	if int64(len(data)) > min(maxBlockSize, s.opts.Budget/2) {
		return fmt.Errorf("%d bytes, more than half of the budget of %d: %w", len(data), s.opts.Budget, kvstore.ErrFull)
	}
	if s.writes.suspended() {
		return errSuspended
	}
	p, err := s.reserve(ctx, r)
	if err != nil {
		return err
	}
	s.fill(p, data)
	failed, err := throughLane(ctx, s, &s.writes, func() error { return s.write(p) }, func(error) { s.abandon(p) })
	switch {
	case err != nil:
		return err
	case failed != nil:
		s.abandon(p)
		return failed
	}
	s.accept(p, nil)
	return nil
}

// reserve finds a place for a record, and waits for a new segment where the one that is being filled has no room.
func (s *Store) reserve(ctx context.Context, r *record) (*spot, error) {
	timeout := time.NewTimer(s.opts.Timeout)
	defer timeout.Stop()
	for {
		p, changed := s.tryReserve(r)
		if p != nil {
			return p, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timeout.C:
			s.writes.suspend(s.opts.Retry)
			return nil, errHangs
		}
		s.mu.Lock()
		err := s.failed
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// tryReserve returns a place, or what to wait for until there may be one.
func (s *Store) tryReserve(r *record) (*spot, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.reserveHere(r); p != nil {
		return p, nil
	}
	if !s.rotating {
		s.rotating, s.failed = true, nil
		size := segmentFor(r, s.opts.SegmentBytes)
		s.background(func() { s.rotate(size) })
	}
	return nil, s.changed
}

// segmentFor is the size of a segment into which the record fits.
func segmentFor(r *record, usual int64) int64 {
	return max(usual, roundUp(r.end(true), page)+footerRoom(1)+(3+maxMarksPages)*page)
}

// reserveHere takes a place in the segment that is being filled; nil where there is no room. The lock is held.
func (s *Store) reserveHere(r *record) *spot {
	g := s.active
	if g == nil {
		return nil
	}
	r.paged = g.align == page && r.size >= pagedFrom
	isCopy := r.seq != 0
	if !g.fits(r, isCopy) {
		return nil
	}
	if !isCopy {
		s.seq++
		r.seq = s.seq
	}
	r.ordinal = g.ordinals
	p := &spot{g: g, r: *r, at: g.tail}
	g.ordinals++
	g.tail += g.footprint(r)
	g.writers++
	return p
}

// fill makes the record's bytes.
func (s *Store) fill(p *spot, data []byte) {
	p.buf = s.buffers.get(int(p.g.footprint(&p.r)))
	end := p.r.end(p.g.seal.aead != nil)
	p.g.seal.putRecord(p.buf[:end], p.at, &p.r, data)
	clear(p.buf[end:])
}

// write writes a record at its place, and makes room once where the disk is full.
func (s *Store) write(p *spot) error {
	f, done, err := p.g.handle.use(func() (file, error) { return s.folder().Open(segmentName(p.g.number)) }, &s.limit)
	if err == nil {
		defer done()
		err = f.WriteAt(p.buf, p.at)
		if errors.Is(err, unix.ENOSPC) && s.evictOne(false) {
			err = f.WriteAt(p.buf, p.at)
		}
	}
	if err == nil {
		s.count.written.Add(int64(len(p.buf)))
		return nil
	}
	s.retire(p.g)
	return s.refused(err)
}

// retire adds nothing more to a segment that did not take a record.
func (s *Store) retire(g *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == g {
		s.active, g.phase = nil, closing
	}
}

// refused makes an error of writing one of the contract, and leaves a disk alone that does not take anything.
func (s *Store) refused(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w", kvstore.ErrFull, err)
	case errors.Is(err, kvstore.ErrFull):
		return err
	}
	s.count.errors.Add(1)
	s.writes.suspend(s.opts.Retry)
	s.opts.Log.Warn().Err(err).Dur("for", s.opts.Retry).Msg("the disk tier takes no blocks for a while")
	return fmt.Errorf("%w: %w", kvstore.ErrUnavailable, err)
}

// accept enters a record that was written into the index. Where a newer one of its key is there it is dead already, and so is
// the copy of a record that was deleted or replaced meanwhile.
func (s *Store) accept(p *spot, copyOf *place) {
	s.buffers.put(p.buf)
	s.mu.Lock()
	switch {
	case p.g.removed: // somebody took the file or the folder away
	case copyOf != nil && !s.isAt(copyOf):
		s.mark(p.g, p.r.ordinal)
	default:
		p.g.lines = appendLine(p.g.lines, &p.r, p.at)
		s.unsynced[p.g] = true
		s.enterRecord(p.g, &p.r, p.at)
	}
	last := s.leaveSegment(p.g)
	dirty := len(s.marked) > 0
	s.mu.Unlock()
	s.afterwards(last, dirty, p.g)
}

// isAt says whether a block is still where it was. The lock is held.
func (s *Store) isAt(p *place) bool {
	n := s.index.find(p.key)
	return n != 0 && s.index.entry(n).seq == p.seq && s.index.entry(n).segment == p.segment
}

// abandon gives up a record that was not written, or whose writer has gone.
func (s *Store) abandon(p *spot) {
	s.buffers.put(p.buf)
	s.mu.Lock()
	s.mark(p.g, p.r.ordinal)
	last := s.leaveSegment(p.g)
	s.mu.Unlock()
	s.afterwards(last, true, p.g)
}

// leaveSegment notes that a record's writer is done, and says whether the segment can be sealed now. The lock is held.
func (s *Store) leaveSegment(g *segment) (last bool) {
	g.writers--
	return g.writers == 0 && g.phase == closing
}

func (s *Store) afterwards(last, dirty bool, g *segment) {
	if !last && !dirty {
		return
	}
	s.background(func() {
		if last {
			s.sealOrBreak(g)
		}
		if dirty {
			_ = s.writeMarks() // again with the next
		}
	})
}

// background runs something that nobody waits for but Close.
func (s *Store) background(do func()) {
	s.life.more()
	go func() {
		defer s.life.done()
		do()
	}()
}

// enterRecord makes a record the one of its key, unless a newer one is known. Of two equal ones, a record and its copy, the
// one in the newer segment stays. The lock is held.
func (s *Store) enterRecord(g *segment, r *record, at int64) {
	if n := s.index.find(r.key); n != 0 {
		e := s.index.entry(n)
		if e.seq > r.seq || e.seq == r.seq && e.segment > g.number {
			s.mark(g, r.ordinal)
			return
		}
		s.mark(s.segments[e.segment], e.ordinal)
		s.unlist(n)
		s.index.remove(n)
	}
	e := entry{
		key: r.key, segment: g.number, at: uint32(at / grain), ordinal: r.ordinal, size: r.size, sum: r.sum, seq: r.seq,
		stored: uint32(r.stored / int64(time.Second)), stay: r.stay, depth: r.depth,
	}
	if r.paged {
		e.flags |= entryPaged
	}
	if r.known {
		e.flags |= entryKnown
	}
	s.list(s.index.insert(e))
	s.opts.Moves(kvstore.Move{Key: r.key, Tier: kvstore.Disk, Held: true})
}

// list puts an entry into its segment's list. The lock is held.
func (s *Store) list(n slot) {
	e := s.index.entry(n)
	g := s.segments[e.segment]
	if e.prev, e.next = 0, g.first; e.next != 0 {
		s.index.entry(e.next).prev = n
	}
	g.first = n
	g.live += int64(e.size)
	g.blocks++
}

// unlist is the inverse of list. The lock is held.
func (s *Store) unlist(n slot) {
	e := s.index.entry(n)
	g := s.segments[e.segment]
	if e.prev != 0 {
		s.index.entry(e.prev).next = e.next
	} else {
		g.first = e.next
	}
	if e.next != 0 {
		s.index.entry(e.next).prev = e.prev
	}
	g.live -= int64(e.size)
	g.blocks--
}

// mark notes that a record is dead. The lock is held.
func (s *Store) mark(g *segment, ordinal uint32) {
	g.marks.set(ordinal)
	if len(g.marks.dirty) > 0 {
		s.marked[g] = true
	}
}

// drop forgets one block. The lock is held.
func (s *Store) drop(n slot) {
	e := s.index.entry(n)
	s.opts.Moves(kvstore.Move{Key: e.key, Tier: kvstore.Disk})
	s.mark(s.segments[e.segment], e.ordinal)
	s.unlist(n)
	s.index.remove(n)
}

// dropGroup forgets all parts of a group and returns how many there were. The lock is held.
func (s *Store) dropGroup(g kvstore.Group) int {
	var few [16]slot
	all := s.index.group(g, few[:0])
	for _, n := range all {
		s.drop(n)
	}
	return len(all)
}

// Delete implements kvstore.Store. Once it has returned nil, the block stays away if this process is killed; that it stays
// away when the machine crashes is sure after the next Sync. Where it returns an error the block is forgotten too, but may be
// found again after a restart.
func (s *Store) Delete(ctx context.Context, k kvstore.Key) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.life.begin(); err != nil {
		return wrap("delete", k, err)
	}
	defer s.life.done()
	s.mu.Lock()
	n := s.index.find(k)
	if n != 0 {
		s.drop(n)
		s.count.deleted.Add(1)
	}
	copied := s.copying[k]
	nothing := n == 0 && len(s.marked) == 0 && !s.marksOut
	s.mu.Unlock()
	if nothing {
		return nil
	}
	if copied != nil { // until the copy is dead too
		select {
		case <-copied:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	failed, err := throughLane(ctx, s, &s.writes, s.writeMarks, func(error) {})
	if err == nil {
		err = failed
	}
	return wrap("delete", k, err)
}
