package tiered

import (
	"context"
	"errors"

	"github.com/penstock/penstock/kvstore"
)

// Put implements kvstore.Store: into the first tier, and towards those that are written through. What tiers below hold
// under the key is out of reach from now on, unless the key names a chain's content: such a block has no other bytes.
func (s *Store) Put(ctx context.Context, k kvstore.Key, b *kvstore.Block, h kvstore.Hint) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	st := s.stripeOf(k)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.changes++
	if err := s.first.Put(ctx, k, b, h); err != nil {
		s.drops.Add(1)
		return err
	}
	for _, l := range s.lanes { // only now: until it was replaced, the first tier may have handed the older block down
		if !h.Known {
			l.supersede(k, b.Sum())
		}
		if l.tier.Write == Through {
			l.offer(k, b, h)
		}
	}
	s.puts.Add(1)
	s.writtenBytes.Add(int64(b.Len()))
	return nil
}

// Delete implements kvstore.Store. The block is out of reach when it returns. An error says that a tier could not be
// asked to forget it; it is asked again as long as this process lives.
func (s *Store) Delete(ctx context.Context, k kvstore.Key) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	if err := s.deleteFirst(ctx, k); err != nil {
		return err
	}
	s.deleted.Add(1)
	var errs []error
	for _, l := range s.lanes {
		_, err := l.clear(ctx, k)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *Store) deleteFirst(ctx context.Context, k kvstore.Key) error {
	st := s.stripeOf(k)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.changes++
	if err := s.first.Delete(ctx, k); err != nil {
		return err
	}
	for _, l := range s.lanes { // as in Put: not before
		l.forget(k)
	}
	return nil
}
