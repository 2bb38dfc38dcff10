package plan

import (
	"cmp"
	"slices"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
)

// sight is a live launch with all that is seen of it.
type sight struct {
	*cluster.Launch
	cluster *clusterView // nil = this installation has no such cluster
	jobs    []*cluster.Job
	replica fleet.Replica
	health  health
	over    bool // this plan ends it

	successor, predecessor *sight // of a handover; nil = there is none that lives
}

// health is how much a launch can be counted on.
type health int

// The healths, in the order in which replicas are given up when there are too many.
const (
	pending  health = iota // no run has been admitted
	notReady               // its agent says that it does not serve, or a probe did
	unknown                // it has been admitted, and nothing certain is known of it now
	serving
)

func (p *planner) sight(l *cluster.Launch) *sight {
	s := &sight{Launch: l, cluster: p.clusters[l.Cluster], replica: p.seen.Fleet.Replicas[l.ID]}
	if s.cluster != nil {
		s.jobs = s.cluster.jobs[l.ID]
	}
	s.health = p.healthOf(s)
	return s
}

func (p *planner) healthOf(s *sight) health {
	r := s.replica
	switch {
	case s.Run == "" && r.Run == "":
		return pending
	case len(r.Ranks) == 0 || p.silence(s) > p.timing.AgentTimeout:
		return unknown
	case r.Serving():
		return serving
	case r.Phase == apiv1.Phase_PHASE_STARTED && r.NotReady == "" && !s.ReadyAt.IsZero():
		return unknown // this controller has not probed it yet, an earlier one has
	}
	return notReady
}

// silence is for how long nothing was heard of the launch's most silent agent.
func (p *planner) silence(s *sight) time.Duration {
	since := s.replica.SeenAt
	if since.IsZero() {
		since = latest(p.seen.Since, s.AdmittedAt)
	}
	return p.now.Sub(since)
}

// draining: it was asked to finish.
func (s *sight) draining() bool { return s.Phase == cluster.Draining }

// answers: the cluster has said which jobs there are.
func (s *sight) answers() bool { return s.cluster != nil && s.cluster.JobsKnown }

// living lists the launch's jobs that may still run. The job to keep comes first; sure is false when there are several
// and nobody can tell which of them the admitted run belongs to.
func (s *sight) living() (jobs []*cluster.Job, sure bool) {
	for _, j := range s.jobs {
		if j.State != cluster.JobEnded {
			jobs = append(jobs, j)
		}
	}
	if len(jobs) < 2 {
		return jobs, true
	}
	slices.SortFunc(jobs, func(a, b *cluster.Job) int {
		return cmp.Or(-cmp.Compare(s.claim(a), s.claim(b)), startOrder(a, b), cmp.Compare(len(a.ID), len(b.ID)), cmp.Compare(a.ID, b.ID))
	})
	return jobs, s.Run == "" || s.claim(jobs[0]) > s.claim(jobs[1])
}

// claim says how strong a job's claim to the launch is. Of an admitted run that is where it was admitted; before that,
// how far the job is.
func (s *sight) claim(j *cluster.Job) int {
	if s.Run != "" {
		switch head := s.replica.Head(); {
		case head.GetNode() != "" && slices.Contains(j.Nodes, head.GetNode()) && j.ID == s.Job:
			return 3
		case head.GetNode() != "" && slices.Contains(j.Nodes, head.GetNode()):
			return 2
		case j.ID == s.Job:
			return 1
		}
		return 0
	}
	switch j.State {
	case cluster.JobRunning:
		return 3
	case cluster.JobUnknown:
		return 2
	case cluster.JobPending:
		return 1
	}
	return 0 // ending
}

// startOrder puts the job first that started first; one that has not started is last.
func startOrder(a, b *cluster.Job) int {
	if a.Started.IsZero() != b.Started.IsZero() {
		if a.Started.IsZero() {
			return 1
		}
		return -1
	}
	return a.Started.Compare(b.Started)
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }
