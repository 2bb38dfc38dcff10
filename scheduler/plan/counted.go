package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// A cluster that counts owns replacement and rollout of its roles. What it starts by itself is adopted as a launch of its own,
// so that its agent can join; what is left to plan is to tell the cluster counts, to drain what a lower one will end before it
// is told, and to follow what somebody else has told it.

// isCounted reports whether the role is a counted one of its cluster.
func (p *planner) isCounted(d *deployment, r *role) bool {
	if _, ok := d.Spec.Roles[r.kind]; !ok || d.gone {
		return slices.ContainsFunc(r.live, func(s *sight) bool { return s.Counted })
	}
	c := p.clusters[d.Spec.Cluster]
	return c != nil && c.counted(nodes(r.spec))
}

// countedCluster is where a counted role is kept; nil = this installation has no such cluster.
func (p *planner) countedCluster(d *deployment, r *role) *clusterView {
	if c := p.clusters[d.Spec.Cluster]; c != nil {
		return c
	}
	for _, s := range r.live {
		if s.Counted {
			return s.cluster
		}
	}
	return nil
}

// countWanted is how many a counted role should be. What somebody has set at the cluster counts beyond the file's bounds too.
func (d *deployment) countWanted(r *role) int {
	if _, ok := d.Spec.Roles[r.kind]; !ok || d.gone || d.Stopped {
		return 0
	}
	if n, ok := d.Scale[r.kind]; ok && n == d.Told[r.kind].N {
		return n
	}
	return r.wanted
}

