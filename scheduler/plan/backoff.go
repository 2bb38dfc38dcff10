package plan

import (
	"fmt"
	"strings"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// backOff says how often a replica of the current revision has failed in a row, and until when it is not started again.
// The count is kept for each replica of its own, so that a lost node, which takes many at once, delays none of them.
// Failures that the clock has not reached yet (it was set back) count but hold nothing up.
func (p *planner) backOff(d *deployment, r *role, index int) (failures int, until time.Time) {
	var last time.Time
	for _, l := range r.ended { // oldest first
		if l.Index != index || l.Revision != d.Revision {
			continue
		}
		if p.stable(l) {
			failures, last = 0, time.Time{}
		}
		if !hurts(l) {
			continue
		}
		failures++
		if !l.EndedAt.After(p.now) {
			last = l.EndedAt
		}
	}
	if failures < 2 || last.IsZero() {
		return failures, time.Time{}
	}
	return failures, last.Add(p.timing.delay(failures))
}

// delay is how long to wait after so many failures in a row.
func (t Timing) delay(failures int) time.Duration {
	d := t.BackoffFirst
	for i := 2; i < failures && d < t.BackoffMax; i++ {
		d *= 2
	}
	return min(d, t.BackoffMax)
}

// stable: the launch was ready for long enough to start counting anew.
func (p *planner) stable(l *cluster.Launch) bool {
	return !l.ReadyAt.IsZero() && l.EndedAt.Sub(l.ReadyAt) >= p.timing.StableAfter
}

// backOffReason tells of the role's last failure.
func (p *planner) backOffReason(d *deployment, r *role) string {
	var last *cluster.Launch
	for _, l := range r.ended {
		if hurts(l) && l.Revision == d.Revision {
			last = l
		}
	}
	failures, until := p.backOff(d, r, last.Index)
	return fmt.Sprintf("%s/%d has failed %s in a row; it is started again at %s: %s",
		r.kind, last.Index, times(failures), until.UTC().Format(time.TimeOnly), why(last))
}

// why is the reason of a launch's end, with the engine's last line.
func why(l *cluster.Launch) string {
	if n := len(l.LastLines); n > 0 {
		return l.EndReason + ": " + strings.TrimSpace(l.LastLines[n-1])
	}
	return l.EndReason
}
