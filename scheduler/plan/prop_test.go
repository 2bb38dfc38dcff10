package plan

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

func drawSpec(t *rapid.T, name string, revision int) jobspecs.Deployment {
	d := jobspecs.Deployment{Name: name, Cluster: jobspecs.LocalCluster, Roles: map[jobspecs.RoleKind]jobspecs.Role{}}
	for _, kind := range rapid.SampledFrom([][]jobspecs.RoleKind{{jobspecs.Mixed}, {jobspecs.Prefill, jobspecs.Decode}}).Draw(t, "roles") {
		surge, unavailable := rapid.IntRange(0, 2).Draw(t, "surge"), rapid.IntRange(0, 1).Draw(t, "unavailable")
		if surge+unavailable == 0 {
			surge = 1
		}
		d.Roles[kind] = jobspecs.Role{
			Replicas: rapid.IntRange(0, 3).Draw(t, "replicas"),
			Nodes:    1,
			GPUs:     jobspecs.GPURequest{Count: rapid.IntRange(0, 2).Draw(t, "gpus")},
			Args:     []string{fmt.Sprint(rapid.SampledFrom([]int{0, revision}).Draw(t, "differs"))},
			Rollout:  jobspecs.Rollout{Surge: &surge, Unavailable: &unavailable},
		}
	}
	return d
}

func (m *model) addDeployment(t *rapid.T, name string) {
	m.wanted.Deployments = append(m.wanted.Deployments, Deployment{
		Name: name, Spec: drawSpec(t, name, 1), Revision: 1,
		Revisions: map[int]jobspecs.Deployment{}, Scale: map[jobspecs.RoleKind]int{},
	})
}

func (m *model) revise(t *rapid.T, d *Deployment) {
	d.Revisions[d.Revision] = d.Spec
	d.Previous = d.Revision
	n := d.Revision
	for r := range d.Revisions {
		n = max(n, r)
	}
	d.Revision = n + 1
	d.Spec = drawSpec(t, d.Name, d.Revision)
}

// check holds a plan against what must be true of every plan.
func (m *model) check(t *rapid.T, actions []Action) {
	starts := map[string]int{}
	held := m.heldGPUs()
	drained := map[cluster.LaunchID]bool{}
	jobs := map[string]bool{}
	over := map[cluster.LaunchID]bool{}
	for _, a := range actions {
		over[a.Launch] = over[a.Launch] || a.Verb == End
	}
	for _, a := range actions {
		if a.Reason == "" {
			t.Fatalf("no reason: %s", show(a))
		}
		if m.silent && a.Verb != Wait && a.Verb != Rollback {
			if g := m.agents[a.Launch]; a.Verb != Drain || g == nil || !g.connected {
				t.Fatalf("the cluster does not answer, but: %s", show(a))
			}
		}
		switch a.Verb {
		case Start:
			if a.New.Replaces == "" { // a successor and its predecessor count as one
				starts[a.Deployment+"/"+string(a.Role)]++
			}
			for _, p := range a.New.Placement {
				for _, g := range p.GPUs {
					if held[g] != "" {
						t.Fatalf("%s: GPU %s is held by %s", show(a), g, held[g])
					}
					held[g] = show(a)
				}
			}
			for _, l := range m.launches {
				if l.Phase == cluster.Ended || l.Deployment != a.Deployment || l.Role != a.Role {
					continue
				}
				if a.New.Replaces != "" && l.Replaces == a.New.Replaces {
					t.Fatalf("%s: %s is its successor already", show(a), l.ID)
				}
				if l.Index == a.Index && a.New.Replaces != l.ID && (a.New.Replaces == "" || l.Phase != cluster.Draining && !over[l.ID]) {
					t.Fatalf("%s: %s has this index", show(a), l.ID)
				}
			}
		case Drain:
			drained[a.Launch] = a.Cause != Late // that one goes whether or not it is drained
		case Stop, Cancel:
			if jobs[a.Job] {
				t.Fatalf("job %s is ended twice", a.Job)
			}
			jobs[a.Job] = true
		}
	}
	for _, d := range m.wanted.Deployments {
		for kind, r := range d.Spec.Roles {
			m.checkRole(t, d, kind, r, starts[d.Name+"/"+string(kind)], drained)
		}
	}
}

func (m *model) checkRole(t *rapid.T, d Deployment, kind jobspecs.RoleKind, r jobspecs.Role, starts int, drained map[cluster.LaunchID]bool) {
	live, ready, left := 0, 0, 0
	for _, l := range m.launches {
		if l.Phase == cluster.Ended || l.Deployment != d.Name || l.Role != kind {
			continue
		}
		if old := m.launch(l.Replaces); old == nil || old.Phase == cluster.Ended {
			live++
		}
		if m.serves(l) && !slices.ContainsFunc(m.launches, func(o cluster.Launch) bool { return o.Replaces == l.ID && m.serves(o) }) {
			ready++
			if !drained[l.ID] {
				left++
			}
		}
	}
	if limit := d.Wanted(kind) + *r.Rollout.Surge; starts > 0 && live+starts > limit {
		t.Fatalf("%s of %s: %d live and %d starts, the limit is %d", kind, d.Name, live, starts, limit)
	}
	if floor := min(ready, d.Wanted(kind)-*r.Rollout.Unavailable); left < floor {
		t.Fatalf("%s of %s: %d of %d ready replicas are left, fewer than %d", kind, d.Name, left, ready, floor)
	}
}

