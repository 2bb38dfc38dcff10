package plan

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
)

// model is an installation in which actions have their effects at once: what a ledger, a cluster that Penstock places
// on, and agents would do, without any of them.
type model struct {
	now      time.Time
	since    time.Time
	wanted   Wanted
	launches []cluster.Launch
	jobs     []cluster.Job
	agents   map[cluster.LaunchID]*modelAgent
	nodes    []cluster.Node
	missing  map[cluster.LaunchID]Missing
	silent   bool // the cluster does not answer
	bad      map[int]bool
	seq      int

	kind     jobspecs.ClusterKind // default local, which Penstock places on
	walltime time.Duration        // of each job; 0 = no limit
	delays   map[string]time.Time // when a pending job may start; a job without starts at once
}

// modelAgent is the agent of an admitted run.
type modelAgent struct {
	run       string
	phase     apiv1.Phase
	ready     bool
	connected bool
	seen      time.Time
}

func newModel(nodes, gpus int) *model {
	m := &model{now: t0, since: t0, agents: map[cluster.LaunchID]*modelAgent{}, missing: map[cluster.LaunchID]Missing{}, bad: map[int]bool{}, kind: jobspecs.LocalCluster, delays: map[string]time.Time{}}
	for i := range nodes {
		n := cluster.Node{Name: fmt.Sprintf("n%d", i), Up: true}
		for k := range gpus {
			n.GPUs = append(n.GPUs, cluster.GPU{ID: fmt.Sprintf("n%d-%d", i, k)})
		}
		m.nodes = append(m.nodes, n)
	}
	return m
}

func (m *model) seen() Seen {
	s := Seen{
		Launches: slices.Clone(m.launches), Since: m.since, Missing: maps.Clone(m.missing),
		Fleet: fleet.Snapshot{At: m.now, StaleAfter: 3 * time.Second, Replicas: map[cluster.LaunchID]fleet.Replica{}},
		Clusters: map[jobspecs.ClusterKind]Cluster{m.kind: {
			Jobs: slices.Clone(m.jobs), JobsKnown: !m.silent, CapacityKnown: !m.silent,
			Capacity: cluster.Capacity{Places: m.kind == jobspecs.LocalCluster, Nodes: slices.Clone(m.nodes)},
		}},
	}
	for id, a := range m.agents {
		s.Fleet.Replicas[id] = fleet.Replica{
			Launch: id, Run: a.run, Nodes: 1, Phase: a.phase, Ready: a.ready, SeenAt: a.seen, Since: a.seen,
			Ranks: map[int]fleet.Rank{0: {SeenAt: a.seen, Connected: a.connected, State: &apiv1.RunState{Health: &apiv1.Health{Phase: a.phase}}}},
		}
	}
	return s
}

func (m *model) plan() []Action { return Plan(m.wanted, m.seen(), m.now) }

func (m *model) launch(id cluster.LaunchID) *cluster.Launch {
	for i := range m.launches {
		if m.launches[i].ID == id {
			return &m.launches[i]
		}
	}
	return nil
}

// fate is what becomes of a submit.
type fate int

const (
	accepted fate = iota
	answerLost
	lost
	twice
	refused
)

// apply carries an action out; submits meet the fate given.
func (m *model) apply(a Action, f fate) {
	l := m.launch(a.Launch)
	switch a.Verb {
	case Start:
		m.submit(*a.New, f)
	case Found:
		l.Job = a.Job
		if l.Phase == cluster.Intended {
			l.Phase = cluster.Submitted
		}
	case Drain:
		if l.Phase != cluster.Draining {
			l.Phase, l.DrainBy, l.DrainReason, l.DrainAt, l.Left = cluster.Draining, a.By, a.Reason, m.now, a.Left
		}
		if g := m.agents[l.ID]; g != nil && g.connected && g.phase <= apiv1.Phase_PHASE_STARTED {
			g.phase = apiv1.Phase_PHASE_DRAINING
		}
	case Stop, Cancel:
		m.endJob(a.Job, "stopped")
	case End:
		l.Phase, l.EndedAt, l.EndReason, l.Failed, l.LastLines = cluster.Ended, m.now, a.Reason, a.Failed, a.LastLines
		l.Cause, l.Blamed = a.Ended, a.Blamed
		delete(m.agents, l.ID)
		delete(m.missing, l.ID)
	case Rollback:
		for i := range m.wanted.Deployments {
			if d := &m.wanted.Deployments[i]; d.Name == a.Deployment {
				old := d.Spec
				d.Spec = d.Revisions[a.Revision]
				d.Revisions[a.From] = old
				d.Revision, d.Previous = a.Revision, 0
			}
		}
	}
}

