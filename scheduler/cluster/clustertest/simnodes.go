package clustertest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Nodes makes n nodes, node0 and so on, with g declared GPUs each, node0-gpu0 and so on.
func Nodes(n, g int) []cluster.Node {
	nodes := make([]cluster.Node, n)
	for i := range nodes {
		nodes[i] = cluster.Node{Name: fmt.Sprintf("node%d", i), Up: true, CPUs: 64, Memory: 512 << 30}
		for k := range g {
			nodes[i].GPUs = append(nodes[i].GPUs, cluster.GPU{ID: fmt.Sprintf("node%d-gpu%d", i, k), Type: "Sim 80GB", Memory: 80 << 30})
		}
	}
	return nodes
}

// simNode is a node and who holds its GPUs.
type simNode struct {
	cluster.Node
	held map[string]int // GPU.ID -> live jobs that hold it; more than one only by a fault
	free int            // GPUs that nobody holds
}

func newSimNode(n cluster.Node) *simNode {
	n.GPUs = slices.Clone(n.GPUs)
	return &simNode{Node: n, held: map[string]int{}, free: len(n.GPUs)}
}

// claim adds to or takes from the holders of a GPU.
func (n *simNode) claim(gpu string, by int) {
	before := n.held[gpu]
	n.held[gpu] = before + by
	switch {
	case before == 0:
		n.free--
	case before+by == 0:
		n.free++
	}
}

func (n *simNode) has(gpu string) bool {
	return slices.ContainsFunc(n.GPUs, func(g cluster.GPU) bool { return g.ID == gpu })
}

// matching lists the GPUs that a request could get, free ones only when so asked.
func (n *simNode) matching(r jobspecs.GPURequest, free bool) (ids []string) {
	for _, g := range n.GPUs {
		if r.Type != "" && !strings.Contains(strings.ToLower(g.Type), strings.ToLower(r.Type)) {
			continue
		}
		if g.Memory < uint64(r.Memory) || free && n.held[g.ID] > 0 {
			continue
		}
		ids = append(ids, g.ID)
	}
	return ids
}

// need is what a job must get before it starts.
type need struct {
	nodes  int
	gpus   jobspecs.GPURequest
	placed []cluster.Placement // chosen by the caller; nil = the simulated cluster chooses
	not    []string            // nodes that it must not run on
}

func (n need) String() string {
	if n.gpus.Count == 0 {
		return fmt.Sprintf("%d node(s)", n.nodes)
	}
	return fmt.Sprintf("%d node(s) with %d free GPU(s) each", n.nodes, n.gpus.Count)
}

// need works out what a submission asks for. An error means that it can never run, or (Places) not now. Lock held.
func (s *Sim) need(sub cluster.Submission) (need, error) {
	n := need{nodes: max(1, sub.Launch.Nodes), gpus: sub.Deployment.Roles[sub.Launch.Role].GPUs, not: sub.Launch.Exclude}
	if s.opts.Places {
		n.placed = sub.Launch.Placement
		return n, s.checkPlacement(n)
	}
	able := 0
	for _, node := range s.nodes {
		if able == n.nodes {
			return n, nil
		}
		if len(node.matching(n.gpus, false)) >= n.gpus.Count {
			able++
		}
	}
	if able < n.nodes {
		return n, fmt.Errorf("needs %d node(s) with %d matching GPU(s), the cluster has %d: %w",
			n.nodes, n.gpus.Count, able, cluster.ErrRefused)
	}
	return n, nil
}

func (s *Sim) checkPlacement(n need) error {
	if len(n.placed) != n.nodes {
		return fmt.Errorf("placement names %d node(s), the launch has %d: %w", len(n.placed), n.nodes, cluster.ErrRefused)
	}
	for _, p := range n.placed {
		node := s.nodeBy[p.Node]
		if node == nil || !node.Up {
			return fmt.Errorf("node %s is unknown or down: %w", p.Node, cluster.ErrRefused)
		}
		for _, gpu := range p.GPUs {
			if !node.has(gpu) {
				return fmt.Errorf("node %s has no GPU %s: %w", p.Node, gpu, cluster.ErrRefused)
			}
			if node.held[gpu] > 0 {
				return fmt.Errorf("GPU %s of node %s is held by another job: %w", gpu, p.Node, cluster.ErrRefused)
			}
		}
	}
	return nil
}

