package gateway

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/jobspecs/engine"
	"github.com/penstock/penstock/scheduler/gateway/prefix"
	"github.com/penstock/penstock/scheduler/upstream"
)

const (
	asksAtOnce   = 64
	askPatience  = 2 * time.Second // an answer that comes too late for its request serves the conversation's next one
	askAgain     = time.Second     // until an engine that was too slow is asked again; doubled each time
	askAgainMost = time.Minute
	maxTokens    = 16 << 20 // bytes of an answer
)

// pathTemplate is where llama-server makes a prompt of messages.
const pathTemplate = "/apply-template"

// asks are the questions for tokens that are under way.
type asks struct {
	slots   chan struct{}
	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

func newAsks() *asks { return &asks{slots: make(chan struct{}, asksAtOnce)} }

// begin runs f unless too much runs already or the gateway ends.
func (a *asks) begin(f func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	select {
	case a.slots <- struct{}{}:
	default:
		return false
	}
	a.running.Go(func() {
		defer func() { <-a.slots }()
		f()
	})
	return true
}

// wait waits for those that are under way. No more are begun.
func (a *asks) wait() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.running.Wait()
}

// askState is whether a replica can be asked for tokens.
type askState struct {
	next atomic.Int64 // Unix ns; it is not asked before. MaxInt64: it cannot tell
	slow atomic.Int64 // times in a row that it did not answer in time
}

func (s *askState) may(now time.Time) bool { return s.next.Load() <= now.UnixNano() }

func (s *askState) tooSlow(now time.Time) {
	wait := min(askAgainMost, askAgain<<min(s.slow.Add(1)-1, 10))
	s.next.Store(now.Add(wait).UnixNano())
}

// askTokens asks a replica for the prompt's tokens, nil = they did not come in time.
func (g *Gateway) askTokens(ctx context.Context, q *request, p *prefix.Prompt, known prefix.Known, list *candidateList) []uint32 {
	m := g.whomToAsk(q, list)
	if m == nil {
		return nil
	}
	messages, part := known.Ask(p)
	answer := make(chan []uint32, 1)
	begun := g.asks.begin(func() {
		free, cancel := context.WithTimeout(context.WithoutCancel(ctx), askPatience)
		defer cancel()
		tokens, err := g.tokenize(free, q, p, m, messages)
		if err != nil {
			g.cannotTell(m, err)
			answer <- nil
			return
		}
		whole, _ := g.conversations.Learn(&known, tokens, part)
		answer <- whole
	})
	if !begun {
		return nil
	}
	late := time.NewTimer(g.opts.Limits.Tokenize)
	defer late.Stop()
	select {
	case tokens := <-answer:
		if tokens != nil {
			m.asking.slow.Store(0)
		}
		return tokens
	case <-late.C:
		m.asking.tooSlow(g.now())
	case <-ctx.Done():
	}
	return nil
}

// whomToAsk is the least busy of those that can tell tokens.
func (g *Gateway) whomToAsk(q *request, list *candidateList) (best *member) {
	now := g.now()
	for i, m := range list.members {
		if !m.known || m.traits.TokenizePath == "" || !m.asking.may(now) || m.target.Engine != list.members[0].target.Engine {
			continue
		}
		if best == nil || list.candidates[i].Inflight < int(best.inflight.Load()) {
			best = m
		}
	}
	return best
}

// cannotTell notes that a replica did not tell tokens. One that does not know the question is asked no more.
func (g *Gateway) cannotTell(m *member, err error) {
	var status *upstream.StatusError
	if errors.As(err, &status) {
		switch status.Status {
		case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
			m.asking.next.Store(math.MaxInt64)
			g.log.Info().Str("replica", m.name).Str("launch", m.target.Launch).Int("status", status.Status).Msg("replica tells no tokens of prompts")
		}
		return // of this prompt's own fault, if it is one
	}
	m.asking.tooSlow(g.now())
}

// tokenize has a replica's engine make tokens of messages, or of the prompt where it is no chat.
func (g *Gateway) tokenize(ctx context.Context, q *request, p *prefix.Prompt, m *member, messages [][]byte) ([]uint32, error) {
	body := p.Tokenize(q.modelName, messages)
	if m.traits.TokenIDs == engine.LlamaVerbose {
		var prompt []byte
		if first := p.ApplyTemplate(messages); first != nil {
			var err error
			if prompt, err = g.question(ctx, q, m, pathTemplate, first); err != nil {
				return nil, err
			}
		}
		var ok bool
		if body, ok = p.TokenizeContent(prompt); !ok {
			return nil, &upstream.StatusError{Status: http.StatusNotImplemented}
		}
	}
	answer, err := g.question(ctx, q, m, m.traits.TokenizePath, body)
	if err != nil {
		return nil, err
	}
	tokens, ok := prefix.Tokens(answer)
	if !ok {
		return nil, &upstream.StatusError{Status: http.StatusNotImplemented}
	}
	return tokens, nil
}

// question is one call of an engine that makes no tokens of its own.
func (g *Gateway) question(ctx context.Context, q *request, m *member, path string, body []byte) ([]byte, error) {
	resp, err := g.opts.Upstream.Do(ctx, m.target, upstream.Call{
		Path: path, Body: body, Request: q.id + "-keys", Tenant: q.caller.tenant, FirstByte: askPatience,
	})
	if err != nil {
		return nil, err
	}
	defer resp.Close()
	if resp.Status != http.StatusOK {
		return nil, &upstream.StatusError{Status: resp.Status}
	}
	return io.ReadAll(io.LimitReader(resp, maxTokens))
}
