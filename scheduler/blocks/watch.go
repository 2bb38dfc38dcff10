package blocks

import (
	"context"
	"slices"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

const (
	// snapshotPiece is how much of a snapshot goes into one message.
	snapshotPiece = 1 << 20
	// watchGap gathers changes: who follows gets at most fifty messages a second while it keeps up.
	watchGap = 20 * time.Millisecond
)

// snapshot is a board at one moment.
type snapshot struct {
	seq     uint64
	bytes   []byte // of the index
	holders []*apiv1.BlockHolder
}

// Watch tells who stands at from what it missed, or all there is where that is no longer kept, and then every change, until ctx ends
// or send fails; the error says which. send must not change messages. Each follower is served at its own pace out of what all of
// them share: a slow one costs no memory, and gets a snapshot when it has fallen behind too far.
func (b *Board) Watch(ctx context.Context, from *apiv1.WatchBlocksRequest, seed uint64, send func(*apiv1.WatchBlocksResponse) error) error {
	seq, known := from.GetSeq(), from.GetBoard() == b.log.board
	first := true // the first message tells the seed, whatever it holds
	for {
		batch, whole, more := b.after(seq, known)
		switch {
		case whole != nil:
			if err := b.sendWhole(whole, seed, send); err != nil {
				return err
			}
			seq, known, first = whole.seq, true, false
			continue
		case len(batch) > 0 || first:
			seq, first = seq+uint64(len(batch)), false
			if err := send(&apiv1.WatchBlocksResponse{Board: b.log.board, Seq: seq, Seed: seed, Changes: batch}); err != nil {
				return err
			}
		}
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-more:
			}
		}
		if !pause(ctx, watchGap) {
			return ctx.Err()
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// after gives what follows a number: changes, or a snapshot where they are not all there.
func (b *Board) after(seq uint64, known bool) ([]*apiv1.BlockChange, *snapshot, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if known && b.log.knows(seq) {
		return b.log.after(seq), nil, b.log.more
	}
	return nil, b.snapshot(), nil
}

// snapshot is the last one taken, if changes go on from it, or a new one. The caller holds the lock.
func (b *Board) snapshot() *snapshot {
	if b.taken == nil || !b.log.knows(b.taken.seq) {
		b.taken = nil // before the next one is made: never two at a time
		b.taken = b.take()
	}
	return b.taken
}

func (b *Board) take() *snapshot {
	t := b.table.load()
	s := &snapshot{seq: b.log.seq, bytes: t.index.AppendSnapshot(nil)}
	for w, h := range *t.holders.Load() {
		s.holders = append(s.holders, h.message(w))
	}
	slices.SortFunc(s.holders, func(x, y *apiv1.BlockHolder) int { return int(x.Worker) - int(y.Worker) })
	return s
}

func (b *Board) sendWhole(s *snapshot, seed uint64, send func(*apiv1.WatchBlocksResponse) error) error {
	for at := 0; at < len(s.bytes); at += snapshotPiece {
		m := &apiv1.WatchBlocksResponse{Board: b.log.board, Seq: s.seq, Seed: seed, Snapshot: s.bytes[at:min(at+snapshotPiece, len(s.bytes))]}
		if m.More = at+snapshotPiece < len(s.bytes); !m.More {
			m.Holders = s.holders
		}
		if err := send(m); err != nil {
			return err
		}
	}
	return nil
}
