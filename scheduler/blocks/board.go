// Package blocks keeps what agents report of their engines' caches: a Board feeds an index (kvstore/index) from the block
// events in their messages, and knows which run stands behind each of the index's workers.
//
// It does no I/O and trusts no order: a message that is missing empties its worker and is asked for, since a block that is
// wrongly thought to be held costs more than one that is not known. It knows neither prompts nor choices. Its callers are the
// controller's server, which fills it, and gateways, which read it.
package blocks

import (
	"strings"
	"sync"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"

	"github.com/penstock/penstock/kvstore/index"
)

// Source is where reports come from: one node's agent of one run.
type Source struct {
	Launch string
	Rank   int // of the node
}

// Holder is what an index's worker stands for: one data-parallel rank of a run's engine.
type Holder struct {
	Launch string
	Run    string
	Rank   uint32
}

// Board is safe for concurrent use. Its index may be read at any time.
type Board struct {
	index *index.Index

	mu      sync.Mutex
	sources map[Source]*feed
	holders map[index.Worker]Holder
}

// feed is one source's state.
type feed struct {
	run     string
	seq     uint64 // of the last message
	whole   bool   // nothing is missing before the next one
	workers map[uint32]index.Worker
}

// NewBoard returns an empty board over an index of its own, bounded as l says.
func NewBoard(l index.Limit) *Board {
	return &Board{index: index.New(l), sources: map[Source]*feed{}, holders: map[index.Worker]Holder{}}
}

// Index is what the board fills. Only readers may be made of it.
func (b *Board) Index() *index.Index { return b.index }

// Holder says who a worker of the index is; not ok: nobody any more.
func (b *Board) Holder(w index.Worker) (Holder, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, ok := b.holders[w]
	return h, ok
}

// Apply takes the block events of one message, which it does not keep. False: messages are missing before it, and a full state
// is needed; until it comes, nothing is known of this source.
func (b *Board) Apply(from Source, run string, m *apiv1.ReportRequest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.sources[from]
	if f == nil || f.run != run {
		b.drop(f)
		f = &feed{run: run, workers: map[uint32]index.Worker{}}
		b.sources[from] = f
	}
	switch {
	case m.GetFull() != nil:
		f.whole = true
		b.clear(f, index.AllTiers)
	case f.whole && m.GetSeq() <= f.seq:
		return true // had before
	case !f.whole || m.GetSeq() != f.seq+1:
		f.whole = false
		b.clear(f, index.AllTiers)
		return false
	}
	f.seq = m.GetSeq()
	for _, e := range m.GetBlocks() {
		b.event(from, f, e)
	}
	return true
}

func (b *Board) event(from Source, f *feed, e *apiv1.BlockEvent) {
	tier, known := tierOf(e.GetTier())
	if e.GetKind() == apiv1.BlockEvent_KIND_CLEARED {
		tiers := index.AllTiers
		if e.GetTier() != "" {
			if !known {
				return // of a later release: nothing is kept of such a tier
			}
			tiers = index.Only(tier)
		}
		if w, ok := f.workers[e.GetDpRank()]; ok {
			b.index.Clear(w, tiers)
		}
		return
	}
	if !known {
		return
	}
	w, ok := b.worker(from, f, e.GetDpRank())
	switch {
	case !ok:
	case e.GetKind() == apiv1.BlockEvent_KIND_STORED:
		b.index.Store(w, tier, e.GetBlocks())
	case e.GetKind() == apiv1.BlockEvent_KIND_REMOVED:
		b.index.Remove(w, tier, e.GetBlocks())
	}
}

// maxRanks bounds the data-parallel ranks of one source, which come from its own messages.
const maxRanks = 1024

// worker is a rank's; not ok where there may be no more.
func (b *Board) worker(from Source, f *feed, rank uint32) (index.Worker, bool) {
	if w, ok := f.workers[rank]; ok {
		return w, true
	}
	if rank >= maxRanks {
		return 0, false
	}
	w, err := b.index.Add()
	if err != nil {
		return 0, false
	}
	f.workers[rank] = w
	b.holders[w] = Holder{Launch: from.Launch, Run: f.run, Rank: rank}
	return w, true
}

func (b *Board) clear(f *feed, tiers index.TierSet) {
	for _, w := range f.workers {
		b.index.Clear(w, tiers)
	}
}

// drop forgets all workers of a feed.
func (b *Board) drop(f *feed) {
	if f == nil {
		return
	}
	for _, w := range f.workers {
		b.index.Drop(w)
		delete(b.holders, w)
	}
}

// Keep forgets the sources of all launches that are not alive.
func (b *Board) Keep(alive func(launch string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s, f := range b.sources {
		if !alive(s.Launch) {
			b.drop(f)
			delete(b.sources, s)
		}
	}
}

// tierOf reads a tier's name on the wire.
func tierOf(name string) (index.Tier, bool) {
	for t := range index.Tier(index.Tiers) {
		if strings.EqualFold(t.String(), name) {
			return t, true
		}
	}
	return 0, false
}
