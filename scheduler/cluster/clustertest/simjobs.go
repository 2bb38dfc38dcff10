package clustertest

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// simJob is one job. Its run is nil while it is pending or ended.
type simJob struct {
	job      cluster.Job
	sub      cluster.Submission
	need     need
	queued   time.Time
	eligible time.Time
	run      *simRun
	requeue  bool             // what it is ending for lets it run again
	cause    cluster.EndCause // of its end, where the cluster knows it
	limited  bool             // the limit of running jobs keeps it from starting
}

// simRun is one life of a job's processes.
type simRun struct {
	SimRun
	placed []cluster.Placement
	cutBy  string // node whose loss the cluster saw while the processes lived on
}

// enqueue makes a pending job. Lock held.
func (s *Sim) enqueue(sub cluster.Submission, n need) *simJob {
	s.lastID++
	j := &simJob{
		job:  cluster.Job{ID: strconv.Itoa(s.lastID), Launch: sub.Launch.ID, State: cluster.JobPending},
		sub:  sub,
		need: n,
	}
	s.jobs = append(s.jobs, j)
	s.byID[j.job.ID] = j
	s.hold(n.placed, 1)
	s.wait(j)
	return j
}

// wait puts a job into the queue; it may start when its delay is over.
func (s *Sim) wait(j *simJob) {
	delay := s.opts.QueueDelay
	if s.opts.QueueJitter > 0 {
		delay += time.Duration(s.rng.Int64N(int64(s.opts.QueueJitter)))
	}
	if s.opts.Wait != nil {
		delay = s.opts.Wait(s.lastID - firstID)
	}
	j.queued, j.eligible = s.now, s.now.Add(delay)
	s.at(j.eligible, func() {
		s.ready = append(s.ready, j)
		s.dirty = true
	})
}

// view is a job as Jobs shows it.
func (s *Sim) view(j *simJob) cluster.Job {
	job := j.job
	job.Nodes = slices.Clone(job.Nodes)
	if job.Exit != nil {
		exit := *job.Exit
		job.Exit = &exit
	}
	if job.State == cluster.JobPending {
		why := "waits for " + j.need.String()
		switch {
		case j.limited:
			why, job.Limit = fmt.Sprintf("no more than %d of your jobs may run at a time", s.opts.MaxJobs), "MaxJobs"
		case s.follows(j):
			why = "waits for job " + j.sub.Launch.After + " to be over"
		case s.now.Before(j.eligible):
			why = fmt.Sprintf("in the queue for %s, priority too low", s.now.Sub(j.queued))
		}
		if job.Reason != "" { // it ran before
			why = job.Reason + "; " + why
		}
		job.Reason = why
	}
	return job
}

// startFitting starts jobs that fit, in the order in which their delays were over; one that does not fit holds up nobody.
func (s *Sim) startFitting() {
	type request struct {
		nodes int
		gpus  jobspecs.GPURequest
	}
	full := map[request]bool{} // what did not fit in this pass does not fit for the next job either
	s.ready = slices.DeleteFunc(s.ready, func(j *simJob) bool {
		if j.job.State != cluster.JobPending {
			return true
		}
		if j.limited = s.atLimit(); j.limited || s.follows(j) {
			return false
		}
		r := request{j.need.nodes, j.need.gpus}
		if !s.opts.Places && full[r] && len(j.need.not) == 0 {
			return false
		}
		placed, ok := s.place(j.need)
		full[r] = full[r] || !ok
		if ok {
			s.start(j, placed)
		}
		return ok
	})
}

// atLimit: as many jobs run as may.
func (s *Sim) atLimit() bool {
	running := 0
	for _, j := range s.jobs {
		if j.run != nil {
			running++
		}
	}
	return s.opts.MaxJobs > 0 && running >= s.opts.MaxJobs
}

// follows: the job waits for another one that is not over.
func (s *Sim) follows(j *simJob) bool {
	other := s.byID[j.sub.Launch.After]
	return other != nil && other.job.State != cluster.JobEnded
}

func (s *Sim) start(j *simJob, placed []cluster.Placement) {
	if j.need.placed == nil {
		s.hold(placed, 1)
	}
	j.job.State, j.job.Reason, j.job.Started = cluster.JobRunning, "", s.now
	j.job.Nodes = nil
	for _, p := range placed {
		j.job.Nodes = append(j.job.Nodes, p.Node)
	}
	wall := cmp.Or(j.sub.Deployment.Slurm.Time.Std(), j.sub.Deployment.Local.Walltime.Std(), s.opts.Walltime)
	r := &simRun{placed: placed}
	if wall > 0 {
		j.job.EndsAt = s.now.Add(wall)
		s.at(j.job.EndsAt, func() {
			if j.run == r {
				j.cause = cluster.EndedWalltime
				s.finish(j, &cluster.Exit{Signal: sigTERM}, "walltime limit of "+wall.String()+" reached", false)
			}
		})
	}
	r.SimRun = SimRun{Job: s.view(j), Nonce: fmt.Sprintf("%016x", s.rng.Uint64()), Submission: j.sub}
	j.run = r
	s.alive = append(s.alive, r)
	if s.opts.OnStart != nil {
		s.hooks = append(s.hooks, func() { s.opts.OnStart(r.SimRun) })
	}
	if s.changed != nil {
		s.changed(j.job)
	}
}

