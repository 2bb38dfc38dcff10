package server

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// Status implements ControlService.
func (c controlAPI) Status(_ context.Context, req *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
	s := c.s
	now := time.Now()
	deployments := s.o.Ledger.Deployments()
	if req.Deployment != "" {
		d, err := s.deployment(req.Deployment)
		if err != nil {
			return nil, answer(err)
		}
		deployments = []ledger.Deployment{d}
	}
	in := statusInput{launches: s.o.Ledger.Launches(), fleet: s.o.Fleet.Snapshot(now), waits: s.o.Loop.Last()}
	resp := &apiv1.StatusResponse{Term: s.o.Ledger.Term(), At: timestamppb.New(now), Warnings: s.warnings()}
	for _, d := range deployments {
		resp.Deployments = append(resp.Deployments, in.deployment(d))
	}
	for _, g := range s.gateways.list(now) {
		resp.Gateways = append(resp.Gateways, &apiv1.GatewayStatus{Name: g.name, Url: g.url, SeenAt: timestamppb.New(g.seenAt)})
	}
	return resp, nil
}

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

// replicas lists live launches, and of each role and index the last one that failed while no other has taken its place.
func (in statusInput) replicas(d ledger.Deployment) []*apiv1.ReplicaStatus {
	type slot struct {
		role  jobspecs.RoleKind
		index int
	}
	live := map[slot]bool{}
	var out []*apiv1.ReplicaStatus
	lastFailed := map[slot]cluster.Launch{}
	failures := map[slot]uint32{}
	for _, l := range in.launches { // oldest first
		if l.Deployment != d.Name {
			continue
		}
		at := slot{l.Role, l.Index}
		switch {
		case l.Phase != cluster.Ended:
			live[at] = true
			r := in.replica(l)
			r.Failures = max(r.Failures, failures[at])
			out = append(out, r)
		case l.Failed && l.Revision == d.Revision:
			lastFailed[at] = l
			failures[at]++
		default:
			delete(lastFailed, at)
			failures[at] = 0
		}
	}
	for at, l := range lastFailed {
		if !live[at] && !d.Stopped && at.index < d.Wanted(at.role) {
			r := in.replica(l)
			r.Failures = failures[at]
			out = append(out, r)
		}
	}
	order := map[string]int{string(jobspecs.Prefill): 0, string(jobspecs.Decode): 1, string(jobspecs.Mixed): 2}
	sort.SliceStable(out, func(i, j int) bool {
		a, b := out[i], out[j]
		if order[a.Role] != order[b.Role] {
			return order[a.Role] < order[b.Role]
		}
		return a.Index < b.Index
	})
	return out
}

func (in statusInput) replica(l cluster.Launch) *apiv1.ReplicaStatus {
	r := &apiv1.ReplicaStatus{
		Launch: string(l.ID), Name: fmt.Sprintf("%s/%d", l.Role, l.Index), Role: string(l.Role), Index: uint32(l.Index),
		Revision: uint32(l.Revision), Job: l.Job, Epoch: l.Epoch, Since: timestamppb.New(l.CreatedAt), LastLines: l.LastLines,
	}
	for _, p := range l.Placement {
		r.Nodes = append(r.Nodes, p.Node)
		r.Gpus = append(r.Gpus, p.GPUs...)
	}
	seen, known := in.fleet.Replicas[l.ID]
	r.State, r.Reason = in.replicaState(l, seen, known)
	if known {
		in.addSeen(r, seen)
	}
	if l.Phase == cluster.Ended {
		r.Since = timestamppb.New(l.EndedAt)
	}
	return r
}

// replicaState is one word and its reason. A replica whose agents have been silent is unknown, whatever was known before.
func (in statusInput) replicaState(l cluster.Launch, r fleet.Replica, known bool) (state, reason string) {
	h := r.Health()
	switch {
	case l.Phase == cluster.Ended && l.Failed:
		return "failed", l.EndReason
	case l.Phase == cluster.Ended:
		return "ended", l.EndReason
	case l.Phase == cluster.Draining:
		return "draining", l.DrainReason
	case l.Phase == cluster.Intended:
		return "submitting", in.waitOf(l)
	case !known || h == nil:
		return "pending", in.waitOf(l)
	case !in.fleet.Fresh(r) && !r.SeenAt.IsZero() && len(r.Ranks) == r.Nodes:
		return "unknown", fmt.Sprintf("its agent has not been heard of for %s", in.fleet.At.Sub(r.SeenAt).Round(time.Second))
	}
	switch r.Phase {
	case apiv1.Phase_PHASE_STARTED:
		if r.Ready {
			return "ready", ""
		}
		return "started", orReason(r.NotReady, "waiting for the controller's own token")
	case apiv1.Phase_PHASE_LOADING:
		return "loading", h.Message
	case apiv1.Phase_PHASE_DRAINING:
		return "draining", h.Message
	case apiv1.Phase_PHASE_FAILED:
		return "failed", strings.TrimSpace(h.Message + " " + h.Exit)
	case apiv1.Phase_PHASE_STOPPED:
		return "ended", h.Message
	}
	return "joining", orReason(h.Message, "waiting for all nodes of the replica")
}

func (in statusInput) waitOf(l cluster.Launch) string {
	for _, a := range in.waits {
		if a.Launch == l.ID && a.Verb == plan.Wait {
			return a.Reason
		}
	}
	return "waiting for its agent"
}

// addSeen adds what agents report.
func (in statusInput) addSeen(r *apiv1.ReplicaStatus, seen fleet.Replica) {
	if !seen.Since.IsZero() {
		r.Since = timestamppb.New(seen.Since)
	}
	if !seen.SeenAt.IsZero() {
		r.SeenAt = timestamppb.New(seen.SeenAt)
	}
	head := seen.Head()
	r.Address, r.EndsAt = head.GetAddress(), head.GetEndsAt()
	r.Load, r.Kv = in.fleet.Load(seen), in.fleet.KV(seen)
	if len(r.Nodes) == 0 && head.GetNode() != "" {
		r.Nodes = []string{head.GetNode()}
	}
	if h := seen.Health(); h != nil {
		r.Loading, r.RetryAt, r.Failures = h.Loading, h.RetryAt, h.Failures
		if len(h.LastLines) > 0 {
			r.LastLines = h.LastLines
		}
	}
	for i := range seen.Nodes {
		r.Ports = append(r.Ports, seen.Ranks[i].State.GetPorts().GetPorts()...)
	}
}

// warnings are what people should know although nothing failed: files that can't be read, clusters that do not answer,
// ports that are open to everybody.
func (s *Server) warnings() (out []string) {
	for _, p := range s.o.Ledger.Problems() {
		out = append(out, fmt.Sprintf("%s cannot be read: %v", p.Path, p.Err))
	}
	if n := s.o.Ledger.EventsLost(); n > 0 {
		out = append(out, fmt.Sprintf("%d events could not be written; is the disk full?", n))
	}
	out = append(append(out, s.o.Notices...), s.o.Loop.Warnings()...)
	snapshot := s.o.Fleet.Snapshot(time.Now())
	for _, r := range snapshot.Replicas {
		for _, rank := range r.Ranks {
			for _, p := range rank.State.GetPorts().GetPorts() {
				if p.Protection == "none" {
					out = append(out, fmt.Sprintf("%s is open to every user who can reach it: %s (%s)", p.Address, p.Purpose, r.Launch))
				}
			}
		}
	}
	sort.Strings(out)
	return out
}
