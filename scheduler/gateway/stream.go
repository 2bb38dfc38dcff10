package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/scheduler/gateway/rawjson"
	"github.com/penstock/penstock/scheduler/gateway/sse"
)

// stream relays one answer as server-sent events. Its goroutine reads from the replica, looks at each event once, and
// writes to the client; it waits nowhere else.
type stream struct {
	g     *Gateway
	q     *request
	w     http.ResponseWriter
	rc    *http.ResponseController
	flush func() error
	itl   prometheus.Observer

	out   []byte // to be written next
	began bool   // the client has the header and text
	ready bool   // something that a client waits for is in out; before, an answer can still begin anew

	c        chunk
	hist     *history // nil = the answer cannot be continued
	template *template
	base     int    // tokens that were kept when the present source took over
	counted  uint64 // tokens, or chunks of text where there are no ids, since base
	guessed  bool   // there was text without ids
	prompt   int    // tokens of the prompt; 0 = not known
	moved    bool   // the present source goes on with what another one began
	finished bool   // the finish reason is out
	done     bool   // [DONE] is out

	got       int // reached before the present source
	lastText  time.Time
	writeTill time.Time
}

// serveStream answers a request that wants its answer token by token.
func (g *Gateway) serveStream(ctx context.Context, w http.ResponseWriter, q *request) {
	s := &stream{
		g: g, q: q, w: w, rc: http.NewResponseController(w), out: g.pools.buffers.get()[:0],
		itl: g.metrics.itl.WithLabelValues(q.model.Name),
	}
	s.flush = flusher(s.rc, w)
	defer func() { g.pools.buffers.put(s.out) }()
	s.begin()
	p := g.first(q)
	for {
		a, refused := g.send(ctx, q, p)
		switch {
		case refused == errGone:
			s.end(ending{kind: left})
			return
		case refused != nil:
			s.refuse(refused)
			return
		case a.resp.Status != http.StatusOK || !strings.HasPrefix(a.resp.Header.Get("Content-Type"), "text/event-stream"):
			s.noStream(a)
			return
		}
		e := s.relay(a)
		a.rec.Tokens = s.counted
		a.close(e.failure)
		if e.kind != cut {
			s.end(e)
			return
		}
		if gone(ctx) {
			s.end(ending{kind: left})
			return
		}
		if p, refused = s.afterCut(a, e); refused != nil {
			s.refuse(refused)
			return
		}
		if s.done {
			s.end(ending{kind: whole})
			return
		}
	}
}

// begin makes ready for an answer from its first token.
func (s *stream) begin() {
	s.out, s.ready, s.moved, s.base, s.counted, s.guessed, s.template = s.out[:0], false, false, 0, 0, false, nil
	s.hist = nil
	if s.q.inexact == "" {
		s.hist = &history{whole: !nothingIn(s.q.body.Get("stop"))}
	}
}

// tokens is how many tokens of the answer are made, or chunks of text where there are no ids.
func (s *stream) tokens() uint64 { return uint64(s.base) + s.counted }

// reached is how far the client got; it grows with every text that is new to it.
func (s *stream) reached() int {
	if s.hist != nil {
		return len(s.hist.sent)
	}
	return int(s.counted)
}

// ending is how a relay came to its end.
type ending struct {
	kind    endKind
	failure string // for records
}

type endKind int

const (
	whole   endKind = iota // the answer is complete
	left                   // the client is gone
	refused                // the engine itself ended the answer with an error, which the client has
	cut                    // the replica is lost, or its answer is
)

// relay passes on what comes until the answer ends in one way or another.
func (s *stream) relay(a *attempt) ending {
	split := sse.NewSplitter(s.g.pools.buffers.get(), s.g.opts.Limits.MaxEvent)
	defer func() { s.g.pools.buffers.put(split.Buffer()) }()
	for {
		_, err := split.Fill(a.resp)
		for event := split.Next(); event != nil && !s.done; event = split.Next() {
			if e := s.event(a, event); e != nil {
				if e.kind != cut && !s.write() {
					return ending{left, "client_gone"}
				}
				return *e
			}
		}
		if !s.write() {
			return ending{left, "client_gone"}
		}
		switch {
		case s.done:
			s.drain(a, err)
			return ending{kind: whole}
		case err == nil:
		case errors.Is(err, io.EOF) && s.q.path == pathResponses && s.finished:
			return ending{kind: whole}
		case errors.Is(err, io.EOF) && s.finished: // an engine that does not say [DONE]
			s.closeOff()
			return ending{kind: whole}
		case errors.Is(err, io.EOF):
			return ending{cut, "ended_early"}
		default:
			return ending{cut, failureOf(err)}
		}
	}
}

