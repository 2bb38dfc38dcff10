package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/kvstore"
)

// rotate begins a new segment of at least a size and then makes room for the next one, so that nobody has to wait for it.
func (s *Store) rotate(size int64) {
	s.mu.Lock()
	old := s.active
	s.active = nil
	ready := false
	if old != nil {
		old.phase = closing
		ready = old.writers == 0
	}
	s.mu.Unlock()
	g, err := s.begin(size)
	s.mu.Lock()
	s.active, s.failed = g, err
	if err != nil {
		s.rotating = false
	} else if s.allocated()+s.opts.SegmentBytes > s.opts.Budget && size == s.opts.SegmentBytes {
		g.held = int64(float64(size) * max(0, s.opts.CopyShare))
	}
	s.tell()
	s.mu.Unlock()
	if ready {
		s.sealOrBreak(old)
	}
	if err != nil {
		return
	}
	for s.missing(s.opts.SegmentBytes) > 0 && s.evictOne(true) {
	}
	s.mu.Lock()
	s.rotating, g.held = false, 0
	s.tell()
	s.mu.Unlock()
}

// tell wakes whoever waits for a new segment. The lock is held.
func (s *Store) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// missing is how many bytes the budget lacks for a segment of a size.
func (s *Store) missing(size int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.allocated() + size - s.opts.Budget
}

// begin makes room for a segment and creates it. A disk that others have filled is made room on too.
func (s *Store) begin(size int64) (*segment, error) {
	for {
		g, err := s.create(size)
		switch {
		case err == nil:
			return g, nil
		case errors.Is(err, fs.ErrNotExist):
			if err = s.remake(); err == nil {
				continue
			}
		case (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) && s.evictOne(false):
			continue
		}
		return nil, s.refused(err)
	}
}

// makeRoom evicts until the budget has room for a segment of a size.
func (s *Store) makeRoom(size int64) error {
	for s.missing(size) > 0 {
		if !s.evictOne(false) {
			return fmt.Errorf("no segment can be evicted: %w", kvstore.ErrFull)
		}
	}
	return nil
}

// create makes the file of a new segment and enters it among the others. It begins with the file, so that a disk which takes
// none costs no block.
func (s *Store) create(size int64) (*segment, error) {
	s.mu.Lock()
	s.number++
	number, fsys := s.number, s.fs
	s.mu.Unlock()
	align := int64(grain)
	if fsys.Direct() {
		align = page
	}
	g, id, err := newSegment(number, size, align, s.opts.Keys)
	if err != nil {
		return nil, err
	}
	f, err := fsys.Create(segmentName(number))
	if err != nil {
		return nil, err
	}
	err = s.makeRoom(size)
	if err == nil {
		err = f.Reserve(size)
	}
	if err == nil {
		head := aligned(page)
		g.putHeader(head, id, time.Now())
		err = f.WriteAt(head, 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), fsys.Remove(segmentName(number)))
	}
	g.handle.file = f
	s.limit.open.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(g)
	s.unsynced[g] = true
	return g, nil
}

// add enters a segment. The lock is held.
func (s *Store) add(g *segment) {
	s.segments[g.number] = g
	s.order = append(s.order, g)
}

// sealOrBreak seals a segment. One that cannot be sealed serves on, and is read whole after a restart.
func (s *Store) sealOrBreak(g *segment) {
	if err := s.seal(g); err != nil {
		s.count.errors.Add(1)
		s.opts.Log.Warn().Err(err).Str("segment", segmentName(g.number)).Msg("a segment of the disk tier got no footer")
		s.mu.Lock()
		g.phase = broken
		s.mu.Unlock()
	}
}

// seal writes the footer of a segment to which nothing is added any more. What it speaks of is durable before.
func (s *Store) seal(g *segment) error {
	s.mu.Lock()
	var lines []byte
	for line := range slices.Chunk(g.lines, lineSize) {
		if p, err := parseLine(line); err == nil && !g.marks.dead(p.ordinal) {
			lines = append(lines, line...)
		}
	}
	at := roundUp(g.tail, page)
	s.mu.Unlock()
	f, done, err := g.handle.use(func() (file, error) { return s.folder().Open(segmentName(g.number)) }, &s.limit)
	if err != nil {
		return err
	}
	defer done()
	footer := g.seal.footer(lines, at)
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.WriteAt(footer, at); err != nil {
		return err
	}
	if err := f.Truncate(at + int64(len(footer))); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	allocated, err := f.Allocated()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.lines, g.phase, g.allocated = nil, sealed, allocated
	return nil
}

// Sync makes durable what was put, deleted and replaced before.
func (s *Store) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	failed, err := throughLane(ctx, s, &s.writes, s.syncAll, func(error) {})
	return errors.Join(err, failed)
}

func (s *Store) syncAll() error {
	failed := s.writeMarks()
	s.mu.Lock()
	fsys, todo := s.fs, s.unsynced
	s.unsynced = map[*segment]bool{}
	s.mu.Unlock()
	err := errors.Join(failed, fsys.Sync())
	for g := range todo {
		if failed := s.syncSegment(g); failed != nil {
			err = errors.Join(err, failed)
			s.mu.Lock()
			s.unsynced[g] = !g.removed
			s.mu.Unlock()
		}
	}
	return err
}

func (s *Store) syncSegment(g *segment) error {
	f, done, err := g.handle.use(func() (file, error) { return s.folder().Open(segmentName(g.number)) }, &s.limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // evicted meanwhile
	}
	if err != nil {
		return err
	}
	defer done()
	return f.Sync()
}
