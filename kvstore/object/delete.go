package object

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/penstock/penstock/kvstore"
)

// unpack forgets the packed blocks of a key, and says so to those who come after.
func (s *Store) unpack(ctx context.Context, k kvstore.Key) error {
	m := marks{}
	s.mu.Lock()
	s.takeOut(k, math.MaxInt64, m)
	s.mu.Unlock()
	return s.putMarks(ctx, m)
}

// takeOut forgets the packed blocks of a key that were put until some time, and notes what is to be marked for it. The lock is
// held.
func (s *Store) takeOut(k kvstore.Key, until int64, m marks) {
	for _, p := range s.unsent() {
		if r, ok := p.records[k]; ok && r.stored <= until {
			delete(p.records, k)
			if p.name != "" { // its footer is written
				p.gone = append(p.gone, r.at)
			}
		}
	}
	at, ok := s.index[k]
	if !ok {
		return
	}
	all := s.older[k]
	if at.stored <= until {
		delete(s.index, k)
		all = append(all, at)
	}
	s.keepOlder(k, slices.DeleteFunc(all, func(at spot) bool {
		if at.stored <= until {
			id := s.packs[at.pack].id
			m[id] = append(m[id], at.at)
		}
		return at.stored <= until
	}))
}

// keepOlder sets what there is of a block in other packs. The lock is held.
func (s *Store) keepOlder(k kvstore.Key, all []spot) {
	if s.older[k] = all; len(all) == 0 {
		delete(s.older, k)
	}
}

// Delete implements kvstore.Store. Other stores find the block until their next Refresh.
func (s *Store) Delete(ctx context.Context, k kvstore.Key) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	was, err := s.remove(ctx, k)
	if was && err == nil {
		s.count.deleted.Add(1)
	}
	if err != nil {
		return fmt.Errorf("delete block %s: %w", k, err)
	}
	return nil
}

func (s *Store) remove(ctx context.Context, k kvstore.Key) (was bool, err error) {
	if s.closed.Load() {
		return false, errClosed
	}
	s.mu.Lock()
	if _, was = s.find(k); was {
		s.opts.Moves(kvstore.Move{Key: k, Tier: kvstore.Object})
	}
	s.mu.Unlock()
	if err := s.unpack(ctx, k); err != nil {
		return was, err
	}
	name := blockName(k)
	_, err = ask(ctx, s.patience, s.patience.reads, 0, false, func(ctx context.Context) (stat, error) { return s.bucket.Stat(ctx, name) }, func(stat) {})
	if errors.Is(err, errNoObject) {
		return was, nil
	}
	if err != nil {
		return was, err
	}
	s.opts.Moves(kvstore.Move{Key: k, Tier: kvstore.Object})
	return true, s.deleteObject(ctx, name)
}

func (s *Store) deleteObject(ctx context.Context, name string) error {
	_, err := ask(ctx, s.patience, s.patience.writes, 0, false, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.bucket.Delete(ctx, name)
	}, func(struct{}) {})
	if errors.Is(err, kvstore.ErrUnavailable) {
		s.count.errors.Add(1)
	}
	return err
}
