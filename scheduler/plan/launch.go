package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// launch plans what follows from what has become of one live launch, and reports whether it is over.
func (p *planner) launch(d *deployment, s *sight) (over bool) {
	if doing, busy := p.seen.Busy[s.ID]; busy {
		p.do(waitFor(Busy, s.Launch, "%s", doing))
		return false
	}
	if !s.answers() {
		p.remind(s)
		return false
	}
	if s.Counted {
		return p.countedLaunch(d, s)
	}
	jobs, sure := s.living()
	switch {
	case len(jobs) > 0 && p.lost(s, jobs):
		s.over = true
		p.do(s.end(!s.draining(), "nothing heard of its agent for %s, and cluster %s cannot tell what became of job %s",
			rounded(p.silence(s)), s.Cluster, jobs[0].ID))
	case len(jobs) > 0 && p.bereft(s):
		s.over = true
		p.do(s.end(!s.draining(), "job %s, which ran the admitted run, is gone; job %s of the same launch was never admitted", s.Job, jobs[0].ID))
	case len(jobs) > 0:
		p.cancelSurplus(s, jobs, sure)
		p.lives(d, s, jobs[0])
	case len(s.jobs) > 0:
		s.over = true
		p.do(p.ended(d, s))
	default:
		p.missing(s)
	}
	return s.over
}

// lost: the agent of an admitted run is silent, and the cluster does not say of any job of it that it runs. Giving the
// launch up is safe: its run is fenced, and its GPUs stay taken for as long as a job of it may live.
func (p *planner) lost(s *sight, jobs []*cluster.Job) bool {
	if s.health != unknown || p.silence(s) <= p.timing.AgentTimeout {
		return false
	}
	return !slices.ContainsFunc(jobs, func(j *cluster.Job) bool { return j.State != cluster.JobUnknown })
}

// bereft: the job of the admitted run has ended, or is not there any more while its agent is silent, and another job
// carries the launch's token.
func (p *planner) bereft(s *sight) bool {
	if s.Run == "" || s.Job == "" || s.has(s.Job) || p.speaks(s) {
		return false
	}
	ended := slices.ContainsFunc(s.jobs, func(j *cluster.Job) bool { return j.ID == s.Job })
	return ended || p.silence(s) > p.timing.AgentTimeout
}

// speaks: an agent of the launch is connected, and not through a connection that is dead already.
func (p *planner) speaks(s *sight) bool {
	return s.replica.Connected() && p.silence(s) <= p.timing.AgentTimeout
}

// end makes the End of a launch, with what the engine last said.
func (s *sight) end(failed bool, format string, args ...any) Action {
	a := about(End, s.Launch, format, args...)
	a.Failed, a.Ended = failed, cluster.EndedLost
	if s.draining() {
		a.Ended = cluster.EndedAsked
	}
	if a.LastLines = s.replica.Health().GetLastLines(); len(a.LastLines) == 0 {
		a.LastLines = s.LastLines
	}
	if s.draining() && s.DrainReason != "" {
		a.Reason += "; it was drained: " + s.DrainReason
	}
	return a
}

// ended makes the End of a launch whose jobs have ended.
func (p *planner) ended(d *deployment, s *sight) Action {
	j := s.lastJob()
	cause := p.causeOf(d, s, j)
	a := s.end(failure(cause), "job %s has ended: %s", j.ID, howEnded(j))
	a.Ended, a.Exit, a.Blamed = cause, j.Exit, p.blame(s, j, cause)
	return a
}

// lastJob is the job that speaks for the launch's end; of several that one which the ledger names, else the last.
func (s *sight) lastJob() *cluster.Job {
	return slices.MaxFunc(s.jobs, func(a, b *cluster.Job) int {
		if (a.ID == s.Job) != (b.ID == s.Job) {
			if a.ID == s.Job {
				return 1
			}
			return -1
		}
		return cmp.Or(a.Ended.Compare(b.Ended), cmp.Compare(a.ID, b.ID))
	})
}

func howEnded(j *cluster.Job) string {
	switch {
	case j.Reason != "":
		return j.Reason
	case j.Exit == nil:
		return "nobody knows how"
	case j.Exit.Signal != 0:
		return fmt.Sprintf("killed by signal %d", j.Exit.Signal)
	}
	return fmt.Sprintf("exited with code %d", j.Exit.Code)
}

