package blocks

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"

	"github.com/penstock/penstock/kvstore/index"
)

func stored(rank uint32, tier string, ids ...uint64) *apiv1.BlockEvent {
	return &apiv1.BlockEvent{Kind: apiv1.BlockEvent_KIND_STORED, Tier: tier, DpRank: rank, Blocks: ids}
}

func removed(rank uint32, tier string, ids ...uint64) *apiv1.BlockEvent {
	return &apiv1.BlockEvent{Kind: apiv1.BlockEvent_KIND_REMOVED, Tier: tier, DpRank: rank, Blocks: ids}
}

func cleared(rank uint32, tier string) *apiv1.BlockEvent {
	return &apiv1.BlockEvent{Kind: apiv1.BlockEvent_KIND_CLEARED, Tier: tier, DpRank: rank}
}

func full(seq uint64, e ...*apiv1.BlockEvent) *apiv1.ReportRequest {
	return &apiv1.ReportRequest{Seq: seq, Body: &apiv1.ReportRequest_Full{Full: &apiv1.RunState{}}, Blocks: e}
}

func delta(seq uint64, e ...*apiv1.BlockEvent) *apiv1.ReportRequest {
	return &apiv1.ReportRequest{Seq: seq, Body: &apiv1.ReportRequest_Delta{Delta: &apiv1.RunState{}}, Blocks: e}
}

// matcher is what is asked of boards, mirrors and guesses.
type matcher interface {
	Match(ids []uint64, dst []Held) []Held
}

// seen says how much of 1, 2, 3, … each holder has, by the fastest tier.
func seen(b matcher) map[Holder][index.Tiers]uint32 {
	out := map[Holder][index.Tiers]uint32{}
	for _, h := range b.Match([]uint64{1, 2, 3, 4, 5, 6, 7, 8}, nil) {
		out[h.Holder] = h.Lead
	}
	return out
}

// TestBoard goes through the life of a feed.
func TestBoard(t *testing.T) {
	b := NewBoard(index.Limit{})
	a, other := Source{"a", 0}, Source{"b", 0}
	r0, r1, o := Holder{"a", "run1", 0}, Holder{"a", "run1", 1}, Holder{"b", "run9", 0}
	type state = map[Holder][index.Tiers]uint32
	for i, step := range []struct {
		from Source
		run  string
		m    *apiv1.ReportRequest
		ok   bool
		want state
	}{
		{a, "run1", delta(5, stored(0, "gpu", 1)), false, state{}}, // nothing before it is known
		{a, "run1", full(6, cleared(0, ""), stored(0, "gpu", 1, 2)), true, state{r0: {2, 2, 2, 2}}},
		{a, "run1", delta(7, stored(0, "gpu", 3), stored(1, "host", 1)), true, state{r0: {3, 3, 3, 3}, r1: {0, 1, 1, 1}}},
		{a, "run1", delta(7, removed(0, "gpu", 1)), true, state{r0: {3, 3, 3, 3}, r1: {0, 1, 1, 1}}}, // twice
		{other, "run9", full(1, stored(0, "DISK", 1), stored(0, "tape", 2), stored(5000, "gpu", 1)), true, state{r0: {3, 3, 3, 3}, r1: {0, 1, 1, 1}, o: {0, 0, 1, 1}}},
		{a, "run1", delta(8, removed(0, "gpu", 2), cleared(1, "gpu"), cleared(7, "")), true, state{r0: {1, 1, 1, 1}, r1: {0, 1, 1, 1}, o: {0, 0, 1, 1}}},
		{a, "run1", delta(9, cleared(1, "host"), stored(0, "host", 2)), true, state{r0: {1, 3, 3, 3}, o: {0, 0, 1, 1}}},
		{a, "run1", delta(11, stored(0, "gpu", 1)), false, state{o: {0, 0, 1, 1}}}, // 10 is missing
		{a, "run1", delta(12, stored(0, "gpu", 1)), false, state{o: {0, 0, 1, 1}}},
		{a, "run1", full(13, stored(0, "gpu", 1)), true, state{r0: {1, 1, 1, 1}, o: {0, 0, 1, 1}}},
		{a, "run2", full(1, stored(0, "gpu", 1, 2)), true, state{{"a", "run2", 0}: {2, 2, 2, 2}, o: {0, 0, 1, 1}}},
	} {
		if _, ok := b.Apply(step.from, step.run, step.m); ok != step.ok {
			t.Errorf("step %d: %v", i, ok)
		}
		if got := seen(b); !maps.Equal(got, step.want) {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
	b.Keep(func(launch string) bool { return launch == "b" })
	if got := seen(b); len(got) != 1 || b.Stats().Workers != 1 {
		t.Errorf("after a has gone: %v, %+v", got, b.Stats())
	}
}

// TestLossesNeverInvent: with messages lost, doubled and out of order, the board never knows a block that the engine does not
// hold, and after a full state knows all.
func TestLossesNeverInvent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, from := NewBoard(index.Limit{}), Source{"a", 0}
		held := map[uint64]bool{}
		var sent []*apiv1.ReportRequest
		everything := func(seq uint64) *apiv1.ReportRequest {
			return full(seq, stored(0, "gpu", slices.Collect(maps.Keys(held))...))
		}
		check := func(exact bool) {
			for id := range uint64(9) {
				if known := len(b.Match([]uint64{id}, nil)) > 0; known && !held[id] || exact && known != held[id] {
					t.Fatalf("block %d: known %v, held %v", id, known, held[id])
				}
			}
		}
		b.Apply(from, "r", everything(1))
		last := uint64(1)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			last++
			id := rapid.Uint64Range(0, 8).Draw(t, "id")
			var m *apiv1.ReportRequest
			if held[id] {
				m = delta(last, removed(0, "gpu", id))
				delete(held, id)
			} else {
				m = delta(last, stored(0, "gpu", id))
				held[id] = true
			}
			sent = append(sent, m)
			switch rapid.IntRange(0, 4).Draw(t, "fate") {
			case 0: // lost: what was removed may be thought to be there until the next message comes
				continue
			case 1: // an old one comes again
				b.Apply(from, "r", sent[rapid.IntRange(0, len(sent)-1).Draw(t, "old")])
			}
			_, ok := b.Apply(from, "r", m)
			check(ok)
			if !ok && rapid.Bool().Draw(t, "cured") {
				last++
				if _, ok := b.Apply(from, "r", everything(last)); !ok {
					t.Fatal("a full state was refused")
				}
				check(true)
			}
		}
	})
}
