package reconcile

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
)

// still is a cluster in which nothing happens.
type still struct {
	jobs     []cluster.Job
	capacity cluster.Capacity
}

func (s *still) Kind() jobspecs.ClusterKind                                 { return jobspecs.LocalCluster }
func (s *still) Jobs(context.Context) ([]cluster.Job, error)                { return s.jobs, nil }
func (s *still) Stop(context.Context, string, time.Duration) error          { return nil }
func (s *still) Capacity(context.Context) (cluster.Capacity, error)         { return s.capacity, nil }
func (s *still) Submit(context.Context, cluster.Submission) (string, error) { return "", nil }

// big is a loop over n ready replicas on n/10 nodes of 10 GPUs, in 100 deployments.
func big(b *testing.B, n int) *Loop {
	b.Helper()
	mem, c, f := newMemLedger(), &still{}, fleet.New(fleet.Options{})
	c.capacity.Places = true
	now := time.Now()
	for i := range n / 10 {
		node := cluster.Node{Name: fmt.Sprintf("node%d", i), Up: true}
		for k := range 10 {
			node.GPUs = append(node.GPUs, cluster.GPU{ID: fmt.Sprintf("node%d-gpu%d", i, k)})
		}
		c.capacity.Nodes = append(c.capacity.Nodes, node)
	}
	for i := range 100 {
		mem.apply(spec(fmt.Sprintf("d%02d", i), n/100))
	}
	for i := range n {
		x := cluster.Launch{
			ID: cluster.LaunchID(fmt.Sprintf("d%02d-mixed-%d-k3v9x2mq", i%100, i/100)), Deployment: fmt.Sprintf("d%02d", i%100),
			Role: jobspecs.Mixed, Index: i / 100, Revision: 1, Cluster: jobspecs.LocalCluster, Nodes: 1, Phase: cluster.Submitted,
			Job: fmt.Sprint(i), Run: "r", Epoch: uint64(i + 1), CreatedAt: now, AdmittedAt: now, ReadyAt: now,
			Placement: []cluster.Placement{{Node: fmt.Sprintf("node%d", i/10), GPUs: []string{fmt.Sprintf("node%d-gpu%d", i/10, i%10)}}},
		}
		mem.launches[x.ID] = x
		c.jobs = append(c.jobs, cluster.Job{ID: x.Job, Launch: x.ID, State: cluster.JobRunning, Started: now})
		f.Admit(x.ID, x.Run, x.Epoch, 1)
		m := &apiv1.ReportRequest{Body: &apiv1.ReportRequest_Full{Full: &apiv1.RunState{Health: &apiv1.Health{Phase: apiv1.Phase_PHASE_STARTED, EngineStarts: 1}}}}
		if _, err := f.Apply(x.ID, x.Run, x.Epoch, 0, m, now); err != nil {
			b.Fatal(err)
		}
		f.SetReady(x.ID, x.Run, 1, now, nil)
	}
	l, err := New(Options{
		Ledger: mem, Fleet: f, Clusters: map[jobspecs.ClusterKind]cluster.Cluster{jobspecs.LocalCluster: c},
		JoinFile: func(cluster.Launch) (string, error) { return "", nil }, RemoveJoinFile: func(cluster.Launch) error { return nil },
		LogDir: func(cluster.Launch) string { return "" }, Commander: &installation{}, Prober: &installation{}, Log: zerolog.Nop(),
	})
	if err != nil {
		b.Fatal(err)
	}
	l.work = new(errgroup.Group)
	p := l.polls[jobspecs.LocalCluster]
	ask(b.Context(), p, "Jobs", &p.jobs, c.Jobs)
	ask(b.Context(), p, "Capacity", &p.capacity, c.Capacity)
	return l
}

// One operation is one whole cycle in a steady state, with a new answer of the cluster: see, plan, act.
func BenchmarkCycle(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("replicas=%d", n), func(b *testing.B) {
			l := big(b, n)
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				l.polls[jobspecs.LocalCluster].jobs.n++
				if _, err := l.cycle(b.Context(), now); err != nil {
					b.Fatal(err)
				}
			}
			if len(l.Last()) > 0 {
				b.Fatalf("not at rest: %v", l.Last()[0])
			}
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.HeapAlloc)/float64(n), "heapB/replica")
			runtime.KeepAlive(l)
		})
	}
}
