package plan

import (
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// giveUpAfter is how many failures a revision may have that has never been ready.
const giveUpAfter = 3

// rollback makes the previous good revision current again when the current one has failed: no replica of it has ever been
// ready, and one stopped making progress for the progress deadline, or three have failed. Waiting in a queue is neither.
func (p *planner) rollback(d *deployment, roles []*role) bool {
	if _, known := d.spec(d.Previous); !known || d.Previous == d.Revision || d.Proven {
		return false
	}
	for _, r := range roles {
		if d.current(d.Previous, r.kind) {
			continue // the same replicas: going back would change nothing
		}
		failed, last, everReady := 0, (*cluster.Launch)(nil), false
		for _, l := range r.ended {
			if d.current(l.Revision, r.kind) {
				everReady = everReady || !l.ReadyAt.IsZero()
				if l.Failed {
					failed, last = failed+1, l
				}
			}
		}
		var stuck *sight
		for _, s := range r.live {
			if d.current(s.Revision, r.kind) {
				everReady = everReady || !s.ReadyAt.IsZero() || s.health == serving
				if stuck == nil && p.noProgress(s) >= progressDeadline(r.spec) {
					stuck = s
				}
			}
		}
		switch {
		case everReady:
		case stuck != nil:
			p.goBack(d, r, "%s/%d of revision %d has made no progress for %s: %s",
				r.kind, stuck.Index, d.Revision, rounded(p.noProgress(stuck)), stuckAt(stuck))
			return true
		case failed >= giveUpAfter:
			p.goBack(d, r, "replicas of revision %d have failed %s and were never ready, the last: %s", d.Revision, times(failed), why(last))
			return true
		}
	}
	return false
}

func (p *planner) goBack(d *deployment, r *role, format string, args ...any) {
	a := p.wait(d, r, "", 0, format, args...)
	a.Verb, a.From, a.Revision = Rollback, d.Revision, d.Previous
}

// noProgress is for how long an admitted launch that is heard of has not come closer to serving.
func (p *planner) noProgress(s *sight) time.Duration {
	if s.health != notReady || s.draining() || s.over {
		return 0
	}
	progress := latest(s.AdmittedAt, s.replica.Since)
	if at := s.replica.Health().GetLoading().GetAdvancedAt(); at != nil && !at.AsTime().After(p.now) {
		progress = latest(progress, at.AsTime())
	}
	return p.now.Sub(progress)
}

// stuckAt says what a replica without progress last told of itself.
func stuckAt(s *sight) string {
	h := s.replica.Health()
	switch {
	case s.replica.NotReady != "":
		return "it does not answer: " + s.replica.NotReady
	case h.GetMessage() != "":
		return h.GetMessage()
	case s.replica.Phase == apiv1.Phase_PHASE_LOADING:
		return "it is loading"
	}
	return "it is joining"
}
