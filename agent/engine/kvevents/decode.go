// Package kvevents turns what engines tell of their KV caches into changes of an index of blocks (kvstore/index). Decode reads
// every known form of a batch of events; a Book maps the engine's block hashes to our chain hashes by the tokens that events
// carry and counts repeated stores, so that what comes out are only changes between held and not held; a Feed subscribes to
// the engine's ZMQ socket, notices what was lost and has it repeated.
//
// It knows neither the index's holders nor the wire to the controller: the agent gives each Change its worker and sends it.
package kvevents

import (
	"errors"
	"strings"

	"github.com/penstock/penstock/kvstore/index"
)

// ErrBatch means that a payload is no batch of events: it counts as lost.
var ErrBatch = errors.New("not a batch of KV events")

// Batch is one message of an engine.
type Batch struct {
	Events []Event
	Bad    int // events that could not be understood and are left out
	Rank   int // data-parallel rank; -1 = not told
}

// Event is one change that an engine tells of. Exactly one of Stored, Removed and Cleared says which.
type Event struct {
	Stored  *Stored
	Removed []uint64 // engine's hashes
	Cleared bool
	Tier    index.Tier
	Group   int // of layers; engines whose layers differ keep a cache for each kind
}

// Stored is a run of blocks, each the child of the one before.
type Stored struct {
	Hashes      []uint64 // engine's, in 64 bits
	Parent      uint64
	HasParent   bool
	Tokens      []uint32 // may be missing where the blocks were told of before
	BlockTokens int
	LoRA        string
	Salt        string     // of the root
	Extra       [][]string // by block: what else decides the content
	Window      bool       // a group that keeps only the last tokens: its blocks say nothing about a prefix
}

// Decode reads a payload. One event that makes no sense does not cost the others; unknown events, keys and positions are left
// out without a word, since engines add them.
func Decode(payload []byte) (Batch, error) {
	u := &unpacker{payload}
	b := Batch{Rank: -1}
	events, ok := b.outer(u)
	if !ok {
		return Batch{}, ErrBatch
	}
	u = &unpacker{events}
	for n := u.next().number; n > 0; n-- {
		raw, ok := u.whole()
		if !ok {
			return Batch{}, ErrBatch
		}
		switch e, verdict := decodeEvent(raw); verdict {
		case good:
			b.Events = append(b.Events, e)
		case bad:
			b.Bad++
		}
	}
	return b, nil
}

// outer reads [time, [events], rank] or the same as a map, and gives the array of events.
func (b *Batch) outer(u *unpacker) (events []byte, ok bool) {
	head := u.next()
	if head.kind != array && head.kind != mapping {
		return nil, false
	}
	for i := range head.number {
		place := ""
		if head.kind == mapping {
			key := u.next()
			if key.kind != text {
				return nil, false
			}
			place = string(key.bytes)
		} else if i < 3 {
			place = [...]string{"ts", "events", "data_parallel_rank"}[i]
		}
		raw, ok := u.whole()
		if !ok {
			return nil, false
		}
		switch t := (&unpacker{raw}).next(); {
		case place == "events" && t.kind == array:
			events = raw
		case (place == "data_parallel_rank" || place == "attn_dp_rank" || place == "dp_rank") && t.kind == integer && t.number < 1<<20:
			b.Rank = int(t.number)
		}
	}
	return events, events != nil
}

type verdict int

const (
	good verdict = iota
	bad
	unknown
)

// positions of an event's fields where it is an array. Position 7 may be a map of further fields.
var (
	storedAt = []string{
		"type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name", "extra_keys",
		"group_idx", "kv_cache_spec_kind", "kv_cache_spec_sliding_window",
	}
	removedAt = []string{"type", "block_hashes", "medium", "group_idx"}
)

// fields are an event's, each with its bytes.
type fields map[string][]byte

func decodeEvent(raw []byte) (Event, verdict) {
	f, ok := eventFields(raw)
	if !ok {
		return Event{}, bad
	}
	name := f.head("type")
	if name.kind != text {
		return Event{}, bad
	}
	e := Event{Tier: index.GPU}
	if t := f.head("medium"); t.kind == text {
		if e.Tier, ok = tierOf(string(t.bytes)); !ok {
			return Event{}, unknown
		}
	}
	if t := f.head("group_idx"); t.kind == integer && t.number < 1<<16 {
		e.Group = int(t.number)
	}
	switch string(name.bytes) {
	case "BlockStored":
		e.Stored, ok = f.stored()
	case "BlockRemoved":
		e.Removed, ok = f.hashes("block_hashes")
	case "AllBlocksCleared":
		e.Cleared, ok = true, true
	default:
		return Event{}, unknown
	}
	if !ok {
		return Event{}, bad
	}
	return e, good
}

// tierOf reads a medium. What no engine is known to say is left out: a block in an unknown place is no hit.
func tierOf(medium string) (index.Tier, bool) {
	switch strings.ToUpper(medium) {
	case "GPU", "":
		return index.GPU, true
	case "CPU", "CPU_PINNED":
		return index.Host, true
	case "DISK", "STORAGE":
		return index.Disk, true
	case "EXTERNAL", "OBJECT":
		return index.Object, true
	}
	return 0, false
}

