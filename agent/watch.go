package agent

import (
	"context"
	"fmt"
	"time"
)

// orphaned tells whether nobody needs a run any more: neither a controller nor a request was seen for the limit.
func orphaned(now, joined, controller, request time.Time, open int, limit time.Duration) bool {
	if open > 0 || limit <= 0 {
		return false
	}
	last := joined
	for _, t := range []time.Time{controller, request} {
		if t.After(last) {
			last = t
		}
	}
	return now.Sub(last) >= limit
}

// watchOrphan ends a run that nobody needs.
func (r *run) watchOrphan(ctx context.Context) {
	limit := r.adm.orphanAfter
	for sleep(ctx, min(max(limit/20, 50*time.Millisecond), 30*time.Second)) {
		if orphaned(time.Now(), r.startAt, r.reporter.lastHeard(), r.port.lastAsked(), r.port.requests(), limit) {
			why := fmt.Sprintf("neither a controller nor a request was seen for %s", limit)
			r.log.Error().Msg("orphaned")
			r.end.stop(why, fmt.Errorf("%w: %s", ErrOrphaned, why))
			return
		}
	}
}

// watchEnd begins to drain before the job's time limit.
func (r *run) watchEnd(ctx context.Context) {
	if r.opts.EndsAt.IsZero() {
		return
	}
	from, by := r.leave()
	if !sleep(ctx, time.Until(from)) {
		return
	}
	r.end.drain("the job's time limit", max(time.Until(by), time.Second))
}

// leave is when the run has to begin to drain, and to be done with it, for its job's time limit.
func (r *run) leave() (from, by time.Time) {
	return r.adm.deployment.Serving.Leave(r.startAt, r.opts.EndsAt)
}
