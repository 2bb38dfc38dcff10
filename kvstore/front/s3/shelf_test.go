package s3

import (
	"context"
	"maps"
	"sync"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/storetest"
)

// shelf is a store that forgets nothing, in memory that counts what is out.
type shelf struct {
	*storetest.Memory
	kvstore.Store
	mu     sync.Mutex
	blocks map[kvstore.Key]*kvstore.Block
}

func newShelf(bytes int64) *shelf {
	return &shelf{Memory: storetest.NewLimitedMemory(bytes), blocks: map[kvstore.Key]*kvstore.Block{}}
}

func (s *shelf) Get(_ context.Context, k kvstore.Key) (*kvstore.Block, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.blocks[k]; b != nil {
		return b.Retain(), nil
	}
	return nil, kvstore.ErrNotFound
}

func (s *shelf) Has(_ context.Context, k kvstore.Key) (kvstore.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.blocks[k]; b != nil {
		return kvstore.Info{Size: int64(b.Len()), Sum: b.Sum()}, nil
	}
	return kvstore.Info{}, kvstore.ErrNotFound
}

func (s *shelf) Put(ctx context.Context, k kvstore.Key, b *kvstore.Block, _ kvstore.Hint) error {
	_ = s.Delete(ctx, k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocks[k] = b.Retain()
	return nil
}

func (s *shelf) Delete(_ context.Context, k kvstore.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.blocks[k]; b != nil {
		delete(s.blocks, k)
		b.Release()
	}
	return nil
}

// forget is what a cache does by itself.
func (s *shelf) forget() {
	for k := range maps.Clone(s.blocks) {
		_ = s.Delete(context.Background(), k)
	}
}
