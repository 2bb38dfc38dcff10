package object

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// patience says how long a bucket is waited for, how often it is asked again, and when it is left alone. One stands before
// all requests of a store.
type patience struct {
	reads, writes chan struct{} // slots of requests under way
	timeout       time.Duration // for the first byte; the rest may come at slowest
	cooldown      time.Duration
	running       sync.WaitGroup

	mu      sync.Mutex
	tokens  float64       // for asking again
	doubles float64       // for asking twice
	usual   time.Duration // within which nineteen of twenty reads have begun to answer
	failed  int           // in a row
	until   time.Time     // the circuit is open
	wait    time.Duration // next time
	probing bool
	opened  int64 // how often
	retried int64
	hedged  int64
}

const (
	slowest      = 4 << 20 // bytes a second
	tries        = 3
	mostTokens   = 20
	tokenPerCall = 0.1 // so that a bucket in trouble gets a tenth more requests, not thrice as many
	mostDoubles  = 5
	twicePerCall = 0.05 // so that no more than one of twenty reads is sent twice
	failures     = 5    // in a row, then the circuit opens
	longestWait  = time.Minute
	firstHedge   = 50 * time.Millisecond
	slowCall     = 500 * time.Millisecond // a caller's deadline that is shorter says nothing of the bucket
)

func newPatience(workers int, timeout, cooldown time.Duration) *patience {
	return &patience{
		reads: make(chan struct{}, workers), writes: make(chan struct{}, workers), timeout: timeout, cooldown: cooldown,
		tokens: mostTokens, doubles: 1, usual: 200 * time.Millisecond, wait: cooldown,
	}
}

var (
	errOpen = fmt.Errorf("the bucket failed a moment ago and is left alone: %w", kvstore.ErrUnavailable)
	errSlow = errors.New("the bucket does not answer in time")
)

// ask sends a request, again where that may help, and twice where the first answer is late and hedge is set. size is how
// many bytes go over the wire. Results that nobody waits for any more go to lost. What is returned is the last try's error;
// where the bucket is at fault it is ErrUnavailable.
func ask[T any](ctx context.Context, p *patience, slots chan struct{}, size int, hedge bool, do func(context.Context) (T, error), lost func(T)) (T, error) {
	var none T
	if err := p.mayAsk(); err != nil {
		return none, err
	}
	for try := 1; ; try++ {
		begun := time.Now()
		v, err := once(ctx, p, slots, size, hedge, do, lost)
		p.learn(ctx, err, time.Since(begun))
		switch {
		case err == nil, errors.Is(err, errNoObject), errors.Is(err, errExists):
			return v, err
		case ctx.Err() != nil:
			return none, ctx.Err()
		case errors.Is(err, errKey):
			return none, fmt.Errorf("%w: %w", kvstore.ErrUnavailable, err)
		case errors.Is(err, errMemory):
			return none, err
		}
		corrupt := errors.Is(err, kvstore.ErrCorrupt)
		if try >= tries || corrupt && try > 1 || errors.Is(err, errRefused) || !p.take() {
			if !corrupt {
				err = fmt.Errorf("%w: %w", kvstore.ErrUnavailable, err)
			}
			return none, err
		}
		if err := sleep(ctx, time.Duration(try)*50*time.Millisecond); err != nil {
			return none, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// race hands the result of several goroutines to one that may leave before they are done.
type race[T any] struct {
	mu      sync.Mutex
	left    bool
	results chan outcome[T]
	lost    func(T)
}

type outcome[T any] struct {
	v   T
	err error
}

func (r *race[T]) deliver(o outcome[T]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.left {
		r.results <- o
	} else if o.err == nil {
		r.lost(o.v)
	}
}

func (r *race[T]) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left = true
	for len(r.results) > 0 {
		if o := <-r.results; o.err == nil {
			r.lost(o.v)
		}
	}
}

// once asks once, or twice side by side. It returns at the deadline whatever the bucket does: a call into a file system cannot
// be ended, and keeps its slot for as long as it hangs.
func once[T any](ctx context.Context, p *patience, slots chan struct{}, size int, hedge bool, do func(context.Context) (T, error), lost func(T)) (none T, err error) {
	limit := p.timeout + time.Duration(size)*time.Second/slowest
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errSlow)
	defer cancel()
	r := &race[T]{results: make(chan outcome[T], 2), lost: lost}
	defer r.leave()
	if err := start(ctx, p, slots, r, do); err != nil {
		return none, err
	}
	var late <-chan time.Time
	if hedge {
		t := time.NewTimer(p.late(size))
		defer t.Stop()
		late = t.C
	}
	for running := 1; ; {
		select {
		case o := <-r.results:
			if running--; o.err == nil || running == 0 || errors.Is(o.err, errNoObject) {
				return o.v, o.err
			}
		case <-late:
			if late = nil; p.twice() && start(ctx, p, slots, r, do) == nil {
				running++
			}
		case <-ctx.Done():
			return none, context.Cause(ctx)
		}
	}
}

// start runs do in a goroutine of its own, as soon as there is a slot.
func start[T any](ctx context.Context, p *patience, slots chan struct{}, r *race[T], do func(context.Context) (T, error)) error {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	p.running.Go(func() {
		defer func() { <-slots }()
		v, err := do(ctx)
		r.deliver(outcome[T]{v, err})
	})
	return nil
}

// mayAsk refuses while the circuit is open. When its time is over it lets one request through to see.
func (p *patience) mayAsk() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until.IsZero() {
		return nil
	}
	if p.probing || time.Now().Before(p.until) {
		return errOpen
	}
	p.probing = true
	return nil
}

// closed says whether requests are refused now.
func (p *patience) closed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.until.IsZero() && (p.probing || time.Now().Before(p.until))
}

// learn takes what came of a request into account.
func (p *patience) learn(ctx context.Context, err error, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	probe := p.probing
	p.probing = false
	answered := err == nil || errors.Is(err, errNoObject) || errors.Is(err, errExists) || errors.Is(err, kvstore.ErrCorrupt) ||
		errors.Is(err, errKey) || errors.Is(err, errMemory)
	switch {
	case answered:
		p.failed, p.until, p.wait = 0, time.Time{}, p.cooldown
		p.tokens = min(mostTokens, p.tokens+tokenPerCall)
		p.doubles = min(mostDoubles, p.doubles+twicePerCall)
		if took > p.usual { // a running estimate of the 95th percentile
			p.usual += p.usual / 20
		} else {
			p.usual -= p.usual / 380
		}
		return
	case ctx.Err() != nil && (took < slowCall || errors.Is(ctx.Err(), context.Canceled)):
		return // the caller's own haste
	}
	if p.failed++; p.failed >= failures || probe {
		p.until, p.opened = time.Now().Add(p.wait/2+rand.N(p.wait)), p.opened+1
		p.wait = min(2*p.wait, longestWait)
	}
}

// take spends a token for asking again.
func (p *patience) take() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tokens < 1 {
		return false
	}
	p.tokens--
	p.retried++
	return true
}

// twice spends what asking twice costs.
func (p *patience) twice() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.doubles < 1 {
		return false
	}
	p.doubles--
	p.hedged++
	return true
}

// late is when an answer of a size is later than usual.
func (p *patience) late(size int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(firstHedge, p.usual) + time.Duration(size)*time.Second/(64<<20)
}
