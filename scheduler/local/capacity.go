package local

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Capacity lists the logical nodes. Each of them has the whole machine's CPUs and memory, and its own GPUs: real ones
// first, in the order of Options.GPUs, then declared ones named after the node.
func (c *Cluster) Capacity(ctx context.Context) (cluster.Capacity, error) {
	return c.CapacityWith(ctx, jobspecs.Deployment{})
}

// CapacityWith is what Capacity will be once a deployment is applied, whose file may declare further nodes.
func (c *Cluster) CapacityWith(ctx context.Context, d jobspecs.Deployment) (cluster.Capacity, error) {
	nodes, err := c.nodes(ctx, d.Local.Nodes)
	if err != nil {
		return cluster.Capacity{}, fmt.Errorf("nodes of this machine: %w", err)
	}
	return cluster.Capacity{Places: true, Nodes: nodes, At: time.Now()}, nil
}

func (c *Cluster) nodes(ctx context.Context, more []jobspecs.LocalNode) ([]cluster.Node, error) {
	if err := expired(ctx); err != nil {
		return nil, err
	}
	var cards []cluster.GPU
	if c.o.GPUs != nil {
		var err error
		if cards, err = c.o.GPUs(ctx); err != nil {
			return nil, unknown(fmt.Errorf("list GPUs: %w", err))
		}
	}
	var declared []jobspecs.LocalNode
	if c.o.Nodes != nil {
		declared = c.o.Nodes()
	}
	declared = Union(declared, more)
	if len(declared) == 0 {
		declared = []jobspecs.LocalNode{{Name: c.o.Hostname, GPUs: len(cards)}}
	}
	memory, err := machineMemory()
	if err != nil {
		return nil, unknown(err)
	}
	nodes := make([]cluster.Node, len(declared))
	for i, d := range declared {
		nodes[i] = cluster.Node{Name: d.Name, Up: true, CPUs: runtime.NumCPU(), Memory: memory}
		for k := range d.GPUs {
			card := cluster.GPU{ID: fmt.Sprintf("%s-gpu%d", d.Name, k)}
			if len(cards) > 0 {
				card, cards = cards[0], cards[1:]
			}
			nodes[i].GPUs = append(nodes[i].GPUs, card)
		}
	}
	return nodes, nil
}

// Union joins two declarations of nodes; the first to name a node says how many GPUs it has.
func Union(a, b []jobspecs.LocalNode) []jobspecs.LocalNode {
	out := slices.Clone(a)
	for _, n := range b {
		if !slices.ContainsFunc(out, func(o jobspecs.LocalNode) bool { return o.Name == n.Name }) {
			out = append(out, n)
		}
	}
	return out
}

func machineMemory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("memory of this machine: %w", err)
	}
	return uint64(info.Totalram) * uint64(info.Unit), nil
}
