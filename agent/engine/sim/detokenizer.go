package sim

import "unicode/utf8"

// detokenizer turns a stream of tokens into text without ever showing half a character: bytes that may still become a
// character are held back, as vLLM does.
type detokenizer struct {
	v           *vocabulary
	skipSpecial bool
	held        []byte // the beginning of a character
}

func newDetokenizer(v *vocabulary, skipSpecial bool) *detokenizer {
	return &detokenizer{v: v, skipSpecial: skipSpecial}
}

// push appends to out the text that the token completes, which may be nothing.
func (d *detokenizer) push(out []byte, token int32) []byte {
	text := d.v.text[token]
	if d.v.special(token) {
		if d.skipSpecial {
			return out
		}
		text = d.v.name(token)
	}
	if len(d.held) == 0 && isASCII(text) {
		return append(out, text...)
	}
	d.held = append(d.held, text...)
	for len(d.held) > 0 && utf8.FullRune(d.held) {
		out = d.shift(out)
	}
	return out
}

// primeTokens is more than a character can have bytes.
const primeTokens = 4

// prime makes a character complete that began in the tokens before: its text belongs to the token that ends it.
func (d *detokenizer) prime(before []int32) {
	for _, t := range before[max(0, len(before)-primeTokens):] {
		d.push(nil, t)
	}
}

// flush appends what is held back: bytes that will never be a character become U+FFFD.
func (d *detokenizer) flush(out []byte) []byte {
	for len(d.held) > 0 {
		out = d.shift(out)
	}
	return out
}

func (d *detokenizer) shift(out []byte) []byte {
	r, n := utf8.DecodeRune(d.held)
	d.held = d.held[:copy(d.held, d.held[n:])]
	return utf8.AppendRune(out, r)
}
