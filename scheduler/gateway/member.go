package gateway

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/route"
	"github.com/penstock/penstock/scheduler/upstream"
)

// member is one run of a replica as this gateway sees it. A new run, or an engine that was started again, is a new member:
// nothing that was known of the old one holds for it.
type member struct {
	target     upstream.Target
	deployment string
	role       jobspecs.RoleKind
	name       string // deployment/role/index
	starts     uint32 // of the engine
	traits     engine.Traits
	known      bool // traits are known

	ready    atomic.Bool // the controller's word
	draining atomic.Bool
	gone     atomic.Bool // no longer in the view
	state    atomic.Pointer[loadState]

	routable atomic.Bool // this gateway's own probe got a token, and nothing has failed since
	inflight atomic.Int64
	waiting  atomic.Int64 // prompt tokens of requests that are not answered yet, less those found in caches
	tokens   atomic.Int64 // prompt tokens of all open requests

	unanswered atomic.Int64 // requests for streams, and prefills, without a first token
	waits      atomic.Int64 // since when: Unix ns of the oldest one's begin or the last first token, whichever is later
	asking     askState     // whether it can be asked for tokens
	speed      *speed       // of its like

	probe probeState // the prober's own
}

// loadState is what the controller said last of a replica's load. Nobody changes it.
type loadState struct {
	reportedAt       time.Time // the agent's clock: only to tell news from repetition
	seenAt           time.Time // our clock
	running, waiting *int
	kv               *float64
	kvTokens         int // room of the engine's cache; 0 = unknown
	blockTokens      int // of its blocks; 0 = unknown
	endsAt           time.Time
}

func engineKind(r *apiv1.Replica) jobspecs.EngineKind { return jobspecs.EngineKind(r.EngineKind) }

func (g *Gateway) newMember(r *apiv1.Replica) *member {
	m := &member{
		target: targetOf(r), deployment: r.Deployment, role: jobspecs.RoleKind(r.Role), starts: r.EngineStarts,
		name: fmt.Sprintf("%s/%s/%d", r.Deployment, r.Role, r.Index),
	}
	m.traits, m.known = g.opts.Traits(engineKind(r))
	m.speed = g.speeds.of(speedKey{r.Deployment, r.Role, r.EngineKind})
	m.update(r, g.now())
	return m
}

// is reports whether r tells of the same engine process as before.
func (m *member) is(r *apiv1.Replica) bool {
	return m.target == targetOf(r) && m.starts == r.EngineStarts && m.deployment == r.Deployment && string(m.role) == r.Role
}

// update takes what may change while the engine runs.
func (m *member) update(r *apiv1.Replica, now time.Time) {
	m.ready.Store(r.Ready)
	m.draining.Store(r.Draining)
	next := &loadState{reportedAt: r.GetLoad().GetAt().AsTime(), seenAt: now}
	if r.Load == nil {
		next.seenAt = time.Time{}
	} else if old := m.state.Load(); old != nil && old.reportedAt.Equal(next.reportedAt) {
		next.seenAt = old.seenAt
	}
	if r.Load != nil && r.Load.Running != nil {
		next.running = new(int(*r.Load.Running))
	}
	if r.Load != nil && r.Load.Waiting != nil {
		next.waiting = new(int(*r.Load.Waiting))
	}
	if r.Kv != nil && r.Kv.Usage != nil {
		next.kv = r.Kv.Usage
	}
	if n := r.GetKv().GetCapacityTokens(); n < 1<<40 {
		next.kvTokens = int(n)
	}
	if n := r.GetKv().GetBlockTokens(); n <= maxBlockTokens {
		next.blockTokens = int(n)
	}
	if r.EndsAt != nil {
		next.endsAt = r.EndsAt.AsTime()
	}
	m.state.Store(next)
}

// usable reports whether requests may be sent to it.
func (m *member) usable() bool {
	return m.routable.Load() && m.ready.Load() && !m.draining.Load() && !m.gone.Load()
}

// candidate is what the choice knows of the member, but for what its caches hold.
func (m *member) candidate(now time.Time) route.Candidate {
	s := m.state.Load()
	c := route.Candidate{
		Launch: m.target.Launch, Replica: m.name, Inflight: int(m.inflight.Load()), InflightTokens: int(m.waiting.Load()),
		OpenTokens: int(m.tokens.Load()), Running: s.running, Waiting: s.waiting, KVUsage: s.kv, KVTokens: s.kvTokens, SeenAt: s.seenAt,
		EndsAt: s.endsAt, Speed: m.speed.now.Load(),
	}
	if m.unanswered.Load() > 0 {
		c.WaitingFor = max(0, now.Sub(time.Unix(0, m.waits.Load())))
	}
	return c
}

// begins counts a request that waits for its first token.
func (m *member) begins(now time.Time) {
	if m.unanswered.Add(1) == 1 {
		m.waits.Store(now.UnixNano())
	}
}

// answers counts one that waits no longer. Only a token shows that the engine goes on.
func (m *member) answers(token bool, now time.Time) {
	m.unanswered.Add(-1)
	if token {
		m.waits.Store(now.UnixNano())
	}
}

// suspect takes a replica out until a probe has got a token from it again. Only the first request that it fails is logged:
// the others have their records.
func (g *Gateway) suspect(m *member, requestID, cause string, err error) {
	if !m.routable.CompareAndSwap(true, false) {
		return
	}
	g.metrics.suspected.Inc()
	g.log.Warn().Err(err).Str("replica", m.name).Str("launch", m.target.Launch).Str("request_id", requestID).Str("cause", cause).
		Msg("replica is suspected")
	g.wakeProbes()
}
