package agent

import (
	"sync"

	"google.golang.org/protobuf/proto"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// state is what this agent knows of its part of the run, by section. A section that was put here is never changed again,
// only replaced, so that it may be sent while the next one is made. It is safe for concurrent use.
type state struct {
	mu      sync.Mutex
	now     apiv1.RunState
	version uint64        // counts changes
	urgent  chan struct{} // holds a token when something should be sent at once
}

func newState() *state { return &state{urgent: make(chan struct{}, 1)} }

// load, kv and gpus are sampled and wait for the next message.
func (s *state) setLoad(v *apiv1.EngineLoad) { s.set(func() { s.now.Load = v }) }
func (s *state) setKV(v *apiv1.KVState)      { s.set(func() { s.now.Kv = v }) }
func (s *state) setGPUs(v *apiv1.GPUs)       { s.set(func() { s.now.Gpus = v }) }

// identity, health and ports decide what happens next, and are sent at once.
func (s *state) setIdentity(v *apiv1.Identity) { s.setNow(func() { s.now.Identity = v }) }
func (s *state) setPorts(v *apiv1.Ports)       { s.setNow(func() { s.now.Ports = v }) }

// health changes the health section by way of a copy.
func (s *state) health(change func(*apiv1.Health)) {
	s.setNow(func() {
		h := &apiv1.Health{}
		if s.now.Health != nil {
			h = proto.Clone(s.now.Health).(*apiv1.Health)
		}
		change(h)
		s.now.Health = h
	})
}

func (s *state) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.version++
}

func (s *state) setNow(change func()) {
	s.set(change)
	select {
	case s.urgent <- struct{}{}:
	default:
	}
}

// read returns all sections and the version that they are. The sections must not be changed.
func (s *state) read() (*apiv1.RunState, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &apiv1.RunState{
		Identity: s.now.Identity, Health: s.now.Health, Load: s.now.Load,
		Gpus: s.now.Gpus, Kv: s.now.Kv, Ports: s.now.Ports,
	}, s.version
}
