package disk

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// List calls each with every block, from index memory alone: those of the newest segment first, and of a segment the newest
// first. What is put meanwhile may be left out. It stops with each's error.
func (s *Store) List(ctx context.Context, each func(kvstore.Key, kvstore.Info) error) error {
	s.mu.Lock()
	order := slices.Clone(s.order)
	s.mu.Unlock()
	slices.SortFunc(order, func(a, b *segment) int { return cmp.Compare(b.number, a.number) })
	for _, g := range order {
		for _, e := range s.entries(g) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := each(e.key, e.info()); err != nil {
				return err
			}
		}
	}
	return nil
}

// entries are those of a segment, the newest first.
func (s *Store) entries(g *segment) []entry {
	s.mu.Lock()
	all := make([]entry, 0, g.blocks)
	for at := g.first; at != 0; at = s.index.entry(at).next {
		all = append(all, *s.index.entry(at))
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(b.seq, a.seq) })
	return all
}

func (e *entry) info() kvstore.Info {
	return kvstore.Info{Size: int64(e.size), Sum: e.sum, StoredAt: time.Unix(int64(e.stored), 0)}
}
