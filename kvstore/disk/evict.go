package disk

import (
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// evictOne takes a segment away. Where copy is set, the records most worth keeping are copied into the segment that is being
// filled. False: there is no segment that can be taken, or its file cannot be removed.
func (s *Store) evictOne(copyOn bool) bool {
	g, keep := s.choose(copyOn)
	if g == nil {
		return false
	}
	for _, p := range keep {
		s.copyOn(p)
	}
	s.forget(g)
	err := s.writeMarks() // what this segment's records replaced must not come back when they are gone
	if err == nil {
		err = s.folder().Remove(segmentName(g.number))
	}
	s.leaveOut(g, err)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.count.errors.Add(1)
		s.opts.Log.Warn().Err(err).Str("segment", segmentName(g.number)).Msg("a segment of the disk tier cannot be removed")
		return false
	}
	return true
}

// choose takes the segment to be evicted out of the choice, and returns what of it is to be copied on.
func (s *Store) choose(copyOn bool) (*segment, []place) {
	now := time.Now().Unix()
	s.mu.Lock()
	defer s.mu.Unlock()
	var of []*segment
	for _, g := range s.order {
		if g.phase == sealed || g.phase == broken {
			of = append(of, g)
		}
	}
	choice := make([]candidate, len(of))
	for i, g := range of {
		choice[i] = candidate{allocated: g.allocated, live: g.live}
		if i < considered(len(of)) {
			choice[i].worth = s.worth(g, now)
		}
	}
	i := victim(choice)
	if i < 0 {
		return nil, nil
	}
	g := of[i]
	g.phase = closing // so that nobody else takes it
	if !copyOn {
		return g, nil
	}
	return g, s.worthKeeping(g, now)
}

// worth is how many bytes of a segment are worth keeping. The lock is held.
func (s *Store) worth(g *segment, now int64) (n int64) {
	for at := g.first; at != 0; at = s.index.entry(at).next {
		if e := s.index.entry(at); worthOf(e, now) > 0 {
			n += int64(e.size)
		}
	}
	return n
}

// worthKeeping returns the records of a segment to copy on, best first, as far as the copy share goes. The lock is held.
func (s *Store) worthKeeping(g *segment, now int64) []place {
	budget := int64(float64(g.allocated) * s.opts.CopyShare)
	sparse := g.live < g.allocated/4 // mostly dead: what lives is no older than its neighbours elsewhere
	var all []place
	for at := g.first; at != 0; at = s.index.entry(at).next {
		if e := s.index.entry(at); sparse || worthOf(e, now) > 0 {
			all = append(all, place{*e, g})
		}
	}
	slices.SortStableFunc(all, func(a, b place) int { return byWorth(&a.entry, &b.entry, now) })
	for i, p := range all {
		r := record{size: p.size, paged: p.flags&entryPaged != 0}
		if budget -= g.footprint(&r); budget < 0 {
			return all[:i]
		}
	}
	return all
}

// copyOn writes a record once more, into the segment that is being filled. What cannot be read or does not fit is left to
// be forgotten.
func (s *Store) copyOn(p place) {
	b, err := s.read(p)
	if err != nil {
		if errors.Is(err, kvstore.ErrCorrupt) {
			s.corrupt(p, err)
		}
		return
	}
	defer b.Release()
	r := s.recordOf(p)
	decided := make(chan struct{})
	s.mu.Lock()
	to := s.reserveHere(&r)
	if to != nil {
		s.copying[p.key] = decided
	}
	s.mu.Unlock()
	if to == nil {
		return
	}
	defer func() {
		s.mu.Lock()
		delete(s.copying, p.key)
		s.mu.Unlock()
		close(decided)
	}()
	s.fill(to, b.Bytes())
	if err := s.write(to); err != nil {
		s.abandon(to)
		return
	}
	s.count.copied.Add(int64(p.size))
	s.accept(to, &p)
	_ = s.writeMarks() // again with the next
}

// recordOf is a record as the index knows it: what steers eviction, but not the session's number.
func (s *Store) recordOf(p place) record {
	return record{
		key: p.key, size: p.size, sum: p.sum, seq: p.seq, stored: int64(p.stored) * int64(time.Second), depth: p.depth, stay: p.stay,
		known: p.flags&entryKnown != 0,
	}
}

// forget drops all that is in a segment, with the other parts of its groups.
func (s *Store) forget(g *segment) {
	const batch = 1000 // so that others get on meanwhile
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.removed {
		return
	}
	if s.active == g {
		s.active, g.phase = nil, closing
	}
	for n := 1; g.first != 0; n++ {
		s.count.evicted.Add(int64(s.dropGroup(s.index.entry(g.first).key.Group())))
		if n%batch == 0 {
			s.mu.Unlock()
			s.mu.Lock()
		}
	}
}

// leaveOut takes a segment out whose file is gone. One that could not be removed is the first to be tried again.
func (s *Store) leaveOut(g *segment, failed error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if failed != nil && !errors.Is(failed, fs.ErrNotExist) {
		g.phase = broken
		return
	}
	if g.removed {
		return
	}
	g.removed = true
	delete(s.segments, g.number)
	delete(s.marked, g)
	delete(s.unsynced, g)
	s.order = slices.DeleteFunc(s.order, func(o *segment) bool { return o == g })
	g.handle.end(&s.limit)
}
