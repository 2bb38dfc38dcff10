package place

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// leaf numbers a place in the fabric.
func (s *Space) leaf(fabric string) int {
	if i := slices.Index(s.leaves, fabric); i >= 0 {
		return i
	}
	s.leaves = append(s.leaves, fabric)
	return len(s.leaves) - 1
}

// together narrows the nodes that would do for a gang to those of one part of the network: the lowest that has room for all
// of it; of several those with replicas of the same Near, then the one with the least room to spare, then the first by
// name. Nodes of which nobody knows where they hang are one part of their own at the top.
func (s *Space) together(fit []int, n int) []int {
	paths := make(map[int][]string, len(fit))
	deepest := 0
	for _, i := range fit {
		if fabric := s.leaves[s.nodes[i].leaf]; fabric != "" {
			paths[i] = strings.Split(fabric, ".")
			deepest = max(deepest, len(paths[i]))
		}
	}
	for depth := deepest; depth > 0; depth-- {
		parts := map[string][]int{}
		for _, i := range fit {
			if len(paths[i]) >= depth {
				name := strings.Join(paths[i][:depth], ".")
				parts[name] = append(parts[name], i)
			}
		}
		maps.DeleteFunc(parts, func(_ string, nodes []int) bool { return len(nodes) < n })
		if len(parts) > 0 {
			return parts[s.bestPart(parts)]
		}
	}
	return fit
}

func (s *Space) bestPart(parts map[string][]int) string {
	far := func(nodes []int) int {
		if s.matesOf == nil || slices.ContainsFunc(nodes, func(i int) bool { return s.matesOf[s.nodes[i].leaf] > 0 }) {
			return 0
		}
		return 1
	}
	return slices.MinFunc(slices.Collect(maps.Keys(parts)), func(a, b string) int {
		return cmp.Or(cmp.Compare(far(parts[a]), far(parts[b])), cmp.Compare(len(parts[a]), len(parts[b])), cmp.Compare(a, b))
	})
}

// cards chooses free cards of a class, in the node's own order: of the NUMA node that is left with the fewest, where one has
// enough; else of as few NUMA nodes as possible.
func (n *node) cards(class, count int) (ids []string) {
	if count == 0 {
		return nil
	}
	free := map[string]int{}
	for _, g := range n.gpus {
		if !g.used && g.class == class {
			free[g.numa]++
		}
	}
	wanted := map[string]bool{}
	for left := count; left > 0; {
		name, ok := bestNUMA(free, left)
		if !ok {
			break
		}
		wanted[name] = true
		left -= free[name]
		delete(free, name)
	}
	for _, g := range n.gpus {
		if len(ids) < count && !g.used && g.class == class && wanted[g.numa] {
			ids = append(ids, g.id)
		}
	}
	return ids
}

// bestNUMA is the one with the fewest free cards that has enough, else the one with the most; of equals the first by name.
func bestNUMA(free map[string]int, count int) (name string, ok bool) {
	for _, candidate := range slices.Sorted(maps.Keys(free)) {
		a, b := free[candidate], free[name]
		switch {
		case !ok, a >= count && (b < count || a < b), a < count && b < count && a > b:
			name, ok = candidate, true
		}
	}
	return name, ok
}
