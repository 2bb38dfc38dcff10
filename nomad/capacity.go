package nomad

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/scheduler/cluster"
)

// Capacity lists the clients with what their device plugins show. Nomad places.
func (c *Cluster) Capacity(ctx context.Context) (cluster.Capacity, error) {
	if err := ctx.Err(); err != nil {
		return cluster.Capacity{}, fmt.Errorf("list Nomad's clients: %w", unknown(err))
	}
	nodes, err := read(ctx, c, "list nodes", "", func(q *api.QueryOptions) ([]*api.NodeListStub, *api.QueryMeta, error) {
		q.Params = map[string]string{"resources": "true"}
		return c.api.Nodes().List(q)
	})
	if err != nil {
		return cluster.Capacity{}, fmt.Errorf("list Nomad's clients: %w", unknown(err))
	}
	out := cluster.Capacity{At: c.now()}
	names := map[string]int{}
	modern := len(nodes) > 0
	for _, n := range nodes {
		names[n.Name]++
		modern = modern && since(n.Version, 1, 8)
	}
	for _, n := range nodes {
		node := nodeOf(n)
		if names[n.Name] > 1 {
			node.Name = fmt.Sprintf("%s (%.8s)", n.Name, n.ID)
		}
		out.Nodes = append(out.Nodes, node)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.modern = modern
	return out, nil
}

func nodeOf(n *api.NodeListStub) cluster.Node {
	node := cluster.Node{Name: n.Name, Up: n.Status == api.NodeStatusReady}
	r := n.NodeResources
	if r == nil {
		return node
	}
	node.CPUs = int(r.Cpu.TotalCpuCores)
	node.Memory = uint64(max(0, r.Memory.MemoryMB)) << 20
	for _, d := range r.Devices {
		if d.Type != "gpu" {
			continue
		}
		for _, i := range d.Instances {
			if i.Healthy {
				node.GPUs = append(node.GPUs, cluster.GPU{ID: i.ID, Type: d.Name, Memory: attributeBytes(d.Attributes["memory"])})
			}
		}
	}
	return node
}

// attributeBytes reads a size off a device's attribute; 0 = it has none.
func attributeBytes(a *api.Attribute) uint64 {
	if a == nil {
		return 0
	}
	n := 0.0
	switch {
	case a.IntVal != nil:
		n = float64(*a.IntVal)
	case a.FloatVal != nil:
		n = *a.FloatVal
	case a.StringVal != nil:
		number, unit, _ := strings.Cut(*a.StringVal, " ")
		v, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return 0
		}
		n, a = v, &api.Attribute{Unit: unit}
	}
	scale, ok := map[string]float64{"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 1e3, "MB": 1e6, "GB": 1e9}[a.Unit]
	if !ok || n < 0 {
		return 0
	}
	return uint64(n * scale)
}

// since reports whether a version such as 1.6.3 or 1.10.0-beta.1 is of that release or later.
func since(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, err := strconv.Atoi(parts[0])
	b, err2 := strconv.Atoi(parts[1])
	return err == nil && err2 == nil && (a > major || a == major && b >= minor)
}
