package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/tiered"
)

// Stats is a moment's picture of each tier, fastest first.
func (c *Cache) Stats() []kvstore.Stats { return c.store.Stats().Tiers }

// lister is a tier below the first that can say what it holds without reading it, the newest first.
type lister interface {
	List(ctx context.Context, each func(kvstore.Key, kvstore.Info) error) error
}

// below are the tiers under host memory, fastest first.
func (c *Cache) below() (out []tier) {
	if c.disk != nil {
		out = append(out, tier{kvstore.Disk, c.disk})
	}
	if c.object != nil {
		out = append(out, tier{kvstore.Object, c.object})
	}
	return out
}

type tier struct {
	name kvstore.Tier
	lister
}

// errEnough ends a listing.
var errEnough = errors.New("enough")

// List calls each with the blocks of each tier, fastest first, at most limit of one tier; 0 = all. It stops with each's error.
func (c *Cache) List(ctx context.Context, limit int, each func(kvstore.Tier, kvstore.Key, kvstore.Info) error) error {
	n := 0
	one := func(t kvstore.Tier, k kvstore.Key, info kvstore.Info) error {
		if n++; limit > 0 && n > limit {
			return errEnough
		}
		return errors.Join(each(t, k, info), ctx.Err())
	}
	var failed error
	c.host.Ranked(func(k kvstore.Key, b *kvstore.Block, _ kvstore.Hint) bool {
		failed = one(kvstore.Host, k, kvstore.Info{Size: int64(b.Len()), Sum: b.Sum()})
		return failed == nil
	})
	for _, t := range c.below() {
		if failed != nil && !errors.Is(failed, errEnough) {
			return failed
		}
		n = 0
		failed = t.List(ctx, func(k kvstore.Key, info kvstore.Info) error { return one(t.name, k, info) })
	}
	if errors.Is(failed, errEnough) {
		return nil
	}
	return failed
}

// Moved is what a Flush or a Warm has done so far.
type Moved struct {
	Blocks, Bytes int64 // moved
	There, Failed int64 // blocks that were there already, and that could not be moved
	Left          bool  // it ended before all was looked at
}

// FlushAll writes to the lowest tier all that it does not have, and makes that durable, until the context ends.
func (c *Cache) FlushAll(ctx context.Context, progress func(Moved)) (Moved, error) {
	if len(c.below()) == 0 {
		return Moved{}, errors.New("there is no tier below host memory")
	}
	done, err := c.store.FlushAll(ctx, func(f tiered.Flushed) { progress(moved(f)) })
	if c.disk != nil {
		err = errors.Join(err, c.disk.Sync(ctx))
	}
	if c.object != nil {
		err = errors.Join(err, c.object.Sync(ctx))
	}
	return moved(done), err
}

func moved(f tiered.Flushed) Moved {
	return Moved{Blocks: f.Blocks, Bytes: f.Bytes, There: f.There, Failed: f.Failed, Left: f.Left}
}

// warmBatch is how many blocks Warm asks for at one time.
const warmBatch = 64

// Warm reads what lies below into host memory, the newest of the fastest tier first, until that is full or the context ends.
// Only what is not in memory is read.
func (c *Cache) Warm(ctx context.Context, progress func(Moved)) (m Moved, err error) {
	w := warm{c: c, progress: progress}
	for _, t := range c.below() {
		err := t.List(ctx, func(k kvstore.Key, info kvstore.Info) error { return w.add(ctx, k, info.Size) })
		if err == nil {
			err = w.read(ctx)
		}
		switch {
		case errors.Is(err, errEnough) || ctx.Err() != nil:
			w.done.Left = true
			return w.done, nil
		case err != nil:
			return w.done, fmt.Errorf("warm from %s: %w", t.name, err)
		}
	}
	return w.done, nil
}

type warm struct {
	c        *Cache
	progress func(Moved)
	keys     []kvstore.Key
	waiting  int64 // bytes of keys
	done     Moved
}

// add notes a block that is to be read, and reads when there are some. What no longer fits ends it: it would push out what
// was read before.
func (w *warm) add(ctx context.Context, k kvstore.Key, size int64) error {
	if _, err := w.c.host.Has(ctx, k); err == nil {
		w.done.There++
		return nil
	}
	if held := w.c.host.Stats(); held.Bytes+w.waiting+size > held.Budget-held.Budget/16 {
		return errEnough
	}
	w.waiting += size
	if w.keys = append(w.keys, k); len(w.keys) < warmBatch {
		return nil
	}
	return w.read(ctx)
}

func (w *warm) read(ctx context.Context) error {
	if len(w.keys) == 0 {
		return nil
	}
	found := 0
	err := w.c.store.GetMany(ctx, w.keys, func(_ int, b *kvstore.Block) error {
		found++
		w.done.Blocks++
		w.done.Bytes += int64(b.Len())
		return nil
	})
	w.done.Failed += int64(len(w.keys) - found)
	w.keys, w.waiting = w.keys[:0], 0
	w.progress(w.done)
	return err
}
