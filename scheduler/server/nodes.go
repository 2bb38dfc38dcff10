package server

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/plan"
)

// Nodes joins what clusters have with what agents see of the GPUs.
func (c controlAPI) Nodes(ctx context.Context, _ *apiv1.NodesRequest) (*apiv1.NodesResponse, error) {
	resp := &apiv1.NodesResponse{}
	now := time.Now()
	excluded := map[string]plan.Excluded{}
	for _, x := range c.s.o.Loop.Excluded() {
		excluded[string(x.Cluster)+"/"+x.Node] = x
	}
	snapshot, launches := c.s.o.Fleet.Snapshot(now), c.s.o.Ledger.Launches()
	for _, kind := range sortedKinds(c.s.o.Clusters) {
		capacity, err := c.s.capacity(ctx, c.s.o.Clusters[kind])
		if err != nil {
			resp.Warnings = append(resp.Warnings, fmt.Sprintf("cluster %s: %v", kind, err))
			continue
		}
		for _, n := range capacity.Nodes {
			st := nodeStatus(kind, n, launches, snapshot, c.s.gpusPerNode)
			if x, ok := excluded[string(kind)+"/"+n.Name]; ok {
				st.ExcludedUntil, st.ExcludedReason = timestamppb.New(x.Until), x.Reason
			}
			resp.Nodes = append(resp.Nodes, st)
		}
	}
	return resp, nil
}

func sortedKinds(m map[jobspecs.ClusterKind]cluster.Cluster) (out []jobspecs.ClusterKind) {
	for k := range m {
		out = append(out, k)
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out
}

const capacityDeadline = 10 * time.Second

func (s *Server) capacity(ctx context.Context, c cluster.Cluster) (cluster.Capacity, error) {
	ctx, cancel := context.WithTimeout(ctx, capacityDeadline)
	defer cancel()
	return c.Capacity(ctx)
}

// gpusPerNode is how many cards a launch has on each of its nodes, by its file.
func (s *Server) gpusPerNode(l cluster.Launch) int {
	d, err := s.o.Ledger.Revision(l.Deployment, l.Revision)
	if err != nil {
		return 0
	}
	return d.Roles[l.Role].GPUs.Count
}

func nodeStatus(kind jobspecs.ClusterKind, n cluster.Node, launches []cluster.Launch, snapshot fleet.Snapshot, perNode func(cluster.Launch) int) *apiv1.NodeStatus {
	st := &apiv1.NodeStatus{
		Name: n.Name, Cluster: string(kind), State: "down", GpusDeclared: uint32(len(n.GPUs)), Cpus: uint32(n.CPUs), Memory: n.Memory,
	}
	switch {
	case n.Leaving:
		st.State = "leaving"
	case n.Up:
		st.State = "up"
	}
	seen := map[string]bool{}
	for _, l := range launches {
		if l.Cluster != kind || l.Phase == cluster.Ended {
			continue
		}
		for rank, p := range l.Placement {
			if p.Node != n.Name {
				continue
			}
			st.GpusUsed += uint32(len(p.GPUs))
			st.Launches = append(st.Launches, string(l.ID))
			st.Replicas = append(st.Replicas, fmt.Sprintf("%s/%s/%d", l.Deployment, l.Role, l.Index))
			addGPUs(st, snapshot.Replicas[l.ID].Ranks[rank], p.GPUs, seen)
		}
		if len(l.Placement) == 0 && slices.Contains(l.Ran, n.Name) { // the cluster has placed it, and does not say on which cards
			st.GpusUsed += uint32(perNode(l))
			st.Launches = append(st.Launches, string(l.ID))
			st.Replicas = append(st.Replicas, fmt.Sprintf("%s/%s/%d", l.Deployment, l.Role, l.Index))
		}
	}
	for _, g := range n.GPUs {
		if !seen[g.ID] {
			st.Gpus = append(st.Gpus, &apiv1.GPU{Uuid: g.ID, Name: g.Type, MemoryTotal: known(g.Memory)})
		}
	}
	if st.GpuSource == "" && len(n.GPUs) > 0 {
		st.GpuSource = "declared"
		if n.GPUs[0].Type != "" {
			st.GpuSource = "node"
		}
	}
	sort.Slice(st.Gpus, func(i, j int) bool { return st.Gpus[i].Uuid < st.Gpus[j].Uuid })
	return st
}

// addGPUs takes an agent's figures for the cards that its replica holds.
func addGPUs(st *apiv1.NodeStatus, rank fleet.Rank, ids []string, seen map[string]bool) {
	if rank.State == nil {
		return
	}
	if t := rank.SeenAt; !t.IsZero() && (st.SeenAt == nil || t.After(st.SeenAt.AsTime())) {
		st.SeenAt = timestamppb.New(t)
	}
	held := map[string]bool{}
	for _, id := range ids {
		held[id] = true
	}
	for _, g := range rank.State.GetGpus().GetGpus() {
		if held[g.Uuid] && !seen[g.Uuid] {
			seen[g.Uuid] = true
			st.Gpus = append(st.Gpus, g)
			st.GpuSource = rank.State.GetGpus().GetSource()
		}
	}
}

func known(n uint64) *uint64 {
	if n == 0 {
		return nil
	}
	return &n
}