func eventFields(raw []byte) (fields, bool) {
	u := &unpacker{raw}
	head := u.next()
	f := fields{}
	switch head.kind {
	case mapping:
		return f, f.pairs(u, head.number)
	case array:
	default:
		return nil, false
	}
	places := storedAt
	for i := range head.number {
		value, ok := u.whole()
		if !ok {
			return nil, false
		}
		if i == 0 && string((&unpacker{value}).next().bytes) == "BlockRemoved" {
			places = removedAt
		}
		if i >= uint64(len(places)) {
			break
		}
		in := &unpacker{value}
		if t := in.next(); t.kind == mapping && places[i] == "lora_name" {
			if !f.pairs(in, t.number) {
				return nil, false
			}
			continue
		}
		f[places[i]] = value
	}
	return f, true
}

func (f fields) pairs(u *unpacker, n uint64) bool {
	for range n {
		key := u.next()
		value, ok := u.whole()
		if key.kind != text || !ok {
			return false
		}
		f[string(key.bytes)] = value
	}
	return true
}

// head of a field; broken if it is missing.
func (f fields) head(name string) token { return (&unpacker{f[name]}).next() }

// list opens a field that is an array.
func (f fields) list(name string) (*unpacker, int, bool) {
	u := &unpacker{f[name]}
	t := u.next()
	if t.kind != array || t.number > uint64(len(u.b)) {
		return nil, 0, false
	}
	return u, int(t.number), true
}

// hashOf reads a block hash: a number, signed or not, or the digest, of which the last eight bytes count.
func hashOf(t token) (uint64, bool) {
	switch {
	case t.kind == integer:
		return t.number, true
	case t.kind == binaryBytes && len(t.bytes) >= 8:
		b := unpacker{t.bytes[len(t.bytes)-8:]}
		return b.big(8)
	}
	return 0, false
}

func (f fields) hashes(name string) ([]uint64, bool) {
	u, n, ok := f.list(name)
	if !ok {
		return nil, false
	}
	out := make([]uint64, n)
	for i := range out {
		if out[i], ok = hashOf(u.next()); !ok {
			return nil, false
		}
	}
	return out, true
}

func (f fields) stored() (*Stored, bool) {
	s := &Stored{}
	var ok bool
	if s.Hashes, ok = f.hashes("block_hashes"); !ok {
		return nil, false
	}
	if t := f.head("parent_block_hash"); t.kind != null && t.kind != broken {
		if s.Parent, s.HasParent = hashOf(t); !s.HasParent {
			return nil, false
		}
	}
	if t := f.head("block_size"); t.kind == integer && t.number > 0 && t.number < 1<<20 {
		s.BlockTokens = int(t.number)
	} else {
		return nil, false
	}
	if s.Tokens, ok = f.tokens(); !ok {
		return nil, false
	}
	s.Extra, ok = f.extra()
	if !ok {
		return nil, false
	}
	f.identity(s)
	return s, true
}

// tokens are numbers, or pairs of a token and the one after it (SGLang with EAGLE), of which the first counts. Two blocks that
// differ only in the token after their last one share a name then; if one of them goes, the name is taken to be gone.
func (f fields) tokens() ([]uint32, bool) {
	if k := f.head("token_ids").kind; k == null || k == broken {
		return nil, true
	}
	u, n, ok := f.list("token_ids")
	if !ok {
		return nil, false
	}
	out := make([]uint32, n)
	for i := range out {
		t := u.next()
		if t.kind == array && t.number == 2 {
			t = u.next()
			if !u.skip(u.next()) {
				return nil, false
			}
		}
		if t.kind != integer || t.number > 1<<32-1 {
			return nil, false
		}
		out[i] = uint32(t.number)
	}
	return out, true
}

// extra keys are a list or nothing for each block. What is not text is kept as its bytes.
func (f fields) extra() ([][]string, bool) {
	if k := f.head("extra_keys").kind; k == null || k == broken {
		return nil, true
	}
	u, n, ok := f.list("extra_keys")
	if !ok {
		return nil, false
	}
	out := make([][]string, n)
	for i := range out {
		t := u.next()
		if t.kind == null {
			continue
		}
		if t.kind != array || t.number > uint64(len(u.b)) {
			return nil, false
		}
		for range t.number {
			raw, ok := u.whole()
			if !ok {
				return nil, false
			}
			if k := (&unpacker{raw}).next(); k.kind == text {
				raw = k.bytes
			}
			out[i] = append(out[i], string(raw))
		}
	}
	return out, true
}

// identity reads LoRA and salt. vLLM has the LoRA's name in every block's extra keys too, and the salt only in the first
// block's; SGLang has a field for the salt.
func (f fields) identity(s *Stored) {
	switch t := f.head("lora_name"); {
	case t.kind == text:
		s.LoRA = string(t.bytes)
	default:
		if t = f.head("lora_id"); t.kind == integer {
			s.LoRA = "#" + decimal(t.number) // a number says nothing outside this engine: nobody else's chain has it
		}
	}
	if t := f.head("cache_salt"); t.kind == text {
		s.Salt = string(t.bytes)
	}
	for i, keys := range s.Extra {
		if len(keys) > 0 && keys[0] == s.LoRA && s.LoRA != "" {
			keys = keys[1:]
		}
		if i == 0 && !s.HasParent && s.Salt == "" && len(keys) == 1 {
			s.Salt, keys = keys[0], nil
		}
		s.Extra[i] = keys
	}
	s.Window = f.window()
}

func (f fields) window() bool {
	if t := f.head("kv_cache_spec_sliding_window"); t.kind == integer && t.number > 0 {
		return true
	}
	spec := string(f.head("kv_cache_spec_kind").bytes)
	return strings.Contains(spec, "sliding") || strings.Contains(spec, "chunked") || strings.Contains(spec, "mamba")
}
