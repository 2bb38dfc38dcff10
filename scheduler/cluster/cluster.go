// Package cluster is the contract between the scheduler and whatever runs jobs: Slurm, Nomad, or processes on this
// machine. It holds the nouns (Launch, Job, Capacity), the interface that adapters implement, and what errors mean.
//
// It decides nothing and does nothing. clustertest holds the suite that every implementation passes.
package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// ErrUnknown means that the cluster could not tell, or may or may not have done what was asked: the caller must not start
// anything in its place, and looks the launch up by its token later. Adapters wrap it with what they tried.
var ErrUnknown = errors.New("cluster did not answer")

// ErrRefused means that the cluster said no and did nothing; trying the same again without a change is useless until the
// cluster's state changes. Adapters wrap it with the cluster's words.
var ErrRefused = errors.New("cluster refused")

// LaunchID is a launch token: unique, public, at most 40 characters of [a-z0-9-]. It stands in the job's name or comment
// and in the environment of every process of the job (PENSTOCK_LAUNCH). It is not a secret and not an identity: a requeue
// runs the same token again, so a run is told apart by its nonce and fenced by its epoch.
type LaunchID string

// Launch is one decision to start a replica, as the ledger keeps it. It is a value.
type Launch struct {
	ID         LaunchID             `json:"id"`
	Deployment string               `json:"deployment"`
	Role       jobspecs.RoleKind    `json:"role"`
	Index      int                  `json:"index"` // of the replica in its role; shown as role/index
	Revision   int                  `json:"revision"`
	Cluster    jobspecs.ClusterKind `json:"cluster"`
	Nodes      int                  `json:"nodes"`
	Placement  []Placement          `json:"placement,omitempty"` // one per node; only where Capacity.Places
	Reason     string               `json:"reason"`              // why it was started
	CreatedAt  time.Time            `json:"created_at"`

	// Replaces names the launch whose replica this one takes over before that one's job ends; empty = nobody's.
	Replaces LaunchID `json:"replaces,omitempty"`
	// After is a native job ID: a cluster that queues must not start this launch's job before that job is over, however it
	// ends (Slurm: --dependency=afterany). A job that is gone holds nothing up. Empty = as soon as the cluster likes.
	After string `json:"after,omitempty"`
	// Exclude names nodes that the cluster must not run it on (Slurm: --exclude). Where Capacity.Places, Placement avoids them.
	Exclude []string `json:"exclude,omitempty"`

	Phase LaunchPhase `json:"phase"`
	Job   string      `json:"job,omitempty"` // native ID, once known

	// Admission: the one run that may serve. Epoch counts over the whole installation and is stored before it is answered.
	Run        string    `json:"run,omitempty"`
	Epoch      uint64    `json:"epoch,omitempty"`
	AdmittedAt time.Time `json:"admitted_at,omitzero"`
	ReadyAt    time.Time `json:"ready_at,omitzero"` // first time ready, ever

	// What the cluster and the agent have said of its job, as far as they have.
	StartedAt time.Time `json:"started_at,omitzero"` // of the job, the last time it was started
	EndsAt    time.Time `json:"ends_at,omitzero"`    // by walltime
	Ran       []string  `json:"ran,omitempty"`       // nodes that it ran on
	Limit     string    `json:"limit,omitempty"`     // Job.Limit, last seen while it was pending

	DrainBy     time.Time `json:"drain_by,omitzero"`
	DrainReason string    `json:"drain_reason,omitempty"`
	DrainAt     time.Time `json:"drain_at,omitzero"` // when it was asked to, or seen to have begun by itself
	Left        bool      `json:"left,omitempty"`    // it has begun to drain by itself: somebody else has asked its agent
	// Counted: the cluster keeps its role at a count and has started it by itself; it was not submitted, and the cluster
	// replaces it.
	Counted bool `json:"counted,omitempty"`

	EndedAt   time.Time `json:"ended_at,omitzero"`
	EndReason string    `json:"end_reason,omitempty"`
	Failed    bool      `json:"failed,omitempty"` // it ended without being asked to; counts for crash-loop back-off
	Cause     EndCause  `json:"cause,omitempty"`
	Exit      *Exit     `json:"exit,omitempty"`   // of its job's main process; nil = unknown
	Blamed    []string  `json:"blamed,omitempty"` // nodes whose fault the end seems to be
	LastLines []string  `json:"last_lines,omitempty"`
}

