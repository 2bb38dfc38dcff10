package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/penstock/penstock/agent/cache"
	"github.com/penstock/penstock/agent/slots"
	"github.com/penstock/penstock/jobspecs"
	spec "github.com/penstock/penstock/jobspecs/engine"
	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/llamacpp"
)

// headerTenant says for whom a gateway asks.
const headerTenant = "Penstock-Tenant"

// saveWithin is how long an engine that is about to end is given to save its slots, where the drain's end allows it.
const saveWithin = 30 * time.Second

// openKV opens the run's KV tiers, if its deployment asks for them and its engine's KV passes through the agent. Without them
// (nil) the run serves as well, and reads more.
func (r *run) openKV(ctx context.Context) *cache.Cache {
	d := r.adm.deployment
	switch spec.KVDoor(d) {
	case spec.SlotDoor, spec.RESPDoor, spec.S3Door: // each rank's engine has a door on its own node
	case spec.FileDoor:
		if d.KV.Object == nil {
			return nil
		}
	default:
		return nil
	}
	c, err := cache.Open(ctx, cache.Options{Tiers: tiersOf(d), Owner: d.Name + "-" + string(r.adm.role), Shared: r.adm.role != jobspecs.Mixed, Log: r.log})
	if err != nil {
		r.log.Warn().Err(err).Msg("this run has no KV tiers")
		return nil
	}
	c.Show(r.agent.metrics.kv)
	return c
}

func (r *run) closeKV() {
	if r.kv == nil {
		return
	}
	if err := r.kv.Close(); err != nil {
		r.log.Warn().Err(err).Msg("KV tiers did not end in good order")
	}
}

// weights is the fingerprint of what the engine loads; empty where it has none or there is no use for it.
func (r *run) weights() string {
	d := r.adm.deployment
	if r.kv == nil && spec.KVDoor(d) != spec.FileDoor {
		return ""
	}
	path := d.Model.Path
	switch {
	case path == "" && d.Engine.Kind == jobspecs.Sim: // its weights are made from the name
		return "sim " + d.Model.ID
	case path == "":
		return ""
	}
	fp, err := cache.Fingerprint(path)
	if err != nil {
		r.log.Warn().Err(err).Msg("KV tiers are not used")
		return ""
	}
	return fp
}

// openSlots deals the slots of an engine that has just started out to tenants, with the KV tiers behind them where there are
// some. If the weights have changed since it was launched, nobody knows which ones it has loaded, and the tiers are not used.
func (r *run) openSlots(ctx context.Context, e *engineRun) *slots.Slots {
	d := r.adm.deployment
	if r.traits.Disaggregation != spec.SlotFiles {
		return nil
	}
	o := slots.Options{
		Engine: e.reader.Transport(), Authorize: e.reader.Authorize, Dir: r.dir, BlockTokens: spec.KVBlock(d),
		Metrics: r.agent.metrics.slots, Log: r.log,
	}
	switch {
	case r.kv == nil || e.weights == "":
	case r.weights() != e.weights:
		r.log.Warn().Msg("the weights changed while the engine loaded them: KV tiers are not used until its next start")
	default:
		o.Store, o.Alloc, o.Space = r.kv.Store(), r.kv.Alloc(), r.slotSpaces(e.weights)
	}
	s, err := slots.Open(ctx, o)
	if err != nil {
		r.log.Warn().Err(err).Msg("slots are left to the engine: KV tiers are not used, and tenants share its cache")
		return nil
	}
	return s
}

// slotSpaces is where the blocks of each tenant's slots are.
func (r *run) slotSpaces(weights string) func(tenant string) kvstore.Space {
	d := r.adm.deployment
	layout := kvstore.Layout{
		Weights: weights, Engine: llamacpp.Format + " " + d.Engine.Version + " " + spec.KVIdentity(d, r.adm.role),
		DType: "as in the block", Attention: "rows", BlockTokens: spec.KVBlock(d), Ranks: 1,
	}
	return func(tenant string) kvstore.Space {
		space := kvstore.NewSpace(layout, tenant)
		r.kv.Describe(space, layout, tenant)
		return space
	}
}

// settleKV lets the saves of an engine's slots end while it lives, and where the run ends writes down what the tiers hold.
func (r *run) settleKV(ctx context.Context, e *engineRun, asked bool) {
	if r.kv == nil {
		return
	}
	by := time.Now().Add(saveWithin)
	if asked {
		by = r.drainBy()
	}
	if e.slots != nil {
		r.closeSlots(ctx, e, by)
	}
	if asked {
		ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), by)
		defer cancel()
		r.kv.Flush(ctx)
	}
}

func (r *run) closeSlots(ctx context.Context, e *engineRun, by time.Time) {
	ctx, cancel := context.WithDeadline(ctx, by)
	defer cancel()
	if closed(e.ended()) || closed(r.end.stopped) {
		cancel() // nothing can be saved any more
	}
	if err := e.slots.Close(ctx); err != nil {
		r.log.Warn().Err(err).Msg("slots not saved at the end")
	}
}

// maxPrompt is the longest body that is looked into; gateways have their own, lower limit.
const maxPrompt = 64 << 20

// prepared is a request with its tenant in it where the engine's connector wants that, with a slot of its own where it may have
// one, and what to call at the end of its answer.
func (p *port) prepared(ctx context.Context, r *http.Request, s *slots.Slots) (_ *http.Request, end func(answered bool), err error) {
	nothing := func(bool) {}
	if s == nil && p.tenantTag == "" || r.Method != http.MethodPost {
		return r, nothing, nil
	}
	switch r.URL.Path {
	case "/v1/completions", "/v1/chat/completions", "/completion", "/v1/responses":
	default:
		return r, nothing, nil
	}
	if s != nil && r.ContentLength > maxPrompt {
		return r, nothing, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxPrompt+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read the request: %w", err)
	}
	if len(body) > maxPrompt {
		return nil, nil, errors.New("the request is too long")
	}
	if p.tenantTag != "" {
		body, err = withTenant(body, p.tenantTag, r.Header.Get(headerTenant))
		return withBody(ctx, r, body), nothing, err
	}
	lease, body, err := s.Take(ctx, slots.Request{
		Tenant: r.Header.Get(headerTenant), Path: r.URL.Path, Body: body, From: p.others().source(r.Header.Get(headerKVFrom)),
	})
	if err != nil {
		return nil, nil, err
	}
	out := withBody(ctx, r, body)
	if r.Header.Get(headerKVSave) == "" {
		return out, lease.End, nil
	}
	return out, func(answered bool) {
		if !answered {
			lease.End(false)
			return
		}
		lease.EndSaved(ctx)
	}, nil
}

// withBody is the request with another body.
func withBody(ctx context.Context, r *http.Request, body []byte) *http.Request {
	out := r.WithContext(ctx)
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	out.Header = r.Header.Clone()
	out.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return out
}
