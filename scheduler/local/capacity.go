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
	return c.capacity(ctx, c.declared())
}

// CapacityWith is what Capacity will be once a deployment is applied, whose file may declare other nodes.
func (c *Cluster) CapacityWith(ctx context.Context, d jobspecs.Deployment) (cluster.Capacity, error) {
	return c.capacity(ctx, append(c.others(d.Name), Declaration{By: d.Name, Nodes: d.Local.Nodes}))
}

// Check refuses a node that somebody else declares with another number of cards: only one of the two can be had.
func (c *Cluster) Check(_ context.Context, d jobspecs.Deployment) (errs jobspecs.Errors) {
	for i, n := range d.Local.Nodes {
		for _, other := range c.others(d.Name) {
			k := slices.IndexFunc(other.Nodes, func(o jobspecs.LocalNode) bool { return o.Name == n.Name })
			if k < 0 || other.Nodes[k].GPUs == n.GPUs {
				continue
			}
			by, do := "deployment "+other.By, ", or stop that one first"
			if other.By == "" {
				by, do = "the configuration (local.nodes)", ""
			}
			errs = append(errs, jobspecs.Problem{
				Path: fmt.Sprintf("local.nodes[%d].gpus", i),
				What: fmt.Sprintf("%s says that node %s has %d GPUs, not %d", by, n.Name, other.Nodes[k].GPUs, n.GPUs),
				Hint: "give the node another name, or the same number" + do,
			})
			break
		}
	}
	return errs
}

func (c *Cluster) declared() []Declaration {
	if c.o.Nodes == nil {
		return nil
	}
	return c.o.Nodes()
}

// others are the declarations but for one deployment's.
func (c *Cluster) others(deployment string) []Declaration {
	return slices.DeleteFunc(slices.Clone(c.declared()), func(d Declaration) bool { return d.By == deployment })
}

func (c *Cluster) capacity(ctx context.Context, declared []Declaration) (cluster.Capacity, error) {
	nodes, err := c.nodes(ctx, declared)
	if err != nil {
		return cluster.Capacity{}, fmt.Errorf("nodes of this machine: %w", err)
	}
	return cluster.Capacity{Places: true, Nodes: nodes, At: time.Now()}, nil
}

func (c *Cluster) nodes(ctx context.Context, declared []Declaration) ([]cluster.Node, error) {
	if err := expired(ctx); err != nil {
		return nil, err
	}
	l := layout{host: c.o.Hostname, declared: declared}
	if c.o.GPUs != nil {
		var err error
		if l.cards, err = c.o.GPUs(ctx); err != nil {
			return nil, unknown(fmt.Errorf("list GPUs: %w", err))
		}
	}
	if c.o.Held != nil {
		l.held = c.o.Held()
	}
	memory, err := machineMemory()
	if err != nil {
		return nil, unknown(err)
	}
	nodes := l.nodes()
	for i := range nodes {
		nodes[i].Up, nodes[i].CPUs, nodes[i].Memory = true, runtime.NumCPU(), memory
	}
	return nodes, nil
}

func machineMemory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("memory of this machine: %w", err)
	}
	return uint64(info.Totalram) * uint64(info.Unit), nil
}
