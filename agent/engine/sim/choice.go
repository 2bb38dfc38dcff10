package sim

import (
	"bytes"
	"unicode/utf8"
)

// choice is one answer while its tokens arrive: it makes text of them, finds stop strings, and holds back what may still
// change.
type choice struct {
	index       int
	seq         *sequence
	stops       []string
	includeStop bool
	minTokens   int
	longestStop int

	detok  *detokenizer
	text   []byte // all text so far, up to a stop string
	shown  int    // bytes of it that were given out
	count  int    // tokens so far
	cached int
	tokens []emitted // taken last; reused
	ended  bool

	finish     finish
	stopReason any // nil, the stop string, or the stop token's id
	outcome    *outcome
}

func newChoice(index int, seq *sequence, f *generateFields) *choice {
	c := &choice{
		index: index, seq: seq, stops: f.Stop, includeStop: f.IncludeStop, minTokens: f.MinTokens,
		detok: newDetokenizer(theVocabulary(), orElse(f.SkipSpecial, true)),
	}
	c.detok.prime(seq.tokens)
	for _, s := range f.Stop {
		c.longestStop = max(c.longestStop, len(s))
	}
	return c
}

// delta is what is new of a choice. Its slices are valid until the next advance.
type delta struct {
	text   []byte
	tokens []emitted
}

// advance takes what the engine generated since the last time. ok is false if there is nothing new.
func (c *choice) advance() (d delta, ok bool) {
	var end *outcome
	c.tokens, c.cached, end = c.seq.out.take(c.tokens)
	n := c.read(end)
	switch {
	case c.finish != running: // a stop string
	case end != nil:
		c.finish, c.outcome = end.reason, end
		if end.stopToken >= 0 {
			c.stopReason = end.stopToken
		}
	case n == 0:
		return d, false
	}
	c.ended = c.finish != running
	c.count += n
	d = delta{c.text[c.shown:c.showable()], c.tokens[:n]}
	c.shown += len(d.text)
	return d, true
}

// read makes text of the taken tokens and returns how many of them belong to the answer.
func (c *choice) read(end *outcome) int {
	for i, t := range c.tokens {
		from := len(c.text)
		stopToken := end != nil && end.stopToken >= 0 && i == len(c.tokens)-1
		if !stopToken || c.includeStop {
			c.text = c.detok.push(c.text, t.token)
		}
		if c.count+i+1 > c.minTokens && c.findStop(from) {
			return i + 1
		}
	}
	return len(c.tokens)
}

// findStop looks for a stop string that ends after from, and cuts the text at it.
func (c *choice) findStop(from int) bool {
	for _, s := range c.stops {
		start := max(0, from-len(s)+1)
		i := bytes.Index(c.text[start:], []byte(s))
		if i < 0 {
			continue
		}
		cut := start + i
		if c.includeStop {
			cut += len(s)
		}
		c.text = c.text[:cut]
		c.finish, c.stopReason = finishedStop, s
		return true
	}
	return false
}

// showable is how much of the text may be given out: while a stop string may still come, not its possible beginning.
func (c *choice) showable() int {
	n := len(c.text)
	if c.finish != running || c.longestStop == 0 || c.includeStop {
		return n
	}
	n = max(n-c.longestStop+1, c.shown)
	for n > c.shown && n < len(c.text) && !utf8.RuneStart(c.text[n]) {
		n--
	}
	return n
}
