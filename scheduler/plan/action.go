package plan

import (
	"fmt"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Verb is what an action does.
type Verb string

// The verbs. Only Wait does nothing.
const (
	Start    Verb = "start"    // put New into the ledger, then submit it
	Found    Verb = "found"    // the launch's job is Job: note it in the ledger
	Drain    Verb = "drain"    // note it in the ledger, and tell the agents to finish by By; repeated until they say so
	Stop     Verb = "stop"     // have the cluster end Job
	Cancel   Verb = "cancel"   // have the cluster end Job, which is one too many of its launch
	End      Verb = "end"      // note in the ledger that the launch is over
	Rollback Verb = "rollback" // make Revision current again in place of From
	Retire   Verb = "retire"   // have the deployment stopped: its lifetime is over
	SetCount Verb = "count"    // tell a counting cluster that the role is to run Count of Revision
	Adopt    Verb = "adopt"    // put New into the ledger: a counting cluster has started it by itself
	Follow   Verb = "follow"   // note that Count of Revision are wanted of the role, since somebody has told the cluster so
	Wait     Verb = "wait"     // nothing can or need be done before Until, or before something else happens (zero)
)

// Action is one step, with the reason for it as a sentence for people.
type Action struct {
	Verb       Verb
	Deployment string
	Role       jobspecs.RoleKind
	Index      int // of the replica; -1 where the action is about no single one
	Launch     cluster.LaunchID
	Cluster    jobspecs.ClusterKind
	Revision   int
	Reason     string

	New       *cluster.Launch  // Start: complete but for its ID
	Job       string           // Found, Stop, Cancel
	Grace     time.Duration    // Stop, Cancel
	By        time.Time        // Drain
	Left      bool             // Drain: it has begun by itself
	Failed    bool             // End: it was not asked to end, and that is its own fault
	Ended     cluster.EndCause // End
	Exit      *cluster.Exit    // End: of its job; nil = unknown
	Blamed    []string         // End: nodes whose fault it seems to be
	LastLines []string         // End: of the engine, if known
	From      int              // Rollback; SetCount: the revision whose file holds the role's bounds
	Version   uint64           // SetCount, Follow: cluster.RoleCount.Version as it was seen
	Count     int              // SetCount, Follow: wanted; Wait: how many replicas wait; LookUp: answers without it
	Until     time.Time        // Wait
	Cause     Cause            // Wait; Drain: Late or HandedOver, of a launch whose job ends
	Node      string           // Wait for ExcludedNode
}

// Cause names what a Wait waits for, for programs: the Reason may change from one moment to the next, the Cause does not
// as long as it is the same wait.
type Cause string

// The causes of waits.
const (
	NoAnswer  Cause = "no-answer"  // the cluster does not answer, or its capacity is unknown
	NoRoom    Cause = "no-room"    // the replica fits nowhere now
	NeverFits Cause = "never-fits" // nor would it, or all that are wanted together, on the empty cluster
	BackOff   Cause = "back-off"   // after failures
	Draining  Cause = "draining"   // older replicas have to go first
	Rollout   Cause = "rollout"    // newer replicas have to be ready first
	Queued    Cause = "queued"     // the cluster has not started the job
	Joining   Cause = "joining"    // the job runs, its agent has not joined
	Silent    Cause = "silent"     // nothing is heard of the agent
	LookUp    Cause = "look-up"    // whether the submit was accepted is not known yet
	Busy      Cause = "busy"       // something is being done about it
	Ending    Cause = "ending"     // told to end, not gone yet
	Stray     Cause = "stray"      // a job that the ledger knows nothing of
	Damaged   Cause = "damaged"    // what is wanted cannot be read

	Gap          Cause = "gap"           // a replica's job ends before its successor can be ready
	ExcludedNode Cause = "excluded-node" // a node that has killed launches gets none

	NotPlaced Cause = "not-placed" // a counting cluster has found no room for replicas that it should run
)

// The causes of drains of launches whose jobs end.
const (
	HandedOver Cause = "handed-over" // its successor serves
	Late       Cause = "late"        // its time is over, and no successor serves
)

// Replica names the replica that the action is about, such as decode/0; empty where there is no single one.
func (a Action) Replica() string {
	if a.Index < 0 || a.Role == "" {
		return ""
	}
	return fmt.Sprintf("%s/%d", a.Role, a.Index)
}

// about fills in which launch an action is about.
func about(verb Verb, l *cluster.Launch, format string, args ...any) Action {
	return Action{
		Verb: verb, Deployment: l.Deployment, Role: l.Role, Index: l.Index, Launch: l.ID, Cluster: l.Cluster,
		Revision: l.Revision, Reason: fmt.Sprintf(format, args...),
	}
}

// waitFor makes a Wait about a launch.
func waitFor(cause Cause, l *cluster.Launch, format string, args ...any) Action {
	a := about(Wait, l, format, args...)
	a.Cause = cause
	return a
}
