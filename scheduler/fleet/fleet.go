// Package fleet holds what is seen of running replicas: the last report of every agent, its age, and an immutable
// Snapshot of it all. What was not reported, or too long ago, is unknown and never zero.
package fleet

import (
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Replica is one admitted run of a launch, put together from the reports of all its ranks.
type Replica struct {
	Launch cluster.LaunchID
	Run    string
	Epoch  uint64
	Nodes  int          // ranks in all
	Ranks  map[int]Rank // those that reported
	// Phase is the least advanced phase of all ranks, Failed if one failed, Joining while ranks are missing.
	Phase apiv1.Phase
	// Ready: the controller got a real token through the agent's port since the engine's last start.
	Ready   bool
	ReadyAt time.Time
	// NotReady says why the last probe failed; empty = none was made.
	NotReady string
	SeenAt   time.Time // oldest of the ranks' last reports
}

// Rank is the last known state of one rank.
type Rank struct {
	State     *apiv1.RunState // read only
	SeenAt    time.Time       // when the controller last heard from this agent
	Seq       uint64
	Connected bool
}

// Snapshot is the state of the fleet at one time. It is immutable and may be shared.
type Snapshot struct {
	At       time.Time
	Replicas map[cluster.LaunchID]Replica
}
