// Package faulty makes a kvstore.Store fail as media do: errors, delays, hanging, writes that are torn or lost although
// they were said to be done, and calls that take place although they were said to have failed. What goes wrong is decided
// call by call by a function of the test's; the store below is never harmed otherwise. Only tests use it.
package faulty

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// Op is a call of a store.
type Op string

// The calls. GetMany asks once for each key, as Get.
const (
	Get    Op = "get"
	Put    Op = "put"
	Has    Op = "has"
	Delete Op = "delete"
)

// Fault is what goes wrong with one call; the zero Fault is nothing.
type Fault struct {
	// Delay comes first, and ends with the context.
	Delay time.Duration
	// Hang lasts until the context ends.
	Hang bool
	// Err is returned, and the call does not take place, unless AfterAll.
	Err error
	// AfterAll lets the call take place although it returns Err: an answer that was lost.
	AfterAll bool
	// Torn is for Put: it succeeds, and half of the block is on the medium. Reads find that it is corrupt.
	Torn bool
	// Lost is for Put: it succeeds, and nothing is on the medium, nor what was there before.
	Lost bool
}

// Store wraps a store.
type Store struct {
	below kvstore.Store
	fault func(Op, kvstore.Key) Fault

	mu      sync.Mutex
	torn    map[kvstore.Key]bool
	corrupt int64
}

var _ kvstore.Store = (*Store)(nil)

// New wraps a store. fault is asked before each call, from several goroutines.
func New(below kvstore.Store, fault func(Op, kvstore.Key) Fault) *Store {
	return &Store{below: below, fault: fault, torn: map[kvstore.Key]bool{}}
}

// begin plays what comes before a call. go on = false: the call does not take place.
func (s *Store) begin(ctx context.Context, op Op, k kvstore.Key) (f Fault, goOn bool, err error) {
	f = s.fault(op, k)
	if err := wait(ctx, f); err != nil {
		return f, false, err
	}
	if f.Err != nil {
		return f, f.AfterAll, fmt.Errorf("%s block %s: %w", op, k, f.Err)
	}
	return f, true, nil
}

func wait(ctx context.Context, f Fault) error {
	if f.Hang {
		<-ctx.Done()
	}
	if f.Delay > 0 {
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// Get implements kvstore.Store.
func (s *Store) Get(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	_, goOn, err := s.begin(ctx, Get, k)
	if err != nil || !goOn {
		return nil, err
	}
	if s.isTorn(k) {
		err := s.below.Delete(ctx, k)
		return nil, errors.Join(kvstore.Corrupt(fmt.Errorf("block %s is torn", k)), err)
	}
	return s.below.Get(ctx, k)
}

// isTorn says so once.
func (s *Store) isTorn(k kvstore.Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.torn[k] {
		return false
	}
	delete(s.torn, k)
	s.corrupt++
	return true
}

// GetMany implements kvstore.Store, key by key.
func (s *Store) GetMany(ctx context.Context, keys []kvstore.Key, each func(i int, b *kvstore.Block) error) error {
	for i, k := range keys {
		b, err := s.Get(ctx, k)
		if errors.Is(err, kvstore.ErrNotFound) {
			continue
		} else if err != nil {
			return err
		}
		err = each(i, b)
		b.Release()
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Put implements kvstore.Store.
func (s *Store) Put(ctx context.Context, k kvstore.Key, b *kvstore.Block, h kvstore.Hint) error {
	f, goOn, err := s.begin(ctx, Put, k)
	if !goOn {
		return err
	}
	s.mu.Lock()
	s.torn[k] = f.Torn
	s.mu.Unlock()
	if f.Lost {
		return errors.Join(err, s.below.Delete(ctx, k))
	}
	return errors.Join(err, s.below.Put(ctx, k, b, h))
}

// Has implements kvstore.Store. It does not see that a block is torn.
func (s *Store) Has(ctx context.Context, k kvstore.Key) (kvstore.Info, error) {
	_, goOn, err := s.begin(ctx, Has, k)
	if err != nil || !goOn {
		return kvstore.Info{}, err
	}
	return s.below.Has(ctx, k)
}

// Delete implements kvstore.Store.
func (s *Store) Delete(ctx context.Context, k kvstore.Key) error {
	_, goOn, err := s.begin(ctx, Delete, k)
	if !goOn {
		return err
	}
	s.mu.Lock()
	delete(s.torn, k)
	s.mu.Unlock()
	return errors.Join(err, s.below.Delete(ctx, k))
}

// Stats implements kvstore.Store: the store's below, with the torn blocks that were found.
func (s *Store) Stats() kvstore.Stats {
	st := s.below.Stats()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Corrupt += s.corrupt
	return st
}
