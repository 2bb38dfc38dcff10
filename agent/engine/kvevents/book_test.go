package kvevents

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/kvstore/index"
)

// holdings are what changes add up to.
type holdings map[index.Tier]map[uint64]bool

func (h holdings) apply(t interface{ Fatalf(string, ...any) }, changes []Change) {
	for _, c := range changes {
		for _, id := range c.Blocks {
			if h[c.Tier] == nil {
				h[c.Tier] = map[uint64]bool{}
			}
			if h[c.Tier][id] == (c.Kind == BlocksStored) {
				t.Fatalf("block %x in tier %d: %v changes nothing", id, c.Tier, c.Kind)
			}
			h[c.Tier][id] = c.Kind == BlocksStored
			if c.Kind == BlocksRemoved {
				delete(h[c.Tier], id)
			}
		}
		for tier := range index.Tier(index.Tiers) {
			if c.Kind == TiersCleared && c.Tiers&index.Only(tier) != 0 {
				delete(h, tier)
			}
		}
	}
}

func tokens(from, n int) []uint32 {
	out := make([]uint32, n)
	for i := range out {
		out[i] = uint32(from + i)
	}
	return out
}

// TestEnginesAgree: every engine's form of the same two blocks gives the names that the gateway computes from the tokens.
func TestEnginesAgree(t *testing.T) {
	identity := index.Identity{Seed: 9, Namespace: "m"}
	named := identity
	named.BlockTokens = 16
	plain := index.AppendChain(nil, index.ChainRoot(named), tokens(1, 32), 16)
	named.Salt = "tenant-a"
	salted := index.AppendChain(nil, index.ChainRoot(named), tokens(1, 16), 16)
	for name, want := range map[string][]uint64{
		"vllmge0.24_map_u64_stored": plain, "vllm_map_bytes_stored": plain, "vllm_outer_map_stored": plain, "vllm_array_u64_stored": plain,
		"vllm0.9_array_stored": plain, "vllm0.11-0.23_array_bytes_stored": plain, "vllm_map_cpu_tier_stored": plain,
		"sglang_oldest_array_stored": plain, "sglang_array_stored": plain, "sglang_map_stored": plain,
		"sglang_array_salted_stored": salted, "sglang_map_salted_session_stored": salted,
		"vllm_map_sliding_window_stored": nil, "vllm_map_child_lora_salt_session_stored": nil, // no parent known
	} {
		b, err := Decode(samples(t)[name])
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for _, c := range NewBook(identity, 0).Apply(b) {
			got = append(got, c.Blocks...)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %x, want %x", name, got, want)
		}
	}
}

// TestIdentity: salt, LoRA and images part blocks of the same tokens; children inherit.
func TestIdentity(t *testing.T) {
	b := NewBook(index.Identity{}, 0)
	seen := map[uint64]string{}
	hash := uint64(1)
	for name, extra := range map[string][][]string{
		"nothing": nil, "salt": {{"tenant-a"}}, "another salt": {{"tenant-b"}}, "image and salt": {{"img", "tenant-a"}}, "image later": {nil, {"img"}},
	} {
		for _, lora := range []string{"", "adapter-a"} {
			s := &Stored{Hashes: []uint64{hash, hash + 1}, Tokens: tokens(1, 8), BlockTokens: 4, LoRA: lora}
			for _, keys := range extra {
				if lora != "" {
					keys = append([]string{lora}, keys...)
				}
				s.Extra = append(s.Extra, keys)
			}
			hash += 2
			f := fields{}
			if lora != "" {
				f["lora_name"] = pack(t, lora)
			}
			f.identity(s)
			ids := b.Apply(Batch{Events: []Event{{Stored: s}}})[0].Blocks
			for i, id := range ids {
				who := fmt.Sprint(name, " ", lora, " block ", i)
				if other, twice := seen[id]; twice && (name != "image later" && name != "nothing" || i > 0) {
					t.Errorf("%s has the name of %s", who, other)
				}
				seen[id] = who
			}
		}
	}
}

