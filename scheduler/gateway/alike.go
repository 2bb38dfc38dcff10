package gateway

import (
	"bytes"

	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

// alike remembers the last ordinary event of a stream: one choice with some text, and maybe its token ids. The next event
// is mostly the same but for these, which comparing tells at a small part of the cost of walking over its JSON.
type alike struct {
	data []byte // empty = there was none
	hide hide

	text, textStr, finishV, stop, role, ids span
	cuts                                    []span
}

// remember takes what a walk has found.
func (a *alike) remember(c *chunk, h hide) {
	a.data = a.data[:0]
	ordinary := c.choices == 1 && c.texts == 1 && c.text.there() && !c.other && !c.finish.there() && !c.prompt.there() && !c.usage.there() && !c.fault.there()
	// Names that stand twice in an object are not ordinary.
	if !ordinary || c.tokens != elements(c.data, c.ids) || c.ids.there() && c.ids.start < c.textStr.end {
		return
	}
	a.data, a.cuts, a.hide = append(a.data, c.data...), append(a.cuts[:0], c.cuts...), h
	a.text, a.textStr, a.finishV, a.stop, a.role, a.ids = c.text, c.textStr, c.finishV, c.stop, c.role, c.ids
}

// fill does what a walk over data would, if data is like what is remembered. Else it changes nothing.
func (a *alike) fill(c *chunk, data []byte, h hide) bool {
	at := a.text.start
	if len(a.data) == 0 || h != a.hide || len(data) < at || !bytes.Equal(data[:at], a.data[:at]) {
		return false
	}
	text := span{at, rawjson.Skip(data, at-1) - 1} // what is equal ends with the quote before the text
	if !text.there() {
		return false
	}
	moved, beyond := text.end-a.text.end, text.end-a.text.end
	ids, tokens := span{}, 0
	if a.ids.there() {
		ids.start = a.ids.start + moved
		if len(data) < ids.start || !bytes.Equal(data[text.end:ids.start], a.data[a.text.end:a.ids.start]) {
			return false
		}
		ids.end = rawjson.Skip(data, ids.start)
		if tokens = elements(data, ids); tokens == 0 {
			return false
		}
		beyond = ids.end - a.ids.end
		if !bytes.Equal(data[ids.end:], a.data[a.ids.end:]) {
			return false
		}
	} else if !bytes.Equal(data[text.end:], a.data[a.text.end:]) {
		return false
	}
	c.data, c.choices, c.texts, c.tokens, c.other = data, 1, 1, tokens, false
	c.text, c.ids, c.finish, c.prompt, c.usage, c.fault = text, ids, span{}, span{}, span{}, span{}
	shift := func(s span) span { return span{a.shift(s.start, moved, beyond), a.shift(s.end, moved, beyond)} }
	c.textStr, c.finishV, c.stop, c.role, c.cuts = shift(a.textStr), shift(a.finishV), shift(a.stop), shift(a.role), c.cuts[:0]
	for _, cut := range a.cuts {
		c.cuts = append(c.cuts, shift(cut))
	}
	return true
}

// shift is where an offset of what is remembered is in the present event.
func (a *alike) shift(offset, moved, beyond int) int {
	switch {
	case offset <= a.text.start:
		return offset
	case a.ids.there() && offset >= a.ids.end:
		return offset + beyond
	}
	return offset + moved
}
