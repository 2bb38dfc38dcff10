package sim

import "encoding/binary"

// mix folds v into the 64-bit state h (the finalizer of MurmurHash3 over their combination).
func mix(h, v uint64) uint64 {
	h ^= v + 0x9e3779b97f4a7c15 + h<<6 + h>>2
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// candidates is how many phrases may begin at a place. Greedy decoding takes the first; sampling may take any.
const candidates = 8

// Answers run for a number of tokens drawn from the prompt, and then to the end of the sentence.
const (
	shortestAnswer = 40
	answerSpread   = 140
)

// prefix is the state of the text function after a prefix of tokens: everything that the next token depends on. It is
// what a KV block of this engine holds, and a value: the same prefix gives the same state in every process.
type prefix struct {
	hash     uint64 // of all tokens, in order
	run      uint16 // tokens of this answer so far
	limit    uint16 // the run after which the next sentence ends the answer
	spelling uint16 // the phrase under way, meaningless while at is 0
	at       uint8  // tokens of it that have come
	phase    phase
}

// newPrefix is the state of the empty prefix.
func newPrefix(f Fingerprint) prefix {
	c := prefix{hash: mix(0x70656e73746f636b, uint64(f))}
	c.restart(sentenceBare)
	return c
}

// fold is the state after one more token. A token that the language would not have put there starts the sentence anew,
// which is how prompts are read.
func (v *vocabulary) fold(c prefix, token int32) prefix {
	matched := c.at > 0 && v.spellings[c.spelling].tokens[c.at] == token
	if c.at == 0 {
		for rank := range candidates {
			if s := v.choose(c, rank); v.spellings[s].tokens[0] == token {
				c.spelling, matched = s, true
				break
			}
		}
	}
	c.hash = mix(c.hash, uint64(token))
	if !matched {
		c.restart(v.phaseAfter(token))
		return c
	}
	c.at++
	c.run++
	if s := v.spellings[c.spelling]; int(c.at) == len(s.tokens) {
		c.at, c.phase = 0, s.next
		if c.spelling == v.eos {
			c.restart(sentenceBare)
		}
	}
	return c
}

// next is the token that follows, and rank picks among the candidates where a phrase begins; 0 is the likeliest.
func (v *vocabulary) next(c prefix, rank int) int32 {
	if c.at > 0 {
		return v.spellings[c.spelling].tokens[c.at]
	}
	return v.spellings[v.choose(c, rank)].tokens[0]
}

// choose is the phrase that begins here.
func (v *vocabulary) choose(c prefix, rank int) uint16 {
	if rank == 0 && c.phase <= sentence && c.run >= c.limit {
		return v.eos
	}
	list := v.byPhase[c.phase]
	return list[mix(c.hash, uint64(rank))%uint64(len(list))]
}

func (c *prefix) restart(ph phase) {
	c.at, c.run, c.phase = 0, 0, ph
	c.limit = shortestAnswer + uint16(mix(c.hash, 'l')%answerSpread)
}

// phaseAfter is how a sentence may begin after a foreign token.
func (v *vocabulary) phaseAfter(token int32) phase {
	t := v.text[token]
	if t == "" || t[len(t)-1] == '\n' || t[len(t)-1] == ' ' {
		return sentenceBare
	}
	return sentence
}

// damaged is the state after something in the prefix was spoiled; 0 is no damage.
func (c prefix) damaged(by uint64) prefix {
	if by != 0 {
		c.hash = mix(c.hash, by)
	}
	return c
}

// prefixBytes is the size of an encoded prefix.
const prefixBytes = 16

// encode writes a prefix as bytes: the content of a KV block.
func (c prefix) encode() [prefixBytes]byte {
	var b [prefixBytes]byte
	binary.BigEndian.PutUint64(b[:], c.hash)
	binary.BigEndian.PutUint16(b[8:], c.run)
	binary.BigEndian.PutUint16(b[10:], c.limit)
	binary.BigEndian.PutUint16(b[12:], c.spelling)
	b[14], b[15] = c.at, byte(c.phase)
	return b
}
