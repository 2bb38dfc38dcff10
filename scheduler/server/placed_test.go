package server

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// pickyCluster can tell what will never run on it.
type pickyCluster struct {
	fakeCluster
	errs jobspecs.Errors
}

func (c pickyCluster) Check(context.Context, jobspecs.Deployment) jobspecs.Errors { return c.errs }

// TestNeverFits: what a cluster can never run is refused before it is stored, with the line that says it.
func TestNeverFits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) {
		o.Clusters = map[jobspecs.ClusterKind]cluster.Cluster{
			jobspecs.LocalCluster: pickyCluster{errs: jobspecs.Errors{{Path: "roles.mixed", What: "nobody has so many GPUs", Hint: "take less"}}},
		}
	})
	text := file("demo", 1)
	line := 1 + strings.Count(text[:strings.Index(text, "mixed:")], "\n")
	_, err1 := w.control.Apply(t.Context(), &apiv1.ApplyRequest{Yaml: text, Source: "demo.yaml"})
	_, err2 := w.control.Plan(t.Context(), &apiv1.PlanRequest{Yaml: text, Source: "demo.yaml"})
	for _, err := range []error{err1, err2} {
		if connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), "nobody has so many GPUs; take less") || !strings.Contains(err.Error(), "demo.yaml:"+strconv.Itoa(line)) {
			t.Errorf("got %v, want the problem at line %d", err, line)
		}
	}
	if _, ok := w.ledger.Deployment("demo"); ok {
		t.Error("it is stored")
	}
}

// TestPlacedByTheCluster: where the cluster places, a node shows what ran there last.
func TestPlacedByTheCluster(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) {
		o.Clusters = map[jobspecs.ClusterKind]cluster.Cluster{
			jobspecs.LocalCluster: fakeCluster{capacity: cluster.Capacity{Nodes: []cluster.Node{{Name: "node0", Up: true, GPUs: []cluster.GPU{{ID: "node0-gpu0", Type: "h100"}}}}}},
		}
	})
	w.apply(t, strings.Replace(file("demo", 1), "replicas: 1", "replicas: 1, gpus: 1", 1))
	l := w.launch(t, "l-1", "demo", 0, 1)
	w.update(t, l, func(l *cluster.Launch) { l.Placement, l.Ran = nil, []string{"node0"} })
	resp, err := w.control.Nodes(t.Context(), &apiv1.NodesRequest{})
	if err != nil || len(resp.Nodes) != 1 {
		t.Fatalf("got %v, %v", resp, err)
	}
	if n := resp.Nodes[0]; n.GpusUsed != 1 || !slices.Equal(n.Replicas, []string{"demo/mixed/0"}) {
		t.Errorf("got %v", n)
	}
}
