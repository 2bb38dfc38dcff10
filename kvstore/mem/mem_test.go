package mem

import (
	"testing"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/evict"
	"github.com/penstock/penstock/kvstore/storetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	for _, p := range evict.Policies() {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, subject(Options{Policy: p}))
		})
	}
	t.Run("shared", func(t *testing.T) {
		t.Parallel()
		storetest.Run(t, subject(Options{Shared: true}))
	})
}

func subject(base Options) func(*testing.T, storetest.Options) storetest.Subject {
	return func(_ *testing.T, o storetest.Options) storetest.Subject {
		if o.Budget == 0 {
			o.Budget = 64 << 20
		}
		base.Bytes, base.Moves, base.Poison = o.Budget, o.Moves, true
		s := New(base)
		return storetest.Subject{
			Store: s, Close: s.Close, Live: s.out.Load, Bounded: true, Groups: true,
			Corrupt: func(k kvstore.Key) { s.flip(k) },
		}
	}
}

// flip changes a bit of what is stored under a key.
func (s *Store) flip(k kvstore.Key) {
	id := idOf(k.Group())
	sh := s.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	was, _, ok := sh.look(k, hashOf(id))
	if !ok || was.size == 0 {
		panic("nothing to change under " + k.String())
	}
	s.arena.bytes(was.slot)[was.size/2] ^= 4
}