// engine is a model of an engine that stores blocks several times, in several tiers, and forgets parents before children.
type engine struct {
	held  map[index.Tier]map[uint64]int
	chain []uint64
}

// TestOnlyZeroAndOne: whatever an engine repeats, changes tell of each block once when it comes and once when the last copy goes.
func TestOnlyZeroAndOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const length = 12
		e := engine{held: map[index.Tier]map[uint64]int{}}
		for i := range uint64(length) {
			e.chain = append(e.chain, 100+i)
		}
		root := index.ChainRoot(index.Identity{BlockTokens: 4})
		ids := index.AppendChain(nil, root, tokens(1, 4*length), 4)
		b, h := NewBook(index.Identity{}, 0), holdings{}
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			tier := index.Tier(rapid.IntRange(0, 2).Draw(t, "tier"))
			if e.held[tier] == nil {
				e.held[tier] = map[uint64]int{}
			}
			from := rapid.IntRange(0, length-1).Draw(t, "from")
			to := rapid.IntRange(from+1, length).Draw(t, "to")
			ev := Event{Tier: tier}
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0, 1, 2:
				s := &Stored{Hashes: e.chain[:to], Tokens: tokens(1, 4*to), BlockTokens: 4}
				ev.Stored = s
				for _, hash := range s.Hashes {
					e.held[tier][hash]++
				}
			case 3, 4:
				ev.Removed = e.chain[from:to]
				for _, hash := range ev.Removed {
					e.held[tier][hash] = max(0, e.held[tier][hash]-1)
				}
			default:
				ev.Cleared = true
				e.held[tier] = map[uint64]int{}
			}
			h.apply(t, b.Apply(Batch{Events: []Event{ev}}))
		}
		for tier := range index.Tier(3) {
			want := map[uint64]bool{}
			for i, hash := range e.chain {
				if e.held[tier][hash] > 0 {
					want[ids[i]] = true
				}
			}
			if !maps.Equal(h[tier], want) {
				t.Fatalf("tier %d: %v, want %v", tier, h[tier], want)
			}
		}
	})
}

// TestFull: a full book keeps what it has, forgets first what nobody holds, and goes on after removals.
func TestFull(t *testing.T) {
	b := NewBook(index.Identity{}, 4)
	store := func(hashes ...uint64) int {
		n := 0
		for _, c := range b.Apply(Batch{Events: []Event{{Stored: &Stored{Hashes: hashes, Tokens: tokens(int(hashes[0]), len(hashes)), BlockTokens: 1}}}}) {
			n += len(c.Blocks)
		}
		return n
	}
	if n := store(1, 2, 3, 4, 5); n != 4 || b.Counts().Full != 1 {
		t.Fatalf("%d stored, %+v", n, b.Counts())
	}
	b.Apply(Batch{Events: []Event{{Removed: []uint64{3, 4, 77}}}})
	if n := store(50, 51); n != 2 || b.Counts().Blocks != 4 || b.Counts().Strangers != 1 {
		t.Errorf("%d stored, %+v", n, b.Counts())
	}
}

// TestHashAlone: a tier that names blocks without their tokens is understood if the blocks were told of before.
func TestHashAlone(t *testing.T) {
	b := NewBook(index.Identity{}, 0)
	b.Apply(Batch{Events: []Event{{Stored: &Stored{Hashes: []uint64{1, 2}, Tokens: tokens(1, 8), BlockTokens: 4}}}})
	b.Apply(Batch{Events: []Event{{Removed: []uint64{1, 2}}}})
	changes := b.Apply(Batch{Events: []Event{{Tier: index.Disk, Stored: &Stored{Hashes: []uint64{2, 9}, BlockTokens: 4}}}})
	if len(changes) != 1 || changes[0].Tier != index.Disk || len(changes[0].Blocks) != 1 || b.Counts().Unmapped != 1 {
		t.Errorf("%+v, %+v", changes, b.Counts())
	}
}
