package gateway

import (
	"hash/fnv"
	"strings"
	"unicode/utf8"
)

// The model of the fake engine: the next token is a function of all tokens before it, so an answer that lost, doubled or
// swapped one token goes on differently. Its tokens hold parts of characters, and text with parts of characters.

const (
	eos       = 0
	firstText = 10_000 // ids of prompts' bytes are below
)

// units are what the model says: each is a run of tokens, and whole characters only at its end.
var units = [][]string{
	{" the"},
	{" water"},
	{" runs"},
	{"\n"},
	{" \"quoted\""},
	{"\\"},
	{" down"},
	{","},
	{"."},
	{" pipe", "line"},
	{"\xc3", "\xa9"},                      // é from two bytes
	{" caf\xc3", "\xa9s"},                 // text with half a character at both ends
	{"\xf0\x9f", "\x98", "\x80"},          // 😀 from three tokens
	{" \xe6\xb0", "\xb4\xe3\x82", "\x92"}, // 水を across three
	{"水"},
	{"流"},
	{" ", "x"},
}

// vocabulary gives each token of a unit an id of its own.
var vocabulary = func() (v []string) {
	for _, u := range units {
		v = append(v, u...)
	}
	return v
}()

var unitStart = func() (at []int) {
	n := 0
	for _, u := range units {
		at = append(at, n)
		n += len(u)
	}
	return at
}()

func piece(id int) string {
	if id < firstText {
		return ""
	}
	return vocabulary[id-firstText]
}

// next is the token after ids.
func next(ids []int, noEOS bool) int {
	if n := len(ids); n > 0 && ids[n-1] >= firstText {
		last := ids[n-1] - firstText
		for u, at := range unitStart {
			if last >= at && last < at+len(units[u])-1 {
				return ids[n-1] + 1 // within a unit
			}
		}
	}
	h := fnv.New64a()
	for _, id := range ids {
		h.Write([]byte{byte(id), byte(id >> 8), byte(id >> 16)})
	}
	x := h.Sum64()
	if x%41 == 0 && !noEOS {
		return eos
	}
	return firstText + unitStart[(x>>8)%uint64(len(units))]
}

// generate is the reference: the tokens of an answer, its text, and why it ends.
func generate(prompt []int, maxTokens, minTokens int, stop []string) (tokens []int, text, finish string) {
	ids := append([]int(nil), prompt...)
	for len(tokens) < maxTokens {
		t := next(ids, len(tokens) < minTokens)
		ids, tokens = append(ids, t), append(tokens, t)
		if t == eos {
			return tokens, strings.ToValidUTF8(text, "\uFFFD"), "stop"
		}
		text += piece(t)
		if at := stopAt(wholeCharacters(text), stop); at >= 0 {
			return tokens, text[:at], "stop"
		}
	}
	return tokens, strings.ToValidUTF8(text, "\uFFFD"), "length"
}

func stopAt(text string, stop []string) int {
	at := -1
	for _, s := range stop {
		if i := strings.Index(text, s); i >= 0 && (at < 0 || i < at) {
			at = i
		}
	}
	return at
}

// wholeCharacters cuts an unfinished character off the end.
func wholeCharacters(s string) string {
	for i := 1; i <= 3 && i <= len(s); i++ {
		if c := s[len(s)-i]; utf8.RuneStart(c) {
			if !utf8.FullRuneInString(s[len(s)-i:]) {
				return s[:len(s)-i]
			}
			break
		}
	}
	return s
}

// detokenizer makes text of tokens as they come. It knows only the tokens that it was shown, not the prompt's.
type detokenizer struct {
	bytes string
	shown int
	// eager shows the whole characters of a token at once and keeps the rest; else a token that ends within a character is
	// kept back whole. Engines do either.
	eager bool
	stop  []string
}

// push returns the text that is new, and whether a stop string was met.
func (d *detokenizer) push(id int, final bool) (text string, stopped bool) {
	d.bytes += piece(id)
	whole := wholeCharacters(d.bytes)
	if !d.eager && whole != d.bytes {
		whole = d.bytes[:d.shown]
	}
	if at := stopAt(wholeCharacters(d.bytes), d.stop); at >= 0 {
		text, d.shown = d.bytes[min(d.shown, at):at], at
		return text, true
	}
	if final {
		whole = d.bytes
	} else {
		for back := d.heldForStop(); back > 0 && whole != ""; back-- {
			_, n := utf8.DecodeLastRuneInString(whole)
			whole = whole[:len(whole)-n]
		}
	}
	if len(whole) > d.shown {
		text, d.shown = strings.ToValidUTF8(whole[d.shown:], "\uFFFD"), len(whole)
	}
	return text, false
}

// heldForStop is how many characters are held back since they might begin a stop string.
func (d *detokenizer) heldForStop() (n int) {
	for _, s := range d.stop {
		n = max(n, utf8.RuneCountInString(s)-1)
	}
	return n
}

func bytesAsTokens(s string) []int {
	ids := make([]int, len(s))
	for i := range s {
		ids[i] = 1 + int(s[i])
	}
	return ids
}
