package plan

import (
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
)

// Seen is what there is, as far as anybody can tell.
type Seen struct {
	Fleet    fleet.Snapshot
	Launches []cluster.Launch // of the ledger, ended ones too as long as it remembers them
	Clusters map[jobspecs.ClusterKind]Cluster
	// Busy launches have something being done about them right now, such as a submit without an answer yet. They are
	// counted and left alone; the text says what is being done.
	Busy map[cluster.LaunchID]string
	// Missing says for how long the cluster has answered without a job of a launch that should have one.
	Missing map[cluster.LaunchID]Missing
	// Since is when this controller began to listen: an agent that it has not heard of is silent since then at the most.
	Since time.Time
}

// Missing counts the cluster's answers in a row, asked for after the submit was over, that had no job of a launch.
type Missing struct {
	Answers int
	Since   time.Time // of the first of them
}

// Cluster is what one cluster says.
type Cluster struct {
	Jobs      []cluster.Job
	JobsKnown bool // false: the cluster does not answer, Jobs means nothing
	Capacity  cluster.Capacity
	// CapacityKnown false: nothing is started there, since nobody knows where it would land.
	CapacityKnown bool
	Why           string // it does not answer, in words
	// Counts: it keeps roles of one node per replica at a count by itself (a cluster.Counter); OnlyCounts: others too, since
	// it takes no launches. Then Set is what it holds, CountsKnown false: it does not say. Telling: it is being told of a role
	// right now, or was after it had been asked what it holds.
	Counts, OnlyCounts bool
	CountsKnown        bool
	Set                map[cluster.RoleRef]cluster.RoleCount
	Telling            map[cluster.RoleRef]bool
}

// counted reports whether the cluster keeps roles of so many nodes per replica at a count.
func (c *Cluster) counted(nodes int) bool { return c.Counts && (nodes <= 1 || c.OnlyCounts) }