// drain reads the end of an answer after [DONE], so that the connection can be used again. It does not wait for long.
func (s *stream) drain(a *attempt, err error) {
	a.resp.SetIdle(time.Second)
	var b [64]byte
	for n := 0; err == nil && n < 16; n++ {
		_, err = a.resp.Read(b[:])
	}
}

// event takes one event; a result that is not nil ends the relay.
func (s *stream) event(a *attempt, event []byte) *ending {
	start, end, ok := sse.Data(event)
	data := event[start:end]
	switch {
	case !ok:
		if !s.moved {
			s.out = append(s.out, event...) // a comment, or a form that no engine of ours has
		}
		return nil
	case string(data) == "[DONE]":
		if s.moved && s.hist.behind() {
			return s.diverged()
		}
		s.out = append(s.out, event...)
		s.done, s.ready = true, true
		return nil
	case s.q.path == pathResponses:
		s.tokensCome(a)
		return s.responsesEvent(event, data)
	case !s.c.scan(data, a.hide):
		return s.unknown(event)
	case s.c.fault.there():
		return s.fault(event)
	case string(s.c.finish.of(data)) == `"abort"`:
		return &ending{cut, "engine_aborted"}
	}
	if !a.began && (s.moved || s.c.content()) {
		s.tokensCome(a)
	}
	if s.c.usage.there() {
		s.q.usage = readUsage(s.c.usage.of(data))
	}
	if s.moved {
		return s.goOn()
	}
	return s.passEvent(a, event, start, end)
}

// tokensCome tells that the prompt is read: from here on less patience is needed.
func (s *stream) tokensCome(a *attempt) {
	a.began = true
	a.answered()
	a.resp.SetIdle(s.g.opts.Limits.IdleStream)
}

// passEvent passes an event on but for what the client did not ask for.
func (s *stream) passEvent(a *attempt, event []byte, start, end int) *ending {
	c := &s.c
	s.count()
	if s.hist != nil {
		if _, err := s.hist.take(c); err != nil {
			s.cannot(err.Error())
		}
		if c.other {
			s.cannot("it holds more than text")
		}
	}
	if c.choices == 0 && c.usage.there() && a.hide.usage {
		return nil
	}
	s.out = append(s.out, event[:start]...)
	at := len(s.out)
	s.out = c.append(s.out)
	if s.template == nil && c.texts > 0 {
		s.template = newTemplate(s.out[at:])
	}
	s.out = append(s.out, event[end:]...)
	s.ready = s.ready || c.content()
	s.finished = s.finished || c.finish.there()
	return nil
}

// cannot tells that the answer can no longer be continued elsewhere.
func (s *stream) cannot(why string) {
	s.hist = nil
	if s.q.inexact == "" {
		s.q.inexact = why
	}
}

func (s *stream) count() {
	if s.prompt == 0 {
		s.prompt = elements(s.c.data, s.c.prompt)
	}
	if s.c.tokens > 0 {
		s.counted += uint64(s.c.tokens)
		return
	}
	s.counted += uint64(s.c.texts)
	s.guessed = s.guessed || s.c.texts > 0
}

// unknown passes on an event whose data the gateway does not understand.
func (s *stream) unknown(event []byte) *ending {
	if s.moved {
		return &ending{cut, "unreadable_event"}
	}
	s.cannot("its engine sends events of an unknown form")
	s.out = append(s.out, event...)
	s.ready = true
	return nil
}

// fault takes an error that stands where an answer should. What is the client's fault is passed on; an engine that broke
// is as good as dead.
func (s *stream) fault(event []byte) *ending {
	code, ok := number(inside(s.c.fault.of(s.c.data), "code"))
	if !ok || code < 400 || code >= 500 || s.moved {
		return &ending{cut, "engine_error"}
	}
	s.out = append(s.out, event...)
	s.ready = true
	return &ending{refused, "engine_refused"}
}

// responsesEvent passes an event of /v1/responses on. The last one brings the usage.
func (s *stream) responsesEvent(event, data []byte) *ending {
	s.out = append(s.out, event...)
	s.ready = true
	s.counted++
	if len(data) > 0 && data[0] == '{' {
		if u := readUsage(inside(inside(data, "response"), "usage")); u.known {
			s.q.usage = u
			s.finished = true
		}
	}
	return nil
}

