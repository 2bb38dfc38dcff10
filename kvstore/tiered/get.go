package tiered

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// Get implements kvstore.Store.
func (s *Store) Get(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	return s.counted(s.get(ctx, k, s.first.Get))
}

// Lend implements kvstore.Lender: what the first tier has is lent, if it can, and what comes from below is checked.
func (s *Store) Lend(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	first := s.first.Get
	if l, ok := s.first.(kvstore.Lender); ok {
		first = l.Lend
	}
	return s.counted(s.get(ctx, k, first))
}

func (s *Store) counted(b *kvstore.Block, err error) (*kvstore.Block, error) {
	switch {
	case err == nil:
		s.hits.Add(1)
		s.readBytes.Add(int64(b.Len()))
	case kvstore.IsMiss(err):
		s.misses.Add(1)
	}
	return b, err
}

func (s *Store) get(ctx context.Context, k kvstore.Key, first func(context.Context, kvstore.Key) (*kvstore.Block, error)) (*kvstore.Block, error) {
	for {
		if err := s.usable(ctx); err != nil {
			return nil, err
		}
		b, lost := first(ctx, k)
		if !errors.Is(lost, kvstore.ErrNotFound) {
			return b, lost
		}
		f, lead := s.flights.claim(k)
		if lead {
			changes := s.changes(k)
			b, err := s.fetch(ctx, k, changes, lost)
			s.flights.finish(k, f, b, err, s.changes(k) != changes)
			return b, err
		}
		b, again, err := s.flights.wait(ctx, f)
		if !again {
			return b, err
		}
	}
}

// fetch looks for a block below the first tier, and promotes it unless its key is changed meanwhile. lost is why the first
// tier does not have it. Where no tier has it, the error is the one that says most.
func (s *Store) fetch(ctx context.Context, k kvstore.Key, changes uint64, lost error) (*kvstore.Block, error) {
	for _, l := range s.lanes {
		b, err := l.get(ctx, k)
		switch {
		case err == nil:
			s.promote(ctx, l, k, b, changes)
			return b, nil
		case !kvstore.IsMiss(err):
			return nil, err
		case errors.Is(err, kvstore.ErrCorrupt), !errors.Is(err, kvstore.ErrNotFound) && !errors.Is(lost, kvstore.ErrCorrupt):
			lost = err
		}
	}
	return nil, lost
}

// get reads from one tier, or from what waits to be written to it.
func (l *lane) get(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	b, doubt := l.find(k)
	switch {
	case b != nil:
		if err := b.Check(); err != nil {
			b.Release()
			return nil, err
		}
		return b, nil
	case doubt:
		return nil, kvstore.ErrNotFound
	}
	if err := l.mayRead(ctx); err != nil {
		return nil, fmt.Errorf("get block %s: %w", k, err)
	}
	within, cancel := context.WithTimeout(ctx, l.tier.Deadline)
	defer cancel()
	begun := time.Now()
	b, err := l.tier.Store.Get(within, k)
	if err = l.judge(ctx, within, err); err != nil {
		return nil, asMiss(err)
	}
	l.reads.charge(begun, int64(b.Len()))
	l.meter.observe(int64(b.Len()), time.Since(begun))
	if l.doubtful(k) { // it was replaced while it was read
		b.Release()
		return nil, kvstore.ErrNotFound
	}
	return b, nil
}

// mayRead waits for the tier's share of bandwidth, and asks its breaker. After a nil error judge must follow.
func (l *lane) mayRead(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, l.tier.Deadline)
	defer cancel()
	switch err := l.reads.wait(within); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("tier %s has more to read than its rate allows: %w", l.tier.Name, kvstore.ErrUnavailable)
	case !l.breaker.allow(time.Now()):
		return fmt.Errorf("tier %s is left alone after failures: %w", l.tier.Name, kvstore.ErrUnavailable)
	}
	return nil
}

// asMiss makes a medium's error what it is to a reader.
func asMiss(err error) error {
	if kvstore.IsMiss(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", kvstore.ErrUnavailable, err)
}

func (s *Store) changes(k kvstore.Key) uint64 {
	st := s.stripeOf(k)
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.changes
}

// promote stores a tier's block in the first tier, unless its key has been changed since it was looked for.
func (s *Store) promote(ctx context.Context, l *lane, k kvstore.Key, b *kvstore.Block, changes uint64) {
	st := s.stripeOf(k)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.changes == changes && s.first.Put(ctx, k, b, kvstore.Hint{}) == nil {
		l.promoted.Add(1)
	}
}

// Has implements kvstore.Store: the first tier's word that has the block.
func (s *Store) Has(ctx context.Context, k kvstore.Key) (kvstore.Info, error) {
	if err := s.usable(ctx); err != nil {
		return kvstore.Info{}, err
	}
	info, err := s.first.Has(ctx, k)
	if err == nil || !errors.Is(err, kvstore.ErrNotFound) {
		return info, err
	}
	var unavailable error
	for _, l := range s.lanes {
		info, err := l.has(ctx, k)
		switch {
		case err == nil:
			return info, nil
		case errors.Is(err, kvstore.ErrNotFound):
		case kvstore.IsMiss(err):
			unavailable = err
		default:
			return kvstore.Info{}, err
		}
	}
	if unavailable != nil {
		return kvstore.Info{}, unavailable
	}
	return kvstore.Info{}, kvstore.ErrNotFound
}

func (l *lane) has(ctx context.Context, k kvstore.Key) (kvstore.Info, error) {
	b, doubt := l.find(k)
	switch {
	case b != nil:
		defer b.Release()
		return kvstore.Info{Size: int64(b.Len()), Sum: b.Sum()}, nil
	case doubt:
		return kvstore.Info{}, kvstore.ErrNotFound
	case !l.breaker.allow(time.Now()):
		return kvstore.Info{}, fmt.Errorf("tier %s is left alone after failures: %w", l.tier.Name, kvstore.ErrUnavailable)
	}
	within, cancel := context.WithTimeout(ctx, l.tier.Deadline)
	defer cancel()
	info, err := l.tier.Store.Has(within, k)
	if err = l.judge(ctx, within, err); err != nil {
		return kvstore.Info{}, asMiss(err)
	}
	return info, nil
}
