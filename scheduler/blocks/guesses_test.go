package blocks

import (
	"maps"
	"testing"
	"time"

	"github.com/penstock/penstock/kvstore/index"
)

func TestGuesses(t *testing.T) {
	t.Parallel()
	g := NewGuesses(index.Limit{})
	a, b := Holder{Launch: "a", Run: "r"}, Holder{Launch: "b", Run: "r"}
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l := Lifetime{Keep: time.Minute}
	has := func(h Holder) int { return int(seen(longest{g})[h][index.GPU]) }
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }

	g.Add(a, []uint64{1, 2, 3}, l, at(0))
	g.Add(b, []uint64{1}, l, at(0))
	if has(a) != 3 || has(b) != 1 {
		t.Errorf("%d and %d at once", has(a), has(b))
	}
	g.Add(a, []uint64{1, 2}, l, at(31)) // used again: 3 is of the older generation now
	if has(a) != 3 || has(b) != 1 {
		t.Errorf("%d and %d in the second half", has(a), has(b))
	}
	keep := func(h Holder) (Lifetime, bool) { return l, h == a }
	g.Expire(keep, at(62))
	if has(a) != 2 {
		t.Errorf("%d after the older generation's time", has(a))
	}
	if len(g.holders) != 1 {
		t.Errorf("%d holders after one has gone", len(g.holders))
	}
	g.Expire(keep, at(200))
	if has(a) != 0 || g.table.load().index.Stats().Workers != 0 {
		t.Errorf("%d after a long time", has(a))
	}
	for i := range 100 { // a small cache
		g.Add(a, []uint64{uint64(1000 + 2*i), uint64(1001 + 2*i)}, Lifetime{Keep: time.Hour, Blocks: 20}, at(300))
	}
	if n := g.table.load().index.Stats().Blocks; n > 200 {
		t.Errorf("%d blocks", n)
	}
	if len(g.Match([]uint64{1000}, nil)) != 0 || len(g.Match([]uint64{1198, 1199}, nil)) == 0 {
		t.Error("what a small cache holds is not the newest")
	}
}

// longest tells of each holder once.
type longest struct{ matcher }

func (l longest) Match(ids []uint64, dst []Held) []Held {
	best := map[Holder]Held{}
	for _, h := range l.matcher.Match(ids, nil) {
		if h.Lead[index.GPU] >= best[h.Holder].Lead[index.GPU] {
			best[h.Holder] = h
		}
	}
	for h := range maps.Values(best) {
		dst = append(dst, h)
	}
	return dst
}
