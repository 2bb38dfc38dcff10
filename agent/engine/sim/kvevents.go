package sim

import (
	"bytes"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// EventsForm is how KV events are written.
type EventsForm string

// The forms of vLLM's KV events: maps since 0.24, arrays before.
const (
	EventsAsMaps   EventsForm = "map"
	EventsAsArrays EventsForm = "array"
)

// kvEvent is one change of the block pool. Exactly one of stored, removed and cleared says which.
type kvEvent struct {
	stored  *storedBlocks
	removed []blockHash
	cleared bool
}

// storedBlocks is a run of blocks that became findable, each the child of the one before.
type storedBlocks struct {
	hashes    []blockHash
	parent    *blockHash // nil at the root
	tokens    []int32
	blockSize int
	adapter   string
	adapterID int        // 1-based; 0 is none
	extra     [][]string // by block
}

// encodeEvents writes a batch as vLLM does: [seconds, [events], data-parallel rank].
func encodeEvents(form EventsForm, at time.Time, events []kvEvent) ([]byte, error) {
	var buf bytes.Buffer
	e := msgpack.NewEncoder(&buf)
	e.UseCompactInts(true)
	w := eventWriter{enc: e}
	w.do(e.EncodeArrayLen(3))
	w.do(e.EncodeFloat64(float64(at.UnixMicro()) / 1e6))
	w.do(e.EncodeArrayLen(len(events)))
	for _, ev := range events {
		if form == EventsAsArrays {
			w.array(ev)
		} else {
			w.mapping(ev)
		}
	}
	w.do(e.EncodeInt(0))
	return buf.Bytes(), w.err
}

// eventWriter keeps the first error of many small writes.
type eventWriter struct {
	enc *msgpack.Encoder
	err error
}

func (w *eventWriter) do(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *eventWriter) mapping(ev kvEvent) {
	key := func(k string) { w.do(w.enc.EncodeString(k)) }
	open := func(n int, kind string) {
		w.do(w.enc.EncodeMapLen(n))
		key("type")
		w.do(w.enc.EncodeString(kind))
	}
	switch {
	case ev.stored != nil:
		open(11, "BlockStored")
		key("block_hashes")
		w.hashes(ev.stored.hashes)
		key("parent_block_hash")
		w.parent(ev.stored.parent)
		key("token_ids")
		w.tokens(ev.stored.tokens)
		key("block_size")
		w.int(ev.stored.blockSize)
		key("lora_id")
		w.adapterID(ev.stored.adapterID)
		key("medium")
		key("GPU")
		key("lora_name")
		w.adapter(ev.stored.adapter)
		key("extra_keys")
		w.extra(ev.stored.extra)
		key("group_idx")
		w.int(0)
		key("kv_cache_spec_kind")
		key("full_attention")
	case ev.cleared:
		open(1, "AllBlocksCleared")
	default:
		open(4, "BlockRemoved")
		key("block_hashes")
		w.hashes(ev.removed)
		key("medium")
		key("GPU")
		key("group_idx")
		w.int(0)
	}
}

// array is the form before 0.24: values by position, trailing ones left out where they hold nothing.
func (w *eventWriter) array(ev kvEvent) {
	open := func(n int, kind string) {
		w.do(w.enc.EncodeArrayLen(n))
		w.do(w.enc.EncodeString(kind))
	}
	switch {
	case ev.stored != nil:
		s, n := ev.stored, 7
		if s.parted() {
			n = 9
		}
		open(n, "BlockStored")
		w.hashes(s.hashes)
		w.parent(s.parent)
		w.tokens(s.tokens)
		w.int(s.blockSize)
		w.adapterID(s.adapterID)
		w.do(w.enc.EncodeString("GPU"))
		if s.parted() {
			w.adapter(s.adapter)
			w.extra(s.extra)
		}
	case ev.cleared:
		open(1, "AllBlocksCleared")
	default:
		open(3, "BlockRemoved")
		w.hashes(ev.removed)
		w.do(w.enc.EncodeString("GPU"))
	}
}

// parted reports whether an adapter or a salt belongs to a block.
func (s *storedBlocks) parted() bool {
	for _, e := range s.extra {
		if len(e) > 0 {
			return true
		}
	}
	return false
}

func (w *eventWriter) int(n int) { w.do(w.enc.EncodeInt(int64(n))) }

func (w *eventWriter) hashes(hs []blockHash) {
	w.do(w.enc.EncodeArrayLen(len(hs)))
	for _, h := range hs {
		w.do(w.enc.EncodeUint(h.short()))
	}
}

func (w *eventWriter) parent(h *blockHash) {
	if h == nil {
		w.do(w.enc.EncodeNil())
		return
	}
	w.do(w.enc.EncodeUint(h.short()))
}

func (w *eventWriter) tokens(ids []int32) {
	w.do(w.enc.EncodeArrayLen(len(ids)))
	for _, t := range ids {
		w.int(int(t))
	}
}

func (w *eventWriter) adapterID(id int) {
	if id == 0 {
		w.do(w.enc.EncodeNil())
		return
	}
	w.int(id)
}

func (w *eventWriter) adapter(name string) {
	if name == "" {
		w.do(w.enc.EncodeNil())
		return
	}
	w.do(w.enc.EncodeString(name))
}

func (w *eventWriter) extra(blocks [][]string) {
	w.do(w.enc.EncodeArrayLen(len(blocks)))
	for _, keys := range blocks {
		if len(keys) == 0 {
			w.do(w.enc.EncodeNil())
			continue
		}
		w.do(w.enc.EncodeArrayLen(len(keys)))
		for _, k := range keys {
			w.do(w.enc.EncodeString(k))
		}
	}
}
