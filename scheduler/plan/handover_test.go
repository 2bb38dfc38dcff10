package plan

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// limited is a model of a cluster with a queue whose jobs have a time limit, and one deployment of n replicas on it.
func limited(n int, walltime time.Duration) *model {
	m := newModel(4, 8)
	m.kind, m.walltime = jobspecs.SlurmCluster, walltime
	m.wanted.Deployments = []Deployment{{
		Name: "d", Revision: 1, Revisions: map[int]jobspecs.Deployment{}, Scale: map[jobspecs.RoleKind]int{},
		Spec: jobspecs.Deployment{Name: "d", Cluster: jobspecs.SlurmCluster, Roles: map[jobspecs.RoleKind]jobspecs.Role{
			jobspecs.Mixed: {Replicas: n, Nodes: 1, GPUs: jobspecs.GPURequest{Count: 1}, Rollout: jobspecs.Rollout{Surge: new(1), Unavailable: new(0)}},
		}},
	}}
	return m
}

// ready counts replicas that serve and are not leaving.
func (m *model) ready() (n int) {
	for _, l := range m.launches {
		if g := m.agents[l.ID]; l.Phase == cluster.Submitted && g != nil && g.ready && g.connected {
			n++
		}
	}
	return n
}

// submitted applies a plan; delay is how long each job has to wait in the queue.
func (m *model) submitted(actions []Action, delay func(Action) time.Duration) {
	for _, a := range actions {
		m.apply(a, accepted)
		if a.Verb == Start {
			l := m.launches[len(m.launches)-1]
			m.delays[l.Job] = m.now.Add(delay(a))
		}
	}
}

// Over chains of walltimes, as long as no job waits for longer than was expected of it, at least as many replicas as wanted
// serve at any time, and each is handed over about once in a job's life.
func TestChainsKeepWhatIsWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "wanted")
		walltime := time.Duration(rapid.IntRange(2, 4).Draw(t, "walltime in half hours")) * 30 * time.Minute
		m := limited(n, walltime)
		longest := walltime / 4
		first := func(Action) time.Duration {
			return time.Duration(rapid.IntRange(0, int(longest/time.Second)).Draw(t, "first wait")) * time.Second
		}
		const step = 30 * time.Second
		for m.ready() < n {
			m.submitted(m.plan(), first)
			m.tick(step)
		}
		began := m.now
		for m.now.Sub(began) < 3*walltime {
			result := Look(m.wanted, m.seen(), m.now)
			m.check(t, result.Actions)
			m.submitted(result.Actions, func(a Action) time.Duration {
				i := slices.IndexFunc(result.Handovers, func(h Handover) bool { return h.Launch == a.New.Replaces })
				if i < 0 {
					t.Fatalf("not a handover: %s", show(a))
				}
				most := min(result.Handovers[i].Queue.Value, longest)
				return time.Duration(rapid.Int64Range(0, int64(most/time.Second)).Draw(t, "wait")) * time.Second
			})
			m.tick(step)
			if m.ready() < n {
				t.Fatalf("%d of %d serve at %s", m.ready(), n, m.now.Sub(began))
			}
		}
		if most := n * 8; len(m.launches) > most {
			t.Fatalf("%d launches in three walltimes for %d replicas", len(m.launches), n)
		}
	})
}

// Whatever the queue does, and whatever becomes of submits and jobs: a launch has one successor at the most, a pair counts
// as one replica, a plan that was carried out asks for nothing more, and a controller that restarts starts nothing.
func TestHandoversKeepTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := limited(rapid.IntRange(1, 3).Draw(t, "wanted"), 30*time.Minute)
		delay := func(Action) time.Duration {
			return time.Duration(rapid.IntRange(0, 60).Draw(t, "wait in minutes")) * time.Minute
		}
		act := func() {
			actions := m.plan()
			m.check(t, actions)
			m.submitted(actions, delay)
			if slices.ContainsFunc(actions, func(a Action) bool { return a.Verb == End || a.Verb == Drain }) {
				return // what has ended, or leaves, is replaced by the next plan
			}
			for _, a := range m.plan() {
				if a.Verb == Start {
					t.Fatalf("again: %s", show(a))
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { m.check(t, m.plan()) },
			"act and tick": func(t *rapid.T) {
				for range rapid.IntRange(1, 30).Draw(t, "steps") {
					act()
					m.tick(30 * time.Second)
				}
			},
			"act badly": func(t *rapid.T) {
				for _, a := range m.plan() {
					m.apply(a, rapid.SampledFrom([]fate{accepted, answerLost, lost, twice, refused}).Draw(t, "fate"))
				}
				m.tick(30 * time.Second)
			},
			"tick": func(t *rapid.T) { m.tick(time.Duration(rapid.IntRange(1, 40).Draw(t, "minutes")) * time.Minute) },
			"scale": func(t *rapid.T) {
				m.wanted.Deployments[0].Scale[jobspecs.Mixed] = rapid.IntRange(0, 4).Draw(t, "to")
			},
			"job ends": func(t *rapid.T) {
				if len(m.jobs) > 0 {
					m.endJob(m.jobs[rapid.IntRange(0, len(m.jobs)-1).Draw(t, "job")].ID, "killed by signal 9")
				}
			},
			"a limit comes or goes": func(*rapid.T) {
				for i := range m.jobs {
					if j := &m.jobs[i]; j.State == cluster.JobPending && j.Limit == "" {
						j.Limit = "QOSMaxJobsPerUserLimit"
					} else {
						j.Limit = ""
					}
				}
			},
			"controller restarts": func(*rapid.T) {
				m.since = m.now
				clear(m.agents)
				clear(m.missing)
				live := map[cluster.LaunchID]bool{}
				for _, l := range m.launches {
					live[l.Replaces] = live[l.Replaces] || l.Phase != cluster.Ended
				}
				for _, a := range m.plan() {
					if a.Verb == Start && a.New.Replaces != "" && live[a.New.Replaces] {
						t.Fatalf("a second successor after a restart: %s", show(a))
					}
				}
			},
		})
	})
}

