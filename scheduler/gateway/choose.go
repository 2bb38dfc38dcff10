package gateway

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/route"
)

// choice is a replica and why it is this one.
type choice struct {
	m *member
	d route.Decision
	c route.Candidate // as it was when it was chosen
}

// choose picks a replica among those that can take the request and have not failed it.
func (g *Gateway) choose(ctx context.Context, q *request, p plan) (choice, *apiError) {
	deadline := time.Now().Add(p.patience)
	probing := time.Now().Add(g.opts.Limits.Patience)
	for {
		c, refused := g.chooseNow(ctx, q, p)
		if refused == nil || refused.status != http.StatusServiceUnavailable {
			return c, refused
		}
		if now := time.Now(); !now.Before(deadline) && (!now.Before(probing) || !g.probesFirst(q, p)) {
			return c, refused
		}
		select {
		case <-ctx.Done():
			return c, errGone
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

func (g *Gateway) chooseNow(ctx context.Context, q *request, p plan) (choice, *apiError) {
	v := g.view.Load()
	list := g.pools.candidates.get()
	defer g.pools.candidates.put(list)
	others, serves, prefills := false, false, false
	now := g.now()
	for _, m := range v.deployments[q.model.Deployment] {
		if m.role == jobspecs.Prefill {
			prefills = prefills || m.usable()
			continue
		}
		if !m.serves(p.path) {
			others = true
			continue
		}
		serves = true
		if m.usable() && (p.fits == nil || p.fits(m)) && !slices.Contains(q.tried, m) {
			list.add(m, now)
		}
	}
	if len(list.candidates) == 0 {
		return choice{}, g.nobody(v, q, others && !serves)
	}
	g.dropStalled(q, list)
	if len(list.candidates) > 1 || prefills {
		g.lookUp(ctx, q, list)
	}
	return g.pick(q, list)
}

// pick chooses among candidates.
func (g *Gateway) pick(q *request, list *candidateList) (choice, *apiError) {
	g.fillCached(q, list)
	d, err := route.Pick(g.ask(q), list.candidates)
	if err != nil {
		return choice{}, unavailable("no_replica", err.Error(), time.Second)
	}
	return choice{m: list.members[d.Index], d: d, c: list.candidates[d.Index]}, nil
}

// ask is what the choice needs to know of the request.
func (g *Gateway) ask(q *request) route.Request {
	r := route.Request{ID: q.id, PromptTokens: q.tokens(), Now: g.now(), Mode: g.opts.Route}
	if r.Mode == route.RoundRobin {
		r.Turn = g.turn.Add(1) - 1
	}
	if q.keys != nil {
		r.BlockTokens = q.keys.blockTokens()
	}
	return r
}

// stalledFor is how long a replica may leave all streams without a first token until it is probed before it gets more.
const stalledFor = 30 * time.Second

// dropStalled takes out the replicas that have stopped, as long as there are others. A probe brings them back.
func (g *Gateway) dropStalled(q *request, list *candidateList) {
	for i := len(list.candidates) - 1; i >= 0 && len(list.candidates) > 1; i-- {
		c := &list.candidates[i]
		queue := time.Duration(float64(c.InflightTokens)*list.members[i].speed.now.Load().PrefillMs) * time.Millisecond
		if c.WaitingFor < stalledFor+4*queue {
			continue
		}
		g.suspect(list.members[i], q.id, "stalled", nil)
		list.candidates = slices.Delete(list.candidates, i, i+1)
		list.members = slices.Delete(list.members, i, i+1)
	}
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
