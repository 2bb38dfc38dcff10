package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/route"
	"github.com/penstock/penstock/scheduler/upstream"
)

// plan is what to ask of a replica next.
type plan struct {
	path     string
	body     func(*member) prepared
	fits     func(*member) bool // nil = any that serves the path
	patience time.Duration      // how long to wait for a replica when there is none
}

// first is the plan to send the client's request as it is.
func (g *Gateway) first(q *request) plan {
	return plan{path: q.path, body: func(m *member) prepared { return g.bodyFor(q, m) }}
}

// attempt is one request to one replica, from its choice until its answer is done with.
type attempt struct {
	g       *Gateway
	m       *member
	resp    *upstream.Response
	rec     *apiv1.Attempt
	hide    hide
	waiting int  // prompt tokens counted in m.waiting
	open    int  // and in m.tokens
	began   bool // its first text is there

	work   route.Work // what stood before its first token; nothing is learned from none
	sent   time.Time
	counts bool // in m.unanswered
}

// attempt begins a request to the chosen replica: from here on it counts for the next choice.
func (g *Gateway) attempt(q *request, c choice, streams bool) *attempt {
	a := &attempt{g: g, m: c.m, rec: attemptRecord(c), work: c.d.Work, sent: g.now(), counts: streams}
	a.open = q.tokens()
	a.waiting = max(1, a.open-c.d.Cached)
	q.attempts = append(q.attempts, a.rec)
	c.m.inflight.Add(1)
	c.m.waiting.Add(int64(a.waiting))
	c.m.tokens.Add(int64(a.open))
	if streams {
		c.m.begins(a.sent)
	}
	g.believe(q, c.m)
	return a
}

// answered tells that the first token is there, or that none comes.
func (a *attempt) answered() {
	if a.waiting == 0 {
		return
	}
	a.m.waiting.Add(-int64(a.waiting))
	a.waiting = 0
	if !a.counts {
		return
	}
	now := a.g.now()
	a.m.answers(a.began, now)
	if a.began {
		a.g.learn(a, now.Sub(a.sent))
	}
}

// close ends the attempt; end says how, empty = well.
func (a *attempt) close(end string) {
	if a.resp != nil {
		a.resp.Close()
	}
	a.answered()
	a.m.inflight.Add(-1)
	a.m.tokens.Add(-int64(a.open))
	a.rec.End = end
}

// errGone stands for a client that left: nobody is there to be told.
var errGone = &apiError{status: 499, kind: kindServer, code: "client_gone", message: "the client left"}

// send chooses a replica and sends it the request, another one if it fails before an answer began, until one answers or
// too many have failed. An answer may be a refusal of the engine's own (4xx).
func (g *Gateway) send(ctx context.Context, q *request, p plan) (*attempt, *apiError) {
	for {
		c, refused := g.choose(ctx, q, p)
		if refused != nil {
			return nil, refused
		}
		a, failure := g.try(ctx, q, p, c)
		if failure == "" {
			return a, nil
		}
		if gone(ctx) {
			return nil, errGone
		}
		g.metrics.upstream.WithLabelValues(failure).Inc()
		q.tried = append(q.tried, c.m)
		if len(q.tried) >= g.opts.Limits.Attempts {
			return nil, g.exhausted(q, failure)
		}
		g.metrics.retries.WithLabelValues(failure).Inc()
	}
}

// exhausted is the answer when every replica that was tried has failed.
func (g *Gateway) exhausted(q *request, failure string) *apiError {
	names := make([]string, 0, len(q.tried))
	for _, m := range q.tried {
		names = append(names, m.name)
	}
	return unavailable("replicas_failed", fmt.Sprintf("%s failed, the last one: %s", strings.Join(names, ", "), failureText(failure)), time.Second)
}

// try sends the request to the chosen replica. failure names what went wrong when another one should be asked.
func (g *Gateway) try(ctx context.Context, q *request, p plan, c choice) (_ *attempt, failure string) {
	m := c.m
	body := p.body(m)
	a := g.attempt(q, c, q.stream && q.makesTokens())
	a.hide = body.hide
	call := upstream.Call{
		Path: g.enginePath(m, p.path), Body: body.body, Request: q.id, Tenant: q.caller.tenant, Stream: q.stream,
		Headers: q.trace, FirstByte: g.opts.Limits.FirstByte,
	}
	if !q.stream && q.makesTokens() {
		call.FirstByte = g.opts.Limits.WholeAnswer
	}
	if n := len(q.attempts); n > 1 {
		call.Request += "-" + strconv.Itoa(n) // an engine may still hold the one before
	}
	call = g.prefillFirst(ctx, q, a, c, call)
	resp, err := g.opts.Upstream.Do(ctx, m.target, call)
	if err != nil {
		failure = failureOf(err)
		a.close(failure)
		if !gone(ctx) {
			g.suspect(m, q.id, failure, err)
		}
		return nil, failure
	}
	a.resp = resp
	if failure = refusal(resp); failure == "" {
		return a, ""
	}
	if resp.Status != http.StatusInternalServerError {
		g.suspect(m, q.id, failure, nil)
	}
	a.close(failure)
	return nil, failure
}

// enginePath is what the engine calls the path.
func (g *Gateway) enginePath(m *member, path string) string {
	if path == pathTokenize && m.known {
		return m.traits.TokenizePath
	}
	return path
}

func attemptRecord(c choice) *apiv1.Attempt {
	rec := &apiv1.Attempt{
		Launch: c.m.target.Launch, Replica: c.m.name, Epoch: c.m.target.Epoch, PredictedMs: c.d.CostMs, PartsMs: c.d.Parts, Reason: c.d.Reason,
		ExpectedMs: c.d.ExpectedMs, ExpectedCached: uint64(c.d.Cached),
	}
	for _, u := range c.d.RunnersUp {
		rec.RunnersUp = append(rec.RunnersUp, &apiv1.RunnerUp{Launch: u.Launch, Replica: u.Replica, PredictedMs: u.CostMs})
	}
	return rec
}

// failureOf names the step that failed, for metrics, records and clients.
func failureOf(err error) string {
	var step *upstream.Error
	switch {
	case errors.Is(err, context.Canceled):
		return "client_gone"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "no_answer_in_time"
	case errors.As(err, &step) && step.Step == "connect":
		return "not_reachable"
	}
	return "connection_lost"
}

// refusal names why an answer is none and another replica should be asked, empty = it is to be passed on.
func refusal(resp *upstream.Response) string {
	switch resp.Status {
	case http.StatusMisdirectedRequest:
		return "stale_epoch"
	case http.StatusServiceUnavailable:
		switch reason := resp.Header.Get("Penstock-Reason"); reason {
		case "draining", "loading", "failed":
			return reason
		}
		return "engine_unavailable"
	case http.StatusUnauthorized, http.StatusForbidden: // of the gateway, not of the client
		return "not_authorized"
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return "engine_error"
	}
	return ""
}