// With time standing still, carrying out what is planned leads to a plan that asks for nothing: not for one more start.
func TestHandoverIsAFixpoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := limited(2, time.Hour)
		for range rapid.IntRange(0, 300).Draw(t, "steps") {
			m.submitted(m.plan(), func(Action) time.Duration { return 3 * time.Minute })
			m.tick(30 * time.Second)
		}
		m.submitted(m.plan(), func(Action) time.Duration { return 3 * time.Minute })
		was := m.plan()
		for _, a := range was {
			if a.Verb != Wait && a.Verb != Drain { // an order to drain is repeated until it is obeyed
				t.Fatalf("left to do: %s", show(a))
			}
		}
		if d := cmp.Diff(was, m.plan()); d != "" {
			t.Fatalf("the same state gives another plan: %s", d)
		}
	})
}

// An estimate is what nine of ten of the latest took.
func TestQuantile(t *testing.T) {
	t.Parallel()
	at := func(n int, took ...time.Duration) (list []sample) {
		for i, d := range took {
			list = append(list, sample{t0.Add(time.Duration(n+i) * time.Second), d})
		}
		return list
	}
	ramp := make([]time.Duration, 40)
	for i := range ramp {
		ramp[i] = time.Duration(i + 1)
	}
	for name, test := range map[string]struct {
		samples []sample
		want    Estimate
		known   bool
	}{
		"none":                    {nil, Estimate{}, false},
		"one":                     {at(0, 7), Estimate{7, 1}, true},
		"few: the longest":        {at(0, 3, 9, 1), Estimate{9, 3}, true},
		"nine of ten":             {at(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 100), Estimate{9, 10}, true},
		"only the last count":     {at(0, ramp...), Estimate{38, keptSamples}, true},
		"by time, not by listing": {append(at(100, 1, 1), at(0, 50)...), Estimate{50, 3}, true},
	} {
		if got, known := quantile(test.samples); got != test.want || known != test.known {
			t.Errorf("%s: %v (%v), want %v", name, got, known, test.want)
		}
	}
}

// Where all that a cluster has ends with a replica's job, no successor is started there, and nothing is said of one.
func TestNoSuccessorInAnAllocationThatEnds(t *testing.T) {
	t.Parallel()
	m := limited(2, time.Hour)
	ends := m.now.Add(time.Hour)
	seen := func() Seen {
		s := m.seen()
		c := s.Clusters[m.kind]
		c.Capacity.EndsAt = ends
		for i := range c.Jobs {
			c.Jobs[i].EndsAt = ends
		}
		s.Clusters[m.kind] = c
		return s
	}
	for m.now.Before(ends.Add(-2 * time.Minute)) {
		r := Look(m.wanted, seen(), m.now)
		for _, a := range r.Actions {
			if a.Verb == Start && a.New.Replaces != "" {
				t.Fatalf("%s before the end: %s", ends.Sub(m.now), show(a))
			}
		}
		for _, h := range r.Handovers {
			if !h.StartAt.IsZero() || h.Gap != 0 || h.Why == "" {
				t.Fatalf("%+v", h)
			}
		}
		m.submitted(r.Actions, func(Action) time.Duration { return 0 })
		m.tick(30 * time.Second)
	}
	if m.ready() != 2 {
		t.Errorf("%d replicas serve", m.ready())
	}
}
