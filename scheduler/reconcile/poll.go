package reconcile

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// capacityEvery is how many polls of the jobs there are to one of the capacity, which changes slowly.
const capacityEvery = 5

// poll asks one cluster for its jobs and its capacity, each in turn with a deadline of its own, and keeps the last answers.
type poll struct {
	cluster cluster.Cluster
	every   time.Duration
	timeout time.Duration
	metrics metrics
	wake    func()
	poke    chan struct{}
	first   chan struct{} // closed once both have been asked for

	mu       sync.Mutex
	jobs     answer[[]cluster.Job]
	counts   answer[[]cluster.RoleCount] // of a cluster that counts
	capacity answer[cluster.Capacity]
	changed  time.Time // what was asked before this says nothing about the capacity
}

// answer is the last answer to one question.
type answer[T any] struct {
	value T
	asked time.Time // when the question was put
	err   error     // of the last question; the value is older then
	n     int       // answers so far
}

// answers is what a poll knows now.
type answers struct {
	jobs          answer[[]cluster.Job]
	counts        answer[[]cluster.RoleCount]
	capacity      answer[cluster.Capacity]
	jobsKnown     bool
	countsKnown   bool
	capacityKnown bool
	why           string // not known
}

func newPoll(c cluster.Cluster, every, timeout time.Duration, m metrics, wake func()) *poll {
	return &poll{cluster: c, every: every, timeout: timeout, metrics: m, wake: wake, poke: make(chan struct{}, 1), first: make(chan struct{})}
}

// soon has the jobs asked for before their time, because something was changed there.
func (p *poll) soon() {
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// refresh has everything asked for anew. The capacity is not known until then: what was asked for before knows nothing of
// the nodes that a new file declares.
func (p *poll) refresh() {
	p.mu.Lock()
	p.changed = time.Now()
	p.mu.Unlock()
	p.soon()
}

// watcher is a cluster that tells when what it would answer has changed, so that it need not be asked in vain.
type watcher interface {
	// Watch calls changed, which does not block, until ctx ends.
	Watch(ctx context.Context, changed func()) error
}

// run polls until ctx ends.
func (p *poll) run(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	if w, ok := p.cluster.(watcher); ok {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		watching.Go(func() { _ = w.Watch(ctx, p.soon) }) // it ends with ctx; without it the ticks remain
	}
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for n := 0; ; n++ {
		ask(ctx, p, "Jobs", &p.jobs, p.cluster.Jobs)
		if c, ok := p.cluster.(cluster.Counter); ok {
			ask(ctx, p, "Counts", &p.counts, c.Counts)
		}
		if n%capacityEvery == 0 || !p.answers(time.Now()).capacityKnown {
			ask(ctx, p, "Capacity", &p.capacity, p.cluster.Capacity)
		}
		if n == 0 {
			close(p.first)
		}
		if !p.rest(ctx, tick.C) {
			return nil
		}
	}
}

// rest waits for the next poll: a tick, or a poke, but not less than a fifth of the time between ticks.
func (p *poll) rest(ctx context.Context, tick <-chan time.Time) bool {
	breath := time.NewTimer(p.every / 5)
	defer breath.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-breath.C:
	}
	select {
	case <-ctx.Done():
		return false
	case <-tick:
	case <-p.poke:
	}
	return true
}

// ask puts one question and keeps the answer. An answer that comes too late to be news is still one.
func ask[T any](ctx context.Context, p *poll, call string, into *answer[T], question func(context.Context) (T, error)) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	asked := time.Now()
	value, err := question(ctx)
	p.metrics.called(p.cluster.Kind(), call, asked, err)
	p.mu.Lock()
	into.err = err
	if err == nil {
		into.value, into.asked = value, asked
		into.n++
	}
	p.mu.Unlock()
	p.wake()
}

// answers returns what is known at now. The last answer counts for some polls when the next is late, not for ever.
func (p *poll) answers(now time.Time) answers {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := answers{jobs: p.jobs, counts: p.counts, capacity: p.capacity}
	patience := 3*p.every + p.timeout
	a.jobsKnown = p.jobs.err == nil && p.jobs.n > 0 && now.Sub(p.jobs.asked) <= patience
	a.countsKnown = p.counts.err == nil && p.counts.n > 0 && now.Sub(p.counts.asked) <= patience
	a.capacityKnown = p.capacity.err == nil && p.capacity.n > 0 && now.Sub(p.capacity.asked) <= capacityEvery*patience && !p.capacity.asked.Before(p.changed)
	switch {
	case p.jobs.err != nil:
		a.why = p.jobs.err.Error()
	case p.jobs.n == 0:
		a.why = "it has not been asked yet"
	case !a.jobsKnown:
		a.why = fmt.Sprintf("its last answer is %s old", now.Sub(p.jobs.asked).Round(time.Second))
	case p.capacity.err != nil:
		a.why = p.capacity.err.Error()
	case !a.capacityKnown:
		a.why = "its capacity is not known"
	}
	return a
}
