package faulty

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/storetest"
)

// shelf is the plainest store: a map of retained blocks.
type shelf struct {
	mu     sync.Mutex
	blocks map[kvstore.Key]*kvstore.Block
	stats  kvstore.Stats
}

func (s *shelf) Get(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.blocks[k] == nil {
		s.stats.Misses++
		return nil, kvstore.ErrNotFound
	}
	s.stats.Hits++
	return s.blocks[k].Retain(), nil
}

func (s *shelf) GetMany(context.Context, []kvstore.Key, func(int, *kvstore.Block) error) error {
	panic("faulty asks key by key")
}

func (s *shelf) Has(ctx context.Context, k kvstore.Key) (kvstore.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return kvstore.Info{}, err
	}
	b := s.blocks[k]
	if b == nil {
		return kvstore.Info{}, kvstore.ErrNotFound
	}
	return kvstore.Info{Size: int64(b.Len()), Sum: b.Sum()}, nil
}

func (s *shelf) Put(ctx context.Context, k kvstore.Key, b *kvstore.Block, _ kvstore.Hint) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if old := s.blocks[k]; old != nil {
		old.Release()
	}
	s.blocks[k] = b.Retain()
	s.stats.Puts++
	return nil
}

func (s *shelf) Delete(ctx context.Context, k kvstore.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if b := s.blocks[k]; b != nil {
		b.Release()
		delete(s.blocks, k)
		s.stats.Deleted++
	}
	return nil
}

func (s *shelf) Stats() kvstore.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Blocks = int64(len(s.blocks))
	for _, b := range s.blocks {
		st.Bytes += int64(b.Len())
	}
	return st
}

func (s *shelf) close() error {
	for _, b := range s.blocks {
		b.Release()
	}
	return nil
}

// TestWithoutFaults: a wrapper that does nothing is a store like any other.
func TestWithoutFaults(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T, storetest.Options) storetest.Subject {
		s := &shelf{blocks: map[kvstore.Key]*kvstore.Block{}}
		f := New(s, func(Op, kvstore.Key) Fault { return Fault{} })
		return storetest.Subject{Store: f, Close: s.close, Silent: true}
	})
}

func TestFaults(t *testing.T) {
	t.Parallel()
	broken, k := errors.New("broken"), kvstore.Key{Part: 1}
	old, new := kvstore.NewBlock([]byte("old"), nil).Seal(), kvstore.NewBlock([]byte("new"), nil).Seal()
	for _, c := range []struct {
		name  string
		fault Fault
		put   error  // of putting new over old
		want  string // what a Get finds then, "" = a miss
		err   error  // which miss
	}{
		{"nothing", Fault{}, nil, "new", nil},
		{"error", Fault{Err: broken}, broken, "old", nil},
		{"lost answer", Fault{Err: broken, AfterAll: true}, broken, "new", nil},
		{"torn", Fault{Torn: true}, nil, "", kvstore.ErrCorrupt},
		{"lost", Fault{Lost: true}, nil, "", kvstore.ErrNotFound},
	} {
		s := New(&shelf{blocks: map[kvstore.Key]*kvstore.Block{k: old.Retain()}}, func(op Op, _ kvstore.Key) Fault {
			if op == Put {
				return c.fault
			}
			return Fault{}
		})
		if err := s.Put(t.Context(), k, new, kvstore.Hint{}); !errors.Is(err, c.put) {
			t.Errorf("%s: put: %v", c.name, err)
		}
		b, err := s.Get(t.Context(), k)
		if got := text(b); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: got %q, %v", c.name, got, err)
		}
	}
}

func text(b *kvstore.Block) string {
	if b == nil {
		return ""
	}
	return string(b.Bytes())
}

func TestTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := Fault{Delay: time.Hour}
		s := New(&shelf{blocks: map[kvstore.Key]*kvstore.Block{}}, func(Op, kvstore.Key) Fault { return f })
		begun := time.Now()
		if _, err := s.Get(t.Context(), kvstore.Key{}); !errors.Is(err, kvstore.ErrNotFound) || time.Since(begun) != time.Hour {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		f = Fault{Hang: true}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Delete(ctx, kvstore.Key{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hanging: %v", err)
		}
	})
}