// serves: a live launch that is not leaving serves, as far as the plan can know, be its submit's answer lost or not.
func (m *model) serves(l cluster.Launch) bool {
	g := m.agents[l.ID]
	return g != nil && g.ready && (l.Phase == cluster.Intended || l.Phase == cluster.Submitted) && m.now.Sub(g.seen) <= 2*time.Minute
}

// heldGPUs says who may hold each GPU.
func (m *model) heldGPUs() map[string]string {
	held := map[string]string{}
	for _, l := range m.launches {
		lives := slices.ContainsFunc(m.jobs, func(j cluster.Job) bool { return j.Launch == l.ID && j.State != cluster.JobEnded })
		for _, p := range l.Placement {
			for _, g := range p.GPUs {
				if l.Phase != cluster.Ended || lives {
					held[g] = string(l.ID)
				}
			}
		}
	}
	return held
}

// admitted counts the admitted runs of live launches of a role, and those of them that are as the current revision asks.
func (m *model) admitted(d Deployment, kind jobspecs.RoleKind) (n, current int) {
	for _, l := range m.launches {
		if l.Phase == cluster.Ended || l.Deployment != d.Name || l.Role != kind || l.Run == "" {
			continue
		}
		n++
		if spec, ok := d.spec(l.Revision); ok && ReplicaHash(spec, kind) == ReplicaHash(d.Spec, kind) {
			current++
		}
	}
	return n, current
}

// settle plans and acts until nothing but waiting is left.
func (m *model) settle(t *rapid.T) {
	m.silent = false
	quiet := 0
	for range 400 {
		actions := m.plan()
		m.check(t, actions)
		idle := true
		for _, a := range actions {
			if a.Verb != Wait {
				m.apply(a, accepted)
				idle = false
			} else if a.Cause != NoRoom && a.Cause != NeverFits && a.Cause != Stray && a.Cause != Draining && a.Cause != Rollout {
				idle = false
			}
		}
		if quiet++; !idle {
			quiet = 0
		}
		if quiet > 5 { // replicas that load are no Wait
			return
		}
		m.tick(20 * time.Second)
	}
	for _, a := range m.plan() {
		t.Log(show(a))
	}
	t.Fatal("the plan does not come to rest")
}

// Whatever happens to submits, jobs, nodes, agents, the cluster's answers and the wishes of people: every plan keeps the
// rules, and once things calm down the plans bring about what is wanted, as far as there is room, and rest.
func TestPlansKeepTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(rapid.IntRange(1, 3).Draw(t, "nodes"), rapid.IntRange(0, 4).Draw(t, "gpus per node"))
		m.addDeployment(t, "d")
		if rapid.Bool().Draw(t, "two") {
			m.addDeployment(t, "e")
		}
		pick := func(t *rapid.T) *Deployment {
			return &m.wanted.Deployments[rapid.IntRange(0, len(m.wanted.Deployments)-1).Draw(t, "deployment")]
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { m.check(t, m.plan()) },
			"act": func(t *rapid.T) {
				for _, a := range m.plan() {
					if a.Verb != Wait && rapid.IntRange(0, 5).Draw(t, "dropped") > 0 {
						m.apply(a, rapid.SampledFrom([]fate{accepted, accepted, accepted, answerLost, lost, twice, refused}).Draw(t, "fate"))
					}
				}
			},
			"act and tick": func(*rapid.T) {
				for _, a := range m.plan() {
					m.apply(a, accepted)
				}
				m.tick(20 * time.Second)
			},
			"tick": func(t *rapid.T) { m.tick(time.Duration(rapid.IntRange(1, 200).Draw(t, "seconds")) * time.Second) },
			"scale": func(t *rapid.T) {
				d := pick(t)
				for _, kind := range jobspecs.RoleKinds {
					d.Scale[kind] = rapid.IntRange(0, 4).Draw(t, "to")
				}
			},
			"revise": func(t *rapid.T) {
				d := pick(t)
				m.revise(t, d)
				m.bad[d.Revision] = rapid.IntRange(0, 3).Draw(t, "bad") == 0
			},
			"stop or go": func(t *rapid.T) { d := pick(t); d.Stopped = !d.Stopped },
			"job ends": func(t *rapid.T) {
				if len(m.jobs) > 0 {
					m.endJob(m.jobs[rapid.IntRange(0, len(m.jobs)-1).Draw(t, "job")].ID, "killed by signal 9")
				}
			},
			"job is forgotten": func(t *rapid.T) {
				if n := len(m.jobs); n > 0 {
					i := rapid.IntRange(0, n-1).Draw(t, "job")
					m.jobs = slices.Delete(m.jobs, i, i+1)
				}
			},
			"agent goes silent": func(t *rapid.T) {
				for _, l := range m.launches {
					if g := m.agents[l.ID]; g != nil && rapid.Bool().Draw(t, "silent") {
						g.connected, g.seen = false, m.now.Add(-time.Hour)
					}
				}
			},
			"cluster is silent": func(t *rapid.T) { m.silent = !m.silent },
			"controller restarts": func(*rapid.T) {
				m.since = m.now
				clear(m.agents)
				clear(m.missing)
			},
			"node goes or comes": func(t *rapid.T) {
				n := &m.nodes[rapid.IntRange(0, len(m.nodes)-1).Draw(t, "node")]
				n.Up = !n.Up
			},
		})
		clear(m.bad)
		m.settle(t)
		m.arrived(t)
	})
}

