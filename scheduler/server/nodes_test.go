package server

import (
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/plan"
)

// TestNodes: what clusters have, what launches hold, and what agents see of it, on one line a node. A cluster that does not
// answer is named and hides no other.
func TestNodes(t *testing.T) {
	t.Parallel()
	real := []cluster.GPU{{ID: "l-1-gpu0", Type: "H100", Memory: 80 << 30}, {ID: "free", Type: "H100", Memory: 80 << 30}}
	w := newWorld(t, func(o *Options) {
		o.Clusters = map[jobspecs.ClusterKind]cluster.Cluster{
			jobspecs.LocalCluster: fakeCluster{capacity: cluster.Capacity{Places: true, Nodes: []cluster.Node{
				{Name: "node0", Up: true, GPUs: real, CPUs: 8, Memory: 64 << 30},
				{Name: "node1", GPUs: []cluster.GPU{{ID: "node1-gpu0"}}},
				{Name: "bare", Up: true},
			}}},
			jobspecs.SlurmCluster: fakeCluster{err: cluster.ErrUnknown},
		}
	})
	w.apply(t, file("demo", 2))
	a := w.join(t, w.launch(t, "l-1", "demo", 0, 1), "run-a", 0, 1).open()
	used, total := uint64(40<<30), uint64(80<<30)
	s := health(apiv1.Phase_PHASE_STARTED)
	s.Identity = a.identity()
	s.Gpus = &apiv1.GPUs{Source: "nvml", Gpus: []*apiv1.GPU{{Uuid: "l-1-gpu0", MemoryUsed: &used, MemoryTotal: &total}, {Uuid: "of another"}}}
	a.send(&apiv1.ReportRequest{Body: &apiv1.ReportRequest_Full{Full: s}})
	a.acked()
	ended := w.launch(t, "l-2", "demo", 1, 1)
	w.update(t, ended, func(l *cluster.Launch) { l.Phase = cluster.Ended })

	w.loop.excluded = []plan.Excluded{
		{Cluster: jobspecs.LocalCluster, Node: "bare", Until: now, Reason: "it kills"},
		{Cluster: jobspecs.SlurmCluster, Node: "node0", Until: now},
	}
	resp, err := w.control.Nodes(t.Context(), &apiv1.NodesRequest{})
	if err != nil || len(resp.Nodes) != 3 || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "cluster slurm") {
		t.Fatalf("got %v, %v", resp, err)
	}
	n := resp.Nodes[0]
	if n.State != "up" || n.GpusUsed != 1 || n.GpusDeclared != 2 || n.Cpus != 8 || n.GpuSource != "nvml" || n.SeenAt == nil {
		t.Errorf("node0: %v", n)
	}
	if !slices.Equal(n.Replicas, []string{"demo/mixed/0"}) || !slices.Equal(n.Launches, []string{"l-1"}) {
		t.Errorf("node0 runs %v", n)
	}
	if len(n.Gpus) != 2 || n.Gpus[0].Uuid != "free" || n.Gpus[0].MemoryUsed != nil || *n.Gpus[0].MemoryTotal != total || *n.Gpus[1].MemoryUsed != used {
		t.Errorf("node0's cards: %v", n.Gpus)
	}
	if n.ExcludedUntil != nil || !resp.Nodes[2].ExcludedUntil.AsTime().Equal(now) || resp.Nodes[2].ExcludedReason != "it kills" {
		t.Errorf("excluded: %v and %v", n, resp.Nodes[2])
	}
	if n = resp.Nodes[1]; n.State != "down" || n.GpusUsed != 0 || n.GpuSource != "declared" || n.Gpus[0].MemoryTotal != nil {
		t.Errorf("node1: %v", n)
	}
	if n = resp.Nodes[2]; n.State != "up" || n.GpuSource != "" || len(n.Gpus) != 0 {
		t.Errorf("bare: %v", n)
	}
}
