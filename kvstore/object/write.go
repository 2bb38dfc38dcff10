package object

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// blockName is the object of a large block. The first part spreads names over what the server splits by.
func blockName(k kvstore.Key) string {
	return fmt.Sprintf("b/%.3x/%x-%x-%04x", uint16(k.Name[0])<<4|uint16(k.Name[1])>>4, k.Space, k.Name, k.Part)
}

// parseBlockName is the inverse of blockName.
func parseBlockName(name string) (k kvstore.Key, ok bool) {
	var space, digest []byte
	if len(name) < 6 {
		return k, false
	}
	if _, err := fmt.Sscanf(name[6:], "%32x-%64x-%04x", &space, &digest, &k.Part); err != nil || len(space) != len(k.Space) || len(digest) != len(k.Name) {
		return k, false
	}
	k.Space, k.Name = kvstore.Space(space), kvstore.Name(digest)
	return k, blockName(k) == name
}

// now is a time for a record: later than that of any before, so that of two records the later one counts. The lock is held.
func (s *Store) now() int64 {
	s.latest = max(time.Now().UnixNano(), s.latest+1)
	return s.latest
}

// Put implements kvstore.Store. A large block is in the bucket when it returns; a small one is sent with others, and may be
// lost until Sync.
func (s *Store) Put(ctx context.Context, k kvstore.Key, b *kvstore.Block, _ kvstore.Hint) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.put(ctx, newRecord(k, b), b.Bytes())
	switch {
	case err == nil:
		s.count.puts.Add(1)
		return nil
	case errors.Is(err, kvstore.ErrFull) || errors.Is(err, kvstore.ErrUnavailable):
		s.count.drops.Add(1)
	}
	return fmt.Errorf("put block %s: %w", k, err)
}

func (s *Store) put(ctx context.Context, r record, data []byte) error {
	switch {
	case s.closed.Load():
		return errClosed
	case len(data) > maxBlockSize || s.opts.Budget > 0 && int64(len(data)) > s.opts.Budget:
		return fmt.Errorf("%d bytes: %w", len(data), kvstore.ErrFull)
	case len(data) < s.opts.PackBelow:
		if s.patience.closed() {
			return errOpen
		}
		return s.add(ctx, r, data)
	}
	return s.putLarge(ctx, r, data)
}

var errClosed = fmt.Errorf("the store is closed: %w", kvstore.ErrUnavailable)

// putLarge makes an object of its own for a block, unless the very same is there.
func (s *Store) putLarge(ctx context.Context, r record, data []byte) error {
	r.digest = digestOf(data)
	s.mu.Lock()
	r.stored = s.now()
	s.mu.Unlock()
	o := s.outgoing.get(overhead + len(data) + 2*tagSize)
	defer s.outgoing.put(o)
	b, sl, err := appendHead(o.bytes[:0], s.opts.Keys)
	if err != nil {
		return err
	}
	b = sl.appendRecord(b, &r, data)
	name := blockName(r.key)
	err = s.sendObject(ctx, name, b, true, o)
	if errors.Is(err, errExists) {
		if there, err := s.header(ctx, name); err == nil && there.same(&r) {
			s.count.same.Add(1)
			return s.unpack(ctx, r.key)
		}
		err = s.sendObject(ctx, name, b, false, o)
	}
	if err != nil {
		return err
	}
	s.opts.Moves(kvstore.Move{Key: r.key, Tier: kvstore.Object, Held: true})
	for {
		old := s.largest.Load()
		if int64(len(b)) <= old || s.largest.CompareAndSwap(old, int64(len(b))) {
			break
		}
	}
	return s.unpack(ctx, r.key)
}

// putObject sends an object. Where one of the name is there, that may be from an earlier try whose answer was lost.
func (s *Store) putObject(ctx context.Context, name string, b []byte, ifAbsent bool) error {
	return s.sendObject(ctx, name, b, ifAbsent, &outgoing{})
}

// sendObject is putObject of bytes that are in o. Requests that nobody waits for any more go on with them.
func (s *Store) sendObject(ctx context.Context, name string, b []byte, ifAbsent bool, o *outgoing) error {
	if s.unconditional.Load() {
		ifAbsent = false
	}
	_, err := ask(ctx, s.patience, s.patience.writes, len(b), false, func(ctx context.Context) (struct{}, error) {
		o.users.Add(1)
		defer o.users.Add(-1)
		if ctx.Err() != nil { // nobody waits any more: the bytes may be another object's by now
			return struct{}{}, ctx.Err()
		}
		err := s.bucket.Put(ctx, name, b, ifAbsent)
		if errors.Is(err, errNoConditions) {
			s.unconditional.Store(true)
			err = s.bucket.Put(ctx, name, b, false)
		}
		return struct{}{}, err
	}, func(struct{}) {})
	switch {
	case err == nil:
		s.count.written.Add(int64(len(b)))
	case errors.Is(err, kvstore.ErrUnavailable):
		s.count.errors.Add(1)
	}
	return err
}
