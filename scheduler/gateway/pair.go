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

// prefillFirst returns the call for a decode replica. Where the deployment has prefill replicas, one of them reads the prompt
// first, and the call says where its KV is: in vLLM's kv_transfer_params, as the prefill replica gave them, or for llama.cpp in a
// header for the agent, which takes the blocks from the other agent. When that fails the call goes out unchanged: a decode
// replica reads the prompt itself then, only slower.
func (g *Gateway) prefillFirst(ctx context.Context, q *request, decode *member, call upstream.Call) upstream.Call {
	if decode.role != jobspecs.Decode || !q.makesTokens() {
		return call
	}
	byAgents := decode.traits.Disaggregation == engine.SlotFiles
	if !byAgents && decode.traits.Disaggregation != engine.KVTransferParams || byAgents && q.estimate < worthMoving {
		return call
	}
	body, err := rawjson.Parse(call.Body, g.opts.Limits.MaxDepth)
	if err != nil {
		return call
	}
	m, d := g.choosePrefill(q, decode)
	if m == nil {
		return call
	}
	answer, failure := g.prefill(ctx, q, m, d, call, body, byAgents)
	if failure != "" {
		g.metrics.upstream.WithLabelValues("prefill_" + failure).Inc()
	}
	switch params := inside(answer, "kv_transfer_params"); {
	case answer == nil:
	case byAgents:
		call.Headers = append(slices.Clip(call.Headers), upstream.KVFrom(m.target))
	case !absent(params):
		call.Body = body.Edit(nil, rawjson.Edit{Name: "kv_transfer_params", Value: params})
	}
	return call
}

// worthMoving is the number of tokens below which a llama.cpp prompt is not worth the way over two agents: there may be
// no whole block in it.
const worthMoving = 256

func (g *Gateway) choosePrefill(q *request, decode *member) (*member, route.Decision) {
	list := g.pools.candidates.get()
	defer g.pools.candidates.put(list)
	for _, m := range g.view.Load().deployments[decode.deployment] {
		if m.role == jobspecs.Prefill && m.target.Engine == decode.target.Engine && m.usable() && !slices.Contains(q.tried, m) {
			list.add(m)
		}
	}
	d, err := route.Pick(route.Request{ID: q.id, PromptTokens: q.estimate, Now: g.now()}, list.candidates)
	if err != nil {
		return nil, d
	}
	for _, m := range list.members {
		if m.target.Launch == d.Launch {
			return m, d
		}
	}
	return nil, d
}

// prefill has m read the prompt and returns its answer, nil when it gives none.
func (g *Gateway) prefill(ctx context.Context, q *request, m *member, d route.Decision, call upstream.Call, body rawjson.Object, byAgents bool) (answer []byte, failure string) {
	a := &attempt{m: m, waiting: q.estimate, rec: attemptRecord(m, d)}
	q.attempts = append(q.attempts, a.rec)
	m.inflight.Add(1)
	m.waiting.Add(int64(a.waiting))
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
	return answer, ""
}