// The signals that end simulated jobs, by their Linux numbers.
const (
	sigKILL = 9
	sigTERM = 15
)

// stop asks a job to end, within the grace.
func (s *Sim) stop(j *simJob, grace time.Duration, why string, cause cluster.EndCause, requeue bool) {
	if j.cause == "" {
		j.cause = cause
	}
	switch j.job.State {
	case cluster.JobPending:
		s.finish(j, nil, why+" before it started", false)
		return
	case cluster.JobEnded:
		return
	case cluster.JobRunning:
		j.job.State, j.job.Reason, j.requeue = cluster.JobEnding, why, requeue
		s.askToEnd(j, grace)
	case cluster.JobEnding:
		j.requeue = j.requeue && requeue // a stop after a preemption is a stop
	}
	r := j.run
	s.at(s.now.Add(grace), func() {
		if j.run == r {
			s.finish(j, &cluster.Exit{Signal: sigKILL}, why+", killed after the grace", j.requeue)
		}
	})
}

func (s *Sim) askToEnd(j *simJob, grace time.Duration) {
	r := j.run
	if s.opts.OnStop != nil {
		s.hooks = append(s.hooks, func() { s.opts.OnStop(r.SimRun, grace) })
		return
	}
	s.at(s.now.Add(s.opts.StopTakes), func() {
		if j.run == r {
			s.finish(j, &cluster.Exit{}, j.job.Reason, j.requeue)
		}
	})
}

// finish ends a job, or sends it back to the queue. Lock held.
func (s *Sim) finish(j *simJob, exit *cluster.Exit, why string, requeue bool) {
	r := j.run
	j.run, j.requeue = nil, false
	switch {
	case r == nil:
		s.hold(j.need.placed, -1)
	case j.need.placed == nil || !requeue:
		s.hold(r.placed, -1)
	}
	if requeue {
		j.job.State, j.job.Reason, j.job.Nodes = cluster.JobPending, why, nil
		j.job.Started, j.job.EndsAt, j.cause = time.Time{}, time.Time{}, ""
		s.wait(j)
	} else {
		j.job.State, j.job.Reason, j.job.Exit, j.job.Ended = cluster.JobEnded, why, exit, s.now
		j.job.Cause = j.cause
		s.at(s.now.Add(s.opts.Remember), func() { s.forget(j) })
		if s.changed != nil {
			s.changed(j.job)
		}
	}
	s.dirty = true
	if r != nil && r.cutBy == "" {
		s.bury(r, exit)
	}
}

// bury ends a run's processes.
func (s *Sim) bury(r *simRun, exit *cluster.Exit) {
	s.alive = slices.DeleteFunc(s.alive, func(a *simRun) bool { return a == r })
	if s.opts.OnEnd != nil {
		s.hooks = append(s.hooks, func() { s.opts.OnEnd(r.SimRun, exit) })
	}
}

func (s *Sim) forget(j *simJob) {
	s.jobs = slices.DeleteFunc(s.jobs, func(o *simJob) bool { return o == j })
	delete(s.byID, j.job.ID)
}

// Exit ends a job's processes by themselves: a simulated agent's last word. A job that does not run is left alone.
func (s *Sim) Exit(job string, exit cluster.Exit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.byID[job]
	if j == nil || j.run == nil {
		return
	}
	why := fmt.Sprintf("exited with code %d", exit.Code)
	if exit.Signal != 0 {
		why = fmt.Sprintf("killed by signal %d", exit.Signal)
	}
	if j.job.State == cluster.JobEnding {
		why = j.job.Reason + ", " + why
	}
	s.finish(j, &exit, why, j.requeue)
}

// Preempt ends a job as a cluster does for a more important one: asked first, killed after the grace, and requeued where
// the options say so.
func (s *Sim) Preempt(job string, grace time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.byID[job]; j != nil {
		s.stop(j, grace, "preempted", cluster.EndedPreempted, s.opts.Requeue)
	}
}

// Cancel ends a job as somebody else does who may: asked first, killed after the grace.
func (s *Sim) Cancel(job string, grace time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.byID[job]; j != nil {
		s.stop(j, grace, "cancelled", cluster.EndedCancelled, false)
	}
}

// Requeue kills a running job and queues it again under its ID and token, as `scontrol requeue` does: its next run has
// another nonce.
func (s *Sim) Requeue(job string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.byID[job]; j != nil && j.run != nil {
		s.finish(j, &cluster.Exit{Signal: sigKILL}, "requeued", true)
	}
}

// Again makes a second job of a job's launch, as a fault of the cluster: two jobs then carry one token.
func (s *Sim) Again(job string) (second string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.byID[job]
	if j == nil {
		return "", false
	}
	return s.enqueue(j.sub, j.need).job.ID, true
}

// Alive lists the runs whose processes live, cut-off ones too, in the order of their starts.
func (s *Sim) Alive() []SimRun {
	s.mu.Lock()
	defer s.mu.Unlock()
	runs := make([]SimRun, len(s.alive))
	for i, r := range s.alive {
		runs[i] = r.SimRun
	}
	return runs
}

// Job returns one job without a call that could fail; false = not known (any more).
func (s *Sim) Job(id string) (cluster.Job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.byID[id]
	if j == nil {
		return cluster.Job{}, false
	}
	return s.view(j), true
}
