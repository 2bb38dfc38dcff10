package gateway

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/scheduler/route"
)

// speedKey is what is alike enough to be as fast as each other.
type speedKey struct{ deployment, role, engine string }

// speeds are what is learned of how fast replicas are.
type speeds struct {
	metrics *metrics
	mu      sync.Mutex
	known   map[speedKey]*speed
}

// speed is what is learned of one kind of replicas.
type speed struct {
	key speedKey
	now atomic.Pointer[route.Speed] // never nil

	mu          sync.Mutex
	calibration route.Calibration
}

func (s *speeds) of(k speedKey) *speed {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.known[k]; p != nil {
		return p
	}
	p := &speed{key: k}
	p.now.Store(&route.DefaultSpeed)
	if s.known == nil {
		s.known = map[speedKey]*speed{}
	}
	s.known[k] = p
	return p
}

// keep forgets the deployments that are no more.
func (s *speeds) keep(deployments map[string][]*member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.known {
		if deployments[k.deployment] == nil {
			delete(s.known, k)
			s.metrics.miss.DeleteLabelValues(k.deployment, k.role)
			s.metrics.ratio.DeleteLabelValues(k.deployment, k.role)
		}
	}
}

// learn takes in how long an attempt's first token really took.
func (g *Gateway) learn(a *attempt, took time.Duration) {
	ms := float64(took) / float64(time.Millisecond)
	a.rec.FirstTokenMs = &ms
	p := a.m.speed
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.calibration.Learned()
	now := p.calibration.Speed()
	if expected := a.work.Ms(&now); expected > 0 {
		g.metrics.ratio.WithLabelValues(p.key.deployment, p.key.role).Observe(ms / expected)
	}
	p.calibration = p.calibration.Learn(a.work, ms)
	if p.calibration.Learned() == before {
		return
	}
	next := p.calibration.Speed()
	p.now.Store(&next)
	g.metrics.miss.WithLabelValues(p.key.deployment, p.key.role).Set(p.calibration.Miss())
}
