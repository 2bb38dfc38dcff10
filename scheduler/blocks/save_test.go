package blocks

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/kvstore/index"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// source is an agent: it holds blocks, numbers its messages and keeps the last few of them.
type source struct {
	held  map[uint64]bool
	seq   uint64
	ring  map[uint64]*apiv1.ReportRequest
	kept  uint64
	dumps int // how often it has told everything
}

func (s *source) message(full bool, e *apiv1.BlockEvent) *apiv1.ReportRequest {
	s.seq++
	m := delta(s.seq, e)
	if full {
		m.Body, m.BlocksFollow = &apiv1.ReportRequest_Full{Full: &apiv1.RunState{}}, true
	}
	s.ring[s.seq] = m
	delete(s.ring, s.seq-s.kept)
	return m
}

func (s *source) change(t *rapid.T) *apiv1.BlockEvent {
	id := rapid.Uint64Range(1, 8).Draw(t, "id")
	if s.held[id] = !s.held[id]; s.held[id] {
		return stored(0, "gpu", id)
	}
	return removed(0, "gpu", id)
}

// tell sends a message, and what the board wants to have again.
func (s *source) tell(b *Board, m *apiv1.ReportRequest) {
	from := Source{"a", 0}
	missing, ok := b.Apply(from, "r", m)
	if ok {
		return
	}
	for seq := missing.From; missing.From > 0 && seq <= missing.To; seq++ {
		again := s.ring[seq]
		if again == nil {
			missing.From = 0
			break
		}
		b.Apply(from, "r", again)
	}
	if missing.From > 0 {
		return
	}
	s.seq++
	s.dumps++
	var ids []uint64
	for id, held := range s.held {
		if held {
			ids = append(ids, id)
		}
	}
	m = full(s.seq, cleared(0, ""), stored(0, "gpu", ids...))
	s.ring[s.seq] = m
	b.Apply(from, "r", m)
}

// TestRestart: a board that was saved at some time and restored later is right again as soon as its source has said one more thing,
// and without the source telling everything, as long as that keeps what was missed.
func TestRestart(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := NewBoard(index.Limit{})
		s := &source{held: map[uint64]bool{}, ring: map[uint64]*apiv1.ReportRequest{}, kept: rapid.SampledFrom([]uint64{3, 1000}).Draw(t, "kept")}
		s.tell(b, full(1, cleared(0, "")))
		s.seq, s.dumps = max(s.seq, 1), 0
		for range rapid.IntRange(1, 4).Draw(t, "restarts") {
			for range rapid.IntRange(0, 10).Draw(t, "before") {
				s.tell(b, s.message(false, s.change(t)))
			}
			saved, err := b.Save()
			if err != nil {
				t.Fatal(err)
			}
			for range rapid.IntRange(0, 10).Draw(t, "after it was saved") {
				s.tell(b, s.message(false, s.change(t)))
			}
			for range rapid.IntRange(0, 5).Draw(t, "while it is away") {
				s.message(false, s.change(t))
			}
			b = NewBoard(index.Limit{})
			if err := b.Restore(saved, index.Limit{}); err != nil {
				t.Fatal(err)
			}
			s.tell(b, s.message(true, s.change(t)))
			for id := range uint64(9) {
				if known := len(b.Match([]uint64{id}, nil)) > 0; known != s.held[id] {
					t.Fatalf("block %d: known %v, held %v", id, known, s.held[id])
				}
			}
		}
		if s.kept == 1000 && s.dumps > 0 {
			t.Fatalf("everything was told %d times", s.dumps)
		}
	})
}

// FuzzRestore: whatever a state file holds, it is a board or an error.
func FuzzRestore(f *testing.F) {
	b := NewBoard(index.Limit{})
	b.Apply(Source{"a", 0}, "r", full(6, cleared(0, ""), stored(0, "gpu", 1, 2), stored(1, "host", 1)))
	b.Apply(Source{"b", 0}, "r", full(1, stored(0, "disk", 1)))
	b.Apply(Source{"b", 0}, "r", delta(5, stored(0, "disk", 1))) // a gap
	saved, err := b.Save()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(saved)
	f.Add(bytes.Replace(slices.Clone(saved), []byte(`"1":2`), []byte(`"1":1`), 1))
	f.Fuzz(func(t *testing.T, saved []byte) {
		b := NewBoard(index.Limit{Bytes: 1 << 20})
		if err := b.Restore(saved, index.Limit{Bytes: 1 << 20}); err != nil {
			if !errors.Is(err, ErrSaved) || len(seen(b)) > 0 {
				t.Fatalf("%v, %v", err, seen(b))
			}
			return
		}
		again, err := b.Save()
		if err != nil {
			t.Fatal(err)
		}
		c := NewBoard(index.Limit{})
		if err := c.Restore(again, index.Limit{}); err != nil || !maps.Equal(seen(b), seen(c)) {
			t.Fatalf("%v: %v, %v", err, seen(b), seen(c))
		}
	})
}
