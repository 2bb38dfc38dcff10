package gateway

import (
	"bytes"
	"errors"
	"strconv"

	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

// history is what a client has got of one answer: its text, and the token ids behind it. From it another replica can go
// on.
//
// Token ids and text do not keep step. An engine holds text back: bytes that are no whole character yet, and with stop
// strings the last characters, which might begin one. So an answer is continued from a token after which all text was out,
// and a little earlier than the last one: the replica that goes on makes that text again, and history compares. Only what
// goes beyond is new. When it makes other text, going on would change the answer, and it is not done.
type history struct {
	prompt []uint32 // the prompt's token ids; nil = not known
	tokens []uint32
	// ends[i] is how many bytes of text were out after tokens[i] if all of its text was, else -1.
	ends []int32
	sent []byte // all text that the client has
	made int    // how many bytes of text the present source has brought, counted from the answer's beginning

	// whole: the answer can only be made again from its beginning, since nobody knows where its tokens end in the text. So
	// it is with stop strings, which must also be found where they lie across the place of the cut, and for engines that
	// tell no token ids.
	whole  bool
	doubts int // how often text that was made again came out different

	scratch []byte
}

var (
	// errDiverged means that a replica that goes on made other text than the one before it.
	errDiverged = errors.New("the other replica answers differently")
	// errHalfPair means that text came in a form in which it cannot be compared.
	errHalfPair = errors.New("the text holds half a surrogate pair")
	errTokenIDs = errors.New("the engine sent token ids that are no numbers")
)

// take adds what a chunk brings and returns the text that the client does not have yet. The slice is valid until the
// next call.
func (h *history) take(c *chunk) (fresh []byte, err error) {
	if h.prompt == nil && c.prompt.there() {
		if h.prompt, err = appendIDs(make([]uint32, 0, elements(c.data, c.prompt)), c.prompt.of(c.data)); err != nil {
			return nil, err
		}
	}
	text, exact := rawjson.AppendText(h.scratch[:0], c.text.of(c.data))
	h.scratch = text
	if !exact {
		return nil, errHalfPair
	}
	if fresh, err = h.compare(text); err != nil {
		return nil, err
	}
	h.sent = append(h.sent, fresh...)
	h.made += len(text)
	return fresh, h.takeIDs(c, len(text))
}

// compare checks text, which stands at h.made, against what was sent, and returns the rest of it.
func (h *history) compare(text []byte) ([]byte, error) {
	known := h.sent[min(h.made, len(h.sent)):]
	if len(known) > len(text) {
		known = known[:len(text)]
	}
	if !bytes.Equal(text[:len(known)], known) {
		return nil, errDiverged
	}
	return text[len(known):], nil
}

func (h *history) takeIDs(c *chunk, text int) (err error) {
	if !c.ids.there() {
		if text > 0 {
			h.whole = true // text without its ids: the two can no longer be brought together
		}
		return nil
	}
	before := len(h.tokens)
	if h.tokens, err = appendIDs(h.tokens, c.ids.of(c.data)); err != nil {
		return err
	}
	n := len(h.tokens) - before
	for range n - 1 {
		h.ends = append(h.ends, -1)
	}
	// A chunk of one token whose text came out is at a boundary. Of several tokens the last may be held back.
	end := int32(-1)
	if n == 1 && text > 0 {
		end = int32(h.made)
	}
	h.ends = append(h.ends, end)
	return nil
}

// maxBack is how many tokens are looked through for a good place to go on from.
const maxBack = 64

// resumeAt returns how many tokens to keep when another replica goes on; 0 = begin anew. After the kept ones there is text
// to compare. Best is a place that is followed by an ASCII character: an engine that shows the whole characters of a token
// and keeps half of the next one to itself would show that half first.
func (h *history) resumeAt() int {
	if h.whole || h.prompt == nil || h.doubts > 1 {
		return 0
	}
	second := 0
	for k := len(h.tokens); k > max(0, len(h.tokens)-maxBack); k-- {
		end := h.ends[k-1]
		if end < 0 || int(end) >= len(h.sent) {
			continue
		}
		if h.sent[end] < 0x80 {
			return k
		}
		second = max(second, k)
	}
	return second
}

// rewind makes ready for a source that goes on after k tokens.
func (h *history) rewind(k int) {
	h.tokens, h.ends, h.made = h.tokens[:k], h.ends[:k], 0
	if k > 0 {
		h.made = int(h.ends[k-1])
	}
}

// doubt tells that the source that went on after k tokens made other text. It reports whether another try makes sense: a
// place where text was held back against all signs can be at fault, the very beginning cannot.
func (h *history) doubt(k int) bool {
	if k == 0 {
		return false
	}
	h.doubts++
	h.ends[k-1] = -1
	return true
}

// behind reports whether the present source has not yet brought all that the client has.
func (h *history) behind() bool { return h.made < len(h.sent) }

// appendIDs appends the numbers of a JSON array.
func appendIDs(dst []uint32, array []byte) ([]uint32, error) {
	n, digits := uint64(0), false
	for _, c := range array {
		switch {
		case c >= '0' && c <= '9':
			if n = n*10 + uint64(c-'0'); n > 1<<32-1 {
				return dst, errTokenIDs
			}
			digits = true
		case c == ',' || c == ']':
			if !digits {
				return dst, errTokenIDs
			}
			dst = append(dst, uint32(n))
			n, digits = 0, false
		case c != '[' && c != ' ':
			return dst, errTokenIDs
		}
	}
	return dst, nil
}

// appendIDArray writes token ids as JSON.
func appendIDArray(dst []byte, parts ...[]uint32) []byte {
	dst = append(dst, '[')
	comma := false
	for _, ids := range parts {
		for _, id := range ids {
			if comma {
				dst = append(dst, ',')
			}
			comma = true
			dst = strconv.AppendUint(dst, uint64(id), 10)
		}
	}
	return append(dst, ']')
}
