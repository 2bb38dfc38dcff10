package fleet

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// View is what gateways are told: replicas by launch token, models by served name, keys by id. The messages in it are
// shared and never changed.
type View struct {
	Replicas map[string]*apiv1.Replica
	Models   map[string]*apiv1.Model
	Keys     map[string]*apiv1.Key
	// Settled: every run that served before has been heard of again, or for too long not. A controller that has just
	// started knows of nobody; gateways keep what they have until its view is settled.
	Settled bool
}

// Deployed is one deployment as the view needs it.
type Deployed struct {
	Spec    jobspecs.Deployment // of the current revision
	Wanted  map[jobspecs.RoleKind]int
	Stopped bool
	// StopReason says why it was stopped, where nobody has asked for that.
	StopReason string
	CreatedAt  time.Time
}

// Wait is why something is not there yet, as the planner said: of a launch, or of a whole deployment where Launch is
// empty. A zero Until means that nobody can tell.
type Wait struct {
	Deployment string
	Launch     cluster.LaunchID
	Reason     string
	Until      time.Time
}

// Gateways works the view out from what is seen and what is wanted. It is a pure function; Keys and Settled are left to
// the caller.
func Gateways(s Snapshot, launches []cluster.Launch, deployments []Deployed, waits []Wait) View {
	v := View{Replicas: make(map[string]*apiv1.Replica, len(launches)), Models: map[string]*apiv1.Model{}}
	byDeployment := map[string][]cluster.Launch{}
	for _, l := range launches {
		byDeployment[l.Deployment] = append(byDeployment[l.Deployment], l)
		if r := gatewayReplica(s, l); r != nil {
			v.Replicas[r.Launch] = r
		}
	}
	waitsOf := map[string][]Wait{}
	for _, w := range waits {
		waitsOf[w.Deployment] = append(waitsOf[w.Deployment], w)
	}
	for _, d := range deployments {
		name := d.Spec.Name
		state := modelState(s, d, byDeployment[name], waitsOf[name])
		for _, m := range d.models(state) {
			if old := v.Models[m.Name]; old == nil || better(m, old) {
				v.Models[m.Name] = m
			}
		}
	}
	return v
}

// gatewayReplica is what gateways learn of a launch; nil = it has no run that could be reached.
func gatewayReplica(s Snapshot, l cluster.Launch) *apiv1.Replica {
	r, ok := s.Replicas[l.ID]
	head := r.Head()
	if !ok || l.Phase == cluster.Ended || head.GetAddress() == "" {
		return nil
	}
	return &apiv1.Replica{
		Launch: string(l.ID), Run: r.Run, Epoch: r.Epoch,
		Deployment: l.Deployment, Role: string(l.Role), Index: uint32(l.Index), Revision: uint32(l.Revision),
		Address: head.GetAddress(), Node: head.GetNode(), EngineKind: head.GetEngineKind(), EndsAt: head.GetEndsAt(),
		Ready: r.Ready, Draining: l.Phase == cluster.Draining || r.Phase > apiv1.Phase_PHASE_STARTED,
		EngineStarts: r.EngineStarts, Load: s.Load(r), Kv: s.KV(r),
	}
}

// models are the names that a deployment answers to, all in one state.
func (d Deployed) models(is state) []*apiv1.Model {
	base := d.Spec.Model.ServedName
	names := []*apiv1.Model{{Name: base}}
	for _, a := range d.Spec.Model.Adapters {
		names = append(names, &apiv1.Model{Name: a.Name, Parent: base})
	}
	for _, m := range names {
		if t := d.Spec.Serving.Tenant; t != jobspecs.SharedCache {
			m.Tenant = t
		}
		m.Deployment, m.State, m.Reason, m.RetryAfter = d.Spec.Name, is.word, is.reason, is.retryAfter()
		if !d.CreatedAt.IsZero() {
			m.CreatedAt = timestamppb.New(d.CreatedAt)
		}
	}
	return names
}

// better chooses between two deployments that claim one name: the one that serves, then the first by name.
func better(a, b *apiv1.Model) bool {
	if ra, rb := a.State == stateReady, b.State == stateReady; ra != rb {
		return ra
	}
	return a.Deployment < b.Deployment
}

// replicaName is how people call a launch's replica inside its deployment.
func replicaName(l cluster.Launch) string { return fmt.Sprintf("%s/%d", l.Role, l.Index) }