// maxHeld is how much is held back while an answer can still begin anew.
const maxHeld = 64 << 10

// write sends what is in out. It returns false when the client is gone.
func (s *stream) write() bool {
	if len(s.out) == 0 || !s.ready && len(s.out) < maxHeld {
		return true
	}
	now := time.Now()
	if s.began {
		s.itl.Observe(seconds(now.Sub(s.lastText)))
	}
	s.lastText = now
	// Moving the deadline costs as much as the write, so it is moved when half of it has passed.
	if stall := s.g.opts.Limits.WriteStall; s.writeTill.Sub(now) < stall/2 {
		s.writeTill = now.Add(stall)
		_ = s.rc.SetWriteDeadline(s.writeTill)
	}
	return s.flushOut()
}

// flushOut sends what is in out, and reports whether the client took it.
func (s *stream) flushOut() bool {
	if !s.began {
		s.header()
	}
	n, err := s.w.Write(s.out)
	s.g.metrics.bytes.Add(float64(n))
	s.out = s.out[:0]
	if err == nil {
		err = s.flush()
	}
	return err == nil
}

// flusher is the short way to rc.Flush for the writers of net/http.
func flusher(rc *http.ResponseController, w http.ResponseWriter) func() error {
	if f, ok := w.(interface{ FlushError() error }); ok {
		return f.FlushError
	}
	return rc.Flush
}

// header begins the answer.
func (s *stream) header() {
	h := s.w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	s.q.explainIn(h)
	s.w.WriteHeader(http.StatusOK)
	s.began = true
	s.q.ttft = s.g.now().Sub(s.q.at)
	s.g.metrics.ttft.WithLabelValues(s.q.model.Name).Observe(seconds(s.q.ttft))
}

// refuse ends the request with an error: as the whole answer, or as an event when the answer has begun.
func (s *stream) refuse(e *apiError) {
	if !s.began {
		s.g.refuse(s.w, s.q, e)
		return
	}
	if e.code != codeInterrupted {
		e = interrupted(e.message)
	}
	s.g.metrics.continuations.WithLabelValues("lost").Inc()
	s.q.status, s.q.outcome, s.q.failure = http.StatusOK, outcomeError, e.message
	s.settleCounted()
	b := s.out // what the lost replica brought last may still be in it
	if s.q.path == pathResponses {
		b = append(b, "event: error\ndata: "...)
		b = append(b, `{"type":"error","code":`...)
		b = appendOptional(b, e.code)
		b = append(b, `,"message":`...)
		b = rawjson.AppendString(b, []byte(e.message))
		b = append(b, `,"param":null}`...)
	} else {
		b = e.append(append(b, "data: "...))
	}
	s.out = append(b, "\n\n"...)
	_ = s.rc.SetWriteDeadline(time.Now().Add(s.g.opts.Limits.WriteStall))
	_ = s.flushOut()
}

// noStream takes an answer that is no event stream: an engine's refusal, or its whole answer in one piece.
func (s *stream) noStream(a *attempt) {
	body, rest, err := s.g.readAnswer(a)
	switch {
	case s.began:
		a.close("refused_" + strconv.Itoa(a.resp.Status))
		s.refuse(interrupted("the replica that was to go on with it refused"))
	case err != nil:
		a.close(failureOf(err))
		s.refuse(unavailable("replicas_failed", a.m.name+" failed: "+failureText(failureOf(err)), time.Second))
	default:
		s.g.passOn(s.w, s.q, a, body, rest)
	}
}

// end settles an answer that needs no other replica.
func (s *stream) end(e ending) {
	s.settleCounted()
	if s.began {
		s.q.status = http.StatusOK
	}
	switch e.kind {
	case left:
		s.g.left(s.q)
	case refused:
		s.q.outcome, s.q.failure = outcomeRefused, "the engine ended the stream with an error"
	default:
		s.q.outcome = outcomeOK
		if s.moved {
			s.q.outcome = outcomeContinued
		}
	}
}

// settleCounted puts down what the answer took so far, for the case that the engine's own word never comes.
func (s *stream) settleCounted() {
	s.q.counted = usage{prompt: uint64(s.q.estimate), completion: s.tokens()}
	if s.prompt > 0 {
		s.q.counted.prompt = uint64(s.prompt)
	}
}
