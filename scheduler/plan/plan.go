// Package plan decides what to do next: which replicas to start, drain and stop, which launches are over, when to roll
// back, and what is waited for and why.
//
// It is pure: Plan is a function of what is wanted, what is seen and the time, changes none of its arguments, and gives
// the same actions for the same content in any order. It knows no adapter, no disk and no wire; package reconcile feeds it
// and carries its actions out, and `penstock plan` prints them.
//
// What it holds to, whatever it is fed:
//   - Starts never bring a role above its wanted count plus its surge, draining replicas and lost submits included. A
//     launch and its successor count as one; a launch has one successor at the most.
//   - No GPU is given to a launch while another launch, or a job of an ended one, may hold it.
//   - On a cluster that does not answer nothing is started, stopped or ended.
//   - A launch is submitted once. What may have been lost is looked up, then given up; its successor is a new launch.
//   - A replica that is merely silent is unknown, and counts neither as serving nor as gone.
package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Plan returns what to do now, deployment by deployment in the order of their names. Carrying some of the actions out and
// dropping the others is always safe: the next Plan sees what came of it.
func Plan(wanted Wanted, seen Seen, now time.Time) []Action { return Look(wanted, seen, now).Actions }

// Result is a plan with what it rests on, for people.
type Result struct {
	Actions   []Action
	Handovers []Handover // of the launches whose jobs have an end and that are not leaving yet
	Excluded  []Excluded
}

