package blocks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/penstock/penstock/kvstore/index"
)

// savedMagic begins a saved board; then come a line of JSON and the index's snapshot.
const savedMagic = "psboard1\n"

// ErrSaved means that bytes are no saved board, or a damaged one.
var ErrSaved = errors.New("not a whole saved board")

// savedSource is where one source stood.
type savedSource struct {
	Launch  string                  `json:"launch"`
	Rank    int                     `json:"rank"`
	Run     string                  `json:"run"`
	Seq     uint64                  `json:"seq"`
	Workers map[uint32]index.Worker `json:"workers"` // by data-parallel rank
}

// Save gives all that the board knows, for Restore after a restart.
func (b *Board) Save() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	sources := []savedSource{}
	for s, f := range b.sources {
		if f.whole {
			sources = append(sources, savedSource{s.Launch, s.Rank, f.run, f.seq, f.workers})
		}
	}
	line, err := json.Marshal(sources)
	if err != nil {
		return nil, fmt.Errorf("save a board: %w", err)
	}
	return b.table.load().index.AppendSnapshot(append(append([]byte(savedMagic), line...), '\n')), nil
}

// Restore makes an empty board what a saved one was. Sources that go on are asked for what they have said since; of the others what
// was known stands until Keep forgets them.
func (b *Board) Restore(saved []byte, l index.Limit) error {
	rest, ok := bytes.CutPrefix(saved, []byte(savedMagic))
	line, snapshot, whole := bytes.Cut(rest, []byte("\n"))
	if !ok || !whole {
		return ErrSaved
	}
	var sources []savedSource
	if err := json.Unmarshal(line, &sources); err != nil {
		return fmt.Errorf("%w: %w", ErrSaved, err)
	}
	x, workers, err := index.Restore(l, snapshot)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSaved, err)
	}
	unclaimed := make(map[index.Worker]bool, len(workers))
	for _, w := range workers {
		unclaimed[w] = true
	}
	feeds, holders := map[Source]*feed{}, map[index.Worker]Holder{}
	for _, s := range sources {
		f := &feed{run: s.Run, seq: s.Seq, whole: true, workers: map[uint32]index.Worker{}}
		for rank, w := range s.Workers {
			if !unclaimed[w] || rank >= maxRanks {
				return fmt.Errorf("%w: worker %d of %s", ErrSaved, w, s.Launch)
			}
			delete(unclaimed, w)
			f.workers[rank] = w
			holders[w] = Holder{Launch: s.Launch, Run: s.Run, Rank: rank}
		}
		feeds[Source{s.Launch, s.Rank}] = f
	}
	for w := range unclaimed { // of sources that were not whole
		x.Drop(w)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sources, b.taken, b.log = feeds, nil, newChanges()
	b.table.reset(x, holders)
	return nil
}
