package local

import (
	"fmt"
	"slices"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Declaration is what somebody says about the nodes of this machine.
type Declaration struct {
	By    string // a deployment; empty = the configuration
	Nodes []jobspecs.LocalNode
}

// layout is what the nodes of this machine are made from.
type layout struct {
	host     string
	declared []Declaration
	cards    []cluster.GPU       // of the machine, in order
	held     []cluster.Placement // by launches that have not ended
}

// nodes lays the cards out. Those that are held stay where they are; then each declared node gets what it lacks, real
// cards first, and the machine itself, where it is a node, the rest. A node that nobody declares any more has what is held
// on it, and is leaving.
func (l layout) nodes() []cluster.Node {
	declared := l.union()
	free := slices.DeleteFunc(slices.Clone(l.cards), func(g cluster.GPU) bool {
		return slices.ContainsFunc(l.held, func(p cluster.Placement) bool { return slices.Contains(p.GPUs, g.ID) })
	})
	var nodes []cluster.Node
	for _, d := range declared {
		slots := make([]cluster.GPU, d.GPUs)
		more := l.keep(d.Name, slots)
		for k := range slots {
			switch {
			case slots[k].ID != "":
			case len(free) > 0:
				slots[k], free = free[0], free[1:]
			default:
				slots[k].ID = declaredCard(d.Name, k)
			}
		}
		nodes = append(nodes, cluster.Node{Name: d.Name, GPUs: append(slots, more...)})
	}
	if l.hostCounts() && !hasNode(nodes, l.host) {
		kept := l.keep(l.host, nil)
		nodes = append(nodes, cluster.Node{Name: l.host, GPUs: l.inOrder(append(kept, free...))})
	}
	for _, p := range l.held {
		if !hasNode(nodes, p.Node) {
			nodes = append(nodes, cluster.Node{Name: p.Node, GPUs: l.keep(p.Node, nil), Leaving: true})
		}
	}
	return nodes
}

// union joins the declarations; the first to name a node says how many cards it has.
func (l layout) union() (nodes []jobspecs.LocalNode) {
	for _, d := range l.declared {
		for _, n := range d.Nodes {
			if !slices.ContainsFunc(nodes, func(o jobspecs.LocalNode) bool { return o.Name == n.Name }) {
				nodes = append(nodes, n)
			}
		}
	}
	return nodes
}

// hostCounts tells whether the machine itself is a node: where the configuration declares none, and somebody is there who
// declares none either, or nobody at all.
func (l layout) hostCounts() bool {
	deployments := 0
	for _, d := range l.declared {
		switch {
		case d.By == "" && len(d.Nodes) > 0:
			return false
		case d.By != "" && len(d.Nodes) == 0:
			return true
		case d.By != "":
			deployments++
		}
	}
	return deployments == 0
}

// keep puts the cards that are held on a node into its slots, declared ones into their own, and returns those for which
// there is none.
func (l layout) keep(node string, slots []cluster.GPU) (more []cluster.GPU) {
	var held []cluster.GPU
	for _, p := range l.held {
		if p.Node != node {
			continue
		}
		for _, id := range p.GPUs {
			held = append(held, l.card(id))
		}
	}
	for k := range slots {
		if i := slices.IndexFunc(held, func(g cluster.GPU) bool { return g.ID == declaredCard(node, k) }); i >= 0 {
			slots[k] = held[i]
			held = slices.Delete(held, i, i+1)
		}
	}
	for _, g := range held {
		if k := slices.IndexFunc(slots, func(s cluster.GPU) bool { return s.ID == "" }); k >= 0 {
			slots[k] = g
		} else {
			more = append(more, g)
		}
	}
	return more
}

// card is the machine's card of that ID, or a declared one.
func (l layout) card(id string) cluster.GPU {
	if i := slices.IndexFunc(l.cards, func(g cluster.GPU) bool { return g.ID == id }); i >= 0 {
		return l.cards[i]
	}
	return cluster.GPU{ID: id}
}

// inOrder sorts cards as the machine lists them, declared ones last.
func (l layout) inOrder(cards []cluster.GPU) []cluster.GPU {
	place := func(g cluster.GPU) int {
		if i := slices.IndexFunc(l.cards, func(c cluster.GPU) bool { return c.ID == g.ID }); i >= 0 {
			return i
		}
		return len(l.cards)
	}
	slices.SortStableFunc(cards, func(a, b cluster.GPU) int { return place(a) - place(b) })
	return cards
}

func hasNode(nodes []cluster.Node, name string) bool {
	return slices.ContainsFunc(nodes, func(n cluster.Node) bool { return n.Name == name })
}

func declaredCard(node string, k int) string { return fmt.Sprintf("%s-gpu%d", node, k) }