// NodeTime is for how long the launch's job has held its nodes between two times, summed over them. A job that nobody has
// seen running held none.
func (l Launch) NodeTime(from, to time.Time) time.Duration {
	began := l.StartedAt
	if began.IsZero() {
		began = l.AdmittedAt
	}
	if began.IsZero() {
		return 0
	}
	if began.Before(from) {
		began = from
	}
	if l.Phase == Ended && l.EndedAt.Before(to) {
		to = l.EndedAt
	}
	return max(0, to.Sub(began)) * time.Duration(max(1, l.Nodes))
}

// LaunchPhase is how far a launch has come, as far as the ledger knows. It only moves forward.
type LaunchPhase string

// The phases of a launch.
const (
	Intended  LaunchPhase = "intended"  // on disk, before the submit
	Submitted LaunchPhase = "submitted" // the cluster has answered with a job
	Draining  LaunchPhase = "draining"  // asked to finish
	Ended     LaunchPhase = "ended"
)

// EndCause is why a job or a launch ended, in one word; EndReason and Job.Reason say it in words. Only Failed, OutOfMemory
// and the empty cause count as failures of what was started.
type EndCause string

// The causes of ends. An adapter sets those that the cluster itself tells (Walltime to OutOfMemory); empty = it does not
// tell, and the exit status and the agent's last report decide.
const (
	EndedWalltime    EndCause = "walltime"
	EndedPreempted   EndCause = "preempted"     // for something more important, or requeued by an administrator
	EndedCancelled   EndCause = "cancelled"     // by a person or a program that is not Penstock
	EndedNodeFailed  EndCause = "node-failed"   // the node was lost, or could not start it
	EndedOutOfMemory EndCause = "out-of-memory" // of the host
	EndedAsked       EndCause = "asked"         // by Penstock: drained, stopped, handed over
	EndedFailed      EndCause = "failed"
	EndedLost        EndCause = "lost" // nobody knows what became of it
)

// Placement is one node of a launch and the GPUs it gets there.
type Placement struct {
	Node string   `json:"node"`
	GPUs []string `json:"gpus,omitempty"` // GPU.ID
}

// Submission is what Submit needs to render and start one launch. Launch.After and Launch.Exclude bind a cluster that does
// not leave placement to Penstock.
type Submission struct {
	Launch     Launch
	Deployment jobspecs.Deployment
	JoinFile   string // path of the 0600 file with the join token; readable on the nodes
	LogDir     string // where the job's own output goes
}

// JobState is what the cluster says of a job.
type JobState string

// The states of a job. JobUnknown is shown as unknown and never taken for ended.
const (
	JobPending JobState = "pending"
	JobRunning JobState = "running"
	JobEnding  JobState = "ending" // told to stop, not gone yet
	JobEnded   JobState = "ended"
	JobUnknown JobState = "unknown"
)

// Job is what the cluster granted for a launch.
type Job struct {
	ID      string // native
	Launch  LaunchID
	State   JobState
	Reason  string    // why it is pending or how it ended, in words
	Nodes   []string  // empty while pending
	Started time.Time // zero = unknown
	Ended   time.Time
	EndsAt  time.Time // walltime limit; zero = none known
	Exit    *Exit     // nil = not ended, or unknown

	// Limit names the limit of the user, account or QOS that keeps a pending job from starting, in the cluster's own word
	// (Slurm: QOSMaxJobsPerUserLimit, AssocGrpGRES). Empty = none; waiting for nodes or for priority is none.
	Limit string
	// Cause is of an ended job, where the cluster tells it; see EndCause.
	Cause EndCause
	// Role, Index (of the replica in it) and Revision belong to counted roles (SetCount) only.
	Role     RoleRef
	Index    int
	Revision int
}

// Exit is how a job's main process ended: a code, or a signal.
type Exit struct {
	Code   int `json:"code"`
	Signal int `json:"signal"` // 0 = by itself
}

// RoleRef names one role of one deployment.
type RoleRef struct {
	Deployment string
	Role       jobspecs.RoleKind
}

// Capacity is what a cluster has, whoever uses it now.
type Capacity struct {
	// Places: Penstock chooses nodes and GPUs itself (local processes, a held allocation). Else the cluster does.
	Places bool
	Nodes  []Node
	At     time.Time
	// EndsAt is when all of it ends: the time limit of a held allocation. A successor that is started there gains nothing.
	// Zero = it does not, or nobody knows.
	EndsAt time.Time
}

