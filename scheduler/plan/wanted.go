package plan

import (
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Wanted is what the ledger says that there should be.
type Wanted struct {
	Deployments []Deployment
	Timing      Timing
}

// Deployment is one deployment as it is wanted now.
type Deployment struct {
	Name     string
	Spec     jobspecs.Deployment // of Revision
	Revision int
	// Damaged says why it is not known what is wanted; empty = it is. Nothing is started or drained then, and the other
	// fields mean nothing.
	Damaged string
	// Proven: a replica of Revision has been ready once, so it is never rolled back.
	Proven bool
	// Previous is the revision to roll back to: the last that was proven. 0 = none.
	Previous int
	// Revisions holds the specs of older revisions that live launches name, and of Previous. A launch whose revision is
	// not here is taken for outdated.
	Revisions map[int]jobspecs.Deployment
	Scale     map[jobspecs.RoleKind]int          // overrides the counts of the file
	Told      map[jobspecs.RoleKind]cluster.Told // what a counting cluster was last told
	Stopped   bool
	// Since is when its lifetime began: when it was last applied or started; zero = it begins now. GPUTime is what launches that are forgotten
	// have held of GPUs since then, AskedAt when the last request came (zero = none since this controller's start).
	Since   time.Time
	GPUTime time.Duration
	AskedAt time.Time
}

// Wanted is the number of replicas that a role should have: the override, else the file's, inside the role's bounds.
func (d Deployment) Wanted(kind jobspecs.RoleKind) int {
	r, ok := d.Spec.Roles[kind]
	if !ok || d.Stopped {
		return 0
	}
	n := r.Replicas
	if o, ok := d.Scale[kind]; ok {
		n = o
	}
	if n = max(n, r.Min, 0); r.Max > 0 {
		n = min(n, r.Max)
	}
	return n
}

// spec is the text of one of the deployment's revisions.
func (d Deployment) spec(revision int) (jobspecs.Deployment, bool) {
	if revision == d.Revision {
		return d.Spec, true
	}
	s, ok := d.Revisions[revision]
	return s, ok
}

// The defaults of a role's rollout and of serving, for specs that leave them out.
const (
	defaultSurge            = 1
	defaultUnavailable      = 0
	defaultProgressDeadline = 15 * time.Minute
	defaultDrainTimeout     = 60 * time.Second
)

func surge(r jobspecs.Role) int {
	if r.Rollout.Surge != nil {
		return max(0, *r.Rollout.Surge)
	}
	return defaultSurge
}

func unavailable(r jobspecs.Role) int {
	if r.Rollout.Unavailable != nil {
		return max(0, *r.Rollout.Unavailable)
	}
	return defaultUnavailable
}

func progressDeadline(r jobspecs.Role) time.Duration {
	return orDefault(time.Duration(r.Rollout.ProgressDeadline), defaultProgressDeadline)
}

func drainTimeout(s jobspecs.Deployment) time.Duration {
	return orDefault(time.Duration(s.Serving.DrainTimeout), defaultDrainTimeout)
}

// Timing holds the times that decisions depend on; zero = default.
type Timing struct {
	// AgentTimeout: an agent silent for so long, whose job is not seen running either, is gone. Default 2m.
	AgentTimeout time.Duration
	// JoinTimeout: a job that runs for so long without an agent that has joined is stopped. Default 5m.
	JoinTimeout time.Duration
	// A launch without a job is given up once the cluster has listed its jobs LookupAnswers times (default 3), over at least
	// LookupFor (default 30s), without one that carries its token.
	LookupAnswers int
	LookupFor     time.Duration
	// The second failure in a row of one replica and revision waits BackoffFirst (default 5s), each further twice as long,
	// up to BackoffMax (default 5m). A replica that was ready for StableAfter (default 10m) starts counting anew.
	BackoffFirst, BackoffMax, StableAfter time.Duration
	// FailGrace: the job of an agent that has reported its end is stopped after so long. Default 30s.
	FailGrace time.Duration
	// StopGrace is how long a job that is stopped has before it is killed. Default 10s.
	StopGrace time.Duration
	// QueueWait (default 15m) and StartUp (default 5m) are expected of a successor as long as too little was learned.
	// HandoverSlack: it is started so much earlier than expected to be needed. Default 1m; a twentieth of a short job's time.
	QueueWait, StartUp, HandoverSlack time.Duration
	// TakeOver: a predecessor leaves when its successor has been ready for so long. Default 5s.
	TakeOver time.Duration
	// LimitMemory: a limit that has held a successor back is taken to hold the next one back for so long. Default 24h.
	LimitMemory time.Duration
	// ExcludeFor: a node that has killed launches gets none for so long. Default 1h.
	ExcludeFor time.Duration
}

func (t Timing) withDefaults() Timing {
	t.AgentTimeout = orDefault(t.AgentTimeout, 2*time.Minute)
	t.JoinTimeout = orDefault(t.JoinTimeout, 5*time.Minute)
	t.LookupAnswers = orDefault(t.LookupAnswers, 3)
	t.LookupFor = orDefault(t.LookupFor, 30*time.Second)
	t.BackoffFirst = orDefault(t.BackoffFirst, 5*time.Second)
	t.BackoffMax = orDefault(t.BackoffMax, 5*time.Minute)
	t.StableAfter = orDefault(t.StableAfter, 10*time.Minute)
	t.FailGrace = orDefault(t.FailGrace, 30*time.Second)
	t.StopGrace = orDefault(t.StopGrace, 10*time.Second)
	t.QueueWait = orDefault(t.QueueWait, 15*time.Minute)
	t.StartUp = orDefault(t.StartUp, 5*time.Minute)
	t.HandoverSlack = orDefault(t.HandoverSlack, time.Minute)
	t.TakeOver = orDefault(t.TakeOver, 5*time.Second)
	t.LimitMemory = orDefault(t.LimitMemory, 24*time.Hour)
	t.ExcludeFor = orDefault(t.ExcludeFor, time.Hour)
	return t
}

func orDefault[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}
