package plan

import (
	"slices"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// causeOf classifies the end of a launch by what the cluster, Penstock and the launch's agent know of it.
func (p *planner) causeOf(d *deployment, s *sight, j *cluster.Job) cluster.EndCause {
	agent := s.replica.Phase
	switch {
	case j.Cause == cluster.EndedNodeFailed, j.Cause == cluster.EndedOutOfMemory && !s.draining():
		return j.Cause
	case s.draining() && !s.Left:
		return cluster.EndedAsked
	case agent == apiv1.Phase_PHASE_FAILED:
		return cluster.EndedFailed
	case (j.Cause == "" || j.Cause == cluster.EndedCancelled || j.Cause == cluster.EndedAsked) && p.neverJoined(s, j):
		return cluster.EndedFailed // it was stopped for that
	case j.Cause != "":
		return j.Cause
	case s.Left, agent == apiv1.Phase_PHASE_DRAINING, agent == apiv1.Phase_PHASE_STOPPED:
		if p.atLimit(d, s, j) {
			return cluster.EndedWalltime
		}
		return cluster.EndedCancelled
	}
	return cluster.EndedFailed
}

// neverJoined: the job ran for long enough, and no agent has come of it.
func (p *planner) neverJoined(s *sight, j *cluster.Job) bool {
	return s.Run == "" && !j.Started.IsZero() && j.Ended.Sub(j.Started) >= p.timing.JoinTimeout
}

// atLimit: the end began when the job's time was about to be over.
func (p *planner) atLimit(d *deployment, s *sight, j *cluster.Job) bool {
	end := s.ends()
	if end.IsZero() {
		end = j.EndsAt
	}
	at := s.DrainAt
	if at.IsZero() {
		at = j.Ended
	}
	if end.IsZero() || at.IsZero() {
		return false
	}
	from, _ := servingOf(d, s).Leave(s.began(), end)
	return !at.Before(from.Add(-noticed))
}

// noticed is how much earlier than by this controller's clock an agent may begin to leave.
const noticed = 5 * time.Second

// failure: ends of this cause are the fault of what was started, and count against it.
func failure(c cluster.EndCause) bool {
	return c == cluster.EndedFailed || c == cluster.EndedOutOfMemory || c == cluster.EndedLost
}

// hurts: the launch's end delays the next start of its replica. Ends that are nobody's fault do, too, where the launch had
// come to nothing by then: a job that is preempted in the queue's order again and again is not started in a loop.
func hurts(l *cluster.Launch) bool {
	if l.Failed {
		return true
	}
	idle := []cluster.EndCause{cluster.EndedPreempted, cluster.EndedCancelled, cluster.EndedNodeFailed, cluster.EndedWalltime}
	return l.ReadyAt.IsZero() && slices.Contains(idle, l.Cause)
}