// cancelSurplus ends all jobs of a launch but one: the cluster has made several of one submit, or runs one twice.
func (p *planner) cancelSurplus(s *sight, jobs []*cluster.Job, sure bool) {
	if !sure {
		p.do(waitFor(Joining, s.Launch, "%d jobs carry this launch's token, and it is not known yet which of them runs the admitted run %s",
			len(jobs), s.Run))
		return
	}
	for _, j := range jobs[1:] {
		if j.State == cluster.JobEnding {
			continue
		}
		a := about(Cancel, s.Launch, "%d jobs carry this launch's token: job %s stays, job %s goes", len(jobs), jobs[0].ID, j.ID)
		a.Job, a.Grace = j.ID, p.timing.StopGrace
		p.do(a)
	}
}

// lives plans for a launch that has a job.
func (p *planner) lives(d *deployment, s *sight, j *cluster.Job) {
	if s.Phase == cluster.Intended || s.Job == "" || !s.has(s.Job) && (s.Run == "" || p.speaks(s)) {
		a := about(Found, s.Launch, "job %s carries this launch's token", j.ID)
		a.Job = j.ID
		p.do(a)
	}
	switch {
	case j.State == cluster.JobEnding:
		if !s.draining() {
			p.leaves(d, s, "job %s has been told to end", j.ID)
		}
		p.do(waitFor(Ending, s.Launch, "job %s has been told to end", j.ID))
	case s.draining():
		p.drains(d, s, j)
	case s.replica.Phase == apiv1.Phase_PHASE_DRAINING:
		p.leaves(d, s, "%s", lastWords(s.replica.Health()))
	case s.replica.Phase == apiv1.Phase_PHASE_FAILED && p.now.Sub(s.replica.Since) > p.timing.FailGrace:
		p.stop(s, j, "its agent reported its end %s ago and job %s still runs: %s",
			rounded(p.now.Sub(s.replica.Since)), j.ID, lastWords(s.replica.Health()))
	case s.health == pending:
		p.awaitAgent(d, s, j)
	case s.health == unknown && p.silence(s) > p.timing.AgentTimeout:
		p.silent(s, j)
	}
}

// leaves notes that a launch has begun to drain although Penstock has not asked it to: its job's time is over, or somebody
// else has asked. Its replica is replaced from now on.
func (p *planner) leaves(d *deployment, s *sight, format string, args ...any) {
	n := len(p.actions)
	p.drain(d, s, "it leaves by itself: "+format, args...)
	for i := range p.actions[n:] {
		p.actions[n+i].Left = true
	}
}

// silent waits for an agent that is not heard of although its job is there. Only a job that was started again since, as
// after a requeue, has to bring one forth in time.
func (p *planner) silent(s *sight, j *cluster.Job) {
	again, silence := p.now.Sub(j.Started), p.silence(s)
	if j.State == cluster.JobRunning && !j.Started.IsZero() && again < silence && again > p.timing.JoinTimeout {
		p.stop(s, j, "job %s was started again %s ago and no agent has joined since; its output says why", j.ID, rounded(again))
		return
	}
	p.do(waitFor(Silent, s.Launch, "nothing heard of its agent for %s while job %s is %s: its state is unknown",
		rounded(silence), j.ID, j.State))
}

// has reports whether one of the launch's living jobs has this ID.
func (s *sight) has(job string) bool {
	for _, j := range s.jobs {
		if j.ID == job && j.State != cluster.JobEnded {
			return true
		}
	}
	return false
}

func (p *planner) stop(s *sight, j *cluster.Job, format string, args ...any) {
	a := about(Stop, s.Launch, format, args...)
	a.Job, a.Grace = j.ID, p.timing.StopGrace
	p.do(a)
}