// arrived checks that a model at rest has what is wanted: the counts, of the current revision, unless there is no room.
func (m *model) arrived(t *rapid.T) {
	noRoom := map[string]bool{}
	for _, a := range m.plan() {
		if a.Verb == Wait && (a.Cause == NoRoom || a.Cause == NeverFits) {
			noRoom[a.Deployment+"/"+string(a.Role)] = true
			noRoom[a.Deployment] = true
		}
	}
	for _, d := range m.wanted.Deployments {
		for _, kind := range jobspecs.RoleKinds {
			n, current := m.admitted(d, kind)
			want := d.Wanted(kind)
			if (n != want || current != want) && !noRoom[d.Name+"/"+string(kind)] && !(want == 0 && noRoom[d.Name]) {
				for _, a := range m.plan() {
					t.Log(show(a))
				}
				t.Fatalf("%s of %s: %d run, %d of them current, %d are wanted", kind, d.Name, n, current, want)
			}
		}
	}
}

// The same content in another order gives the same plan, and planning changes nothing of what it is given.
func TestPlanIsAFunction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(2, 3)
		m.addDeployment(t, "d")
		m.addDeployment(t, "e")
		for range rapid.IntRange(0, 8).Draw(t, "steps") {
			for _, a := range m.plan() {
				m.apply(a, rapid.SampledFrom([]fate{accepted, answerLost, lost, twice, refused}).Draw(t, "fate"))
			}
			m.tick(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
			if rapid.IntRange(0, 4).Draw(t, "revise") == 0 {
				m.revise(t, &m.wanted.Deployments[0])
			}
		}
		wanted, seen := m.wanted, m.seen()
		before := fmt.Sprintf("%+v %+v", wanted, seen)
		want := Plan(wanted, seen, m.now)
		if after := fmt.Sprintf("%+v %+v", wanted, seen); after != before {
			t.Fatalf("planning has changed what it was given: %s", cmp.Diff(before, after))
		}
		wanted.Deployments = rapid.Permutation(wanted.Deployments).Draw(t, "deployments")
		seen.Launches = rapid.Permutation(seen.Launches).Draw(t, "launches")
		c := seen.Clusters[jobspecs.LocalCluster]
		c.Jobs = rapid.Permutation(c.Jobs).Draw(t, "jobs")
		c.Capacity.Nodes = rapid.Permutation(c.Capacity.Nodes).Draw(t, "nodes")
		seen.Clusters[jobspecs.LocalCluster] = c
		if d := cmp.Diff(want, Plan(wanted, seen, m.now)); d != "" {
			t.Fatalf("another order gives another plan: %s", d)
		}
	})
}

// Wanting more never drains more and never starts less.
func TestPlanIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(8, 8) // room for all
		m.addDeployment(t, "d")
		for range rapid.IntRange(0, 6).Draw(t, "steps") {
			for _, a := range m.plan() {
				m.apply(a, rapid.SampledFrom([]fate{accepted, accepted, lost, refused}).Draw(t, "fate"))
			}
			m.tick(20 * time.Second)
		}
		d := &m.wanted.Deployments[0]
		count := func(n int) (starts int, drains []cluster.LaunchID) {
			for kind := range d.Spec.Roles {
				d.Scale[kind] = n
			}
			for _, a := range m.plan() {
				switch a.Verb {
				case Start:
					starts++
				case Drain:
					drains = append(drains, a.Launch)
				}
			}
			return starts, drains
		}
		starts, drains := count(0)
		for n := 1; n < 6; n++ {
			s, dr := count(n)
			if s < starts {
				t.Fatalf("%d wanted start %d, one less %d", n, s, starts)
			}
			for _, id := range dr {
				if !slices.Contains(drains, id) {
					t.Fatalf("%s is drained when %d are wanted, and not when fewer are", id, n)
				}
			}
			starts, drains = s, dr
		}
	})
}
