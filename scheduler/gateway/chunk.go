package gateway

import (
	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

// span is a part of a slice: from start up to but not including end. The zero span means: not there.
type span struct{ start, end int }

func (s span) of(b []byte) []byte { return b[s.start:s.end] }

func (s span) there() bool { return s.end > s.start }

// chunk is what the relay needs of one event of a stream, found by walking over its JSON once. Offsets point into the
// event's data. A chunk is used again for the next event.
type chunk struct {
	data    []byte
	choices int
	texts   int  // choices that bring text
	text    span // of the first choice: between the quotes of its text
	textStr span // the same with quotes; also there when the text is empty
	finish  span // finish_reason, unless null
	finishV span // finish_reason, null or not
	stop    span // stop_reason, null or not
	role    span // "role" in delta, with the comma that goes with it: only for templates
	other   bool // a delta brings more than text: tool calls, reasoning, a refusal
	ids     span // token_ids of the last choice that has them
	tokens  int  // token ids in all choices
	prompt  span // prompt_token_ids
	usage   span // unless null
	fault   span // an error object in place of an answer
	cuts    []span
	last    alike // an event that this one may be like
}

// hide says what an engine was asked for by the gateway and not by the client.
type hide struct {
	ids   bool
	usage bool
}

// scan fills c from the data of an event. It returns false when that is not a JSON object of the known form; c is of no
// use then.
func (c *chunk) scan(data []byte, h hide) bool {
	if c.last.fill(c, data, h) {
		return true
	}
	if !c.walk(data, h) {
		return false
	}
	c.last.remember(c, h)
	return true
}

// walk is scan for an event that is unlike the last one.
func (c *chunk) walk(data []byte, h hide) bool {
	*c = chunk{data: data, cuts: c.cuts[:0], last: c.last}
	if len(data) == 0 || data[0] != '{' {
		return false
	}
	it := rawjson.Members(data, 0)
	m := c.cutter()
	for it.Next() {
		cut := false
		switch string(it.Key()) {
		case "choices":
			m.keep(it.KeyAt())
			end := c.scanChoices(it.Value, h)
			it.Resume(end)
			m.end(end)
			continue
		case "usage":
			value := span{it.Value, it.Skip()}
			if !rawjson.IsNull(data, value.start) {
				c.usage = value
			}
			cut = h.usage
			m.add(it.KeyAt(), value.end, cut)
			continue
		case "prompt_token_ids":
			value := span{it.Value, it.Skip()}
			if data[value.start] == '[' {
				c.prompt = value
			}
			cut = h.ids
			m.add(it.KeyAt(), value.end, cut)
			continue
		case "error":
			value := span{it.Value, it.Skip()}
			if !rawjson.IsNull(data, value.start) {
				c.fault = value
			}
			m.add(it.KeyAt(), value.end, false)
			continue
		}
		m.add(it.KeyAt(), it.Skip(), false)
	}
	m.done()
	return it.End() >= 0
}

func (c *chunk) scanChoices(at int, h hide) int {
	if rawjson.IsNull(c.data, at) {
		return at + 4
	}
	el := rawjson.Elements(c.data, at)
	for el.Next() {
		c.choices++
		el.Resume(c.scanChoice(el.Value, h))
	}
	return el.End()
}

func (c *chunk) scanChoice(at int, h hide) int {
	it := rawjson.Members(c.data, at)
	m := c.cutter()
	for it.Next() {
		switch string(it.Key()) {
		case "delta":
			m.keep(it.KeyAt())
			end := c.scanDelta(it.Value)
			it.Resume(end)
			m.end(end)
		case "text":
			m.add(it.KeyAt(), c.takeText(&it), false)
		case "finish_reason":
			value := span{it.Value, it.Skip()}
			c.finishV = value
			if !rawjson.IsNull(c.data, value.start) {
				c.finish = value
			}
			m.add(it.KeyAt(), value.end, false)
		case "stop_reason":
			c.stop = span{it.Value, it.Skip()}
			m.add(it.KeyAt(), c.stop.end, false)
		case "token_ids":
			value := span{it.Value, it.Skip()}
			if n := elements(c.data, value); n > 0 {
				c.ids = value
				c.tokens += n
			}
			m.add(it.KeyAt(), value.end, h.ids)
		case "prompt_token_ids":
			value := span{it.Value, it.Skip()}
			if value.end > 0 && c.data[value.start] == '[' {
				c.prompt = value
			}
			m.add(it.KeyAt(), value.end, h.ids)
		default:
			m.add(it.KeyAt(), it.Skip(), false)
		}
	}
	m.done()
	return it.End()
}

// takeText takes the current value as the choice's text.
func (c *chunk) takeText(it *rawjson.Iter) int {
	end := it.Skip()
	if end < 0 || c.data[it.Value] != '"' {
		return end
	}
	if c.choices == 1 {
		c.textStr = span{it.Value, end}
		c.text = span{it.Value + 1, end - 1}
	}
	if end-it.Value > 2 {
		c.texts++
	}
	return end
}

func (c *chunk) scanDelta(at int) int {
	if rawjson.IsNull(c.data, at) {
		return at + 4
	}
	it := rawjson.Members(c.data, at)
	previous, cutRole := at+1, false
	for it.Next() {
		if cutRole { // role was the first member: its comma is the one before this member
			c.role.end, cutRole = it.KeyAt(), false
		}
		switch string(it.Key()) {
		case "content":
			c.takeText(&it)
		case "role":
			end := it.Skip()
			if previous == at+1 {
				c.role, cutRole = span{it.KeyAt(), end}, true
			} else {
				c.role = span{previous, end}
			}
		default:
			end := it.Skip()
			c.other = c.other || !nothing(c.data, span{it.Value, end})
		}
		previous = it.ValueEnd()
	}
	return it.End()
}

// nothing reports whether a value says nothing: null, an empty string, array or object.
func nothing(b []byte, v span) bool {
	if v.end < 0 {
		return true
	}
	switch string(v.of(b)) {
	case "null", `""`, "[]", "{}":
		return true
	}
	return false
}

// elements counts the elements of an array of numbers.
func elements(b []byte, v span) int {
	if v.end-v.start <= 2 || b[v.start] != '[' {
		return 0
	}
	n, some := 1, false
	for _, c := range v.of(b) {
		if c == ',' {
			n++
		}
		some = some || c >= '0' && c <= '9'
	}
	if !some {
		return 0
	}
	return n
}

// content reports whether the event brings what a client waits for, beyond the announcement of a role.
func (c *chunk) content() bool {
	return c.texts > 0 || c.other || c.finish.there() || c.choices == 0
}

// append appends the data without what was cut.
func (c *chunk) append(dst []byte) []byte {
	at := 0
	for _, cut := range c.cuts {
		dst = append(dst, c.data[at:cut.start]...)
		at = cut.end
	}
	return append(dst, c.data[at:]...)
}

// cutter collects what to leave out of one object so that its commas still fit. Members are told to it in their order.
type cutter struct {
	c        *chunk
	kept     bool
	open     int // where a cut began that ends at the next member that stays; -1 = none
	previous int // end of the member before
}

func (c *chunk) cutter() cutter { return cutter{c: c, open: -1} }

// keep tells of a member that stays, before its value is walked.
func (m *cutter) keep(keyAt int) {
	if m.open >= 0 {
		m.c.cuts = append(m.c.cuts, span{m.open, keyAt})
		m.open = -1
	}
	m.kept = true
}

// end tells where the member ended that keep told of.
func (m *cutter) end(at int) { m.previous = at }

// add tells of a whole member.
func (m *cutter) add(keyAt, end int, cut bool) {
	switch {
	case end < 0: // malformed: the walk ends here
	case !cut:
		m.keep(keyAt)
	case m.kept:
		m.c.cuts = append(m.c.cuts, span{m.previous, end})
	case m.open < 0:
		m.open = keyAt
	}
	m.previous = end
}

// done tells that the object ends.
func (m *cutter) done() {
	if m.open >= 0 {
		m.c.cuts = append(m.c.cuts, span{m.open, m.previous})
	}
}
