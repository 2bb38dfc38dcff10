package agent

import "time"

const (
	// healthyAfter: an engine that answered for so long has its failures forgiven.
	healthyAfter = 10 * time.Minute
	firstBackoff = time.Second
	maxBackoff   = time.Minute
)

// restarts counts the ends of an engine that nobody asked for.
type restarts struct {
	limit    int // engine starts again so often
	failures int // since the engine was last healthy for a while
	total    int // in this run
}

// failed takes one such end and says how long to wait before the next start, or to give up. startedAt is when this engine
// gave its first token, zero if it never did.
func (r *restarts) failed(now, startedAt time.Time) (wait time.Duration, giveUp bool) {
	if !startedAt.IsZero() && now.Sub(startedAt) >= healthyAfter {
		r.failures = 0
	}
	r.failures++
	r.total++
	if r.failures > r.limit {
		return 0, true
	}
	return min(firstBackoff<<min(r.failures-1, 10), maxBackoff), false
}
