package agent

import (
	"context"
	"sync"
	"time"
)

// ending says that, why and how fast a run is to end. It only ever gets more urgent. Safe for concurrent use.
type ending struct {
	mu      sync.Mutex
	drained chan struct{} // closed when a drain was asked for
	stopped chan struct{} // closed when the end must be now
	within  time.Duration // of the drain; 0 = the deployment's
	since   time.Time     // of the drain
	reason  string
	err     error // what Run returns for it; nil = it was asked for
}

func newEnding() *ending {
	return &ending{drained: make(chan struct{}), stopped: make(chan struct{})}
}

func (e *ending) drain(reason string, within time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if closed(e.drained) {
		if left := time.Until(e.since.Add(e.within)); within > 0 && (e.within == 0 || within < left) {
			e.within, e.since = within, time.Now()
		}
		return
	}
	e.within, e.since = within, time.Now()
	if e.reason == "" {
		e.reason = reason
	}
	close(e.drained)
}

// stop ends the run now. The first error counts.
func (e *ending) stop(reason string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if closed(e.stopped) {
		return
	}
	if e.reason == "" || err != nil {
		e.reason = reason
	}
	e.err = err
	close(e.stopped)
}

// deadline is when a drain that was asked for has to be over.
func (e *ending) deadline(otherwise time.Duration) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.since.Add(orElse(e.within, otherwise))
}

// cause is why the run ends, in words and as Run's result.
func (e *ending) cause() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reason, e.err
}

// asked tells whether the run is to end in one way or the other.
func (e *ending) asked() bool { return closed(e.drained) || closed(e.stopped) }

// sleep waits. It returns false when the run is to end, or ctx ends, first.
func (e *ending) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return !e.asked()
	case <-ctx.Done():
	case <-e.drained:
	case <-e.stopped:
	}
	return false
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