// place finds nodes for a job, first fit in the order of the nodes; false = not now.
func (s *Sim) place(n need) ([]cluster.Placement, bool) {
	if s.opts.Places {
		for _, p := range n.placed {
			if node := s.nodeBy[p.Node]; node == nil || !node.Up {
				return nil, false
			}
		}
		return n.placed, true
	}
	var got []cluster.Placement
	for _, node := range s.nodes {
		if len(got) == n.nodes {
			break
		}
		if !node.Up || node.free < n.gpus.Count || slices.Contains(n.not, node.Name) {
			continue
		}
		if free := node.matching(n.gpus, true); len(free) >= n.gpus.Count {
			got = append(got, cluster.Placement{Node: node.Name, GPUs: free[:n.gpus.Count]})
		}
	}
	return got, len(got) == n.nodes
}

// hold adds (by = 1) or takes away (by = -1) a job's claim on its GPUs.
func (s *Sim) hold(placed []cluster.Placement, by int) {
	for _, p := range placed {
		node := s.nodeBy[p.Node]
		if node == nil {
			continue
		}
		for _, gpu := range p.GPUs {
			if node.has(gpu) { // else it was taken away with SetNodes
				node.claim(gpu, by)
			}
		}
	}
}

// setNodes replaces the list of nodes and its index. Lock held.
func (s *Sim) setNodes(nodes []*simNode) {
	s.nodes, s.nodeBy = nodes, make(map[string]*simNode, len(nodes))
	for _, n := range nodes {
		s.nodeBy[n.Name] = n
	}
}

// KillNode takes a node down with everything that runs there. Jobs with a rank on it end with an unknown exit, or are
// requeued.
func (s *Sim) KillNode(name string) { s.loseNode(name, false) }

// CutNode takes a node down as the cluster sees it while the processes on it live on, behind a cut link, until
// ReturnNode: their jobs have ended or run again elsewhere, and OnEnd has not been called for them.
func (s *Sim) CutNode(name string) { s.loseNode(name, true) }

func (s *Sim) loseNode(name string, live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	node := s.nodeBy[name]
	if node == nil || !node.Up {
		return
	}
	node.Up = false
	for _, j := range slices.Clone(s.jobs) {
		if j.run == nil || !slices.Contains(j.job.Nodes, name) {
			continue
		}
		if live {
			j.run.cutBy = name
		}
		j.cause = cluster.EndedNodeFailed
		s.finish(j, nil, "node "+name+" was lost", s.opts.Requeue)
	}
}

// ReturnNode brings a node back. Processes that lived on there behind a cut link end now.
func (s *Sim) ReturnNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	node := s.nodeBy[name]
	if node == nil || node.Up {
		return
	}
	node.Up, s.dirty = true, true
	for _, r := range slices.Clone(s.alive) {
		if r.cutBy == name {
			s.bury(r, nil)
		}
	}
}

// SetNodes replaces the set of nodes. Jobs on nodes that are gone lose them as in KillNode.
func (s *Sim) SetNodes(nodes []cluster.Node) {
	s.mu.Lock()
	var gone []string
	for _, old := range s.nodes {
		if !slices.ContainsFunc(nodes, func(n cluster.Node) bool { return n.Name == old.Name }) {
			gone = append(gone, old.Name)
		}
	}
	s.mu.Unlock()
	for _, name := range gone {
		s.KillNode(name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var now []*simNode
	for _, n := range nodes {
		node := newSimNode(n)
		if old := s.nodeBy[n.Name]; old != nil {
			for gpu, holders := range old.held {
				if holders > 0 && node.has(gpu) {
					node.claim(gpu, holders)
				}
			}
		}
		now = append(now, node)
	}
	s.setNodes(now)
	s.dirty = true
}

// Conflicts names the GPUs that the processes of more than one live run hold, cut-off runs too, as node/gpu.
func (s *Sim) Conflicts() (gpus []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	holders := map[string]int{}
	for _, r := range s.alive {
		for _, p := range r.placed {
			for _, g := range p.GPUs {
				if holders[p.Node+"/"+g]++; holders[p.Node+"/"+g] == 2 {
					gpus = append(gpus, p.Node+"/"+g)
				}
			}
		}
	}
	slices.Sort(gpus)
	return gpus
}