// Look is Plan, and says what it expects of handovers and which nodes it leaves out.
func Look(wanted Wanted, seen Seen, now time.Time) Result {
	p := newPlanner(wanted, seen, now)
	p.act()
	r := Result{Actions: p.actions}
	for _, d := range p.deployments {
		for _, role := range d.ordered() {
			r.Handovers = append(r.Handovers, p.handovers(d, role)...)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(p.excluded)) {
		r.Excluded = append(r.Excluded, p.excluded[kind]...)
	}
	return r
}

func (p *planner) act() {
	p.exclude()
	for _, kind := range slices.Sorted(maps.Keys(p.clusters)) {
		p.reportCluster(kind)
		p.reportExcluded(kind)
	}
	for _, d := range p.deployments {
		p.deployment(d)
	}
	p.startAll()
	p.strayJobs()
	slices.SortStableFunc(p.actions, func(a, b Action) int { return cmp.Compare(a.Deployment, b.Deployment) })
}

// planner holds one Plan's working state.
type planner struct {
	now         time.Time
	seen        Seen
	timing      Timing
	deployments []*deployment
	clusters    map[jobspecs.ClusterKind]*clusterView
	known       map[cluster.LaunchID]bool // in the ledger
	candidates  []candidate
	actions     []Action

	waits    map[shape][]sample // in queues; nil = not collected yet
	waiting  map[shape]time.Duration
	queues   map[*role]Estimate
	startUps map[*role]Estimate
	limits   map[*role]string // what holds successors back
	full     map[*role]bool   // there is no room for successors
	excluded map[jobspecs.ClusterKind][]Excluded
}

// deployment is one deployment with everything that the ledger and the cluster have of it.
type deployment struct {
	Deployment
	gone  bool // launches of it exist, and the ledger does not want it any more
	roles map[jobspecs.RoleKind]*role
	hash  map[hashOf]string
}

// role is one role of a deployment with its launches.
type role struct {
	kind   jobspecs.RoleKind
	spec   jobspecs.Role // zero where the current revision has no such role
	wanted int
	live   []*sight // by index, then age
	ended  []*cluster.Launch
}

// clusterView is one cluster with its jobs by launch.
type clusterView struct {
	Cluster
	kind jobspecs.ClusterKind
	jobs map[cluster.LaunchID][]*cluster.Job
}

func newPlanner(w Wanted, s Seen, now time.Time) *planner {
	p := &planner{
		now: now, seen: s, timing: w.Timing.withDefaults(),
		clusters: make(map[jobspecs.ClusterKind]*clusterView, len(s.Clusters)),
		known:    make(map[cluster.LaunchID]bool, len(s.Launches)),
		queues:   map[*role]Estimate{}, startUps: map[*role]Estimate{}, limits: map[*role]string{}, full: map[*role]bool{}, excluded: map[jobspecs.ClusterKind][]Excluded{},
	}
	for kind, c := range s.Clusters {
		v := &clusterView{Cluster: c, kind: kind, jobs: make(map[cluster.LaunchID][]*cluster.Job, len(c.Jobs))}
		for i := range c.Jobs {
			j := &c.Jobs[i]
			v.jobs[j.Launch] = append(v.jobs[j.Launch], j)
		}
		p.clusters[kind] = v
	}
	byName := make(map[string]*deployment, len(w.Deployments))
	for i := range w.Deployments {
		byName[w.Deployments[i].Name] = &deployment{Deployment: w.Deployments[i]}
	}
	for i := range s.Launches {
		l := &s.Launches[i]
		p.known[l.ID] = true
		d := byName[l.Deployment]
		if d == nil {
			d = &deployment{Deployment: Deployment{Name: l.Deployment}, gone: true}
			byName[d.Name] = d
		}
		p.file(d, l)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		d := byName[name]
		for kind := range d.Spec.Roles {
			d.role(kind)
		}
		for _, r := range d.roles {
			slices.SortFunc(r.live, func(a, b *sight) int {
				return cmp.Or(cmp.Compare(a.Index, b.Index), a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
			})
			r.pair()
			slices.SortFunc(r.ended, func(a, b *cluster.Launch) int {
				return cmp.Or(a.EndedAt.Compare(b.EndedAt), a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
			})
		}
		p.deployments = append(p.deployments, d)
	}
	return p
}

// file puts a launch where it belongs.
func (p *planner) file(d *deployment, l *cluster.Launch) {
	r := d.role(l.Role)
	if l.Phase == cluster.Ended {
		r.ended = append(r.ended, l)
		return
	}
	r.live = append(r.live, p.sight(l))
}

func (d *deployment) role(kind jobspecs.RoleKind) *role {
	if r := d.roles[kind]; r != nil {
		return r
	}
	if d.roles == nil {
		d.roles = map[jobspecs.RoleKind]*role{}
	}
	r := &role{kind: kind, spec: d.Spec.Roles[kind], wanted: d.Wanted(kind)}
	d.roles[kind] = r
	return r
}

// ordered lists the roles in the order in which they are planned and shown.
func (d *deployment) ordered() []*role {
	place := func(r *role) int {
		if i := slices.Index(jobspecs.RoleKinds, r.kind); i >= 0 {
			return i
		}
		return len(jobspecs.RoleKinds)
	}
	return slices.SortedFunc(maps.Values(d.roles), func(a, b *role) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a.kind, b.kind))
	})
}

func (p *planner) do(a Action) { p.actions = append(p.actions, a) }

// deployment plans one deployment: first what has become of its launches, then what it needs.
func (p *planner) deployment(d *deployment) {
	roles := d.ordered()
	over := 0
	for _, r := range roles {
		for _, s := range r.live {
			if p.launch(d, s) {
				over++
			}
		}
	}
	if d.Damaged != "" {
		p.do(Action{
			Verb: Wait, Deployment: d.Name, Index: -1, Cause: Damaged,
			Reason: fmt.Sprintf("it is not known what is wanted, so nothing is started or drained: %s; apply its file again", d.Damaged),
		})
		return
	}
	var own []*role // whose replicas Penstock starts and replaces
	for _, r := range roles {
		if !p.isCounted(d, r) {
			own = append(own, r)
		}
	}
	if d.gone || d.Stopped {
		for _, r := range roles {
			if slices.Contains(own, r) {
				p.drainAll(d, r)
			} else {
				p.count(d, r)
			}
		}
		return
	}
	if p.retire(d, roles) || over == 0 && p.rollback(d, own) {
		return
	}
	for _, r := range roles {
		if slices.Contains(own, r) {
			p.plan(d, r, roles)
		} else {
			p.count(d, r)
		}
	}
}
