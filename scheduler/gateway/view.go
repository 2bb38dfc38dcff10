package gateway

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/keys"
	"github.com/penstock/penstock/scheduler/upstream"
)

// What Apply can say. Either way the view stays as it was.
var (
	ErrOldTerm = errors.New("the message is of an older controller")
	ErrGap     = errors.New("a message is missing: the whole view is needed")
)

// view is what the gateway knows at one time. Nobody changes it; members in it carry their own counters.
type view struct {
	models      map[string]*apiv1.Model
	keys        keys.Set
	deployments map[string][]*member // by launch
}

// feed is the state of the controller's feed: what a view is built from.
type feed struct {
	mu      sync.Mutex
	term    uint64
	seq     uint64
	fed     bool // a whole view came
	members map[string]*member
	models  map[string]*apiv1.Model
	keys    keys.Set
}

// Apply takes the next message of the controller's feed. Messages are shared and not changed. It returns ErrOldTerm for a
// controller that was replaced and ErrGap when a message is missing: the caller then watches anew. A run that is
// older than one already seen of the same launch is never routed to, whoever names it.
func (g *Gateway) Apply(m *apiv1.WatchResponse) error {
	f := &g.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.Term < f.term {
		return fmt.Errorf("%w: term %d after term %d", ErrOldTerm, m.Term, f.term)
	}
	if !m.Full && (!f.fed || m.Term != f.term || m.Seq != f.seq+1) {
		return fmt.Errorf("%w: %d came after %d", ErrGap, m.Seq, f.seq)
	}
	f.term, f.seq, f.fed = m.Term, m.Seq, true

	rebuild := g.applyReplicas(m)
	if m.Full || len(m.Models)+len(m.RemovedModels)+len(m.Keys)+len(m.RemovedKeys) > 0 {
		f.models = merge(f.models, m.Full, m.Models, m.RemovedModels, (*apiv1.Model).GetName)
		f.keys = merge(f.keys, m.Full, m.Keys, m.RemovedKeys, (*apiv1.Key).GetId)
		rebuild = true
	}
	if rebuild {
		g.view.Store(f.build())
		g.quotas.keep(f.keys)
	}
	g.wakeProbes() // a member that has just become ready changes no view
	return nil
}

// merge returns a new map: views that are in use keep the old one.
func merge[M ~map[string]V, V any](old M, full bool, changed []V, removed []string, name func(V) string) M {
	out := make(M, len(old)+len(changed))
	if !full {
		for k, v := range old {
			out[k] = v
		}
	}
	for _, v := range changed {
		out[name(v)] = v
	}
	for _, k := range removed {
		delete(out, k)
	}
	return out
}

// applyReplicas brings members up to date and reports whether which of them there are has changed.
func (g *Gateway) applyReplicas(m *apiv1.WatchResponse) (rebuild bool) {
	f := &g.feed
	if f.members == nil {
		f.members = map[string]*member{}
	}
	if m.Full {
		named := make(map[string]bool, len(m.Replicas))
		for _, r := range m.Replicas {
			named[r.Launch] = true
		}
		for launch, old := range f.members {
			if !named[launch] {
				g.forget(old)
				rebuild = true
			}
		}
	}
	for _, launch := range m.Removed {
		if old := f.members[launch]; old != nil {
			g.forget(old)
			rebuild = true
		}
	}
	for _, r := range m.Replicas {
		old := f.members[r.Launch]
		if old != nil && r.Epoch < old.target.Epoch {
			continue // fenced: a newer run of the launch was admitted
		}
		if old != nil && old.is(r) {
			old.update(r, g.now())
			continue
		}
		if old != nil {
			g.forget(old)
		}
		f.members[r.Launch] = g.newMember(r)
		rebuild = true
	}
	return rebuild
}

// forget drops a run. Its open requests go on, new ones do not come.
func (g *Gateway) forget(old *member) {
	delete(g.feed.members, old.target.Launch)
	old.gone.Store(true)
	g.opts.Upstream.CloseTarget(old.target)
}

func (f *feed) build() *view {
	v := &view{models: f.models, keys: f.keys, deployments: map[string][]*member{}}
	for _, m := range f.members {
		v.deployments[m.deployment] = append(v.deployments[m.deployment], m)
	}
	for _, members := range v.deployments {
		slices.SortFunc(members, func(a, b *member) int { return strings.Compare(a.target.Launch, b.target.Launch) })
	}
	return v
}

// may tells whether a model is there for a caller: for its key, and for its tenant.
func (c caller) may(m *apiv1.Model) bool {
	return (c.key == nil || keys.Allows(c.key, m.Name)) && (m.Tenant == "" || m.Tenant == c.tenant)
}

// known lists the models that a caller may use, by name.
func (v *view) known(c caller) []*apiv1.Model {
	var out []*apiv1.Model
	for _, m := range v.models {
		if c.may(m) {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b *apiv1.Model) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// base is the model under which a deployment's replicas answer without an adapter.
func (v *view) base(deployment string) string {
	name := ""
	for _, m := range v.models {
		if m.Deployment == deployment && m.Parent == "" && (name == "" || m.Name < name) {
			name = m.Name
		}
	}
	return name
}

// retryAfter is what a client is told to wait for a model.
func retryAfter(m *apiv1.Model) time.Duration {
	if d := m.GetRetryAfter(); d.IsValid() && d.AsDuration() > 0 {
		return d.AsDuration()
	}
	return 5 * time.Second
}

func targetOf(r *apiv1.Replica) upstream.Target {
	return upstream.Target{Launch: r.Launch, Run: r.Run, Epoch: r.Epoch, Address: r.Address, Engine: engineKind(r)}
}
