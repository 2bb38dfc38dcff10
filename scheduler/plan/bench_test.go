package plan

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// bigModel is 100 deployments of n/100 replicas on 1,000 nodes of 10 GPUs.
func bigModel(n int) *model {
	m := newModel(1000, 10)
	for i := range 100 {
		name := fmt.Sprintf("d%03d", i)
		m.wanted.Deployments = append(m.wanted.Deployments, Deployment{
			Name: name, Revision: 1, Revisions: map[int]jobspecs.Deployment{},
			Spec: jobspecs.Deployment{Name: name, Cluster: jobspecs.LocalCluster, Roles: map[jobspecs.RoleKind]jobspecs.Role{
				jobspecs.Mixed: {Replicas: n / 100, Nodes: 1, GPUs: jobspecs.GPURequest{Count: 1}},
			}},
		})
	}
	return m
}

// started makes all replicas run and be ready, without the cost of doing it step by step.
func (m *model) started(b *testing.B) {
	for _, a := range m.plan() {
		l := *a.New
		m.seq++
		l.ID = cluster.LaunchID(fmt.Sprintf("%s-mixed-%d-k3v9x2mq", l.Deployment, l.Index))
		l.Job, l.Run, l.Epoch, l.Phase, l.AdmittedAt, l.ReadyAt = fmt.Sprint(m.seq), "r", uint64(m.seq), cluster.Submitted, m.now, m.now
		m.launches = append(m.launches, l)
		m.jobs = append(m.jobs, cluster.Job{ID: l.Job, Launch: l.ID, State: cluster.JobRunning, Started: m.now})
		m.agents[l.ID] = &modelAgent{run: "r", phase: 3, ready: true, connected: true, seen: m.now}
	}
	if acts := m.plan(); len(acts) != 0 {
		b.Fatalf("not at rest: %s", show(acts[0]))
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		situations := map[string]func(*model){
			"cold":   func(*model) {},
			"steady": func(m *model) { m.started(b) },
			"rollout": func(m *model) {
				m.started(b)
				for i := range m.wanted.Deployments {
					d := &m.wanted.Deployments[i]
					d.Revisions[1], d.Revision, d.Previous = d.Spec, 2, 1
					d.Spec.Engine.Version = "2"
				}
			},
			"half-lost": func(m *model) {
				m.started(b)
				for i := range m.jobs[:n/2] {
					m.jobs[i].State = cluster.JobEnded
				}
			},
		}
		for _, name := range []string{"cold", "steady", "rollout", "half-lost"} {
			b.Run(fmt.Sprintf("%s/replicas=%d", name, n), func(b *testing.B) {
				m := bigModel(n)
				situations[name](m)
				m.now = m.now.Add(time.Second)
				seen := m.seen()
				b.ReportAllocs()
				var actions []Action
				for b.Loop() {
					actions = Plan(m.wanted, seen, m.now)
				}
				b.ReportMetric(float64(len(actions)), "actions")
				runtime.KeepAlive(actions)
			})
		}
	}
}
