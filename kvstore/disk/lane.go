package disk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// lane bounds how much of one kind of I/O is under way at one time, and keeps calls from a disk that has just failed.
type lane struct {
	slots  chan struct{}
	closed atomic.Pointer[time.Time] // until when the disk is left alone
}

func newLane(n int) lane { return lane{slots: make(chan struct{}, n)} }

// suspend leaves the disk alone for a while.
func (l *lane) suspend(d time.Duration) {
	until := time.Now().Add(d)
	l.closed.Store(&until)
}

func (l *lane) suspended() bool {
	until := l.closed.Load()
	return until != nil && time.Now().Before(*until)
}

var (
	errSuspended = fmt.Errorf("the disk failed a moment ago and is left alone: %w", kvstore.ErrUnavailable)
	errHangs     = fmt.Errorf("the disk does not answer: %w", kvstore.ErrUnavailable)
	errClosed    = fmt.Errorf("the store is closed: %w", kvstore.ErrUnavailable)
)

// throughLane runs do in a goroutine of its own, when there is a slot, and returns what it returns. A call whose context
// ends or whose time is over goes on without it: instead of returning it, what do then returns is given to lost, or the zero
// value where do was never run. do must not use what belongs to the caller of the store, who is under way by life.begin.
func throughLane[T any](ctx context.Context, s *Store, l *lane, do func() T, lost func(T)) (result T, err error) {
	timeout := time.NewTimer(s.opts.Timeout)
	defer timeout.Stop()
	if err := s.enter(ctx, l, timeout.C); err != nil {
		lost(result)
		return result, err
	}
	var decided atomic.Bool // by who is first: the call that waits, or the one that has done
	done := make(chan T, 1)
	go func() {
		defer s.life.done()
		defer func() { <-l.slots }()
		v := do()
		if decided.CompareAndSwap(false, true) {
			done <- v
			return
		}
		lost(v)
	}()
	select {
	case result = <-done:
		return result, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timeout.C:
		err = errHangs
	}
	if !decided.CompareAndSwap(false, true) {
		return <-done, nil
	}
	if errors.Is(err, errHangs) {
		l.suspend(s.opts.Retry)
	}
	return result, err
}

// enter waits for a slot.
func (s *Store) enter(ctx context.Context, l *lane, timeout <-chan time.Time) error {
	if l.suspended() {
		return errSuspended
	}
	s.life.more()
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		s.life.done()
		return ctx.Err()
	case <-timeout:
		s.life.done()
		l.suspend(s.opts.Retry)
		return errHangs
	}
}

// life counts what is under way, so that the end waits for it.
type life struct {
	mu    sync.Mutex
	n     int
	ended bool
	idle  chan struct{}
}

// begin must be followed by done, unless the store is closed.
func (l *life) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return errClosed
	}
	l.n++
	return nil
}

// more is begin for what goes on within something that is under way, also while the end waits.
func (l *life) more() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
}

func (l *life) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n--; l.n == 0 && l.ended {
		close(l.idle)
	}
}

// end refuses what is new and returns what is closed when all is done.
func (l *life) end() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.ended, l.idle = true, make(chan struct{})
		if l.n == 0 {
			close(l.idle)
		}
	}
	return l.idle
}
