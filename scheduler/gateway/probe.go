package gateway

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/scheduler/upstream"
)

const (
	probesAtOnce = 8
	probeFirst   = 200 * time.Millisecond // until a probe that failed is tried again; doubled each time
	probeMost    = 10 * time.Second
	probeTimeout = 30 * time.Second
)

// probeState is one member's turn to be probed. next and failures belong to the prober's own goroutine while busy is false, to
// the probe while it is true.
type probeState struct {
	busy     atomic.Bool
	ended    atomic.Bool // one has, whatever came of it
	next     time.Time
	failures int
}

func (g *Gateway) wakeProbes() {
	select {
	case g.probes <- struct{}{}:
	default:
	}
}

// runProbes probes every ready replica that is not routable, a few at a time, until ctx ends and all probes have.
func (g *Gateway) runProbes(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, probesAtOnce)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.probes:
		case <-timer.C:
		}
		timer.Reset(g.startProbes(ctx, &wg, slots))
	}
}

// startProbes starts the probes that are due and returns when to look again.
func (g *Gateway) startProbes(ctx context.Context, wg *sync.WaitGroup, slots chan struct{}) time.Duration {
	wait := probeMost
	now := time.Now()
	v := g.view.Load()
	for deployment, members := range v.deployments {
		for _, m := range members {
			p := &m.probe
			if m.routable.Load() || !m.ready.Load() || m.draining.Load() || p.busy.Load() {
				continue
			}
			if left := p.next.Sub(now); left > 0 {
				wait = min(wait, left)
				continue
			}
			select {
			case slots <- struct{}{}:
			default:
				return probeFirst / 4
			}
			p.busy.Store(true)
			wg.Go(func() {
				defer func() { <-slots }()
				g.probe(ctx, m, v.base(deployment))
			})
		}
	}
	return wait
}

// probe asks one replica for a token, or for a vector where it says that it makes no tokens.
func (g *Gateway) probe(ctx context.Context, m *member, model string) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := g.opts.Upstream.Probe(ctx, m.target, model, false)
	var status *upstream.StatusError
	if errors.As(err, &status) && status.Status >= 400 && status.Status < 500 && status.Status != 421 {
		if g.opts.Upstream.Probe(ctx, m.target, model, true) == nil {
			err = nil
		}
	}
	log := g.log.With().Str("replica", m.name).Str("launch", m.target.Launch).Logger()
	p := &m.probe
	if err == nil {
		p.failures, p.next = 0, time.Time{}
		m.waits.Store(g.now().UnixNano()) // it goes on
		m.routable.Store(true)
		log.Info().Msg("replica is routable")
	} else {
		p.next = time.Now().Add(min(probeMost, probeFirst<<min(p.failures, 6)))
		if p.failures++; p.failures == 1 {
			log.Warn().Err(err).Msg("replica is not routable")
		} else {
			log.Debug().Err(err).Int("failures", p.failures).Msg("replica is still not routable")
		}
	}
	p.ended.Store(true)
	p.busy.Store(false)
	g.wakeProbes()
}
