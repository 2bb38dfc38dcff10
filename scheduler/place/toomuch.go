package place

import (
	"fmt"

	"github.com/penstock/penstock/scheduler/cluster"
)

// Want is a number of equal replicas.
type Want struct {
	Name    string // of the role, for messages
	Request Request
	N       int
}

// TooMuch says why wants, all for the same nodes, are more than a cluster has, even with every node up and nothing on it.
// Empty: they may fit. It never calls too much what could be packed; a packing that fails by its shape it does not see.
func TooMuch(c cluster.Capacity, wants []Want) string {
	var need, have sums
	for _, w := range wants {
		s := New(c, nil)
		if w.Request.Among != nil {
			s = s.within(w.Request.Among)
		}
		nodes := max(1, w.Request.Nodes)
		if most := s.shares(w.Request) / nodes; w.N > most {
			return fmt.Sprintf("%s of %s are wanted, and no more than %d fit", count(w.N, "replica"), w.Name, most)
		}
		need.add(w.N*nodes, w.Request.GPUs.Count, w.Request.CPUs, w.Request.Memory)
		have = s.sums()
	}
	switch {
	case need.gpus > have.gpus:
		return fmt.Sprintf("all its replicas need %s together, and there are %d", count(need.gpus, "GPU"), have.gpus)
	case need.cpus > have.cpus && have.known:
		return fmt.Sprintf("all its replicas need %s together, and there are %d", count(need.cpus, "CPU"), have.cpus)
	case need.memory > have.memory && have.known:
		return fmt.Sprintf("all its replicas need %s of memory together, and there are %s", gib(need.memory), gib(have.memory))
	}
	return ""
}

// sums are what many nodes have, or many replicas need.
type sums struct {
	gpus, cpus int
	memory     uint64
	known      bool // no node's CPUs and memory are unknown
}

func (t *sums) add(n, gpus, cpus int, memory uint64) {
	t.gpus, t.cpus, t.memory = t.gpus+n*gpus, t.cpus+n*cpus, t.memory+uint64(n)*memory
}

func (s *Space) sums() sums {
	all := sums{known: true}
	for _, n := range s.nodes {
		all.add(1, len(n.gpus), n.cpus, n.memory)
		all.known = all.known && n.cpus > 0 && n.memory > 0
	}
	return all
}

// unbounded is how many shares a node holds that ask nothing of it.
const unbounded = 1 << 20

// shares is how many times the nodes could hold one node's share of a request, were they empty.
func (s *Space) shares(r Request) (n int) {
	classes := s.suitable(r.GPUs)
	for _, node := range s.nodes {
		fit := unbounded
		if r.GPUs.Count > 0 {
			fit = 0
			for _, c := range classes {
				fit += node.has[c] / r.GPUs.Count
			}
		}
		if r.CPUs > 0 && node.cpus > 0 {
			fit = min(fit, node.cpus/r.CPUs)
		}
		if r.Memory > 0 && node.memory > 0 {
			fit = min(fit, int(min(node.memory/r.Memory, unbounded)))
		}
		n += fit
	}
	return n
}
