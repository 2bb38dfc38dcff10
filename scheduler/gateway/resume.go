package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/jobspecs/engine"
	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

// A stream whose replica is lost goes on like this. Before its first text it simply begins anew. After it, a greedy answer
// is continued: another replica gets the prompt's token ids and those already made as the prompt of /v1/completions, with what
// is left of max_tokens, and makes the rest. Where that is not exact (stop strings, engines without token ids) another
// replica makes the answer again from its beginning, and the client gets only what it does not have. Either way text that
// is made twice is compared. The client sees events of the form that the first replica sent, with its id.

// afterCut says what to do when the stream's replica was lost: the plan for another one, or the error to end with. When the
// answer was complete but for its end, it writes that and sets done.
func (s *stream) afterCut(a *attempt, e ending) (plan, *apiError) {
	q, g := s.q, s.g
	g.metrics.upstream.WithLabelValues(e.failure).Inc()
	again := e.failure == failureDiverged
	if !again && e.failure != "engine_error" {
		g.suspect(a.m, q.id, e.failure, nil)
	}
	g.log.Debug().Str("request_id", q.id).Str("replica", a.m.name).Str("launch", a.m.target.Launch).Str("cause", e.failure).
		Bool("begun", s.began).Msg("stream cut")
	if reached := s.reached(); s.began && reached > s.got {
		s.got = reached
		q.tried = q.tried[:0] // the answer got further: those that failed before may be tried again
	}
	if !again {
		q.tried = append(q.tried, a.m)
	}
	switch {
	case s.finished:
		s.closeOff()
		return plan{}, nil
	case len(q.tried) >= g.opts.Limits.Attempts:
		return plan{}, g.exhausted(q, e.failure)
	case !s.began:
		g.metrics.retries.WithLabelValues(e.failure).Inc()
		s.begin()
		return g.first(q), nil
	case s.hist == nil || s.template == nil:
		return plan{}, interrupted("it cannot be continued exactly on another one, since " + orUnknown(q.inexact))
	}
	if again && !s.hist.doubt(s.base) {
		return plan{}, interrupted("another one makes another text")
	}
	g.metrics.continuations.WithLabelValues("continued").Inc()
	return s.resume(), nil
}

func orUnknown(why string) string {
	if why == "" {
		return "its form is not known"
	}
	return why
}

// failureDiverged ends an attempt that made other text than the client has.
const failureDiverged = "diverged"

func (s *stream) diverged() *ending { return &ending{cut, failureDiverged} }

// codeInterrupted is the code of the error that ends a stream which nobody could go on with.
const codeInterrupted = "stream_interrupted"

func interrupted(why string) *apiError {
	return &apiError{
		status: http.StatusOK, kind: kindServer, code: codeInterrupted,
		message: "the replica that made this answer was lost: " + why + "; the text so far is right, ask again for the whole",
	}
}

// resume makes the history ready for another replica and returns what to ask of it.
func (s *stream) resume() plan {
	k := s.hist.resumeAt()
	s.hist.rewind(k)
	s.base, s.counted, s.moved, s.q.usage = k, 0, true, usage{}
	p := s.g.first(s.q)
	p.patience = s.g.opts.Limits.Patience
	if k == 0 {
		return p
	}
	p.path = pathCompletions
	p.fits = func(m *member) bool { return m.known && m.traits.TokenIDs == engine.ReturnTokenIDs }
	p.body = func(m *member) prepared { return prepared{body: s.g.resumeBody(s.q, m, s.hist, k)} }
	return p
}

// carried are the fields of a chat that a completion takes too and that matter once the prompt is token ids.
var carried = []string{
	"top_p", "top_k", "min_p", "seed", "stop_token_ids", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens",
	"spaces_between_special_tokens", "user",
}

// resumeBody asks for the rest of an answer of which k tokens are made.
func (g *Gateway) resumeBody(q *request, m *member, h *history, k int) []byte {
	edits := []rawjson.Edit{
		{Name: "model", Value: q.body.Get("model")},
		{Name: "prompt", Value: appendIDArray(nil, h.prompt, h.tokens[:k])},
		{Name: "temperature", Value: []byte("0")},
		{Name: "max_tokens", Value: q.maxTokensAfter(k)},
		{Name: "stream", Value: []byte("true")},
		{Name: "stream_options", Value: []byte(`{"include_usage":true}`)},
		{Name: "return_token_ids", Value: []byte("true")},
	}
	if n, ok := integer(q.body.Get("min_tokens")); ok && n > int64(k) {
		edits = append(edits, rawjson.Edit{Name: "min_tokens", Value: strconv.AppendInt(nil, n-int64(k), 10)})
	}
	edits = g.addSalt(edits, q, m)
	for _, name := range carried {
		if v := q.body.Get(name); !absent(v) {
			edits = append(edits, rawjson.Edit{Name: name, Value: v})
		}
	}
	return rawjson.Object{Raw: []byte("{}")}.Edit(nil, edits...)
}

// completionsDefault is max_tokens of /v1/completions where a client does not name it.
const completionsDefault = 16

