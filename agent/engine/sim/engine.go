package sim

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// engine is the simulated engine core: one goroutine that forms a batch, lets its time pass, and gives each sequence of
// it a token, over and over. All state belongs to that goroutine; others speak to it by post.
type engine struct {
	v        *vocabulary
	opts     Options
	root     blockHash
	log      zerolog.Logger
	metrics  *metrics
	faults   *faults
	events   *publisher // nil: no KV events
	puller   *puller
	external *external // nil: no KV store outside

	mu    sync.Mutex
	inbox []func()
	wake  chan struct{} // capacity 1: the inbox is not empty
	done  chan struct{} // closed when nothing that is posted will be run any more

	pool    *blockPool
	waiting []*sequence // first come first; preempted ones go in front
	running []*sequence
	pulling []*sequence // wait for KV from another engine
	leases  map[string]*lease
	// leaseCheck is when the next lease may have run out.
	leaseCheck time.Time
	pending    []kvEvent // of the step under way
	batch      []scheduledTokens
	hasher     blockHasher
	stored     int // blocks stored, for the fault that spoils some

	ctx   context.Context // of run; its pulls end with it
	pulls sync.WaitGroup
	busy  time.Time // until when the simulated hardware works
	timer *time.Timer

	steps     atomic.Int64
	generated atomic.Int64
	occupied  atomic.Int64 // used blocks after the last change
}

// scheduledTokens is a sequence's part of a step.
type scheduledTokens struct {
	seq *sequence
	n   int
}

func newEngine(opts Options, m *metrics, f *faults, p *publisher, log zerolog.Logger) *engine {
	e := &engine{
		v: theVocabulary(), opts: opts, root: rootHash(opts.HashSeed), log: log, metrics: m, faults: f, events: p,
		wake: make(chan struct{}, 1), done: make(chan struct{}), leases: map[string]*lease{}, puller: newPuller(opts),
	}
	e.external = newExternal(opts, e.v, log)
	e.pool = newBlockPool(opts.NumGPUBlocks, func(h blockHash) { e.record(kvEvent{removed: []blockHash{h}}) })
	return e
}

