package tiered

import (
	"sync"
	"time"
)

// breaker leaves a tier alone after failures in a row, then lets one call try.
type breaker struct {
	limit    int
	cooldown time.Duration

	mu       sync.Mutex
	failures int
	until    time.Time // left alone until then
	trying   bool      // one call is out to try
	pause    time.Duration
}

const maxPauses = 16 // cooldowns

// allow says whether a call may go out now.
func (b *breaker) allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < b.limit {
		return true
	}
	if b.trying || now.Before(b.until) {
		return false
	}
	b.trying = true
	return true
}

// wait is how long nothing need be tried; 0 = a call may go out.
func (b *breaker) wait(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.failures < b.limit:
		return 0
	case b.trying:
		return b.cooldown
	}
	return max(0, b.until.Sub(now))
}

// done notes how a call that was allowed has ended, and says whether the tier has become dead or alive by it.
func (b *breaker) done(now time.Time, ok bool) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.failures >= b.limit
	b.trying = false
	if ok {
		b.failures, b.pause = 0, 0
		return was
	}
	b.failures++
	if b.failures >= b.limit {
		b.pause = min(max(2*b.pause, b.cooldown), maxPauses*b.cooldown)
		b.until = now.Add(b.pause)
	}
	return !was && b.failures >= b.limit
}

// neither ends a call that says nothing of the tier: its caller went away.
func (b *breaker) neither() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trying = false
}

// open says whether the tier is left alone.
func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures >= b.limit
}
