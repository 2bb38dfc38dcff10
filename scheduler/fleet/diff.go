package fleet

import (
	"slices"

	"google.golang.org/protobuf/proto"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// delta is the change from one view to the next, or nil where there is none. Where loads is false, replicas and models
// whose figures alone have changed are left for a later delta; the view returned is what a receiver holds after it.
func delta(old, next View, loads bool) (*apiv1.WatchResponse, View) {
	d := &apiv1.WatchResponse{}
	if !loads {
		next = holdBack(old, next)
	}
	d.Replicas, d.Removed = changes(old.Replicas, next.Replicas, sameReplica)
	d.Models, d.RemovedModels = changes(old.Models, next.Models, sameMessage[*apiv1.Model])
	d.Keys, d.RemovedKeys = changes(old.Keys, next.Keys, sameMessage[*apiv1.Key])
	if len(d.Replicas)+len(d.Removed)+len(d.Models)+len(d.RemovedModels)+len(d.Keys)+len(d.RemovedKeys) == 0 {
		return nil, old
	}
	return d, next
}

// whole is a view as one message that replaces everything.
func whole(v View) *apiv1.WatchResponse {
	d, _ := delta(View{}, v, true)
	if d == nil {
		d = &apiv1.WatchResponse{}
	}
	d.Full = true
	return d
}

// changes lists what is new or different, and the names of what is gone, both in the order of names.
func changes[T any](old, next map[string]T, same func(a, b T) bool) (changed []T, gone []string) {
	var names []string
	for name, is := range next {
		if was, ok := old[name]; !ok || !same(was, is) {
			names = append(names, name)
		}
	}
	for name := range old {
		if _, ok := next[name]; !ok {
			gone = append(gone, name)
		}
	}
	slices.Sort(names)
	slices.Sort(gone)
	for _, name := range names {
		changed = append(changed, next[name])
	}
	return changed, gone
}

// holdBack returns next with the old message in place of each whose figures alone have changed.
func holdBack(old, next View) View {
	replicas := make(map[string]*apiv1.Replica, len(next.Replicas))
	for name, r := range next.Replicas {
		if was := old.Replicas[name]; was != nil && samePlace(was, r) {
			r = was
		}
		replicas[name] = r
	}
	models := make(map[string]*apiv1.Model, len(next.Models))
	for name, m := range next.Models {
		if was := old.Models[name]; was != nil && was.State == m.State && was.Deployment == m.Deployment && was.Parent == m.Parent && was.Tenant == m.Tenant {
			m = was
		}
		models[name] = m
	}
	next.Replicas, next.Models = replicas, models
	return next
}

// sameReplica compares what gateways see. Sections of reports are never changed in place, so the same pointer means the
// same figures.
func sameReplica(a, b *apiv1.Replica) bool {
	return a == b || samePlace(a, b) && a.Load == b.Load && a.Kv == b.Kv
}

// samePlace compares everything but figures that change all the time.
func samePlace(a, b *apiv1.Replica) bool {
	return a.Run == b.Run && a.Epoch == b.Epoch && a.Address == b.Address && a.Ready == b.Ready && a.Draining == b.Draining &&
		a.EngineStarts == b.EngineStarts && a.EngineKind == b.EngineKind && a.Node == b.Node &&
		a.Deployment == b.Deployment && a.Role == b.Role && a.Index == b.Index && a.Revision == b.Revision &&
		a.EndsAt.AsTime().Equal(b.EndsAt.AsTime()) && (a.EndsAt == nil) == (b.EndsAt == nil)
}

func sameMessage[M interface {
	comparable
	proto.Message
}](a, b M) bool {
	return a == b || proto.Equal(a, b)
}
