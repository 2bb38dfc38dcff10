package agent

import (
	"context"
	"sync/atomic"

	"github.com/penstock/penstock/kvstore"
)

// gate is a store that holds nothing and takes nothing until it is opened. A door's space says which weights its blocks are
// of, and that is known once the engine has loaded them and they have not changed meanwhile; engines connect before.
type gate struct {
	kvstore.Store
	opened atomic.Bool
}

func (g *gate) open() { g.opened.Store(true) }

func (g *gate) Get(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	if !g.opened.Load() {
		return nil, kvstore.ErrNotFound
	}
	return g.Store.Get(ctx, k)
}

// Lend implements kvstore.Lender, as far as the store behind it does.
func (g *gate) Lend(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	if l, ok := g.Store.(kvstore.Lender); ok && g.opened.Load() {
		return l.Lend(ctx, k)
	}
	return g.Get(ctx, k)
}

func (g *gate) GetMany(ctx context.Context, keys []kvstore.Key, each func(i int, b *kvstore.Block) error) error {
	if !g.opened.Load() {
		return nil
	}
	return g.Store.GetMany(ctx, keys, each)
}

func (g *gate) Put(ctx context.Context, k kvstore.Key, b *kvstore.Block, h kvstore.Hint) error {
	if !g.opened.Load() {
		return kvstore.ErrUnavailable
	}
	return g.Store.Put(ctx, k, b, h)
}

func (g *gate) Has(ctx context.Context, k kvstore.Key) (kvstore.Info, error) {
	if !g.opened.Load() {
		return kvstore.Info{}, kvstore.ErrNotFound
	}
	return g.Store.Has(ctx, k)
}

func (g *gate) Delete(ctx context.Context, k kvstore.Key) error {
	if !g.opened.Load() {
		return nil
	}
	return g.Store.Delete(ctx, k)
}
