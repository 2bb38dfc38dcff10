package blocks

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/kvstore/index"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// Held is how much of a prompt one rank of a run holds: so many leading blocks in each tier or a faster one.
type Held struct {
	Holder
	Lead [index.Tiers]uint32
}

// table is an index and who its workers are. Any number of readers, one writer at a time.
type table struct {
	now atomic.Pointer[tableState]
}

// tableState is replaced as a whole by a snapshot.
type tableState struct {
	index   *index.Index
	holders atomic.Pointer[map[index.Worker]Holder] // never changed, only replaced
	readers sync.Pool
}

// reader is what one match needs.
type reader struct {
	*index.Reader
	matches []index.Match
}

func (t *table) load() *tableState { return t.now.Load() }

func (t *table) reset(x *index.Index, holders map[index.Worker]Holder) {
	s := &tableState{index: x}
	if holders == nil {
		holders = map[index.Worker]Holder{}
	}
	s.holders.Store(&holders)
	s.readers.New = func() any { return &reader{Reader: x.NewReader()} }
	t.now.Store(s)
}

// match appends to dst what each holder has of a prompt.
func (t *table) match(ids []uint64, dst []Held) []Held {
	if len(ids) == 0 {
		return dst
	}
	s := t.load()
	r, _ := s.readers.Get().(*reader)
	defer s.readers.Put(r)
	r.matches = r.Match(ids, r.matches[:0])
	holders := *s.holders.Load()
	dst = slices.Grow(dst, len(r.matches))
	for _, m := range r.matches {
		if h, ok := holders[m.Worker]; ok {
			dst = append(dst, Held{h, m.Lead})
		}
	}
	return dst
}

// add takes in a holder.
func (t *table) add(h Holder) (index.Worker, error) {
	s := t.load()
	w, err := s.index.Add()
	if err != nil {
		return 0, err
	}
	next := maps.Clone(*s.holders.Load())
	next[w] = h
	s.holders.Store(&next)
	return w, nil
}

// apply makes a change that is no addition.
func (t *table) apply(c *apiv1.BlockChange) {
	s := t.load()
	if w := index.Worker(c.GetDropped()); w != 0 {
		s.index.Drop(w)
		next := maps.Clone(*s.holders.Load())
		delete(next, w)
		s.holders.Store(&next)
		return
	}
	m := c.GetMove()
	w, tiers := index.Worker(m.GetWorker()), index.TierSet(m.GetTiers())&index.AllTiers
	switch m.GetKind() {
	case apiv1.BlockEvent_KIND_CLEARED:
		s.index.Clear(w, tiers)
	case apiv1.BlockEvent_KIND_STORED, apiv1.BlockEvent_KIND_REMOVED:
		for tier := range index.Tier(index.Tiers) {
			switch {
			case tiers&index.Only(tier) == 0:
			case m.GetKind() == apiv1.BlockEvent_KIND_STORED:
				s.index.Store(w, tier, m.GetBlocks())
			default:
				s.index.Remove(w, tier, m.GetBlocks())
			}
		}
	}
}
