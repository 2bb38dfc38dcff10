package place

import (
	"fmt"
	"slices"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Shape is an allocation of equal nodes. CPUs and Memory are what the fullest node needs; 0 = nobody has asked.
type Shape struct {
	Nodes, GPUs, CPUs int
	Memory            uint64
}

// RequestOf is what one replica of a role of a deployment needs.
func RequestOf(d jobspecs.Deployment, kind jobspecs.RoleKind) Request {
	r := d.Roles[kind]
	return Request{
		Nodes: max(1, r.Nodes), GPUs: r.GPUs, CPUs: r.CPUs, Memory: uint64(r.Memory),
		Spread: d.Name + "/" + string(kind), Near: d.Name,
	}
}

// RequestsOf lists all replicas that a deployment's file asks for, in the order in which they are placed.
func RequestsOf(d jobspecs.Deployment) (requests []Request) {
	for _, kind := range jobspecs.RoleKinds {
		if r, ok := d.Roles[kind]; ok {
			requests = append(requests, slices.Repeat([]Request{RequestOf(d, kind)}, max(r.Replicas, r.Min))...)
		}
	}
	return requests
}

// Fit finds the smallest allocation of equal nodes with at most so many GPUs each in which Place has room for all requests,
// one after the other: the fewest nodes, then the fewest GPUs on each. nodes > 0 fixes their number.
func Fit(requests []Request, gpus, nodes int) (Shape, error) {
	least, most, total, largest := 1, 0, 0, 0
	kind := ""
	for _, r := range requests {
		if r.GPUs.Type != "" && kind != "" && r.GPUs.Type != kind {
			return Shape{}, fmt.Errorf("its roles ask for GPUs of the types %s and %s, and the nodes of one allocation are alike", kind, r.GPUs.Type)
		}
		if r.GPUs.Type != "" {
			kind = r.GPUs.Type
		}
		n := max(1, r.Nodes)
		least, most = max(least, n), most+n
		total += n * r.GPUs.Count
		largest = max(largest, r.GPUs.Count)
	}
	if largest > gpus {
		return Shape{}, fmt.Errorf("one replica asks for %d GPUs on a node, and nodes have %d", largest, gpus)
	}
	if total > 0 {
		least = max(least, (total+gpus-1)/gpus)
	}
	if nodes > 0 {
		least, most = nodes, nodes
	}
	for n := least; n <= most; n++ {
		for k := max(largest, (total+n-1)/n); k <= gpus; k++ {
			if s, ok := fits(requests, Shape{Nodes: n, GPUs: k}, kind); ok {
				return s, nil
			}
		}
	}
	return Shape{}, fmt.Errorf("%d nodes with at most %d GPUs each have no room for all replicas", max(nodes, most), gpus)
}

// fits places all requests on empty nodes, and works out what the fullest of them needs.
func fits(requests []Request, s Shape, kind string) (Shape, bool) {
	c := cluster.Capacity{Places: true}
	for i := range s.Nodes {
		n := cluster.Node{Name: fmt.Sprintf("%06d", i), Up: true}
		for g := range s.GPUs {
			n.GPUs = append(n.GPUs, cluster.GPU{ID: fmt.Sprintf("%s-%d", n.Name, g), Type: kind, Memory: 1<<64 - 1})
		}
		c.Nodes = append(c.Nodes, n)
	}
	space := New(c, nil)
	for _, r := range requests {
		if _, err := space.Place(r); err != nil {
			return Shape{}, false
		}
	}
	for _, n := range space.nodes {
		s.CPUs, s.Memory = max(s.CPUs, n.cpusUsed), max(s.Memory, n.memUsed)
	}
	return s, true
}
