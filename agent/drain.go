package agent

import (
	"context"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// drainEvery is how often a drain looks whether all is done.
const drainEvery = 50 * time.Millisecond

// drainBy is when the drain has to be over, the engine's end included: not later than the job's time limit allows.
func (r *run) drainBy() time.Time {
	by := r.end.deadline(r.adm.deployment.Serving.DrainTimeout.Std())
	if r.opts.EndsAt.IsZero() {
		return by
	}
	if _, last := r.leave(); last.Before(by) {
		return last
	}
	return by
}

// stopShare is what of a drain is kept for the end of the engine's processes.
func stopShare(total, grace time.Duration) time.Duration { return min(grace, total/4) }

// drain lets no request in, waits for the open ones, and cuts those that take too long, in a way that gateways see and
// continue elsewhere. The engine's own drain is not trusted: its counts are waited for too.
func (r *run) drain(ctx context.Context, e *engineRun) {
	r.port.refuse(draining)
	reason, _ := r.end.cause()
	r.phase(apiv1.Phase_PHASE_DRAINING, orElse(reason, "asked to end"))
	begun := time.Now()
	for !closed(r.end.stopped) && !closed(e.ended()) && ctx.Err() == nil {
		by := r.drainBy() // may come nearer
		if time.Now().After(by.Add(-stopShare(by.Sub(begun), r.traits.StopGrace))) || r.quiet(ctx, e) {
			break
		}
		sleep(ctx, drainEvery)
	}
	if open := r.port.requests(); open > 0 {
		r.log.Warn().Int("requests", open).Msg("open requests are cut")
		r.port.cut()
	}
}

// quiet tells whether nothing is left to wait for.
func (r *run) quiet(ctx context.Context, e *engineRun) bool {
	if r.follower != nil { // requests are at rank 0
		heard, ok := r.follower.last()
		return !ok || heard.Phase == apiv1.Phase_PHASE_STOPPED || heard.Phase == apiv1.Phase_PHASE_FAILED
	}
	if r.port.requests() > 0 {
		return false
	}
	if e.startedAt.IsZero() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	load, _, err := e.reader.Load(ctx)
	// An engine that does not tell is believed to do what our own count says.
	return err != nil || load.GetRunning()+load.GetWaiting() == 0
}
