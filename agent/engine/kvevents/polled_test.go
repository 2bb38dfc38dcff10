package kvevents

import (
	"errors"
	"fmt"
	"testing"

	"github.com/penstock/penstock/kvstore/index"
)

// storedJSON is a stored event of blocks of two tokens, hash h for tokens h and h+1.
func storedJSON(id int, parent string, level int, hashes ...uint64) string {
	blocks := ""
	for i, h := range hashes {
		if i > 0 {
			blocks += ","
		}
		blocks += fmt.Sprintf(`{"type":"stored_block","block_hash":%d,"tokens":[{"type":"unique_token","token_id":%d,"token_extra_id":0},{"token_id":%d}],"cache_level":%d,"priority":35}`, h, h%1000, h%1000+1, level)
	}
	return fmt.Sprintf(`{"event_id":%d,"data":{"type":"stored","parent_hash":%s,"blocks":[%s]}}`, id, parent, blocks)
}

func TestPolled(t *testing.T) {
	const huge = 18_000_000_000_000_000_007 // no float holds it
	root := index.ChainRoot(index.Identity{BlockTokens: 2})
	first := index.ChainBlock(root, uint64(root), []uint32{7, 8}, "")
	second := index.ChainBlock(root, first, []uint32{9, 10}, "")
	p, h := NewPolled(NewBook(index.Identity{}, 0)), holdings{}
	type tiers map[uint64][]index.Tier
	for i, step := range []struct {
		answer string
		lost   bool
		want   tiers
	}{
		{`[]`, false, tiers{}},
		{`[{"event_id":0,"data":{"type":"created","num_blocks_per_cache_level":[10,5]}},` + storedJSON(1, "null", 0, huge, 9) + `]`, false, tiers{first: {0}, second: {0}}},
		{`[{"event_id":2,"data":{"type":"updated","block_hash":9,"cache_level":{"type":"event_diff","new_value":1,"old_value":0}}}]`, false, tiers{first: {0}, second: {1}}},
		{`[{"event_id":3,"data":{"type":"updated","block_hash":9,"priority":{"new_value":1,"old_value":0}}},5,{"event_id":4,"data":{"type":"removed","block_hashes":[9,12345]}}]`, false, tiers{first: {0}}},
		{`[{"event_id":9,"data":{"type":"removed","block_hashes":[1]}},` + storedJSON(10, "null", 1, huge) + `]`, true, tiers{first: {1}}},
	} {
		changes, lost, err := p.Take([]byte(step.answer))
		if err != nil || lost != step.lost {
			t.Errorf("step %d: lost %v, %v", i, lost, err)
		}
		h.apply(t, changes)
		n := 0
		for id, all := range step.want {
			for _, tier := range all {
				if n++; !h[tier][id] {
					t.Errorf("step %d: block %x is not in tier %d", i, id, tier)
				}
			}
		}
		if got := len(h[index.GPU]) + len(h[index.Host]); got != n {
			t.Errorf("step %d: %d holdings, want %d", i, got, n)
		}
	}
	if _, _, err := p.Take([]byte(`{"detail":"Not Found"}`)); !errors.Is(err, ErrBatch) {
		t.Errorf("not an array: %v", err)
	}
}

func FuzzPolled(f *testing.F) {
	f.Add([]byte(`[` + storedJSON(1, "null", 0, 7, 9) + `,` + storedJSON(2, "-9", 1, 11) + `]`))
	f.Add([]byte(`[{"event_id":3,"data":{"type":"removed","block_hashes":[-1,18446744073709551615]}},null,1,"x"]`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		p := NewPolled(NewBook(index.Identity{}, 50))
		for range 2 {
			if _, _, err := p.Take(answer); err != nil {
				return
			}
		}
		if n := p.book.Counts().Blocks; n > 50 {
			t.Fatalf("%d blocks in a book for 50", n)
		}
	})
}
