package object

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/kvstore"
)

// spot is where a packed block lies. It holds no pointer.
type spot struct {
	pack   uint32
	at     uint32
	size   uint32
	sum    uint32
	stored int64
}

// packed is a pack in the bucket.
type packed struct {
	name string
	id   string
	seal seal
}

// enterPack makes the blocks of a pack known. Of two of one key the one that was put later counts, in whichever order their
// packs come; the other is remembered, since it must be marked too when the block is deleted. The lock is held.
func (s *Store) enterPack(name string, seal seal, records map[kvstore.Key]record) {
	id, _, _, _ := parsePackName(name)
	s.number++
	n := s.number
	s.packs[n], s.byName[name] = &packed{name, id, seal}, n
	for k, r := range records {
		if s.marked[id][r.at] {
			continue
		}
		at := spot{n, r.at, r.size, r.sum, r.stored}
		if other, ok := s.index[k]; ok {
			if other.stored > at.stored {
				at, other = other, at
			}
			s.older[k] = append(s.older[k], other)
		}
		s.index[k] = at
	}
}

// waiting returns the newest record of a key where that is in a pack that is not sent yet. Packs are sent at one time and
// arrive in any order, so that one on its way may hold less than the index knows already. The lock is held.
func (s *Store) waiting(k kvstore.Key) (in *pack, newest record, ok bool) {
	if at, known := s.index[k]; known {
		newest.stored = at.stored
	}
	for _, p := range s.unsent() {
		if r, has := p.records[k]; has && r.stored > newest.stored {
			in, newest, ok = p, r, true
		}
	}
	return in, newest, ok
}

// find says what is known of a packed block, sent or not. The lock is held.
func (s *Store) find(k kvstore.Key) (kvstore.Info, bool) {
	if _, r, ok := s.waiting(k); ok {
		return kvstore.Info{Size: int64(r.size), Sum: r.sum, StoredAt: time.Unix(0, r.stored)}, true
	}
	if at, ok := s.index[k]; ok {
		return kvstore.Info{Size: int64(at.size), Sum: at.sum, StoredAt: time.Unix(0, at.stored)}, true
	}
	return kvstore.Info{}, false
}

