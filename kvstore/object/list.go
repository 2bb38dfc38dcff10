package object

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// List calls each with every block that this store knows of: those in packs, the newest first, then those with an object of
// their own, as the bucket lists them. Of the latter the checksum is not known without reading them, and is left zero. It
// stops with each's error.
func (s *Store) List(ctx context.Context, each func(kvstore.Key, kvstore.Info) error) error {
	type packedBlock struct {
		key kvstore.Key
		spot
	}
	s.mu.Lock()
	all := make([]packedBlock, 0, len(s.index))
	for k, at := range s.index {
		all = append(all, packedBlock{k, at})
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b packedBlock) int { return cmp.Compare(b.stored, a.stored) })
	for _, b := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := each(b.key, kvstore.Info{Size: int64(b.size), Sum: b.sum, StoredAt: time.Unix(0, b.stored)}); err != nil {
			return err
		}
	}
	return s.list(ctx, "b/", func(name string, st stat) error {
		k, ok := parseBlockName(name)
		if !ok {
			return nil
		}
		return each(k, kvstore.Info{Size: s.payload(st.size), StoredAt: st.modified})
	})
}

// payload is how many bytes of an object of one block are the block's.
func (s *Store) payload(object int64) int64 {
	n := object - overhead
	if s.opts.Keys != nil {
		n -= tagSize
	}
	return max(n, 0)
}

// Purge removes all objects below the store's prefix, whoever has put them there. It is for stores of a moment, such as a
// benchmark's.
func (s *Store) Purge(ctx context.Context) error {
	for _, prefix := range []string{"b/", "p/", "d/", "spaces/", temporary + "/"} {
		var names []string
		if err := s.list(ctx, prefix, func(name string, _ stat) error { names = append(names, name); return nil }); err != nil {
			return err
		}
		if err := s.removeAll(ctx, names); err != nil {
			return err
		}
	}
	if err := s.deleteObject(ctx, nowName); err != nil {
		return fmt.Errorf("remove %s: %w", nowName, err)
	}
	return nil
}

// Taken is how many bytes of objects the bucket holds below the store's prefix, and how many objects there are.
func (s *Store) Taken(ctx context.Context) (objects, bytes int64, err error) {
	for _, prefix := range []string{"b/", "p/", "d/"} {
		if err := s.list(ctx, prefix, func(_ string, st stat) error { objects++; bytes += st.size; return nil }); err != nil {
			return 0, 0, err
		}
	}
	return objects, bytes, nil
}
