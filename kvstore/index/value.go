package index

import "math/bits"

// An element is one holder of a block: its number, shifted, and the tiers in which it holds the block, of which there is at
// least one.
//
//	31           4 3    0
//	[ number      ][tiers]
type element uint32

func newElement(number uint32, tiers TierSet) element { return element(number<<Tiers | uint32(tiers)) }

func (e element) number() uint32 { return uint32(e) >> Tiers }

// level is the fastest tier.
func (e element) level() uint8 { return uint8(bits.TrailingZeros32(uint32(e))) }

// A value is the set of a block's holders in one word, which is all that a slot of the table has for it. Equal sets are equal
// words, so that a chain's sets are compared without looking into them:
//
//	0                     nobody
//	[ 0      ][element]   one holder
//	[element ][element]   two holders, the one with the smaller number below
//	[1<<31   ][ref    ]   three or more: a set that lies once in sets, however many blocks have it
type value uint64

const shared value = 1 << 63

func pair(a, b element) value {
	if a > b {
		a, b = b, a
	}
	return value(b)<<32 | value(a)
}

func (v value) shared() bool { return v&shared != 0 }

func (v value) ref() ref { return ref(v) }

func (v value) low() element { return element(v) }

// high is the second of two holders, 0 where there is none.
func (v value) high() element { return element(v >> 32) }

// inline gives the holders of a value that is not shared.
func (v value) inline(into *[2]element) []element {
	into[0], into[1] = v.low(), v.high()
	switch {
	case into[0] == 0:
		return into[:0]
	case into[1] == 0:
		return into[:1]
	}
	return into[:2]
}

// fold makes a value of up to two holders in order.
func fold(e []element) value {
	switch len(e) {
	case 0:
		return 0
	case 1:
		return value(e[0])
	}
	return pair(e[0], e[1])
}

// with is e's tiers added to the holder's; a holder of no tiers is 0.
func (e element) with(more element) element { return e | more }

// without is e's tiers taken away; 0 if none is left.
func (e element) without(less element) element {
	if e &^= less & element(AllTiers); e&element(AllTiers) == 0 {
		return 0
	}
	return e
}
