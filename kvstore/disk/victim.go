package disk

import "cmp"

// candidate is a segment that may be evicted.
type candidate struct {
	allocated int64 // bytes of the disk
	live      int64 // bytes of blocks that are there
	worth     int64 // of them, what is worth keeping
}

// victim chooses among segments, the oldest first: one with nothing live; else one that is mostly dead, since it frees much
// for little; else, of the oldest few, the one with the least worth keeping for its size. -1 of none.
func victim(oldest []candidate) int {
	best, sparse := -1, -1
	few := considered(len(oldest))
	for i, c := range oldest {
		switch {
		case c.live == 0:
			return i
		case c.live < c.allocated/4 && (sparse < 0 || c.share(c.live) < oldest[sparse].share(oldest[sparse].live)):
			sparse = i
		case i < few && (best < 0 || c.share(c.worth) < oldest[best].share(oldest[best].worth)):
			best = i
		}
	}
	if sparse >= 0 {
		return sparse
	}
	return best
}

// considered is how many of the oldest are compared by their worth, which has to be known for these only.
func considered(n int) int { return min(16, max(4, n/8)) }

func (c candidate) share(n int64) float64 { return float64(n) / float64(max(c.allocated, 1)) }

// worthOf ranks a block: 2 = its session is expected to go on, 1 = it was read since it was written where it is, 0 = neither.
func worthOf(e *entry, now int64) int {
	switch {
	case int64(e.stay) > now:
		return 2
	case e.flags&entryRead != 0:
		return 1
	}
	return 0
}

// byWorth sorts the best first. Of equals, the beginning of a chain goes before its end, which is worth nothing without it.
func byWorth(a, b *entry, now int64) int {
	return cmp.Or(cmp.Compare(worthOf(b, now), worthOf(a, now)), cmp.Compare(a.depth, b.depth), cmp.Compare(b.seq, a.seq))
}
