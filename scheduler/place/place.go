// Package place decides which nodes and GPUs a replica gets where Penstock chooses them itself: on this machine, or inside
// an allocation that it holds. A replica of several nodes gets all of them at once or nothing (a gang).
//
// It is pure: what exists and what is used comes in, a placement or the reason why there is none comes out. It knows
// nothing of deployments, launches or time; package plan calls it, and Fit says how large an allocation has to be. GPUs
// inside a node are alike to it as long as their type and memory are, but for the NUMA node that they belong to; of the
// network it knows which switches nodes hang on, where somebody has said so.
package place

import (
	"cmp"
	"slices"
	"strings"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Request is what one replica needs.
type Request struct {
	Nodes  int                 // at least 1
	GPUs   jobspecs.GPURequest // per node
	CPUs   int                 // per node; 0 = any
	Memory uint64              // bytes per node; 0 = any
	// Spread names replicas that should rather not share a node, such as those of one role.
	Spread string
	// Among names the only nodes that will do; nil = any.
	Among []string
	// Near names replicas that should rather hang on one switch, such as those of one deployment, which hand KV cache to
	// each other. Empty = none.
	Near string
}

// Use is what is taken on one node.
type Use struct {
	Node   string
	GPUs   []string // cluster.GPU.ID
	CPUs   int
	Memory uint64
	Spread string
	Near   string
}

// Place finds nodes and GPUs for one replica. The error is a *NoFit. Neither argument is changed.
func Place(c cluster.Capacity, used []Use, r Request) ([]cluster.Placement, error) {
	return New(c, used).Place(r)
}

// Space is what is left of a cluster while replicas are placed one after the other. It is not for concurrent use.
//
// What every placement looks at for every node lies in columns, indexed as nodes: with thousands of nodes and replicas
// the time goes there.
type Space struct {
	nodes   []node // by name
	byName  map[string]int
	classes []class
	free    [][]int32        // free cards by class and node
	members map[string][]int // nodes by Request.Spread, one entry per replica and node
	// replicas counts all replicas of a node, spread those of the request at hand; spreadOf says whose they are.
	replicas, spread []int32
	spreadOf         string

	leaves  []string           // of the fabric, by number; "" = unknown
	mates   map[string][]int32 // replicas by Request.Near and leaf
	matesOf []int32            // those of the request at hand; nil = none
}

// class is a kind of card. A replica's cards are all of one class.
type class struct {
	kind   string
	memory uint64
}

type node struct {
	name     string
	up       bool
	gpus     []card
	cpus     int    // 0 = unknown, taken for enough
	memory   uint64 // likewise
	cpusUsed int
	memUsed  uint64
	has      []int // cards by class
	leaf     int
}

type card struct {
	id    string
	class int
	used  bool
	numa  string
}

// New works out what is left of a cluster. Nodes that are leaving are none any more; what is used on nodes that do not
// exist is ignored.
func New(c cluster.Capacity, used []Use) *Space {
	sorted := slices.SortedFunc(slices.Values(c.Nodes), func(a, b cluster.Node) int { return cmp.Compare(a.Name, b.Name) })
	sorted = slices.DeleteFunc(sorted, func(n cluster.Node) bool { return n.Leaving })
	s := &Space{
		nodes: make([]node, len(sorted)), byName: make(map[string]int, len(sorted)),
		members: map[string][]int{}, mates: map[string][]int32{}, spread: make([]int32, len(sorted)), replicas: make([]int32, len(sorted)),
	}
	for i, n := range sorted {
		s.nodes[i] = node{name: n.Name, up: n.Up, cpus: n.CPUs, memory: n.Memory, gpus: make([]card, len(n.GPUs)), leaf: s.leaf(n.Fabric)}
		s.byName[n.Name] = i
		for k, g := range n.GPUs {
			s.nodes[i].gpus[k] = card{id: g.ID, class: s.class(class{g.Type, g.Memory}), numa: g.NUMA}
		}
	}
	s.countCards()
	for _, u := range used {
		s.take(u)
	}
	return s
}

func (s *Space) countCards() {
	for range s.classes {
		s.free = append(s.free, make([]int32, len(s.nodes)))
	}
	for i := range s.nodes {
		n := &s.nodes[i]
		n.has = make([]int, len(s.classes))
		for _, g := range n.gpus {
			n.has[g.class]++
			s.free[g.class][i]++
		}
	}
}

func (s *Space) class(c class) int {
	if i := slices.Index(s.classes, c); i >= 0 {
		return i
	}
	s.classes = append(s.classes, c)
	return len(s.classes) - 1
}

func (s *Space) take(u Use) {
	i, ok := s.byName[u.Node]
	if !ok {
		return
	}
	n := &s.nodes[i]
	for k, g := range n.gpus {
		if !g.used && slices.Contains(u.GPUs, g.id) {
			n.gpus[k].used = true
			s.free[g.class][i]--
		}
	}
	n.cpusUsed += u.CPUs
	n.memUsed += u.Memory
	s.replicas[i]++
	s.members[u.Spread] = append(s.members[u.Spread], i)
	if u.Spread == s.spreadOf {
		s.spread[i]++
	}
	if u.Near == "" || s.leaves[n.leaf] == "" {
		return
	}
	if s.mates[u.Near] == nil {
		s.mates[u.Near] = make([]int32, len(s.leaves))
	}
	s.mates[u.Near][n.leaf]++
}

// matches reports whether cards of the class will do. What is unknown of a card will not, where it was asked for.
func (c class) matches(r jobspecs.GPURequest) bool {
	return strings.Contains(strings.ToLower(c.kind), strings.ToLower(r.Type)) && c.memory >= uint64(r.Memory)
}

// Place takes the best nodes for one replica out of the space; with an error, a *NoFit, nothing is taken.
//
// Of the kinds of cards that will do it prefers those with the least memory, then nodes on a switch with replicas of the same
// Near, then nodes that are left with the fewest free cards of that kind (so that whole nodes stay free for others), then
// nodes with fewer replicas of the same Spread, then nodes with fewer replicas, then the first by name. Without GPUs there is
// nothing to pack, and it spreads. A gang keeps to the lowest part of the network that has room for it. Inside a node the
// cards are of one NUMA node where one has enough.
func (s *Space) Place(r Request) ([]cluster.Placement, error) {
	r.Nodes = max(1, r.Nodes)
	s.count(r.Spread)
	s.matesOf = s.mates[r.Near]
	for _, c := range s.suitable(r.GPUs) {
		if nodes := s.best(r, c); nodes != nil {
			return s.grant(nodes, c, r), nil
		}
	}
	if r.Among != nil {
		return nil, s.within(r.Among).explain(r)
	}
	return nil, s.explain(r)
}

// within is the part of the space on some nodes, for looking at only.
func (s *Space) within(names []string) *Space {
	part := &Space{classes: s.classes, free: make([][]int32, len(s.classes))}
	for i, n := range s.nodes {
		if !slices.Contains(names, n.name) {
			continue
		}
		part.nodes = append(part.nodes, n)
		for c := range s.classes {
			part.free[c] = append(part.free[c], s.free[c][i])
		}
	}
	return part
}

// none is the class of a request without GPUs.
const none = -1

// suitable lists the classes that will do, the least memory first.
func (s *Space) suitable(r jobspecs.GPURequest) (classes []int) {
	if r.Count == 0 {
		return []int{none}
	}
	for i, c := range s.classes {
		if c.matches(r) {
			classes = append(classes, i)
		}
	}
	slices.SortStableFunc(classes, func(a, b int) int {
		return cmp.Or(cmp.Compare(s.classes[a].memory, s.classes[b].memory), cmp.Compare(s.classes[a].kind, s.classes[b].kind))
	})
	return classes
}

// count makes spread hold the replicas of this Spread.
func (s *Space) count(spread string) {
	if spread == s.spreadOf {
		return
	}
	for _, i := range s.members[s.spreadOf] {
		s.spread[i] = 0
	}
	s.spreadOf = spread
	for _, i := range s.members[spread] {
		s.spread[i]++
	}
}

// best chooses the nodes of a gang, or nil.
func (s *Space) best(r Request, c int) []int {
	if r.Nodes == 1 {
		return s.bestOne(r, c)
	}
	var fit []int
	for i := range s.nodes {
		if s.fits(i, r, c) {
			fit = append(fit, i)
		}
	}
	if len(fit) < r.Nodes {
		return nil
	}
	fit = s.together(fit, r.Nodes)
	slices.SortFunc(fit, func(a, b int) int {
		return cmp.Or(cmp.Compare(s.rank(a, c), s.rank(b, c)), cmp.Compare(a, b))
	})
	fit = fit[:r.Nodes]
	slices.Sort(fit)
	return fit
}

func (s *Space) bestOne(r Request, c int) []int {
	best, lowest := -1, uint64(1<<64-1)
	for i := range s.nodes {
		if rank := s.rank(i, c); rank < lowest && s.fits(i, r, c) {
			best, lowest = i, rank
		}
	}
	if best < 0 {
		return nil
	}
	return []int{best}
}

// rank orders nodes by how well they suit, the lowest best: mates on the switch before free cards before replicas of the
// Spread before replicas.
func (s *Space) rank(i, c int) uint64 {
	rank := uint64(s.spread[i])<<20 | uint64(s.replicas[i])
	if s.matesOf != nil && s.matesOf[s.nodes[i].leaf] == 0 {
		rank |= 1 << 60
	}
	if c != none {
		rank |= uint64(s.free[c][i]) << 40
	}
	return rank
}

func (s *Space) fits(i int, r Request, c int) bool {
	n := &s.nodes[i]
	return n.up && (r.Among == nil || slices.Contains(r.Among, n.name)) && (c == none || int(s.free[c][i]) >= r.GPUs.Count) && n.fitsCPUs(r) && n.fitsMemory(r)
}

func (n *node) fitsCPUs(r Request) bool {
	return r.CPUs == 0 || n.cpus == 0 || n.cpus-n.cpusUsed >= r.CPUs
}

func (n *node) fitsMemory(r Request) bool {
	return r.Memory == 0 || n.memory == 0 || n.memory >= n.memUsed+r.Memory
}

func (s *Space) grant(nodes []int, c int, r Request) []cluster.Placement {
	placed := make([]cluster.Placement, len(nodes))
	for k, i := range nodes {
		n := &s.nodes[i]
		placed[k] = cluster.Placement{Node: n.name, GPUs: n.cards(c, r.GPUs.Count)}
		s.take(Use{Node: n.name, GPUs: placed[k].GPUs, CPUs: r.CPUs, Memory: r.Memory, Spread: r.Spread, Near: r.Near})
	}
	return placed
}
