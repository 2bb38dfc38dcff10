package sim

import (
	"context"
	"errors"
	"net/http"
)

// errCut says that an answer cannot be finished and that its connection is cut: the client left, or the engine ended.
var errCut = errors.New("the connection is cut")

// loadFailed says that a sequence's KV could not be loaded.
type loadFailed struct{ cause error }

// Error is the cause.
func (e *loadFailed) Error() string { return e.cause.Error() }

// follow calls each for all that is new of the choices until all have ended. The request's sequences are aborted if the
// client goes away, each fails, or the engine ends.
func (s *Server) follow(ctx context.Context, g *generation, each func(*choice, delta) error, pause func() error) error {
	defer s.abandon(g)
	engineEnded := false
	for {
		open := 0
		for _, c := range g.choices {
			if c.ended {
				continue
			}
			if err := s.step(c, each); err != nil {
				return err
			}
			if !c.ended {
				open++
			}
		}
		if err := pause(); err != nil || open == 0 {
			return err
		}
		if engineEnded {
			return errCut
		}
		select {
		case <-g.wake:
		case <-ctx.Done():
			return errCut
		case <-s.engine.done:
			engineEnded = true // look once more
		}
	}
}

func (s *Server) step(c *choice, each func(*choice, delta) error) error {
	d, ok := c.advance()
	switch {
	case !ok:
		return nil
	case c.finish == finishedAbort:
		return errCut
	case c.finish == finishedError:
		return &loadFailed{c.outcome.err}
	case c.ended && c.outcome == nil: // a stop string, of which the engine does not know
		s.engine.finish(finishedStop, c.seq)
	}
	return each(c, d)
}

// abandon ends what still runs of a request.
func (s *Server) abandon(g *generation) {
	var left []*sequence
	for _, c := range g.choices {
		if !c.ended {
			left = append(left, c.seq)
		}
	}
	if len(left) > 0 {
		s.engine.abort(left...)
	}
}

// start hands a request's sequences to the engine.
func (s *Server) start(g *generation) {
	seqs := make([]*sequence, len(g.choices))
	for i, c := range g.choices {
		seqs[i] = c.seq
	}
	s.engine.submit(seqs...)
}

// chunks writes the events of one kind of stream.
type chunks interface {
	// delta appends the event for what is new of a choice.
	delta(b []byte, c *choice, d delta) []byte
	// usage appends the last event, with the usage.
	usage(b []byte) []byte
}

// stream answers with server-sent events.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, g *generation, out chunks) {
	sse := newSSE(w, s.opts.WriteTimeout)
	s.start(g)
	err := s.follow(r.Context(), g, func(c *choice, d delta) error {
		sse.buf = out.delta(sse.buf, c, d)
		return nil
	}, sse.flush)
	var load *loadFailed
	switch {
	case errors.As(err, &load):
		sse.event(internalError("Internal server error").body())
	case err != nil:
		panic(http.ErrAbortHandler)
	case g.fields.StreamOptions != nil && g.fields.StreamOptions.IncludeUsage:
		sse.buf = out.usage(sse.buf)
	}
	_ = sse.done() // the client may be gone: nobody is left to tell
}

// collect waits for the whole answer; false if the request is answered already.
func (s *Server) collect(w http.ResponseWriter, r *http.Request, g *generation, each func(*choice, delta)) bool {
	s.start(g)
	err := s.follow(r.Context(), g, func(c *choice, d delta) error {
		each(c, d)
		return nil
	}, func() error { return nil })
	var load *loadFailed
	switch {
	case errors.As(err, &load):
		fail(w, internalError("Internal server error"))
		return false
	case err != nil:
		panic(http.ErrAbortHandler)
	}
	return true
}

// usage is vLLM's UsageInfo. Cached tokens are always told, as with --enable-prompt-tokens-details.
type usage struct {
	PromptTokens     int            `json:"prompt_tokens"`
	TotalTokens      int            `json:"total_tokens"`
	CompletionTokens int            `json:"completion_tokens"`
	Details          *promptDetails `json:"prompt_tokens_details,omitempty"`
}

type promptDetails struct {
	CachedTokens int `json:"cached_tokens"`
}

func (g *generation) usage() usage {
	p, a := g.promptTokens(), g.answered()
	return usage{p, p + a, a, &promptDetails{g.cached()}}
}

// appendUsage appends the usage so far, without details if they are not the last word.
func appendUsage(b []byte, prompt, answer, cached int) []byte {
	b = appendInt(append(b, `"usage":{"prompt_tokens":`...), prompt)
	b = appendInt(append(b, `,"total_tokens":`...), prompt+answer)
	b = appendInt(append(b, `,"completion_tokens":`...), answer)
	if cached >= 0 {
		b = append(appendInt(append(b, `,"prompt_tokens_details":{"cached_tokens":`...), cached), '}')
	}
	return append(b, '}')
}
