package blocks

import (
	"crypto/rand"
	"encoding/binary"
	"slices"

	"github.com/penstock/penstock/kvstore/index"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// What a board keeps of its changes for those that follow it: some 10 MiB. Who falls further behind gets a snapshot.
const (
	keptBlocks  = 1 << 20
	keptChanges = 1 << 15
)

// changes are the last changes of a board, by number. Its lock is the board's.
type changes struct {
	board  uint64 // whose numbers these are
	seq    uint64 // of the last change
	kept   []*apiv1.BlockChange
	blocks int           // in kept
	more   chan struct{} // closed at the next change
}

func newChanges() changes {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return changes{board: binary.LittleEndian.Uint64(b[:]) | 1, more: make(chan struct{})}
}

// put adds a change, which nobody may alter any more.
func (l *changes) put(c *apiv1.BlockChange) {
	l.seq++
	l.kept = append(l.kept, c)
	l.blocks += len(c.GetMove().GetBlocks())
	drop, left := 0, l.blocks
	for drop < len(l.kept)-1 && (left > keptBlocks || len(l.kept)-drop > keptChanges) {
		left -= len(l.kept[drop].GetMove().GetBlocks())
		drop++
	}
	if drop > len(l.kept)/4 || l.blocks > 2*keptBlocks { // not at each change
		l.kept, l.blocks = slices.Clone(l.kept[drop:]), left
	}
	close(l.more)
	l.more = make(chan struct{})
}

// knows tells whether all changes after a number are still there.
func (l *changes) knows(seq uint64) bool {
	return seq <= l.seq && l.seq-seq <= uint64(len(l.kept))
}

// after lists the changes that follow a number, as many as one message takes.
func (l *changes) after(seq uint64) []*apiv1.BlockChange {
	from := l.kept[uint64(len(l.kept))-(l.seq-seq):]
	n, blocks := 0, 0
	for n < len(from) && n < changesAtOnce && (n == 0 || blocks < blocksAtOnce) {
		blocks += len(from[n].GetMove().GetBlocks())
		n++
	}
	return slices.Clone(from[:n])
}

// A message to who follows: half a megabyte.
const (
	changesAtOnce = 1 << 12
	blocksAtOnce  = 1 << 16
)

// move makes a change; it copies ids.
func move(w index.Worker, kind apiv1.BlockEvent_Kind, tiers index.TierSet, ids []uint64) *apiv1.BlockChange {
	return &apiv1.BlockChange{Body: &apiv1.BlockChange_Move{Move: &apiv1.BlockMove{
		Worker: uint32(w), Kind: kind, Tiers: uint32(tiers), Blocks: slices.Clone(ids),
	}}}
}

func added(w index.Worker, h Holder) *apiv1.BlockChange {
	return &apiv1.BlockChange{Body: &apiv1.BlockChange_Added{Added: h.message(w)}}
}

func dropped(w index.Worker) *apiv1.BlockChange {
	return &apiv1.BlockChange{Body: &apiv1.BlockChange_Dropped{Dropped: uint32(w)}}
}

func (h Holder) message(w index.Worker) *apiv1.BlockHolder {
	return &apiv1.BlockHolder{Worker: uint32(w), Launch: h.Launch, Run: h.Run, DpRank: h.Rank}
}

func holderOf(m *apiv1.BlockHolder) Holder {
	return Holder{Launch: m.GetLaunch(), Run: m.GetRun(), Rank: m.GetDpRank()}
}
