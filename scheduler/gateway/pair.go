package gateway

import (
	"context"
	"io"
	"net/http"
	"slices"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
	"github.com/penstock/penstock/scheduler/gateway/rawjson"
	"github.com/penstock/penstock/scheduler/route"
	"github.com/penstock/penstock/scheduler/upstream"
)

// maxPrefillAnswer bounds what a prefill replica answers: one token and the transfer parameters.
const maxPrefillAnswer = 4 << 20

// prefillFirst returns the call for a decode replica. Where the deployment has prefill replicas, and one of them is worth its way
// (route.Split), it reads the prompt first, and the call says where its KV is: in vLLM's kv_transfer_params, as the prefill replica
// gave them, or for llama.cpp in a header for the agent, which takes the blocks from the other agent. When that fails the call goes
// out unchanged: a decode replica reads the prompt itself then, only slower.
func (g *Gateway) prefillFirst(ctx context.Context, q *request, a *attempt, c choice, call upstream.Call) upstream.Call {
	byAgents := c.m.traits.Disaggregation == engine.SlotFiles
	if !g.pairs(q, c.m) {
		return call
	}
	body, err := rawjson.Parse(call.Body, g.opts.Limits.MaxDepth)
	if err != nil {
		return call
	}
	prefill, why := g.choosePrefill(q, c)
	if why != "" {
		a.rec.Reason += "; " + why
	}
	if prefill.m == nil {
		return call
	}
	answer, failure := g.prefill(ctx, q, prefill, call, body, byAgents)
	if failure != "" {
		g.metrics.upstream.WithLabelValues("prefill_" + failure).Inc()
	}
	switch params := inside(answer, "kv_transfer_params"); {
	case answer == nil:
		return call
	case byAgents:
		call.Headers = append(slices.Clip(call.Headers), upstream.KVFrom(prefill.m.target))
	case !absent(params):
		call.Body = body.Edit(nil, rawjson.Edit{Name: "kv_transfer_params", Value: params})
	default:
		return call
	}
	a.comes(q, c)
	return call
}

// pairs tells whether prefill replicas of the member's engine can read a prompt for it.
func (g *Gateway) pairs(q *request, decode *member) bool {
	if decode.role != jobspecs.Decode || !q.makesTokens() {
		return false
	}
	switch decode.traits.Disaggregation {
	case engine.KVTransferParams:
		return true
	case engine.SlotFiles:
		return q.tokens() >= worthMoving
	}
	return false
}

// worthMoving is the number of tokens below which a llama.cpp prompt is not worth the way over two agents: there may be
// no whole block in it.
const worthMoving = 256

// choosePrefill chooses who reads the prompt: nobody where decode does so itself. why says so in either case.
func (g *Gateway) choosePrefill(q *request, decode choice) (_ choice, why string) {
	list := g.pools.candidates.get()
	defer g.pools.candidates.put(list)
	now := g.now()
	for _, m := range g.view.Load().deployments[decode.m.deployment] {
		if m.role == jobspecs.Prefill && m.target.Engine == decode.m.target.Engine && m.usable() && !slices.Contains(q.tried, m) {
			list.add(m, now)
		}
	}
	if len(list.candidates) == 0 {
		return choice{}, ""
	}
	g.fillCached(q, list)
	halves := route.Split(g.ask(q), decode.d, &decode.c, true, list.candidates)
	if halves.Prefill == nil {
		g.metrics.halves.WithLabelValues("decode").Inc()
		return choice{}, halves.Reason
	}
	g.metrics.halves.WithLabelValues("pair").Inc()
	d := *halves.Prefill
	return choice{m: list.members[d.Index], d: d, c: list.candidates[d.Index]}, halves.Reason
}

// comes tells that the prompt's KV comes from a prefill replica: what stands before the first token is its way only.
func (a *attempt) comes(q *request, c choice) {
	a.work = route.Work{Open: c.d.Work.Open, MovedTokens: float64(max(0, q.tokens()-c.c.Cached[route.GPU]))}
	a.m.waiting.Add(1 - int64(a.waiting))
	a.waiting, a.sent = 1, a.g.now()
}

// prefill has the chosen replica read the prompt and returns its answer, nil when it gives none.
func (g *Gateway) prefill(ctx context.Context, q *request, c choice, call upstream.Call, body rawjson.Object, byAgents bool) (answer []byte, failure string) {
	m := c.m
	a := g.attempt(q, c, true)
	n := len(q.attempts) // it comes before that of decode, which has been chosen and waits for it
	q.attempts[n-2], q.attempts[n-1] = q.attempts[n-1], q.attempts[n-2]
	defer func() { a.close(failure) }()

	edits := []rawjson.Edit{
		{Name: "stream", Value: []byte("false")},
		{Name: "max_tokens", Value: []byte("1")},
		{Name: "stream_options"},
		{Name: "min_tokens"},
		{Name: "return_token_ids"},
	}
	if byAgents {
		call.Headers = append(slices.Clip(call.Headers), upstream.KVSave)
	} else {
		edits = append(edits, rawjson.Edit{Name: "kv_transfer_params", Value: []byte(`{"do_remote_decode":true,"do_remote_prefill":false,` +
			`"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}`)})
	}
	if !absent(body.Get("max_completion_tokens")) {
		edits = append(edits, rawjson.Edit{Name: "max_completion_tokens", Value: []byte("1")})
	}
	call.Body, call.Stream, call.FirstByte = body.Edit(nil, edits...), false, g.opts.Limits.FirstByte
	resp, err := g.opts.Upstream.Do(ctx, m.target, call)
	if err != nil {
		failure = failureOf(err)
		if !gone(ctx) {
			g.suspect(m, q.id, failure, err)
		}
		return nil, failure
	}
	a.resp = resp
	if failure := refusal(resp); failure != "" {
		if resp.Status != http.StatusInternalServerError {
			g.suspect(m, q.id, failure, nil)
		}
		return nil, failure
	}
	if resp.Status != http.StatusOK {
		return nil, "" // the decode replica refuses the request as well, and says why
	}
	answer, err = io.ReadAll(io.LimitReader(resp, maxPrefillAnswer))
	if err != nil {
		return nil, failureOf(err)
	}
	a.rec.Tokens = 1
	a.began = true // the answer is the first token
	return answer, ""
}
