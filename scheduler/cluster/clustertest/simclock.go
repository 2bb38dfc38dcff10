package clustertest

import (
	"container/heap"
	"context"
	"time"
)

// event is something that happens at a time of the simulated clock; do runs with the lock held.
type event struct {
	at  time.Time
	seq int // order of events of one time
	do  func()
}

// eventQueue is a heap of events, earliest first.
type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].seq < q[j].seq
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(e any)   { *q = append(*q, e.(event)) }
func (q *eventQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// Now reads the simulated clock. Inside a hook it is the time of what the hook is told about.
func (s *Sim) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// Advance moves the clock by d and lets happen, in order, whatever is due by then; Advance(0) does what is due now. It
// returns when all of it has happened and all hooks have returned. A hook that calls Advance only moves the clock's end.
func (s *Sim) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target = s.target.Add(d)
	if s.settling {
		return
	}
	s.settling = true
	for s.step() {
	}
	s.now = s.target
	s.settling = false
}

// step lets one thing happen: pending hooks, else jobs that fit, else the next event. False = nothing is due any more.
func (s *Sim) step() bool {
	switch {
	case len(s.hooks) > 0:
		hooks := s.hooks
		s.hooks = nil
		s.mu.Unlock()
		for _, h := range hooks {
			h()
		}
		s.mu.Lock()
	case s.due(s.now): // all of one time, before jobs start on what they have freed
		heap.Pop(&s.events).(event).do()
	case s.dirty:
		s.dirty = false
		s.startFitting()
	case s.due(s.target):
		s.now = s.events[0].at
	default:
		return false
	}
	return true
}

func (s *Sim) due(t time.Time) bool { return len(s.events) > 0 && !s.events[0].at.After(t) }

// Run advances the clock together with the real one (or synctest's) until the context ends.
func (s *Sim) Run(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.Advance(every)
		}
	}
}

// at plans an event. The lock is held.
func (s *Sim) at(t time.Time, do func()) {
	s.seq++
	heap.Push(&s.events, event{at: t, seq: s.seq, do: do})
}
