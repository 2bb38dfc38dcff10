package slots

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/llamacpp"
)

// present is how many leading blocks the store says it has.
func (s *Slots) present(ctx context.Context, space kvstore.Space, names []kvstore.Name) int {
	for i, n := range names {
		if _, err := s.o.Store.Has(ctx, kvstore.Key{Space: space, Name: n}); err != nil {
			return i
		}
	}
	return len(names)
}

// fetch asks the source for the blocks after the first so many, stores what comes, and says how many leading ones are there then.
func (l *Lease) fetch(ctx context.Context, have int) int {
	s, space := l.s, l.s.o.Space(l.tenant)
	keys := make([]kvstore.Key, len(l.names)-have)
	for i := range keys {
		keys[i] = kvstore.Key{Space: space, Name: l.names[have+i]}
	}
	err := l.from.Fetch(ctx, keys, func(i int, b *kvstore.Block) error {
		hint := kvstore.Hint{Depth: uint32(have + i), Known: true}
		if have+i > 0 {
			hint.Parent = l.names[have+i-1]
		}
		if err := s.o.Store.Put(ctx, keys[i], b, hint); err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		s.o.Metrics.fetched.Add(float64(s.o.BlockTokens))
		return nil
	})
	if err != nil {
		s.o.Metrics.failed.WithLabelValues("fetch").Inc()
		s.o.Log.Warn().Err(err).Msg("blocks not fetched from the prefill replica; the engine reads the rest of the prompt")
	}
	return s.present(ctx, space, l.names)
}

// restore puts the first blocks of the prompt into the slot and returns how many tokens these are. After an error the slot is
// empty: that is what the server makes of a failed restore, and what erase makes sure of.
func (s *Slots) restore(ctx context.Context, l *Lease, blocks int) (tokens int, err error) {
	name, path := s.file()
	defer remove(path)
	for blocks > 0 {
		first, err := s.assemble(ctx, l, path, blocks)
		if err != nil {
			return 0, err
		}
		if first == blocks {
			break
		}
		blocks = first // the store has forgotten one since; what is before it is still good
	}
	if blocks == 0 {
		return 0, nil
	}
	tokens = blocks * s.o.BlockTokens
	l.slot.tokens, l.slot.dirty, l.slot.stored = nil, true, 0
	if err := s.erase(ctx, l.slot); err != nil { // slots share one pool: an old content may stand in the way
		return 0, err
	}
	l.slot.dirty = true // from here on, whatever the server answers
	n, err := s.restoreFile(ctx, l.slot.id, name)
	if err != nil || n != tokens {
		return 0, errors.Join(fmt.Errorf("the server restored %d of %d tokens", n, tokens), err, s.erase(ctx, l.slot))
	}
	l.slot.tokens, l.slot.dirty, l.slot.stored = l.prompt[:tokens], false, tokens
	return tokens, nil
}

// assemble writes a slot file of the first blocks. It returns how many of them came before the first that is missing.
func (s *Slots) assemble(ctx context.Context, l *Lease, path string, blocks int) (int, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return 0, fmt.Errorf("make a slot file: %w", err)
	}
	defer f.Close()
	b := llamacpp.NewBuilder(f, l.prompt[:blocks*s.o.BlockTokens], s.o.BlockTokens)
	keys, space := make([]kvstore.Key, blocks), s.o.Space(l.tenant)
	for i := range keys {
		keys[i] = kvstore.Key{Space: space, Name: l.names[i]}
	}
	if err := s.o.Store.GetMany(ctx, keys, func(i int, blk *kvstore.Block) error { return b.Put(i, blk.Bytes()) }); err != nil {
		return 0, fmt.Errorf("fetch blocks: %w", err)
	}
	return b.Leading(), nil
}

// save stores the blocks of a slot that are not stored yet.
func (s *Slots) save(ctx context.Context, l *Lease, answered bool) error {
	if answered && len(l.prompt)-l.slot.stored < max(s.o.BlockTokens, len(l.prompt)/savePart) && l.slot.stored > 0 {
		// Too little is new. The slot holds at least the prompt: the next turn finds it there.
		if l.slot.tokens, l.slot.dirty = l.prompt, false; s.touched(l.slot) {
			l.slot.tokens, l.slot.dirty = nil, true
		}
		return nil
	}
	name, path := s.file()
	defer remove(path)
	if err := s.saveFile(ctx, l.slot.id, name); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read a saved slot: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read a saved slot: %w", err)
	}
	file, err := llamacpp.Open(f, info.Size())
	if err != nil {
		return fmt.Errorf("read a saved slot: %w", err)
	}
	if common(file.Tokens, l.prompt) < len(l.prompt) {
		// The client went before the prompt was read, or the server gave the slot to another request.
		l.slot.tokens, l.slot.dirty = nil, true
		return nil
	}
	if s.touched(l.slot) {
		// The tokens are right, and yet their KV may be that of a request with adapters.
		l.slot.tokens, l.slot.dirty = nil, true
		return nil
	}
	l.slot.tokens, l.slot.dirty = file.Tokens, false
	return s.put(ctx, l, file)
}

// put stores the whole blocks of a file, from the root on: without its head a chain is worth nothing.
func (s *Slots) put(ctx context.Context, l *Lease, file *llamacpp.File) error {
	space, step := s.o.Space(l.tenant), s.o.BlockTokens
	names := chain(file.Tokens, step)
	for i, n := range names {
		key := kvstore.Key{Space: space, Name: n}
		if _, err := s.o.Store.Has(ctx, key); err == nil {
			continue
		}
		hint := kvstore.Hint{Depth: uint32(i), Known: true}
		if i > 0 {
			hint.Parent = names[i-1]
		}
		if err := s.putBlock(ctx, key, hint, file, i*step); err != nil {
			if errors.Is(err, kvstore.ErrFull) || errors.Is(err, kvstore.ErrUnavailable) {
				return nil // it has counted it
			}
			return err
		}
		s.o.Metrics.stored.Add(float64(step))
		l.slot.stored = (i + 1) * step
	}
	l.slot.stored = len(names) * step
	return nil
}

func (s *Slots) putBlock(ctx context.Context, key kvstore.Key, hint kvstore.Hint, file *llamacpp.File, from int) error {
	b, err := s.o.Alloc.Alloc(int(file.Shape.BlockSize(s.o.BlockTokens)))
	if err != nil {
		return err
	}
	defer b.Release()
	if err := file.Cut(b.Bytes(), from, s.o.BlockTokens); err != nil {
		return err
	}
	return s.o.Store.Put(ctx, key, b.Seal(), hint)
}
