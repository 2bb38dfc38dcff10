package agent

import (
	"sync/atomic"
	"time"
)

// moment is when something was last seen. It keeps the monotonic clock's reading: where a wall clock is set forth, a run
// that is in use must not look forgotten. Safe for concurrent use.
type moment struct{ at atomic.Pointer[time.Time] }

// mark notes that it is seen now.
func (m *moment) mark() {
	now := time.Now()
	m.at.Store(&now)
}

// last is when it was; zero = never.
func (m *moment) last() time.Time {
	if at := m.at.Load(); at != nil {
		return *at
	}
	return time.Time{}
}
