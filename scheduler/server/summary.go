package server

import (
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// statusInput is what status is worked out from; working it out is a pure function.
type statusInput struct {
	launches  []cluster.Launch
	fleet     fleet.Snapshot
	waits     []plan.Action
	handovers map[cluster.LaunchID]plan.Handover
	revision  func(deployment string, n int) (jobspecs.Deployment, error) // what launches of older revisions run
}

func (in statusInput) deployment(d ledger.Deployment) *apiv1.DeploymentStatus {
	st := &apiv1.DeploymentStatus{
		Name: d.Name, Revision: uint32(d.Revision), Model: d.Spec.Model.ServedName, Engine: string(d.Spec.Engine.Kind),
		Cluster: string(d.Spec.Cluster), RolledBackFrom: uint32(d.RolledBackFrom),
		DrainTimeout: durationpb.New(d.Spec.Serving.DrainTimeout.Std()),
	}
	st.Replicas = in.replicas(d)
	addSuccessors(st.Replicas)
	if d.Damaged != "" {
		st.State, st.Reason = "unknown", d.Damaged
		return st
	}
	for _, role := range jobspecs.RoleKinds {
		if _, ok := d.Spec.Roles[role]; ok {
			_, scaled := d.Scale[role]
			st.Roles = append(st.Roles, roleStatus(role, d.Wanted(role), scaled, st.Replicas))
		}
	}
	st.State, st.Reason = in.summary(d, st)
	st.Impossible = in.impossible(d)
	return st
}

func roleStatus(role jobspecs.RoleKind, wanted int, scaled bool, reps []*apiv1.ReplicaStatus) *apiv1.RoleStatus {
	rs := &apiv1.RoleStatus{Role: string(role), Wanted: uint32(wanted), Scaled: scaled}
	for _, r := range reps {
		if r.Role != string(role) {
			continue
		}
		switch r.State {
		case "ready":
			rs.Ready++
		case "draining":
			rs.Draining++
		case "unknown":
			rs.Unknown++
		case "failed", "ended":
		default:
			rs.Starting++
		}
	}
	return rs
}

// summary is the deployment's state in one word and, where it is not ready, why.
func (in statusInput) summary(d ledger.Deployment, st *apiv1.DeploymentStatus) (state, reason string) {
	var wanted, ready, unknown, failing uint32
	for _, r := range st.Roles {
		wanted += r.Wanted
		ready += min(r.Ready, r.Wanted)
		unknown += r.Unknown
	}
	for _, r := range st.Replicas {
		failing = max(failing, r.Failures)
	}
	live, wait := in.live(d.Name), in.waitFor(d.Name)
	switch {
	case d.Stopped && live == 0:
		return "stopped", d.StopReason
	case d.Stopped:
		return "stopping", fmt.Sprintf("%s still ending%s", countOf(live, "replica is", "replicas are"), after(": ", d.StopReason))
	case wanted == 0 && live == 0:
		return "ready", "scaled to zero"
	case wanted == 0:
		return "ready", fmt.Sprintf("scaled to zero; %s still ending", countOf(live, "replica is", "replicas are"))
	case ready == wanted && in.outdated(d):
		return "updating", orReason(wait, fmt.Sprintf("replicas move to revision %d", d.Revision))
	case ready == wanted && d.RolledBackFrom > 0:
		return "ready", fmt.Sprintf("revision %d was rolled back: %s", d.RolledBackFrom, d.RollbackReason)
	case ready == wanted:
		return "ready", in.gapOf(d.Name)
	case ready > 0:
		return "degraded", orReason(wait, fmt.Sprintf("%d of %s ready", ready, countOf(int(wanted), "replica is", "replicas are")))
	case unknown > 0:
		return "unknown", orReason(wait, fmt.Sprintf("nothing is known of %s", countOf(int(unknown), "replica", "replicas")))
	case failing >= failuresToFail:
		return "failed", orReason(wait, fmt.Sprintf("crash-looping: %d starts failed one after the other; it is tried again", failing))
	case failing > 0:
		return "starting", orReason(wait, fmt.Sprintf("%s failed; it is tried again", countOf(int(failing), "start", "starts in a row")))
	}
	return "starting", orReason(wait, fmt.Sprintf("no replica is ready yet, %d wanted", wanted))
}

// after puts a text behind a separator, if there is one.
func after(separator, text string) string {
	if text == "" {
		return ""
	}
	return separator + text
}

func countOf(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// live counts launches that have not ended, whatever their agents say.
func (in statusInput) live(deployment string) (n int) {
	for _, l := range in.launches {
		if l.Deployment == deployment && l.Phase != cluster.Ended {
			n++
		}
	}
	return n
}

// failuresToFail is how often in a row a deployment without a ready replica fails before it is called failed. It is tried
// on all the same, with back-off.
const failuresToFail = 3

func orReason(reason, otherwise string) string {
	if reason != "" {
		return reason
	}
	return otherwise
}

// outdated tells whether replicas serve that the current revision asks to be replaced. It does not ask the planner, whose
// last word may be older than the revision.
func (in statusInput) outdated(d ledger.Deployment) bool {
	type key struct {
		revision int
		role     jobspecs.RoleKind
	}
	seen := map[key]bool{}
	for _, l := range in.launches {
		k := key{l.Revision, l.Role}
		if l.Deployment != d.Name || l.Revision == d.Revision || l.Phase == cluster.Draining || l.Phase == cluster.Ended || seen[k] {
			continue
		}
		seen[k] = true
		old, err := in.revision(d.Name, l.Revision)
		if err != nil || plan.ReplicaHash(old, l.Role) != plan.ReplicaHash(d.Spec, l.Role) {
			return true
		}
	}
	return false
}

// gapOf is the planner's announcement that a replica will be missing for a while.
func (in statusInput) gapOf(name string) string {
	for _, a := range in.waits {
		if a.Deployment == name && a.Verb == plan.Wait && a.Cause == plan.Gap {
			return a.Reason
		}
	}
	return ""
}

// impossible is the planner's word that a replica of the current revision fits nowhere, now or later.
func (in statusInput) impossible(d ledger.Deployment) string {
	for _, a := range in.waits {
		if a.Deployment == d.Name && a.Cause == plan.NeverFits && a.Revision == d.Revision && !d.Stopped {
			return a.Reason
		}
	}
	return ""
}

// waitFor is the planner's own word on why the deployment is not where it should be.
func (in statusInput) waitFor(name string) string {
	for _, a := range in.waits {
		if a.Deployment == name && a.Verb == plan.Wait {
			return a.Reason
		}
	}
	return ""
}
