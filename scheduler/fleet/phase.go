package fleet

import (
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// summed returns the replica with everything that follows from its ranks worked out anew.
func summed(r Replica, now time.Time) Replica {
	phase := sumPhase(r)
	if phase != r.Phase || r.Since.IsZero() {
		r.Phase, r.Since = phase, now
	}
	starts := uint32(0)
	r.SeenAt = time.Time{}
	for _, rank := range r.Ranks {
		starts += rank.State.GetHealth().GetEngineStarts()
		if r.SeenAt.IsZero() || rank.SeenAt.Before(r.SeenAt) {
			r.SeenAt = rank.SeenAt
		}
	}
	if starts != r.EngineStarts {
		r.EngineStarts = starts
		r = unready(r)
	}
	if r.Phase < apiv1.Phase_PHASE_STARTED || r.Phase == apiv1.Phase_PHASE_FAILED || r.Phase == apiv1.Phase_PHASE_STOPPED {
		r = unready(r)
	}
	return r
}

// unready forgets the last probe: it was made of an engine that is no more.
func unready(r Replica) Replica {
	r.Ready, r.ReadyAt, r.NotReady = false, time.Time{}, ""
	return r
}

func sumPhase(r Replica) apiv1.Phase {
	least, stopped, leaving := apiv1.Phase_PHASE_STARTED, 0, 0
	for _, rank := range r.Ranks {
		switch phase := rank.State.GetHealth().GetPhase(); phase {
		case apiv1.Phase_PHASE_FAILED:
			return apiv1.Phase_PHASE_FAILED
		case apiv1.Phase_PHASE_STOPPED:
			stopped++
		case apiv1.Phase_PHASE_DRAINING:
			leaving++
		case apiv1.Phase_PHASE_STARTED, apiv1.Phase_PHASE_LOADING:
			least = min(least, phase)
		default: // joining, unspecified, or a phase of a newer release
			least = apiv1.Phase_PHASE_JOINING
		}
	}
	switch {
	case len(r.Ranks) < r.Nodes:
		return apiv1.Phase_PHASE_JOINING
	case stopped == r.Nodes:
		return apiv1.Phase_PHASE_STOPPED
	case stopped+leaving > 0:
		return apiv1.Phase_PHASE_DRAINING
	}
	return least
}
