package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/plan"
)

// Target is a replica to be probed.
type Target struct {
	Launch     cluster.LaunchID
	Run        string
	Epoch      uint64
	Address    string // host:port of the agent's mTLS port
	Role       jobspecs.RoleKind
	Deployment jobspecs.Deployment // of the launch's revision
	// Peer is a started replica of the other role, where the deployment is disaggregated: the token comes through the pair.
	Peer *Target
}

// The waits between probes of a replica that does not answer as it should.
const (
	probeFirst = time.Second
	probeMost  = 30 * time.Second
)

// probes remembers who is being probed and when next.
type probes struct {
	slots chan struct{}
	mu    sync.Mutex
	of    map[cluster.LaunchID]*probeState
}

type probeState struct {
	run      string
	starts   uint32
	busy     bool
	failures int
	next     time.Time
}

func newProbes(atOnce int) probes {
	return probes{slots: make(chan struct{}, atOnce), of: map[cluster.LaunchID]*probeState{}}
}

// due reports whether a replica should be probed now, and marks it as being probed if so. An engine that was started again
// is probed at once.
func (p *probes) due(r fleet.Replica, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.of[r.Launch]
	if s == nil || !s.busy && (s.run != r.Run || s.starts != r.EngineStarts) {
		s = &probeState{run: r.Run, starts: r.EngineStarts}
		p.of[r.Launch] = s
	}
	if s.busy || now.Before(s.next) {
		return false
	}
	s.busy = true
	return true
}

func (p *probes) done(id cluster.LaunchID, now time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.of[id]
	if s == nil {
		return
	}
	s.busy = false
	if err == nil {
		s.failures, s.next = 0, time.Time{}
		return
	}
	s.next = now.Add(min(probeFirst<<min(s.failures, 10), probeMost))
	s.failures++
}

func (p *probes) forget(id cluster.LaunchID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.of, id)
}

// probe begins probes of the replicas that have started and have not been probed since.
func (l *Loop) probe(ctx context.Context, w plan.Wanted, s plan.Seen, now time.Time) {
	specs := map[string]plan.Deployment{}
	for _, d := range w.Deployments {
		specs[d.Name] = d
	}
	for i := range s.Launches {
		x := &s.Launches[i]
		r := s.Fleet.Replicas[x.ID]
		if !probable(x, r, s.Fleet) {
			continue
		}
		select {
		case l.probes.slots <- struct{}{}:
		default:
			return // the next cycle goes on
		}
		if !l.probes.due(r, now) {
			<-l.probes.slots
			continue
		}
		t, err := target(x, r, specs[x.Deployment], s)
		l.work.Go(func() error {
			defer func() { <-l.probes.slots }()
			l.probeOne(ctx, t, r.EngineStarts, err)
			return nil
		})
	}
}

// probable: it has started, is heard of, and was not found ready since.
func probable(x *cluster.Launch, r fleet.Replica, s fleet.Snapshot) bool {
	return x.Phase != cluster.Ended && x.Phase != cluster.Draining && x.Run == r.Run && !r.Ready &&
		r.Phase == apiv1.Phase_PHASE_STARTED && r.Head().GetAddress() != "" && s.Fresh(r)
}

// probeOne probes, or fails for the reason given, and lets the fleet know.
func (l *Loop) probeOne(ctx context.Context, t Target, starts uint32, err error) {
	if err == nil {
		probing, cancel := context.WithTimeout(ctx, l.o.ProbeTimeout)
		err = l.o.Prober.Probe(probing, t)
		cancel()
	}
	if ctx.Err() != nil {
		return // it was cut short: that says nothing about the replica
	}
	now := time.Now()
	l.metrics.probed(err)
	l.probes.done(t.Launch, now, err)
	l.o.Fleet.SetReady(t.Launch, t.Run, starts, now, err)
}

var errNoPeer = errors.New("waits for a started replica of the other role: a disaggregated replica is probed through a pair")

// target describes a replica to the prober.
func target(x *cluster.Launch, r fleet.Replica, d plan.Deployment, s plan.Seen) (Target, error) {
	spec := d.Spec
	if x.Revision != d.Revision {
		old, ok := d.Revisions[x.Revision]
		if !ok {
			return Target{Launch: x.ID, Run: r.Run}, fmt.Errorf("revision %d of deployment %s is not known", x.Revision, x.Deployment)
		}
		spec = old
	}
	t := Target{
		Launch: x.ID, Run: r.Run, Epoch: r.Epoch, Address: r.Head().GetAddress(), Role: x.Role, Deployment: spec,
	}
	other := map[jobspecs.RoleKind]jobspecs.RoleKind{jobspecs.Prefill: jobspecs.Decode, jobspecs.Decode: jobspecs.Prefill}[x.Role]
	if other == "" {
		return t, nil
	}
	for i := range s.Launches {
		y := &s.Launches[i]
		p := s.Fleet.Replicas[y.ID]
		if y.Deployment == x.Deployment && y.Role == other && y.Phase != cluster.Ended && y.Run == p.Run && y.Run != "" &&
			p.Phase == apiv1.Phase_PHASE_STARTED && p.Head().GetAddress() != "" && s.Fleet.Fresh(p) {
			t.Peer = &Target{Launch: y.ID, Run: p.Run, Epoch: p.Epoch, Address: p.Head().GetAddress(), Role: y.Role, Deployment: spec}
			if y.Revision == x.Revision {
				return t, nil // of the same revision where there is one
			}
		}
	}
	if t.Peer == nil {
		return t, errNoPeer
	}
	return t, nil
}