// post has f run by the scheduler's goroutine, soon, also while a step's time passes. It never blocks.
func (e *engine) post(f func()) {
	e.mu.Lock()
	e.inbox = append(e.inbox, f)
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// submit starts work on sequences. What becomes of each arrives at its output, also when the engine ends before.
func (e *engine) submit(seqs ...*sequence) {
	now := time.Now()
	e.post(func() {
		for _, s := range seqs {
			s.arrived = now
			if e.ctx.Err() != nil {
				e.end(s, outcome{reason: finishedAbort, stopToken: -1})
				continue
			}
			e.seek(s)
			if s.pull != nil {
				e.startPull(s)
			}
		}
		e.observe()
	})
}

// abort ends sequences and frees their blocks at once, in the middle of a step too.
func (e *engine) abort(seqs ...*sequence) { e.finish(finishedAbort, seqs...) }

// finish is abort for another reason, such as a stop string, which only the reader of the text can see.
func (e *engine) finish(reason finish, seqs ...*sequence) {
	e.post(func() {
		for _, s := range seqs {
			e.end(s, outcome{reason: reason, stopToken: -1})
		}
		e.observe()
	})
}

// resetCache forgets all cached prefixes; false if blocks are in use.
func (e *engine) resetCache(ctx context.Context) (bool, error) {
	done := make(chan bool, 1)
	e.post(func() {
		ok := e.pool.clear()
		if ok {
			e.record(kvEvent{cleared: true})
			e.publish()
		}
		done <- ok
	})
	select {
	case ok := <-done:
		return ok, nil
	case <-e.done:
		return false, errEngineEnded
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// run works until ctx ends, and then aborts what is left. It returns an *ExitError if a fault ends the process.
func (e *engine) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	e.mu.Lock()
	e.ctx = ctx
	e.mu.Unlock()
	e.timer = time.NewTimer(time.Hour)
	defer e.shutdown(cancel)
	if e.external != nil {
		e.pulls.Go(func() { e.external.run(ctx) })
	}
	for {
		e.drain()
		if ctx.Err() != nil {
			return nil
		}
		if exit := e.faults.death(e.generated.Load()); exit != nil {
			return exit
		}
		e.expireLeases(time.Now())
		e.batch = e.batch[:0]
		work := stepWork{}
		if !e.faults.stuck(e.generated.Load()) {
			work = e.schedule(time.Now())
		}
		if len(e.batch) == 0 {
			e.publish()
			e.idle(ctx)
			continue
		}
		e.letPass(ctx, work.stepTime(e.pool.usage(), e.opts.Speedup)*time.Duration(e.faults.slowdown()*1000)/1000)
		if ctx.Err() != nil {
			return nil
		}
		e.commit(time.Now())
	}
}

// shutdown ends everything that is left, so that nobody waits for it.
func (e *engine) shutdown(cancel context.CancelFunc) {
	cancel()
	e.drain()
	for _, list := range [][]*sequence{slices.Clone(e.running), slices.Clone(e.waiting), slices.Clone(e.pulling)} {
		for _, s := range list {
			e.end(s, outcome{reason: finishedAbort, stopToken: -1})
		}
	}
	e.pulls.Wait()
	e.drain()
	e.timer.Stop()
	close(e.done)
}

// drain runs what was posted.
func (e *engine) drain() {
	e.mu.Lock()
	posted := e.inbox
	e.inbox = nil
	e.mu.Unlock()
	for _, f := range posted {
		f()
	}
}

// idle waits for something to do.
func (e *engine) idle(ctx context.Context) {
	e.observe()
	e.busy = time.Time{}
	wait := time.Hour
	if len(e.leases) > 0 {
		wait = time.Until(e.leaseCheck)
	}
	e.timer.Reset(wait)
	select {
	case <-e.wake:
	case <-e.timer.C:
	case <-ctx.Done():
	}
}

// shortestSleep is what the scheduler does not sleep for: it runs ahead of the simulated hardware by at most this.
const shortestSleep = 50 * time.Microsecond

// letPass lets the time of a step pass, and does meanwhile what is posted. What the scheduler itself takes between steps
// counts as part of the next one, unless it is longer than that.
func (e *engine) letPass(ctx context.Context, d time.Duration) {
	if now := time.Now(); now.Sub(e.busy) > d {
		e.busy = now
	}
	e.busy = e.busy.Add(d)
	for {
		left := time.Until(e.busy)
		if left < shortestSleep {
			return
		}
		e.timer.Reset(left)
		select {
		case <-e.wake:
			e.drain()
		case <-e.timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// end takes a sequence out of the engine and tells its output, with the last token if there is one. Ending it again does
// nothing.
func (e *engine) end(s *sequence, o outcome, last ...emitted) {
	if s.ended {
		return
	}
	s.ended = true
	for _, list := range []*[]*sequence{&e.running, &e.waiting, &e.pulling} {
		if i := slices.Index(*list, s); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
			break
		}
	}
	if s.cancelPull != nil {
		s.cancelPull()
	}
	o.final = s.state
	if s.handOver && o.reason == finishedLength {
		o.kvTransfer = e.grant(s, time.Now())
	}
	if o.kvTransfer == nil {
		e.pool.release(s.blocks)
	}
	s.blocks = nil
	e.metrics.ended(s, o.reason, time.Now())
	s.out.close(o, last...)
}

// record notes a change of the cache for the next batch of events.
func (e *engine) record(ev kvEvent) {
	if e.events != nil {
		e.pending = append(e.pending, ev)
	}
}

// publish sends the events noted so far as one batch.
func (e *engine) publish() {
	if len(e.pending) > 0 {
		e.events.publish(time.Now(), e.pending)
		e.pending = nil
	}
}

// observe shows the engine's state in its gauges.
func (e *engine) observe() {
	e.occupied.Store(int64(len(e.pool.blocks) - e.pool.unused))
	e.metrics.state(len(e.running), len(e.waiting)+len(e.pulling), e.pool.usage())
}