// count plans a counted role.
func (p *planner) count(d *deployment, r *role) {
	c := p.countedCluster(d, r)
	if c == nil || !c.JobsKnown {
		return
	}
	ref := cluster.RoleRef{Deployment: d.Name, Role: r.kind}
	p.adopt(d, r, c, ref)
	if !c.CountsKnown || c.Telling[ref] {
		return
	}
	held, there := c.Set[ref]
	told, known := d.Told[r.kind]
	if known && p.followed(d, r, c, held, there, told) {
		return
	}
	if there && held.Unplaced > 0 {
		a := p.wait(d, r, NotPlaced, held.Unplaced, "%s of %s %s not placed: %s", replicas(held.Unplaced), r.kind, isAre(held.Unplaced), orWords(held.Why, "the cluster does not say why"))
		a.Cluster = c.kind
	}
	p.tell(d, r, c, held, there)
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func orWords(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// adopt puts what the cluster has started by itself into the ledger.
func (p *planner) adopt(d *deployment, r *role, c *clusterView, ref cluster.RoleRef) {
	if d.gone {
		return
	}
	for i := range c.Jobs {
		j := &c.Jobs[i]
		if j.Role != ref || j.Launch == "" || p.known[j.Launch] || j.State == cluster.JobEnded || j.State == cluster.JobEnding {
			continue
		}
		if _, ok := d.spec(j.Revision); !ok {
			a := p.wait(d, r, Stray, 1, "job %s is of revision %d, which the ledger does not have; its agent cannot join", j.ID, j.Revision)
			a.Launch, a.Cluster = j.Launch, c.kind
			continue
		}
		why := fmt.Sprintf("cluster %s has started it as %s/%d of revision %d", c.kind, r.kind, j.Index, j.Revision)
		p.do(Action{
			Verb: Adopt, Deployment: d.Name, Role: r.kind, Index: j.Index, Launch: j.Launch, Cluster: c.kind, Revision: j.Revision, Reason: why, Job: j.ID,
			New: &cluster.Launch{
				ID: j.Launch, Deployment: d.Name, Role: r.kind, Index: j.Index, Revision: j.Revision, Cluster: c.kind, Nodes: 1,
				Reason: why, CreatedAt: p.now, Phase: cluster.Submitted, Job: j.ID, StartedAt: j.Started, Counted: true,
			},
		})
	}
}

// followed deals with what somebody else has told the cluster, and reports whether there was such a thing. It is never
// fought: another count becomes the wanted one, an older revision, to which the cluster has gone back, the current one.
func (p *planner) followed(d *deployment, r *role, c *clusterView, held cluster.RoleCount, there bool, told cluster.Told) bool {
	_, kept := d.Spec.Roles[r.kind]
	switch {
	case d.gone || !kept:
		return false
	case !there && told.N == 0, there && (told.Explains(held) || held.Version == told.Version || held.Own):
		return false
	case d.Stopped:
		if !there || held.N == 0 {
			return false
		}
		p.wait(d, r, Stray, held.N, "the deployment is stopped, and somebody has set %s to %d at cluster %s%s: it is left alone, and nothing of it can join", r.kind, held.N, c.kind, by(held))
		return true
	}
	if there && held.Revision != told.Revision && held.Revision != d.Revision && !d.current(held.Revision, r.kind) {
		if _, ok := d.spec(held.Revision); ok {
			a := p.wait(d, r, "", 0, "cluster %s has gone back to revision %d by itself%s: replicas of revision %d did not become healthy", c.kind, held.Revision, by(held), d.Revision)
			a.Verb, a.From, a.Revision = Rollback, d.Revision, held.Revision
			return true
		}
	}
	if held.N == told.N && there {
		return false // its revision alone was changed: it is told the current one again
	}
	what := fmt.Sprintf("somebody has set %s from %d to %d at cluster %s", r.kind, told.N, held.N, c.kind)
	if !there {
		what = fmt.Sprintf("somebody has removed %s, which was at %d, from cluster %s", r.kind, told.N, c.kind)
	}
	p.do(Action{
		Verb: Follow, Deployment: d.Name, Role: r.kind, Index: -1, Cluster: c.kind, Revision: cmp.Or(held.Revision, told.Revision),
		Count: held.N, Version: held.Version, Reason: what + by(held) + ": that is what is wanted from now on",
	})
	return true
}

// by says who changed a count and when, as far as the cluster tells.
func by(held cluster.RoleCount) string {
	var parts []string
	if held.ChangedBy != "" {
		parts = append(parts, held.ChangedBy)
	}
	if !held.ChangedAt.IsZero() {
		parts = append(parts, "at "+held.ChangedAt.UTC().Format(time.DateTime)+" UTC")
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// tell tells the cluster what it does not hold yet. A lower count waits until what it will end has drained.
func (p *planner) tell(d *deployment, r *role, c *clusterView, held cluster.RoleCount, there bool) {
	n, revision := d.countWanted(r), d.Revision
	if there && (d.gone || d.current(held.Revision, r.kind) || n == 0) {
		revision = held.Revision // the same replicas, or none
	}
	if there && held.N == n && held.Revision == revision || !there && n == 0 && d.Told[r.kind].N == 0 && !d.Told[r.kind].Asked {
		return
	}
	same := there && held.Revision == revision
	if same && held.Rollout != "" && n > 0 {
		a := p.wait(d, r, Rollout, n, "%s of %s %s wanted, and %d set; the count follows once the cluster takes one: %s", replicas(n), r.kind, isAre(n), held.N, held.Rollout)
		a.Cluster = c.kind
		return
	}
	if same && n < held.N && p.drainHighest(d, r, c, held.N-n) {
		return
	}
	why := fmt.Sprintf("%s of %s %s wanted, of revision %d; cluster %s holds %d of revision %d", replicas(n), r.kind, isAre(n), revision, c.kind, held.N, held.Revision)
	if !there {
		why = fmt.Sprintf("%s of %s %s wanted, of revision %d; cluster %s holds nothing of it", replicas(n), r.kind, isAre(n), revision, c.kind)
	}
	p.do(Action{
		Verb: SetCount, Deployment: d.Name, Role: r.kind, Index: -1, Cluster: c.kind, Revision: revision, From: d.Revision,
		Count: n, Version: held.Version, Reason: why,
	})
}

// drainHighest drains the replicas that a count lower by extra will end: the cluster ends the highest indices. It reports
// whether one of them still has something to finish.
func (p *planner) drainHighest(d *deployment, r *role, c *clusterView, extra int) (wait bool) {
	var live []*sight
	for _, s := range r.live {
		if s.Counted && !s.over && s.stays() {
			live = append(live, s)
		}
	}
	slices.SortStableFunc(live, func(a, b *sight) int { return cmp.Compare(b.Index, a.Index) })
	n := d.countWanted(r)
	for _, s := range live[:min(extra, len(live))] {
		if !s.draining() && s.health != pending {
			p.drain(d, s, "%s is to have %s, and cluster %s ends the highest indices", r.kind, replicas(n), c.kind)
			wait = true
			continue
		}
		if p.finishes(s) {
			wait = true
		}
	}
	return wait
}

// stays: the cluster has not told the launch's job to end already.
func (s *sight) stays() bool {
	return slices.ContainsFunc(s.jobs, func(j *cluster.Job) bool {
		return j.State == cluster.JobRunning || j.State == cluster.JobPending || j.State == cluster.JobUnknown
	})
}

// finishes: a launch that drains still has open requests, as far as its agent says, and time for them.
func (p *planner) finishes(s *sight) bool {
	return s.draining() && p.now.Before(s.DrainBy) && p.speaks(s) && s.replica.Phase < apiv1.Phase_PHASE_STOPPED
}

// countedLaunch plans for a live launch that its cluster has started by itself, and reports whether it is over. The cluster
// restarts and replaces it: Penstock ends it only where it was drained for good and the cluster means to keep it.
func (p *planner) countedLaunch(d *deployment, s *sight) (over bool) {
	jobs, _ := s.living()
	switch {
	case len(jobs) == 0 && len(s.jobs) > 0:
		s.over = true
		p.do(p.ended(d, s))
	case len(jobs) == 0:
		p.vanished(s)
	case p.lost(s, jobs):
		s.over = true
		p.do(s.end(false, "nothing heard of its agent for %s, and cluster %s cannot tell what became of job %s", rounded(p.silence(s)), s.Cluster, jobs[0].ID))
	default:
		p.countedLives(d, s, jobs[0])
	}
	return s.over
}

// vanished plans for a counted launch whose job the cluster does not list: it was purged, or collected long after its end.
func (p *planner) vanished(s *sight) {
	m := p.seen.Missing[s.ID]
	switch enough := m.Answers >= p.timing.LookupAnswers && p.now.Sub(m.Since) >= p.timing.LookupFor; {
	case p.speaks(s):
		p.remind(s)
		if m.Answers > 0 {
			p.do(waitFor(LookUp, s.Launch, "cluster %s does not list its job, but its agent was heard of %s ago", s.Cluster, rounded(p.silence(s))))
		}
	case !enough:
		p.do(p.lookUp(s, m))
	default:
		s.over = true
		a := s.end(false, "cluster %s has no job %s any more: somebody has purged it, or it was collected after its end", s.Cluster, s.Job)
		a.Ended = cluster.EndedCancelled
		p.do(a)
	}
}

func (p *planner) countedLives(d *deployment, s *sight, j *cluster.Job) {
	switch {
	case j.State == cluster.JobEnding:
		if !s.draining() {
			p.leaves(d, s, "%s", orWords(j.Reason, "job "+j.ID+" has been told to end"))
		}
		p.do(waitFor(Ending, s.Launch, "job %s has been told to end: %s", j.ID, j.Reason))
	case s.draining():
		p.countedDrains(d, s, j)
	case s.replica.Phase == apiv1.Phase_PHASE_DRAINING:
		p.leaves(d, s, "%s", lastWords(s.replica.Health()))
	case s.health == pending && j.State != cluster.JobRunning:
		p.do(waitFor(Queued, s.Launch, "job %s is %s (%s)", j.ID, j.State, orWords(j.Reason, "no reason given")))
	case s.health == pending:
		p.do(waitFor(Joining, s.Launch, "job %s runs, its agent has not joined yet", j.ID))
	case s.health == unknown && p.silence(s) > p.timing.AgentTimeout:
		p.do(waitFor(Silent, s.Launch, "nothing heard of its agent for %s while job %s is %s: its state is unknown", rounded(p.silence(s)), j.ID, j.State))
	}
}

// countedDrains follows a counted launch that was asked to finish. One that the wanted count has no place for is ended by the
// lower count; any other is ended here, and the cluster starts another in its place.
func (p *planner) countedDrains(d *deployment, s *sight, j *cluster.Job) {
	r := d.roles[s.Role]
	if s.Index < d.countWanted(r) && !p.finishes(s) {
		p.stop(s, j, "it has drained, and cluster %s starts another in its place: %s", s.Cluster, s.DrainReason)
		return
	}
	p.remind(s)
	a := waitFor(Draining, s.Launch, "finishes what it has begun: %s", s.DrainReason)
	a.Until = s.DrainBy
	p.do(a)
}
