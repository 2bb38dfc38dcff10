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

// endMargin is what is left between the end of a drain and the end of the job's time.
const endMargin = 10 * time.Second

// drainAt is when a drain must begin to be over before the job's time is.
func drainAt(endsAt time.Time, drain time.Duration) time.Time { return endsAt.Add(-drain - endMargin) }

// watchEnd begins to drain before the job's time limit.
func (r *run) watchEnd(ctx context.Context) {
	if r.opts.EndsAt.IsZero() {
		return
	}
	drain := r.adm.deployment.Serving.DrainTimeout.Std()
	if !sleep(ctx, time.Until(drainAt(r.opts.EndsAt, drain))) {
		return
	}
	r.end.drain("the job's time limit", max(min(drain, time.Until(r.opts.EndsAt)-endMargin), time.Second))
}
