package storetest

import (
	"context"
	"sync"

	"github.com/penstock/penstock/kvstore"
)

// Shelf is the simplest store there can be: a map that forgets nothing by itself, for tests of what stands in front of a
// store. Its memory poisons and counts.
type Shelf struct {
	*Memory
	kvstore.Store // nil: what a Shelf does not have panics

	mu     sync.Mutex
	blocks map[kvstore.Key]*kvstore.Block
}

// NewShelf is an empty store with memory for so many bytes at one time; 0 = no limit.
func NewShelf(bytes int64) *Shelf {
	return &Shelf{Memory: NewLimitedMemory(bytes), blocks: map[kvstore.Key]*kvstore.Block{}}
}

// Get implements kvstore.Store.
func (s *Shelf) Get(_ context.Context, k kvstore.Key) (*kvstore.Block, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.blocks[k]; b != nil {
		return b.Retain(), nil
	}
	return nil, kvstore.ErrNotFound
}

// Has implements kvstore.Store.
func (s *Shelf) Has(_ context.Context, k kvstore.Key) (kvstore.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.blocks[k]; b != nil {
		return kvstore.Info{Size: int64(b.Len()), Sum: b.Sum()}, nil
	}
	return kvstore.Info{}, kvstore.ErrNotFound
}

// Put implements kvstore.Store.
func (s *Shelf) Put(_ context.Context, k kvstore.Key, b *kvstore.Block, _ kvstore.Hint) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(k)
	s.blocks[k] = b.Retain()
	return nil
}

// Delete implements kvstore.Store.
func (s *Shelf) Delete(_ context.Context, k kvstore.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(k)
	return nil
}

func (s *Shelf) forget(k kvstore.Key) {
	if b := s.blocks[k]; b != nil {
		delete(s.blocks, k)
		b.Release()
	}
}

// Stats implements kvstore.Store, as far as the number of blocks.
func (s *Shelf) Stats() kvstore.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return kvstore.Stats{Blocks: int64(len(s.blocks))}
}

// Held says whether anybody but the shelf holds the block under the key.
func (s *Shelf) Held(k kvstore.Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blocks[k] != nil && s.blocks[k].Shared()
}

// Forget forgets all blocks, as a cache may at any time. Afterwards Live counts those that somebody still holds.
func (s *Shelf) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.blocks {
		s.forget(k)
	}
}
