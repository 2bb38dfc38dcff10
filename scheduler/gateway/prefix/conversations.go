package prefix

import (
	"slices"
	"sync"

	"github.com/zeebo/xxh3"
)

// Conversations remembers the tokens of prompts by their messages, within a bound of memory. Safe for concurrent use.
//
// Most prompts are those of the turn before with an answer and a question more. Where a model's template only ever appends, which is
// seen at a conversation's second turn, the tokens of a further turn are those that are known and those of the last messages alone,
// put together where both have the same tokens (join).
type Conversations struct {
	mu         sync.Mutex
	most       int // bytes of each generation
	young, old map[uint64]*turn
	bytes      int // of young
}

// turn is one prompt's tokens. Nobody changes it.
type turn struct {
	tokens  []uint32
	open    int  // tokens at the end that open the answer and are not there in the next turn; -1 = nobody has seen
	appends bool // the turn after it began with these tokens
}

// Known is what is known of a prompt.
type Known struct {
	*turn          // nil = nothing
	messages int   // how many of the prompt's first messages that is
	keys     []key // of the prompt's beginnings, by number of messages
}

type key = uint64

// NewConversations returns an empty memory of so many bytes.
func NewConversations(most int) *Conversations {
	return &Conversations{most: most / 2, young: map[uint64]*turn{}}
}

// Find says what is known of a prompt for a model (of a deployment): root tells it from others.
func (c *Conversations) Find(root string, p *Prompt) Known {
	k := Known{keys: p.keys(root)}
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := len(k.keys); n > 0; n-- {
		if t := c.get(k.keys[n-1]); t != nil {
			k.turn, k.messages = t, n
			break
		}
	}
	return k
}

// keys name the beginnings of a prompt. What is no chat has itself for its only beginning.
func (p *Prompt) keys(root string) []key {
	h := xxh3.HashSeed(p.fields, xxh3.HashString(root))
	if p.messages == nil {
		return []key{xxh3.HashSeed(p.raw, h)}
	}
	keys := make([]key, len(p.messages))
	for i, m := range p.messages {
		h = xxh3.HashSeed(m, h)
		keys[i] = h
	}
	return keys
}

func (c *Conversations) get(k key) *turn {
	if t := c.young[k]; t != nil {
		return t
	}
	t := c.old[k]
	if t != nil {
		c.put(k, t)
	}
	return t
}

func (c *Conversations) put(k key, t *turn) {
	if c.bytes += 4*len(t.tokens) + 128; c.bytes > c.most {
		c.old, c.young, c.bytes = c.young, map[uint64]*turn{}, 4*len(t.tokens)+128
	}
	c.young[k] = t
}

// Whole tells whether the tokens of the whole prompt are known.
func (k *Known) Whole() bool { return k.turn != nil && k.messages == len(k.keys) }

// Tokens are those of the prompt's beginning that are known, and no others. They must not be changed.
func (k *Known) Tokens() []uint32 {
	switch {
	case k.turn == nil:
		return nil
	case k.Whole():
		return k.tokens
	}
	open := k.open
	if open < 0 {
		open = openMost
	}
	return k.tokens[:max(0, len(k.tokens)-open)]
}

// An ask for the last messages goes back to where at least anchorBytes of known text are in it: anchorTokens of that must be found in
// the answer.
const (
	anchorBytes  = 400
	anchorTokens = 32
	// openMost is how many tokens may open an answer. More of a difference between two turns is no opening.
	openMost = 32
)

// Ask lists the messages whose tokens have to be asked for; nil for a prompt that is no chat. Part tells that these are not all.
func (k *Known) Ask(p *Prompt) (messages [][]byte, part bool) {
	if k.turn == nil || !k.appends || k.messages == 0 {
		return p.messages, false
	}
	from, known := k.messages, 0
	for from > 1 && (known < anchorBytes || role(p.messages[from]) != `"user"`) {
		from--
		known += len(p.messages[from])
	}
	if from <= 1 {
		return p.messages, false
	}
	messages = p.messages[from:]
	if r := role(p.messages[0]); r == `"system"` || r == `"developer"` {
		messages = slices.Concat(p.messages[:1], messages)
	}
	return messages, true
}

func role(message []byte) string {
	if len(message) == 0 || message[0] != '{' {
		return ""
	}
	return string(member(message, 0, "role"))
}

// Learn takes in the answer to what Ask asked, and gives the tokens of the whole prompt. Not ok: they cannot be put together, and
// the next ask will be for all messages.
func (c *Conversations) Learn(k *Known, answer []uint32, part bool) (tokens []uint32, ok bool) {
	t := &turn{tokens: answer, open: -1}
	if part {
		joined, ok := join(k.Tokens(), answer)
		if !ok {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.put(k.keys[k.messages-1], &turn{tokens: k.tokens, open: k.open})
			return nil, false
		}
		t.tokens, t.open, t.appends = joined, k.open, true
	} else if k.turn != nil && k.messages < len(k.keys) {
		same := common(k.tokens, answer)
		if open := len(k.tokens) - same; open <= openMost && same > 0 {
			t.open, t.appends = open, true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(k.keys[len(k.keys)-1], t)
	return t.tokens, true
}

// join puts known tokens and those of the last messages together. The latter begin as the former do (with the system's words), and
// go on with their end. There must be exactly one place where that end can be, or nothing is sure.
func join(known, last []uint32) ([]uint32, bool) {
	if len(known) < anchorTokens {
		return nil, false
	}
	anchor := known[len(known)-anchorTokens:]
	begin, at := common(known, last), -1
	for i := 0; i+anchorTokens <= len(last); i++ {
		if last[i] != anchor[0] || !slices.Equal(last[i:i+anchorTokens], anchor) {
			continue
		}
		end := i + anchorTokens
		if begin+commonEnd(known, last[:end]) < end {
			continue
		}
		if at >= 0 {
			return nil, false
		}
		at = end
	}
	if at < 0 {
		return nil, false
	}
	return slices.Concat(known, last[at:]), true
}

// commonEnd counts the tokens at their ends that two prompts share.
func commonEnd(a, b []uint32) (n int) {
	for n < min(len(a), len(b)) && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	return n
}

// common counts the leading tokens that two prompts share.
func common(a, b []uint32) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
