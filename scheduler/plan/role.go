package plan

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// census sorts a role's live launches.
type census struct {
	current []*sight // what the current revision asks for, not draining
	older   []*sight // of other revisions, not draining
	over    int      // current ones that this plan ends: they are replaced by the next plan, which sees how they ended
	leaving int      // draining
	serving int      // of current and older
	// successors wait for current ones to leave, and count for nothing until then.
	successors []*sight
}

func (d *deployment) census(r *role) (c census) {
	for _, s := range r.live {
		switch {
		case s.draining():
			c.leaving++
			continue
		case s.over:
			if old := s.predecessor; d.current(s.Revision, r.kind) && (old == nil || old.draining() || old.over) {
				c.over++
			}
			continue
		case d.takesOver(s):
			c.successors = append(c.successors, s)
			continue
		case d.current(s.Revision, r.kind):
			c.current = append(c.current, s)
		default:
			c.older = append(c.older, s)
		}
		if s.health == serving {
			c.serving++
		}
	}
	return c
}

// plan brings one role closer to its wanted count of current replicas: it drains what is too much or outdated, as far as
// the limit of unavailable replicas allows, and lists the starts that the surge leaves room for.
func (p *planner) plan(d *deployment, r *role, roles []*role) {
	c := d.census(r)
	if extra := len(c.current) - r.wanted; extra > 0 {
		gone := victims(c.current)[:extra]
		for _, s := range gone {
			for _, s := range s.withSuccessor() {
				p.drain(d, s, "%s has %s, %d wanted", r.kind, replicas(len(c.current)), r.wanted)
			}
			if s.health == serving {
				c.serving--
			}
		}
		c.current = slices.DeleteFunc(c.current, func(s *sight) bool { return slices.Contains(gone, s) })
	}
	p.handOver(d, r, c.current)
	p.drainOlder(d, r, &c, roles)
	p.start(d, r, c)
}

// withSuccessor is the launch and, where one is to take its replica over, that one.
func (s *sight) withSuccessor() []*sight {
	if s.successor == nil || s.successor.draining() || s.successor.over {
		return []*sight{s}
	}
	return []*sight{s, s.successor}
}