// awaitAgent waits for a job to start and for its agent to join.
func (p *planner) awaitAgent(d *deployment, s *sight, j *cluster.Job) {
	if j.State != cluster.JobRunning {
		reason := fmt.Sprintf("job %s is %s", j.ID, j.State)
		if j.Reason != "" {
			reason += " (" + j.Reason + ")"
		}
		a := waitFor(Queued, s.Launch, "%s", reason)
		r := d.roles[s.Role]
		switch e := p.queueWait(d, r); {
		case s.After != "" || j.Limit != "":
			if old := s.predecessor; old != nil && old.draining() {
				a.Reason += fmt.Sprintf("; it starts once job %s is over", old.Job)
				a.Until = old.DrainBy.Add(p.startUp(d, r).Value)
			}
		case p.now.Before(s.CreatedAt.Add(e.Value)):
			a.Until = s.CreatedAt.Add(e.Value + p.startUp(d, r).Value)
		}
		p.do(a)
		return
	}
	if late := p.now.Sub(j.Started); !j.Started.IsZero() && late > p.timing.JoinTimeout {
		p.stop(s, j, "job %s runs for %s and no agent has joined; its output says why", j.ID, rounded(late))
		return
	}
	a := waitFor(Joining, s.Launch, "job %s runs, its agent has not joined yet", j.ID)
	if !j.Started.IsZero() {
		a.Until = j.Started.Add(p.timing.JoinTimeout)
	}
	p.do(a)
}

// drains follows a launch that was asked to finish.
func (p *planner) drains(d *deployment, s *sight, j *cluster.Job) {
	switch {
	case s.health == pending:
		p.stop(s, j, "it was to finish before any agent had joined: %s", s.DrainReason)
	case p.now.After(s.DrainBy.Add(p.timing.StopGrace)):
		p.stop(s, j, "it was to finish by %s and job %s still runs", s.DrainBy.UTC().Format(time.TimeOnly), j.ID)
	default:
		p.remind(s)
		a := waitFor(Draining, s.Launch, "finishes what it has begun: %s", s.DrainReason)
		a.Until = s.DrainBy
		p.do(a)
	}
}

// remind repeats the order to drain to agents that do not seem to have heard it.
func (p *planner) remind(s *sight) {
	if !s.draining() || !s.replica.Connected() || s.replica.Phase > apiv1.Phase_PHASE_STARTED {
		return
	}
	a := about(Drain, s.Launch, "%s", s.DrainReason)
	a.By = s.DrainBy
	p.do(a)
}

// missing plans for a launch without any job on a cluster that answers.
func (p *planner) missing(s *sight) {
	m := p.seen.Missing[s.ID]
	admitted := s.health != pending
	enough := m.Answers >= p.timing.LookupAnswers && p.now.Sub(m.Since) >= p.timing.LookupFor
	alive := admitted && p.silence(s) <= p.timing.AgentTimeout
	switch {
	case alive && len(s.replica.Ranks) > 0:
		p.remind(s)
		if m.Answers > 0 { // else the last list is older than the job
			p.do(waitFor(LookUp, s.Launch, "cluster %s does not list a job of it, but its agent was heard of %s ago",
				s.Cluster, rounded(p.silence(s))))
		}
	case alive || !enough:
		p.do(p.lookUp(s, m))
	case s.Job == "" && !admitted:
		s.over = true
		p.do(s.end(false, "its submit was lost: cluster %s has answered %d times over %s without a job of it",
			s.Cluster, m.Answers, rounded(p.now.Sub(m.Since))))
	default:
		s.over = true
		p.do(s.end(!s.draining(), "cluster %s has forgotten job %s: %d answers over %s without it, and nothing is heard of an agent",
			s.Cluster, s.Job, m.Answers, rounded(p.now.Sub(m.Since))))
	}
}

// lookUp waits for a job that may come to light.
func (p *planner) lookUp(s *sight, m Missing) Action {
	if m.Answers == 0 {
		return waitFor(LookUp, s.Launch, "cluster %s has not listed its jobs since this one was submitted", s.Cluster)
	}
	a := waitFor(LookUp, s.Launch, "cluster %s does not list a job of it (%d answers); it is given up after %d answers over %s",
		s.Cluster, m.Answers, p.timing.LookupAnswers, rounded(p.timing.LookupFor))
	a.Count, a.Until = m.Answers, m.Since.Add(p.timing.LookupFor)
	return a
}

// lastWords is what an agent said of its engine's end.
func lastWords(h *apiv1.Health) string {
	switch lines := h.GetLastLines(); {
	case h.GetMessage() != "":
		return h.GetMessage()
	case len(lines) > 0:
		return strings.TrimSpace(lines[len(lines)-1])
	case h.GetExit() != "":
		return h.GetExit()
	}
	return "it gave no reason"
}

// rounded writes a duration as people do: 9m, 1h5m, 1.5s.
func rounded(d time.Duration) string {
	if d >= time.Second {
		d = d.Round(time.Second)
	}
	s := d.Round(time.Millisecond).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
