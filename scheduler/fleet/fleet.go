// Package fleet holds what is seen of running replicas: the last report of every agent, its age, and an immutable
// Snapshot of it all; and the View of it that gateways get. What was not reported, or too long ago, is unknown and never
// zero.
//
// It does not know what is wanted, starts nothing and asks nobody: the server puts reports in, the reconcile loop puts
// the results of its probes in, and both read snapshots. Time always comes in as an argument, except in Publisher, which
// is a loop.
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
	Ranks  map[int]Rank // those that reported; read only
	// Phase sums the ranks up: Failed if one failed, else Joining while ranks are missing, else Stopped if all are,
	// Draining if one drains or has stopped, else the least advanced.
	Phase apiv1.Phase
	// Since is when the controller first saw this phase; zero = nobody has reported yet.
	Since time.Time
	// EngineStarts is the sum over all ranks: any change means that the engine is another one and its cache is gone.
	EngineStarts uint32
	// Ready: the controller got a real token through the agent's port since the engine's last start.
	Ready   bool
	ReadyAt time.Time
	// NotReady says why the last probe failed; empty = none was made.
	NotReady string
	SeenAt   time.Time // oldest of the ranks' last reports; zero = nobody has reported yet
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
	At         time.Time
	StaleAfter time.Duration // a report older than this says nothing about now
	Replicas   map[cluster.LaunchID]Replica
}

// Fresh reports whether every rank of the replica has been heard of lately.
func (s Snapshot) Fresh(r Replica) bool {
	return len(r.Ranks) == r.Nodes && s.At.Sub(r.SeenAt) <= s.StaleAfter
}

// Load is what the replica's engine last said of its load; nil = unknown or too old.
func (s Snapshot) Load(r Replica) *apiv1.EngineLoad {
	if head, ok := r.Ranks[0]; ok && s.fresh(head) {
		return head.State.GetLoad()
	}
	return nil
}

// KV is what the replica's engine last said of its KV cache; nil = unknown or too old.
func (s Snapshot) KV(r Replica) *apiv1.KVState {
	if head, ok := r.Ranks[0]; ok && s.fresh(head) {
		return head.State.GetKv()
	}
	return nil
}

func (s Snapshot) fresh(r Rank) bool { return s.At.Sub(r.SeenAt) <= s.StaleAfter }

// Serving reports whether the replica is ready and takes new requests, as far as its last reports go.
func (r Replica) Serving() bool { return r.Ready && r.Phase == apiv1.Phase_PHASE_STARTED }

// Connected reports whether at least one rank's agent can be sent a command.
func (r Replica) Connected() bool {
	for _, rank := range r.Ranks {
		if rank.Connected {
			return true
		}
	}
	return false
}

// Head is the identity that rank 0 gave; nil = it has not reported. Its address is where requests go.
func (r Replica) Head() *apiv1.Identity { return r.Ranks[0].State.GetIdentity() }

// Health is the health that speaks for the replica: that of a failed rank, else of the rank that holds the others up.
// Nil = nobody has reported.
func (r Replica) Health() *apiv1.Health {
	var worst *apiv1.Health
	for i := range r.Nodes {
		rank, ok := r.Ranks[i]
		if !ok {
			continue
		}
		h := rank.State.GetHealth()
		if h.GetPhase() == apiv1.Phase_PHASE_FAILED {
			return h
		}
		if worst == nil || h.GetPhase() < worst.GetPhase() {
			worst = h
		}
	}
	return worst
}
