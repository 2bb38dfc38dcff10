package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs"
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
	m       *member
	resp    *upstream.Response
	rec     *apiv1.Attempt
	hide    hide
	waiting int  // prompt tokens counted in m.waiting
	began   bool // its first text is there
}

// answered tells that the first token is there.
func (a *attempt) answered() {
	if a.waiting > 0 {
		a.m.waiting.Add(-int64(a.waiting))
		a.waiting = 0
	}
}

// close ends the attempt; end says how, empty = well.
func (a *attempt) close(end string) {
	if a.resp != nil {
		a.resp.Close()
	}
	a.answered()
	a.m.inflight.Add(-1)
	a.rec.End = end
}

// errGone stands for a client that left: nobody is there to be told.
var errGone = &apiError{status: 499, kind: kindServer, code: "client_gone", message: "the client left"}

// send chooses a replica and sends it the request, another one if it fails before an answer began, until one answers or
// too many have failed. An answer may be a refusal of the engine's own (4xx).
func (g *Gateway) send(ctx context.Context, q *request, p plan) (*attempt, *apiError) {
	for {
		m, decision, refused := g.choose(ctx, q, p)
		if refused != nil {
			return nil, refused
		}
		a, failure := g.try(ctx, q, p, m, decision)
		if failure == "" {
			return a, nil
		}
		if gone(ctx) {
			return nil, errGone
		}
		g.metrics.upstream.WithLabelValues(failure).Inc()
		q.tried = append(q.tried, m)
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

// choose picks a replica among those that can take the request and have not failed it.
func (g *Gateway) choose(ctx context.Context, q *request, p plan) (*member, route.Decision, *apiError) {
	deadline := time.Now().Add(p.patience)
	probing := time.Now().Add(g.opts.Limits.Patience)
	for {
		m, d, refused := g.chooseNow(q, p)
		if refused == nil || refused.status != http.StatusServiceUnavailable {
			return m, d, refused
		}
		if now := time.Now(); !now.Before(deadline) && (!now.Before(probing) || !g.probesFirst(q, p)) {
			return m, d, refused
		}
		select {
		case <-ctx.Done():
			return nil, d, errGone
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// probesFirst tells whether a replica that could take the request has only just become ready: our first probe of it has not ended.
func (g *Gateway) probesFirst(q *request, p plan) bool {
	return slices.ContainsFunc(g.view.Load().deployments[q.model.Deployment], func(m *member) bool {
		return m.ready.Load() && !m.draining.Load() && !m.probe.ended.Load() && m.role != jobspecs.Prefill && m.serves(p.path) &&
			(p.fits == nil || p.fits(m)) && !slices.Contains(q.tried, m)
	})
}

func (g *Gateway) chooseNow(q *request, p plan) (*member, route.Decision, *apiError) {
	v := g.view.Load()
	members := v.deployments[q.model.Deployment]
	list := g.pools.candidates.get()
	defer g.pools.candidates.put(list)
	others, serves := false, false
	for _, m := range members {
		if m.role == jobspecs.Prefill {
			continue
		}
		if !m.serves(p.path) {
			others = true
			continue
		}
		serves = true
		if m.usable() && (p.fits == nil || p.fits(m)) && !slices.Contains(q.tried, m) {
			list.add(m)
		}
	}
	if len(list.candidates) == 0 {
		return nil, route.Decision{}, g.nobody(v, q, others && !serves)
	}
	d, err := route.Pick(route.Request{ID: q.id, PromptTokens: q.estimate, Now: g.now()}, list.candidates)
	if err != nil {
		return nil, d, unavailable("no_replica", err.Error(), time.Second)
	}
	for _, m := range list.members {
		if m.target.Launch == d.Launch {
			return m, d, nil
		}
	}
	return nil, d, unavailable("no_replica", "the chosen replica is gone", time.Second)
}

// serves reports whether the member's engine has the path. Of an unknown engine everything is believed.
func (m *member) serves(path string) bool {
	if !m.known {
		return true
	}
	if path == pathTokenize {
		return m.traits.TokenizePath != ""
	}
	return slices.Contains(m.traits.Paths, path)
}

// nobody says why there is no replica to send to.
func (g *Gateway) nobody(v *view, q *request, otherPaths bool) *apiError {
	if otherPaths {
		return &apiError{
			status: http.StatusNotFound, kind: kindRequest, code: "path_not_served",
			message: fmt.Sprintf("the engine of model %s does not serve %s", strconv.Quote(q.modelName), q.path),
		}
	}
	if len(q.tried) > 0 {
		return g.exhausted(q, "and no other replica is routable")
	}
	m := v.models[q.modelName]
	if m == nil {
		m = q.model
	}
	why := m.State
	switch {
	case m.State == "ready" || m.State == "":
		why = "no replica is routable from this gateway at the moment"
	case m.Reason != "":
		why += ": " + m.Reason
	}
	code := m.State
	if code == "" || code == "ready" {
		code = "no_replica"
	}
	return unavailable(code, fmt.Sprintf("the model %s is not ready: %s", strconv.Quote(q.modelName), why), retryAfter(m))
}

// try sends the request to m. failure names what went wrong when another replica should be asked.
func (g *Gateway) try(ctx context.Context, q *request, p plan, m *member, d route.Decision) (_ *attempt, failure string) {
	body := p.body(m)
	a := &attempt{m: m, hide: body.hide, waiting: q.estimate, rec: attemptRecord(m, d)}
	q.attempts = append(q.attempts, a.rec)
	m.inflight.Add(1)
	m.waiting.Add(int64(a.waiting))
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
	call = g.prefillFirst(ctx, q, m, call)
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

func attemptRecord(m *member, d route.Decision) *apiv1.Attempt {
	rec := &apiv1.Attempt{
		Launch: m.target.Launch, Replica: m.name, Epoch: m.target.Epoch, PredictedMs: d.CostMs, PartsMs: d.Parts, Reason: d.Reason,
	}
	for _, u := range d.RunnersUp {
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
