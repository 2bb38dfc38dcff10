package jobspecs

import "time"

// leaveMargin is what is left between the end of a drain and the end of a job's time.
const leaveMargin = 10 * time.Second

// Leave says when a replica whose job runs from start to end has to begin to drain, and when it has to be done with it:
// DrainTimeout earlier than ten seconds before the end. A short job gives at most a quarter of its time to the drain and a
// twentieth to the margin, so that it serves at all. A start that is not known (zero) makes no job short.
func (s Serving) Leave(start, end time.Time) (from, by time.Time) {
	drain, margin := s.DrainTimeout.Std(), leaveMargin
	if life := end.Sub(start); !start.IsZero() {
		drain, margin = min(drain, max(life/4, 0)), min(margin, max(life/20, 0))
	}
	by = end.Add(-margin)
	return by.Add(-drain), by
}