// Refresh looks for packs that others have put or removed, and for blocks that they have deleted.
func (s *Store) Refresh(ctx context.Context) error {
	s.refresh.Lock()
	defer s.refresh.Unlock()
	if err := s.refreshMarks(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	known := maps.Clone(s.byName) // before the listing, which may not have what is sent meanwhile
	s.mu.Unlock()
	there := map[string]bool{}
	if err := s.list(ctx, "p/", func(name string, _ stat) error { there[name] = true; return nil }); err != nil {
		return err
	}
	var unknown []string
	for name := range there {
		if _, ok := known[name]; !ok {
			unknown = append(unknown, name)
		}
	}
	gone := map[uint32]bool{}
	for name, n := range known {
		if !there[name] {
			gone[n] = true
		}
	}
	s.dropPacks(gone)
	var g errgroup.Group
	g.SetLimit(s.opts.Workers)
	for _, name := range unknown {
		g.Go(func() error { return s.loadPack(ctx, name) })
	}
	err := g.Wait()
	s.looked.Store(err == nil)
	return err
}

// list lists with the store's patience, which counts one listing as one request of some size.
func (s *Store) list(ctx context.Context, prefix string, each func(string, stat) error) error {
	type entry struct {
		name string
		stat stat
	}
	const pages = 64 << 20 // time for many
	all, err := ask(ctx, s.patience, s.patience.reads, pages, false, func(ctx context.Context) (all []entry, err error) {
		err = s.bucket.List(ctx, prefix, func(name string, st stat) error { all = append(all, entry{name, st}); return nil })
		return all, err
	}, func([]entry) {})
	if err != nil {
		return fmt.Errorf("list %s of %s: %w", prefix, s.bucket, err)
	}
	for _, e := range all {
		if err := each(e.name, e.stat); err != nil {
			return err
		}
	}
	return nil
}

// loadPack reads the tail of a pack. One that is no pack, or whose key is missing, is known as empty.
func (s *Store) loadPack(ctx context.Context, name string) error {
	id, at, n, ok := parsePackName(name)
	records := map[kvstore.Key]record{}
	var sl seal
	if ok {
		tail, err := s.getBytes(ctx, name, at, n)
		if errors.Is(err, errNoObject) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("footer of %s: %w", name, err)
		}
		sl, records, err = s.parseTail(tail, uint32(at))
		if err != nil {
			s.count.errors.Add(1)
			s.opts.Log.Warn().Err(err).Str("pack", id).Msg("a pack of the object tier cannot be used")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.byName[name]; known || s.isOnItsWay(name) {
		return nil
	}
	s.enterPack(name, sl, records)
	for k, r := range records {
		if at, ok := s.index[k]; ok && at.pack == s.byName[name] && at.at == r.at {
			s.opts.Moves(kvstore.Move{Key: k, Tier: kvstore.Object, Held: true})
		}
	}
	return nil
}

func (s *Store) parseTail(tail []byte, at uint32) (seal, map[kvstore.Key]record, error) {
	sl, err := parseHead(tail, s.opts.Keys)
	if err != nil {
		return sl, nil, err
	}
	all, err := sl.parseFooter(tail[headSize:], at)
	if err != nil {
		return sl, nil, err
	}
	records := make(map[kvstore.Key]record, len(all))
	for _, r := range all {
		records[r.key] = r
	}
	return sl, records, nil
}

// dropPacks forgets packs that are gone.
func (s *Store) dropPacks(gone map[uint32]bool) {
	if len(gone) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, at := range s.index {
		if gone[at.pack] {
			s.forget(k)
		}
	}
	for k, all := range s.older {
		s.keepOlder(k, slices.DeleteFunc(all, func(at spot) bool { return gone[at.pack] }))
	}
	for n := range gone {
		if p := s.packs[n]; p != nil {
			delete(s.byName, p.name)
			delete(s.marked, p.id)
			delete(s.packs, n)
		}
	}
}

// forget takes a block out of the index, with what there was of it before. The lock is held.
func (s *Store) forget(k kvstore.Key) {
	delete(s.index, k)
	delete(s.older, k)
	if _, _, ok := s.waiting(k); !ok {
		s.opts.Moves(kvstore.Move{Key: k, Tier: kvstore.Object})
	}
}

// A pack cannot be changed, so that the blocks in it that are deleted are named by marks beside it: small objects of offsets.

// marks are offsets of records that are deleted, by pack.
type marks map[string][]uint32

// putMarks writes marks down.
func (s *Store) putMarks(ctx context.Context, m marks) error {
	var failed error
	for id, offsets := range m {
		if len(offsets) == 0 {
			continue
		}
		var b []byte
		for _, at := range offsets {
			b = binary.LittleEndian.AppendUint32(b, at)
		}
		b = binary.LittleEndian.AppendUint32(b, kvstore.Checksum(b))
		failed = errors.Join(failed, s.putObject(ctx, "d/"+id+"/"+rand.Text(), b, true))
	}
	return failed
}

// refreshMarks reads marks that are new.
func (s *Store) refreshMarks(ctx context.Context) error {
	var fresh []string
	err := s.list(ctx, "d/", func(name string, _ stat) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.marksRead[name] {
			fresh = append(fresh, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(s.opts.Workers)
	for _, name := range fresh {
		g.Go(func() error { return s.readMarks(ctx, name) })
	}
	err = g.Wait()
	if len(fresh) > 0 {
		s.forgetMarked()
	}
	return err
}

const maxMarks = 1 << 20

func (s *Store) readMarks(ctx context.Context, name string) error {
	fields := strings.Split(name, "/")
	b, err := s.getBytes(ctx, name, 0, maxMarks)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errNoObject) {
		return err
	}
	le := binary.LittleEndian
	if len(fields) != 3 || len(b)%4 != 0 || len(b) < 8 || le.Uint32(b[len(b)-4:]) != kvstore.Checksum(b[:len(b)-4]) {
		s.count.errors.Add(1)
		b = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marksRead[name] = true
	for ; len(b) > 4; b = b[4:] {
		s.mark(fields[1], le.Uint32(b))
	}
	return nil
}

// mark notes that a record of a pack is deleted. The lock is held.
func (s *Store) mark(id string, at uint32) {
	if s.marked[id] == nil {
		s.marked[id] = map[uint32]bool{}
	}
	s.marked[id][at] = true
}

// forgetMarked forgets all blocks that are marked.
func (s *Store) forgetMarked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, at := range s.index {
		if s.marked[s.packs[at.pack].id][at.at] {
			s.forget(k)
		}
	}
}