func (m *model) submit(l cluster.Launch, f fate) {
	m.seq++
	l.ID = cluster.LaunchID(fmt.Sprintf("l%d", m.seq))
	jobs := map[fate]int{accepted: 1, answerLost: 1, twice: 2}[f]
	for i := range jobs {
		m.jobs = append(m.jobs, cluster.Job{ID: fmt.Sprintf("%d%c", m.seq, 'a'+i), Launch: l.ID, State: cluster.JobPending})
	}
	switch f {
	case accepted, twice:
		l.Phase, l.Job = cluster.Submitted, fmt.Sprintf("%da", m.seq)
	case refused:
		l.Phase, l.EndedAt, l.EndReason, l.Failed = cluster.Ended, m.now, "refused", true
	}
	m.launches = append(m.launches, l)
}

func (m *model) endJob(id, why string) {
	for i := range m.jobs {
		if j := &m.jobs[i]; j.ID == id && j.State != cluster.JobEnded {
			j.State, j.Reason, j.Ended = cluster.JobEnded, why, m.now
			if g := m.agents[j.Launch]; g != nil && g.run == "run-"+id {
				g.connected = false
			}
		}
	}
}

// tick lets time pass: jobs start, agents join, load, get ready, drain and exit, one step each.
func (m *model) tick(d time.Duration) {
	m.now = m.now.Add(d)
	for i := range m.jobs {
		j := &m.jobs[i]
		l := m.launch(j.Launch)
		switch {
		case j.State == cluster.JobPending && m.now.Before(m.delays[j.ID]):
		case j.State == cluster.JobPending:
			j.State, j.Started = cluster.JobRunning, m.now
			if m.walltime > 0 {
				j.EndsAt = m.now.Add(m.walltime)
			}
			l.StartedAt, l.EndsAt = j.Started, j.EndsAt
		case j.State == cluster.JobRunning && !j.EndsAt.IsZero() && !m.now.Before(j.EndsAt):
			m.endJob(j.ID, "time limit reached")
			j.Cause = cluster.EndedWalltime
		case j.State == cluster.JobRunning && l.Phase != cluster.Ended:
			m.live(j, l)
		}
	}
	for i := range m.launches {
		l := &m.launches[i]
		if has := slices.ContainsFunc(m.jobs, func(j cluster.Job) bool { return j.Launch == l.ID }); has || l.Phase == cluster.Ended || m.silent {
			delete(m.missing, l.ID)
		} else if x, ok := m.missing[l.ID]; ok {
			m.missing[l.ID] = Missing{Answers: x.Answers + 1, Since: x.Since}
		} else {
			m.missing[l.ID] = Missing{Answers: 1, Since: m.now}
		}
	}
}

// live takes a running job's agent one step further.
func (m *model) live(j *cluster.Job, l *cluster.Launch) {
	run := "run-" + j.ID
	g := m.agents[l.ID]
	if l.Run == "" && l.Phase != cluster.Draining {
		l.Run, l.Epoch, l.AdmittedAt = run, 1, m.now
		l.Job = j.ID // as the agent says when it joins
	}
	switch {
	case l.Run == run:
	case m.now.Sub(j.Started) < time.Minute:
		return // it tries to join
	case l.Phase == cluster.Draining || g != nil && g.connected && m.now.Sub(g.seen) < time.Minute:
		m.endJob(j.ID, "exited with code 1: another run is admitted")
		return
	default: // it pushes the older run out
		l.Run, l.Epoch, l.AdmittedAt, g = run, l.Epoch+1, m.now, nil
	}
	if g == nil {
		m.agents[l.ID] = &modelAgent{run: run, phase: apiv1.Phase_PHASE_LOADING, connected: true, seen: m.now}
		return
	}
	g.seen, g.connected = m.now, true
	switch {
	case m.bad[l.Revision]:
		m.endJob(j.ID, "exited with code 1")
	case g.phase == apiv1.Phase_PHASE_LOADING:
		g.phase = apiv1.Phase_PHASE_STARTED
	case g.phase == apiv1.Phase_PHASE_STARTED:
		g.ready = true
		if l.ReadyAt.IsZero() {
			l.ReadyAt = m.now
		}
	case g.phase == apiv1.Phase_PHASE_DRAINING:
		m.endJob(j.ID, "exited with code 0")
	}
}
