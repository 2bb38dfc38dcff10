package server

import (
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
			if n := failures[at]; n > 0 && starting[r.State] {
				r.Reason = fmt.Sprintf("start %d, the last one failed: %s; %s", n+1, orReason(lastFailed[at].EndReason, "nobody knows why"), r.Reason)
			}
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

// starting are the states of replicas that come up.
var starting = map[string]bool{"submitting": true, "pending": true, "joining": true, "loading": true}

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
	r.State, r.Reason = in.replicaState(l, seen)
	if known {
		in.addSeen(r, seen)
	}
	r.Replaces = string(l.Replaces)
	in.addHandover(r, l)
	if l.Phase == cluster.Ended {
		r.Since = timestamppb.New(l.EndedAt)
	}
	return r
}

// replicaState is one word and its reason. A replica whose agents have been silent is unknown, whatever was known before.
func (in statusInput) replicaState(l cluster.Launch, r fleet.Replica) (state, reason string) {
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
	case h == nil && l.Run == "":
		return "pending", in.waitOf(l)
	case h == nil && in.fleet.At.Sub(l.AdmittedAt) <= in.fleet.StaleAfter:
		return "joining", "its agent has joined and not reported yet"
	case h == nil:
		return "unknown", "its agent has not reported since the controller started"
	case in.fleet.At.Sub(r.SeenAt) > in.fleet.StaleAfter:
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
		if h.Exit != "" && !strings.Contains(h.Message, h.Exit) {
			return "failed", strings.TrimSpace(h.Message + " " + h.Exit)
		}
		return "failed", h.Message
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
