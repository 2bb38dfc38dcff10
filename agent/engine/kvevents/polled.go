package kvevents

import (
	"encoding/json"
	"strconv"

	"github.com/penstock/penstock/kvstore/index"
)

// Polled follows an engine whose events are asked for over HTTP (TensorRT-LLM): each answer holds those since the one before,
// numbered, and the engine drops the oldest when nobody asks for too long. It is used by one goroutine.
type Polled struct {
	book  *Book
	next  uint64
	began bool
}

// NewPolled returns a follower that fills b.
func NewPolled(b *Book) *Polled { return &Polled{book: b} }

// Take reads an answer and returns what changed. Lost: numbers are missing, so what was known was forgotten first. An answer
// that cannot be read at all is an error, and whatever it held shows as missing in the next one.
func (p *Polled) Take(answer []byte) (changes []Change, lost bool, err error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(answer, &raw); err != nil {
		return nil, false, ErrBatch
	}
	var batch Batch
	for _, text := range raw {
		var e polledEvent
		if json.Unmarshal(text, &e) != nil || e.ID == nil {
			batch.Bad++ // its number shows as missing
			continue
		}
		if p.began && uint64(*e.ID) != p.next {
			lost, batch.Events = true, nil // those before it are of no more use
		}
		p.next, p.began = uint64(*e.ID)+1, true
		batch.Events = append(batch.Events, e.events()...)
	}
	if lost {
		changes = p.book.Reset()
	}
	return append(changes, p.book.Apply(batch)...), lost, nil
}

// polledEvent is one of TensorRT-LLM's.
type polledEvent struct {
	ID   *bits64 `json:"event_id"`
	Data struct {
		Type   string  `json:"type"`
		Parent *bits64 `json:"parent_hash"`
		Blocks []struct {
			Hash   bits64 `json:"block_hash"`
			Tokens []struct {
				ID    bits64 `json:"token_id"`
				Extra bits64 `json:"token_extra_id"`
			} `json:"tokens"`
			LoRA  *bits64 `json:"lora_id"`
			Level int     `json:"cache_level"`
		} `json:"blocks"`
		Hashes []bits64 `json:"block_hashes"`
		Hash   bits64   `json:"block_hash"`
		Level  *struct {
			New int `json:"new_value"`
			Old int `json:"old_value"`
		} `json:"cache_level"`
	} `json:"data"`
}

// bits64 is a number of 64 bits, signed or not; not a float, which JSON's would be.
type bits64 uint64

// UnmarshalJSON reads either form.
func (b *bits64) UnmarshalJSON(text []byte) error {
	if n, err := strconv.ParseUint(string(text), 10, 64); err == nil {
		*b = bits64(n)
		return nil
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	*b = bits64(n)
	return err
}

// level is a tier: 0 is the GPU, all others host memory.
func level(n int) index.Tier {
	if n == 0 {
		return index.GPU
	}
	return index.Host
}

// events are the same in the form of the other engines. A block may be shorter than the others of its engine; nothing is ever
// the child of such a one, and its name is nobody's.
func (e *polledEvent) events() (out []Event) {
	switch d := &e.Data; d.Type {
	case "stored":
		parent := d.Parent
		for i := range d.Blocks {
			b := &d.Blocks[i]
			s := &Stored{Hashes: []uint64{uint64(b.Hash)}, BlockTokens: max(1, len(b.Tokens))}
			if parent != nil {
				s.Parent, s.HasParent = uint64(*parent), true
			}
			extra := ""
			for _, t := range b.Tokens {
				s.Tokens = append(s.Tokens, uint32(t.ID))
				if t.Extra != 0 {
					extra += " " + decimal(uint64(t.Extra))
				}
			}
			if extra != "" {
				s.Extra = [][]string{{extra}}
			}
			if b.LoRA != nil {
				s.LoRA = "#" + decimal(uint64(*b.LoRA))
			}
			out = append(out, Event{Stored: s, Tier: level(b.Level)})
			parent = &b.Hash
		}
	case "removed":
		for _, h := range d.Hashes { // from whichever tier holds it
			for _, t := range []index.Tier{index.GPU, index.Host} {
				out = append(out, Event{Removed: []uint64{uint64(h)}, Tier: t})
			}
		}
	case "updated":
		if d.Level != nil && level(d.Level.New) != level(d.Level.Old) {
			h := uint64(d.Hash)
			out = append(out, Event{Stored: &Stored{Hashes: []uint64{h}, BlockTokens: 1}, Tier: level(d.Level.New)}, Event{Removed: []uint64{h}, Tier: level(d.Level.Old)})
		}
	}
	return out
}
