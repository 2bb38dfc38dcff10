package disk

import (
	"slices"
	"testing"
)

func TestVictim(t *testing.T) {
	full := func(worth int64) candidate { return candidate{allocated: 100, live: 90, worth: worth} }
	many := slices.Repeat([]candidate{full(50)}, 40)
	for name, c := range map[string]struct {
		oldest []candidate
		want   int
	}{
		"none":               {nil, -1},
		"one":                {[]candidate{full(90)}, 0},
		"oldest of equals":   {[]candidate{full(10), full(10), full(10)}, 0},
		"least worth":        {[]candidate{full(10), full(50), full(5)}, 2},
		"empty before all":   {[]candidate{full(0), full(0), {allocated: 100}}, 2},
		"sparse before old":  {[]candidate{full(0), {allocated: 100, live: 20}, {allocated: 100, live: 10, worth: 10}}, 2},
		"young are left out": {append(slices.Clone(many), full(0)), 0},
		"nothing is taken":   {[]candidate{{}, full(1)}, 0},
	} {
		if got := victim(c.oldest); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestWorth(t *testing.T) {
	const now = 1000
	expected, read, head, tail := entry{stay: now + 1, seq: 1}, entry{flags: entryRead, depth: 3, seq: 2}, entry{depth: 0, seq: 3}, entry{depth: 9, seq: 4}
	over := entry{stay: now, depth: 9, seq: 5}
	all := []entry{tail, over, read, head, expected}
	slices.SortFunc(all, func(a, b entry) int { return byWorth(&a, &b, now) })
	for i, want := range []entry{expected, read, head, over, tail} {
		if all[i].seq != want.seq {
			t.Errorf("place %d: record %d, want %d", i, all[i].seq, want.seq)
		}
	}
}