// victims orders replicas as they are given up: first those that serve least (no run admitted, then known not to be
// ready, then unknown, then serving), of those the highest index, then the newest.
func victims(sights []*sight) []*sight {
	return slices.SortedFunc(slices.Values(sights), func(a, b *sight) int {
		return cmp.Or(cmp.Compare(a.health, b.health), cmp.Compare(b.Index, a.Index),
			b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
	})
}

// drainOlder drains outdated replicas: at once those that do not serve, and as many of the others as can be spared.
func (p *planner) drainOlder(d *deployment, r *role, c *census, roles []*role) {
	if len(c.older) == 0 {
		return
	}
	floor := r.wanted - unavailable(r.spec)
	if _, kept := d.Spec.Roles[r.kind]; !kept {
		floor = 0
		if other := d.shortOf(roles); other != "" {
			p.wait(d, r, Rollout, len(c.older), "revision %d has no role %s; its replicas stay until %s", d.Revision, r.kind, other)
			return
		}
	}
	kept := 0
	for _, s := range victims(c.older) {
		spare := c.serving
		if s.health == serving {
			spare--
		}
		if s.health >= unknown && spare < floor {
			kept++
			continue
		}
		why := fmt.Sprintf("%d are ready, %d wanted", c.serving, r.wanted)
		if s.health < unknown {
			why = "this one is not ready"
		}
		p.drain(d, s, "revision %d replaces revision %d; %s", d.Revision, s.Revision, why)
		c.serving = spare
	}
	if kept > 0 {
		p.wait(d, r, Rollout, kept, "revision %d replaces older replicas once more than %d are ready (now %d)", d.Revision, max(0, floor), c.serving)
	}
}

// shortOf names a role of the current revision that does not serve as it should, or "".
func (d *deployment) shortOf(roles []*role) string {
	for _, r := range roles {
		if _, ok := d.Spec.Roles[r.kind]; !ok {
			continue
		}
		ready := 0
		for _, s := range r.live {
			if s.health == serving && !s.draining() && !s.over {
				ready++
			}
		}
		if need := r.wanted - unavailable(r.spec); ready < need {
			return fmt.Sprintf("%d of %s are ready (now %d)", need, r.kind, ready)
		}
	}
	return ""
}

// drainAll lets go of every launch of a role, for good.
func (p *planner) drainAll(d *deployment, r *role) {
	for _, s := range r.live {
		if s.draining() || s.over {
			continue
		}
		why := "the deployment is stopped"
		if d.gone {
			why = "the ledger has no such deployment"
		}
		p.drain(d, s, "%s", why)
	}
}

// drain asks a launch to finish, if it can be reached: through its agent, or through the cluster.
func (p *planner) drain(d *deployment, s *sight, format string, args ...any) {
	if _, busy := p.seen.Busy[s.ID]; busy {
		return
	}
	if !s.answers() && !s.replica.Connected() {
		return // nobody could be told; reportCluster says that it does not answer
	}
	a := about(Drain, s.Launch, format, args...)
	a.By = p.now
	if s.health != pending {
		spec, _ := d.spec(s.Revision)
		a.By = p.now.Add(drainTimeout(spec))
	}
	p.do(a)
}

// wait adds a Wait about a whole role.
func (p *planner) wait(d *deployment, r *role, cause Cause, n int, format string, args ...any) *Action {
	p.do(Action{
		Verb: Wait, Deployment: d.Name, Role: r.kind, Index: -1, Cluster: d.Spec.Cluster, Revision: d.Revision,
		Reason: fmt.Sprintf(format, args...), Count: n, Cause: cause,
	})
	return &p.actions[len(p.actions)-1]
}

// candidate is a replica that should be started, if there is room for it.
type candidate struct {
	d      *deployment
	r      *role
	index  int
	rank   rank
	reason string

	replaces *sight // of a successor
	handover Handover
	after    string // job that it has to wait for
}

// rank orders candidates by how much they are missed.
type rank int

const (
	missing    rank = iota
	successors      // of replicas whose jobs end
	surging         // above the wanted count for a while
)

// start lists the starts that a role needs and may have now. The lowest free indices are the replicas that are missing; one
// of them that is in back-off keeps its place.
func (p *planner) start(d *deployment, r *role, c census) {
	lacking := r.wanted - len(c.current) - c.over
	if lacking <= 0 {
		return
	}
	live := r.replicas()
	n := min(lacking, r.wanted+surge(r.spec)-live)
	if n <= 0 {
		p.wait(d, r, Draining, lacking, "%s has %d of %d wanted replicas; older ones have to go first (%d of them), since no more than %d may run at a time%s",
			r.kind, len(c.current), r.wanted, live-len(c.current), r.wanted+surge(r.spec), stuck(r, c))
		return
	}
	used := map[int]bool{}
	for _, s := range r.live {
		used[s.Index] = true
	}
	var held []time.Time
	for index := 0; n > 0; index++ {
		if used[index] {
			continue
		}
		n--
		failures, until := p.backOff(d, r, index)
		if until.After(p.now) {
			held = append(held, until)
			continue
		}
		rank := missing
		if live >= r.wanted {
			rank = surging
		}
		p.candidates = append(p.candidates, candidate{d: d, r: r, index: index, rank: rank, reason: startReason(d, r, c, failures)})
	}
	if len(held) > 0 {
		a := p.wait(d, r, BackOff, len(held), "%s", p.backOffReason(d, r))
		a.Until = slices.MinFunc(held, time.Time.Compare)
	}
}

// stuck explains a rollout that its own limits keep from moving.
func stuck(r *role, c census) string {
	if surge(r.spec) == 0 && unavailable(r.spec) == 0 && len(c.older) > 0 && c.leaving == 0 {
		return fmt.Sprintf("; rollout.surge and rollout.unavailable of %s are both 0, so that nothing can be replaced", r.kind)
	}
	return ""
}

func startReason(d *deployment, r *role, c census, failures int) string {
	why := fmt.Sprintf("%s has %d of %d wanted replicas", r.kind, len(c.current), r.wanted)
	if len(c.older) > 0 {
		why += fmt.Sprintf(" of revision %d, and %d older", d.Revision, len(c.older))
	}
	if failures > 0 {
		why += fmt.Sprintf("; this one has failed %s in a row", times(failures))
	}
	return why
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func replicas(n int) string {
	if n == 1 {
		return "1 replica"
	}
	return fmt.Sprintf("%d replicas", n)
}

// newLaunch is the launch that a candidate becomes.
func (p *planner) newLaunch(c candidate, placed []cluster.Placement) *cluster.Launch {
	l := &cluster.Launch{
		Deployment: c.d.Name, Role: c.r.kind, Index: c.index, Revision: c.d.Revision, Cluster: c.d.Spec.Cluster,
		Nodes: nodes(c.r.spec), Placement: placed, Reason: c.reason, CreatedAt: p.now, Phase: cluster.Intended,
		After: c.after,
	}
	if c.replaces != nil {
		l.Replaces = c.replaces.ID
	}
	if placed == nil {
		l.Exclude = p.excludedNames(c.d.Spec.Cluster)
	}
	return l
}

func nodes(r jobspecs.Role) int { return max(1, r.Nodes) }
