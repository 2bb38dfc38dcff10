package blocks

import (
	"errors"
	"fmt"
	"sync"

	"github.com/penstock/penstock/kvstore/index"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// ErrGap means that a message does not follow on the last one: the board is to be watched anew, from From.
var ErrGap = errors.New("changes of the board are missing")

// maxSnapshot bounds what a controller can make a mirror keep while a snapshot comes in.
const maxSnapshot = 1 << 30

// Mirror is a board of another process. It goes on with what it has when no messages come. Safe for concurrent use.
type Mirror struct {
	table table
	limit index.Limit

	mu      sync.Mutex
	board   uint64
	seq     uint64
	seed    uint64
	pieces  []byte // of a snapshot that is coming in
	partial uint64 // its board
}

// NewMirror returns an empty mirror.
func NewMirror(l index.Limit) *Mirror {
	m := &Mirror{limit: l}
	m.table.reset(index.New(l), nil)
	return m
}

// Match is Board.Match.
func (m *Mirror) Match(ids []uint64, dst []Held) []Held { return m.table.match(ids, dst) }

// Stats says how full the mirror is.
func (m *Mirror) Stats() index.Stats { return m.table.load().index.Stats() }

// Seed is the secret of the names of blocks; 0 = nobody has told it yet.
func (m *Mirror) Seed() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seed
}

// From says how far the mirror has come, for who begins to watch.
func (m *Mirror) From() *apiv1.WatchBlocksRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pieces = nil
	return &apiv1.WatchBlocksRequest{Board: m.board, Seq: m.seq}
}

// Apply takes the next message. After an error nothing of it is kept.
func (m *Mirror) Apply(r *apiv1.WatchBlocksResponse) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seed = r.GetSeed()
	if len(r.GetSnapshot()) > 0 {
		return m.piece(r)
	}
	if n := uint64(len(r.GetChanges())); r.GetBoard() != m.board || r.GetSeq() != m.seq+n {
		return fmt.Errorf("%w: %d changes up to %d came after %d", ErrGap, n, r.GetSeq(), m.seq)
	}
	for _, c := range r.GetChanges() {
		if err := m.change(c); err != nil {
			m.board, m.seq = 0, 0 // what is there is no board's any more; it serves until a snapshot comes
			return err
		}
		m.seq++
	}
	return nil
}

// change makes one change. A holder must get the name here that it has there.
func (m *Mirror) change(c *apiv1.BlockChange) error {
	h := c.GetAdded()
	if h == nil {
		m.table.apply(c)
		return nil
	}
	w, err := m.table.add(holderOf(h))
	switch {
	case err != nil:
		return fmt.Errorf("mirror holder %d: %w", h.GetWorker(), err)
	case uint32(w) != h.GetWorker():
		return fmt.Errorf("%w: holder %d has become %d", ErrGap, h.GetWorker(), w)
	}
	return nil
}

// piece takes in a piece of a snapshot, and after the last one what it stands for.
func (m *Mirror) piece(r *apiv1.WatchBlocksResponse) error {
	if m.partial != r.GetBoard() {
		m.pieces, m.partial = nil, r.GetBoard()
	}
	if m.pieces = append(m.pieces, r.GetSnapshot()...); len(m.pieces) > maxSnapshot {
		m.pieces = nil
		return fmt.Errorf("mirror a board: its snapshot is larger than %d bytes", maxSnapshot)
	}
	if r.GetMore() {
		return nil
	}
	x, _, err := index.Restore(m.limit, m.pieces)
	m.pieces = nil
	if err != nil {
		return fmt.Errorf("mirror a board: %w", err)
	}
	holders := make(map[index.Worker]Holder, len(r.GetHolders()))
	for _, h := range r.GetHolders() {
		holders[index.Worker(h.GetWorker())] = holderOf(h)
	}
	m.table.reset(x, holders)
	m.board, m.seq = r.GetBoard(), r.GetSeq()
	return nil
}
