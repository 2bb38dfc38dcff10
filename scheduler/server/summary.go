package server

import (
	"fmt"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// statusInput is what status is worked out from; working it out is a pure function.
type statusInput struct {
	launches []cluster.Launch
	fleet    fleet.Snapshot
	waits    []plan.Action
}

func (in statusInput) deployment(d ledger.Deployment) *apiv1.DeploymentStatus {
	st := &apiv1.DeploymentStatus{
		Name: d.Name, Revision: uint32(d.Revision), Model: d.Spec.Model.ServedName, Engine: string(d.Spec.Engine.Kind),
		Cluster: string(d.Spec.Cluster), RolledBackFrom: uint32(d.RolledBackFrom),
	}
	if d.Damaged != "" {
		st.State, st.Reason = "unknown", d.Damaged
		return st
	}
	st.Replicas = in.replicas(d)
	for _, role := range jobspecs.RoleKinds {
		if _, ok := d.Spec.Roles[role]; ok {
			_, scaled := d.Scale[role]
			st.Roles = append(st.Roles, roleStatus(role, d.Wanted(role), scaled, st.Replicas))
		}
	}
	st.State, st.Reason = in.summary(d, st)
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
		case "failed", "ended":
		default:
			rs.Starting++
		}
	}
	return rs
}

// summary is the deployment's state in one word and, where it is not ready, why.
func (in statusInput) summary(d ledger.Deployment, st *apiv1.DeploymentStatus) (state, reason string) {
	var wanted, ready, live, failing uint32
	for _, r := range st.Roles {
		wanted += r.Wanted
		ready += min(r.Ready, r.Wanted)
	}
	for _, r := range st.Replicas {
		if r.State != "ended" && r.State != "failed" {
			live++
		}
		failing = max(failing, r.Failures)
	}
	wait := in.waitFor(d.Name)
	switch {
	case d.Stopped && live == 0:
		return "stopped", ""
	case d.Stopped:
		return "stopping", fmt.Sprintf("%d replicas are still ending", live)
	case wanted == 0 && live == 0:
		return "ready", "scaled to zero"
	case ready == wanted && d.RolledBackFrom > 0:
		return "ready", fmt.Sprintf("revision %d was rolled back: %s", d.RolledBackFrom, d.RollbackReason)
	case ready == wanted && in.mixedRevisions(d):
		return "updating", orReason(wait, fmt.Sprintf("replicas move to revision %d", d.Revision))
	case ready == wanted:
		return "ready", ""
	case ready > 0:
		return "degraded", orReason(wait, fmt.Sprintf("%d of %d replicas are ready", ready, wanted))
	case failing >= failuresToFail:
		return "failed", orReason(wait, fmt.Sprintf("%d starts failed one after the other", failing))
	}
	return "starting", orReason(wait, fmt.Sprintf("no replica is ready yet, %d wanted", wanted))
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

func (in statusInput) mixedRevisions(d ledger.Deployment) bool {
	for _, w := range in.waits {
		if w.Deployment == d.Name && (w.Cause == plan.Rollout || w.Verb == plan.Start && w.Revision == d.Revision) {
			return true
		}
	}
	return false
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