// Node is one machine, or one logical node of the local cluster.
type Node struct {
	Name string
	Up   bool
	// Leaving: it is there for what runs on it, and takes no launch any more.
	Leaving bool
	GPUs    []GPU
	CPUs    int
	Memory  uint64 // bytes
	// Fabric is where the node hangs in the network: the names of the switches above it, the widest first, with dots between
	// (spine.leaf2). Empty = unknown.
	Fabric string
}

// GPU is one card as placement sees it.
type GPU struct {
	ID     string // UUID of a real card, or a declared name such as node0-gpu1
	Type   string // e.g. "NVIDIA H100 80GB HBM3"; empty = declared only
	Memory uint64 // bytes; 0 = unknown
	NUMA   string // the part of the node's memory that is near to it; empty = unknown
}

// Cluster is what the scheduler asks of every cluster. All calls honour the context's deadline and may be made from
// several goroutines.
type Cluster interface {
	Kind() jobspecs.ClusterKind
	// Jobs lists all jobs of this installation that the cluster still remembers, ended ones for a while too. Two jobs may
	// carry one launch token. A cluster that cannot tell returns ErrUnknown, never a shorter list.
	Jobs(ctx context.Context) ([]Job, error)
	// Stop ends a job: asks it to stop first and kills it after the grace. It returns once the cluster has taken the
	// request, is idempotent, and a job that is gone already is no error.
	Stop(ctx context.Context, job string, grace time.Duration) error
	// Capacity lists nodes and GPUs. ErrUnknown as above.
	Capacity(ctx context.Context) (Capacity, error)
}

// Submitter is a Cluster on which every launch is a job of its own. Penstock owns replacement there.
type Submitter interface {
	Cluster
	// Submit starts a job for the launch and returns its native ID. The launch is in the ledger already. ErrRefused: no
	// job exists. ErrUnknown: one may exist, look it up by token in Jobs. Submit is not idempotent: the caller never
	// submits a token twice, and a cluster that runs one token twice is told apart by the runs' nonces.
	Submit(ctx context.Context, s Submission) (job string, err error)
}

// RoleCount is what a counting cluster holds for a role now, whoever has put it there.
type RoleCount struct {
	Role     RoleRef
	Revision int // 0 = it does not say
	N        int
	Version  uint64 // another number: somebody has changed what the cluster holds (Nomad: JobModifyIndex)

	ChangedBy string    // who changed it last, or how, in words; empty = the cluster does not tell
	ChangedAt time.Time // zero = it does not tell
	Own       bool      // the last change is known to be Penstock's

	Rollout  string // a change is under way, during which the count cannot be changed, in words; empty = none
	Unplaced int    // how many more there should be that the cluster has not placed
	Why      string // why it has not, with what would help, in words
}

// Told is what a counting cluster was last told of a role, as the ledger keeps it: what the cluster holds beside it comes from
// somebody else.
type Told struct {
	Revision int    `json:"revision"`
	N        int    `json:"n"`
	Version  uint64 `json:"version,omitempty"` // RoleCount.Version, when the cluster was last seen to hold just this
	// Asked: it is being told something else, or was and nobody knows whether it has heard.
	Asked         bool `json:"asked,omitempty"`
	AskedRevision int  `json:"asked_revision,omitempty"`
	AskedN        int  `json:"asked_n,omitempty"`
}

// Explains reports whether what a cluster holds is what it was told, or may have been told.
func (t Told) Explains(c RoleCount) bool {
	return c.N == t.N && c.Revision == t.Revision || t.Asked && c.N == t.AskedN && c.Revision == t.AskedRevision
}

// Counter is a Cluster that keeps a role at a count by itself (Nomad groups). It owns replacement and rollout;
// Penstock speaks of counts and drains only. A Counter may be a Submitter too: roles of one node per replica are counted
// there, and launches are for the others.
type Counter interface {
	Cluster
	// SetCount makes the role run n replicas of the deployment's revision. Idempotent. Where a role is at zero, as all
	// others of the deployment are, nothing of it is left but what the cluster remembers.
	SetCount(ctx context.Context, role RoleRef, d jobspecs.Deployment, revision, n int) error
	// Counts lists what the cluster holds for the roles of this installation. ErrUnknown as in Jobs. A role that was never
	// set, or that somebody has removed, is not listed.
	Counts(ctx context.Context) ([]RoleCount, error)
}