// maxTokensAfter is what is left of max_tokens after k tokens, as JSON. An answer without it goes on to the end of the
// context, which is the same place for both replicas.
func (q *request) maxTokensAfter(k int) []byte {
	v := q.body.Get("max_tokens")
	limit, ok := integer(v)
	if q.path == pathChat {
		if n, newer := integer(q.body.Get("max_completion_tokens")); newer {
			limit, ok = n, true
		}
	} else if v == nil {
		limit, ok = completionsDefault, true
	}
	if !ok {
		return []byte("null")
	}
	return strconv.AppendInt(nil, max(1, limit-int64(k)), 10)
}

// goOn takes a chunk of a replica that goes on with the answer, and makes of it an event as the first replica would have
// sent it.
func (s *stream) goOn() *ending {
	c := &s.c
	if c.choices == 0 {
		if c.usage.there() {
			s.goOnUsage()
		}
		return nil
	}
	if c.other {
		return s.diverged()
	}
	s.count()
	fresh, err := s.hist.take(c)
	if err != nil {
		return s.diverged()
	}
	if c.finish.there() && s.hist.behind() {
		return s.diverged()
	}
	if len(fresh) > 0 || c.finish.there() {
		s.out = s.template.event(s.out, fresh, c)
		s.finished = s.finished || c.finish.there()
	}
	if c.usage.there() { // an engine that puts it into the last chunk
		s.goOnUsage()
	}
	return nil
}

// goOnUsage takes the usage of the replica that went on: the prompt is the client's, and what was kept counts as made.
func (s *stream) goOnUsage() {
	u := &s.q.usage
	if s.base > 0 {
		u.prompt = uint64(s.prompt)
		u.completion += uint64(s.base)
		u.cached = min(u.cached, u.prompt)
	}
	if s.q.wantUsage {
		s.out = s.template.usage(s.out, *u)
	}
}

// closeOff ends an answer whose finish reason is out and whose replica died before [DONE].
func (s *stream) closeOff() {
	if s.q.wantUsage && !s.q.usage.known && s.prompt > 0 && !s.guessed { // else nobody knows it, and nothing is said
		s.settleCounted()
		s.out = s.template.usage(s.out, s.q.counted)
	}
	s.out = append(s.out, "data: [DONE]\n\n"...)
	s.done = true
	_ = s.flushOut()
}

// template is the first event with text that the client got, taken apart: later events are put together from it.
type template struct {
	data   []byte
	parts  []part // in the order in which they stand
	id     []byte
	object []byte
	made   []byte
	model  []byte
}

// part is a value that differs from event to event.
type part struct {
	at   span
	kind partKind
}

type partKind int

const (
	partText partKind = iota
	partFinish
	partStop
	partRole // taken away
)

func newTemplate(data []byte) *template {
	t := &template{data: slices.Clone(data)}
	var c chunk
	if !c.scan(t.data, hide{}) || !c.textStr.there() {
		return nil
	}
	for _, p := range []part{{c.textStr, partText}, {c.finishV, partFinish}, {c.stop, partStop}, {c.role, partRole}} {
		if p.at.there() {
			t.parts = append(t.parts, p)
		}
	}
	slices.SortFunc(t.parts, func(a, b part) int { return a.at.start - b.at.start })
	t.id, t.object = inside(t.data, "id"), inside(t.data, "object")
	t.made, t.model = inside(t.data, "created"), inside(t.data, "model")
	return t
}

// event appends an event with text, and with the finish reason of c.
func (t *template) event(out, text []byte, c *chunk) []byte {
	out = append(out, "data: "...)
	at := 0
	for _, p := range t.parts {
		out = append(out, t.data[at:p.at.start]...)
		at = p.at.end
		switch p.kind {
		case partText:
			out = rawjson.AppendString(out, text)
		case partFinish:
			out = appendValue(out, c.finish.of(c.data))
			if c.stop.there() && c.finish.there() && !t.has(partStop) {
				out = append(append(out, `,"stop_reason":`...), c.stop.of(c.data)...)
			}
		case partStop:
			out = appendValue(out, c.stop.of(c.data))
		}
	}
	out = append(out, t.data[at:]...)
	return append(out, "\n\n"...)
}

func (t *template) has(kind partKind) bool {
	return slices.ContainsFunc(t.parts, func(p part) bool { return p.kind == kind })
}

func appendValue(out, v []byte) []byte {
	if len(v) == 0 {
		return append(out, "null"...)
	}
	return append(out, v...)
}

// usage appends the event that brings the usage.
func (t *template) usage(out []byte, u usage) []byte {
	out = append(out, "data: {"...)
	if t == nil { // an answer without text
		t = &template{}
	}
	for _, f := range []struct {
		name  string
		value []byte
	}{{"id", t.id}, {"object", t.object}, {"created", t.made}, {"model", t.model}} {
		if f.value != nil {
			out = fmt.Appendf(out, "%q:%s,", f.name, f.value)
		}
	}
	out = append(out, `"choices":[],"usage":`...)
	out = u.append(out)
	return append(out, "}\n\n"...)
}

// failureText is a failure's name as people read it.
func failureText(failure string) string { return strings.ReplaceAll(failure, "_", " ") }
