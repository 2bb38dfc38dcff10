// Package blocks keeps what is known of engines' caches: which run holds which block of KV, by its name.
//
// A Board feeds an index (kvstore/index) from the block events in agents' messages, and knows which run stands behind each of the
// index's workers. It trusts no order: a message that is missing empties its worker and is asked for, since a block that is wrongly
// thought to be held costs more than one that is not known. A Mirror is the same in another process, kept by the board's own
// changes. Guesses are what somebody has sent to engines himself and may believe to be there for a while.
//
// The package does no I/O; it knows neither prompts nor choices. Its callers are the controller's server, which fills a board, and
// gateways, which ask.
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
	table table

	mu      sync.Mutex
	sources map[Source]*feed
	log     changes
	taken   *snapshot // the last one, for as long as the log goes on from it
}

// feed is one source's state.
type feed struct {
	run     string
	seq     uint64 // of the last message
	whole   bool   // nothing is missing before the next one, or what is missing was asked for
	asked   uint64 // up to where it was asked for; 0 = not
	workers map[uint32]index.Worker
}

// NewBoard returns an empty board over an index of its own, bounded as l says.
func NewBoard(l index.Limit) *Board {
	b := &Board{sources: map[Source]*feed{}, log: newChanges()}
	b.table.reset(index.New(l), nil)
	return b
}

// Stats says how full the board is.
func (b *Board) Stats() index.Stats { return b.table.load().index.Stats() }

// Match appends to dst how much of a prompt each rank of each run holds, in no order. Ids are the chain of one prompt.
func (b *Board) Match(ids []uint64, dst []Held) []Held { return b.table.match(ids, dst) }

// Apply takes the block events of one message, which it does not keep. Not ok: messages are missing before it, and have to be sent
// again: a range of them, or a full state. Until that comes, nothing is known of this source, unless it has only just been heard of
// again: what was known of it before is good until then.
func (b *Board) Apply(from Source, run string, m *apiv1.ReportRequest) (missing *apiv1.Resend, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.sources[from]
	if f == nil || f.run != run {
		b.drop(f)
		f = &feed{run: run, workers: map[uint32]index.Worker{}}
		b.sources[from] = f
	}
	full, follows := m.GetFull() != nil && !m.GetBlocksFollow(), m.GetFull() != nil && m.GetBlocksFollow()
	switch {
	case full:
		f.whole, f.asked = true, 0
		b.clear(f, index.AllTiers)
	case f.whole && m.GetSeq() <= f.seq:
		return nil, true // had before
	case f.whole && m.GetSeq() == f.seq+1:
		if m.GetSeq() >= f.asked {
			f.asked = 0
		}
	case f.whole && (follows || f.asked > 0):
		if m.GetSeq() <= f.asked {
			return nil, true // on its way again
		}
		f.asked = m.GetSeq()
		return &apiv1.Resend{From: f.seq + 1, To: m.GetSeq()}, false
	default:
		f.whole = false
		b.clear(f, index.AllTiers)
		return &apiv1.Resend{}, false
	}
	f.seq = m.GetSeq()
	for _, e := range m.GetBlocks() {
		b.event(from, f, e)
	}
	return nil, true
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
			b.change(move(w, apiv1.BlockEvent_KIND_CLEARED, tiers, nil))
		}
		return
	}
	if !known {
		return
	}
	w, ok := b.worker(from, f, e.GetDpRank())
	if ok && (e.GetKind() == apiv1.BlockEvent_KIND_STORED || e.GetKind() == apiv1.BlockEvent_KIND_REMOVED) {
		b.change(move(w, e.GetKind(), index.Only(tier), e.GetBlocks()))
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
	w, err := b.table.add(Holder{Launch: from.Launch, Run: f.run, Rank: rank})
	if err != nil {
		return 0, false
	}
	f.workers[rank] = w
	b.log.put(added(w, Holder{Launch: from.Launch, Run: f.run, Rank: rank}))
	return w, true
}

func (b *Board) clear(f *feed, tiers index.TierSet) {
	for _, w := range f.workers {
		b.change(move(w, apiv1.BlockEvent_KIND_CLEARED, tiers, nil))
	}
}

// change makes a change, which others are told of.
func (b *Board) change(c *apiv1.BlockChange) {
	b.table.apply(c)
	b.log.put(c)
}

// drop forgets all workers of a feed.
func (b *Board) drop(f *feed) {
	if f == nil {
		return
	}
	for _, w := range f.workers {
		b.change(dropped(w))
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
