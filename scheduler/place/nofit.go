package place

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/jobspecs"
)

// NoFit is why a replica gets no place.
type NoFit struct {
	// Never: not even with every node up and nothing else running.
	Never  bool
	Reason string // what is wanted and which dimension runs out, with numbers
}

func (e *NoFit) Error() string { return e.Reason }

// A filter is one thing that a node must have. The first that leaves too few nodes is the reason.
type filter struct {
	pass func(i int) bool
	// lasting: waiting does not help.
	lasting bool
	say     func(left, before int) string
}

// explain finds out why nothing fits.
func (s *Space) explain(r Request) *NoFit {
	want := "needs " + wanted(r)
	classes := s.suitable(r.GPUs)
	if len(classes) == 0 {
		return &NoFit{Never: true, Reason: want + ": " + s.missing(r.GPUs)}
	}
	e := &NoFit{Never: true}
	most := -1
	for _, c := range classes {
		reason, left := s.runsOut(s.filters(r, c), r.Nodes)
		if left > most {
			most, e.Reason = left, want+": "+reason
		}
		lasting := slices.DeleteFunc(s.filters(r, c), func(f filter) bool { return !f.lasting })
		if _, left := s.runsOut(lasting, r.Nodes); left >= r.Nodes {
			e.Never = false
		}
	}
	return e
}

// runsOut applies the filters one after the other, and says which of them leaves fewer nodes than are needed.
func (s *Space) runsOut(filters []filter, need int) (reason string, left int) {
	nodes := make([]int, len(s.nodes))
	for i := range nodes {
		nodes[i] = i
	}
	if len(nodes) < need {
		return fmt.Sprintf("the cluster has %s", count(len(nodes), "node")), len(nodes)
	}
	for _, f := range filters {
		before := len(nodes)
		nodes = slices.DeleteFunc(nodes, func(i int) bool { return !f.pass(i) })
		if len(nodes) < need {
			return f.say(len(nodes), before), len(nodes)
		}
	}
	return "", len(nodes)
}

func (s *Space) filters(r Request, c int) []filter {
	filters := []filter{
		{pass: func(i int) bool { return s.nodes[i].up }, say: only("are up")},
		{
			lasting: true, pass: func(i int) bool { return s.nodes[i].cpus == 0 || s.nodes[i].cpus >= r.CPUs },
			say: only("have " + count(r.CPUs, "CPU")),
		},
		{
			lasting: true, pass: func(i int) bool { return s.nodes[i].memory == 0 || s.nodes[i].memory >= r.Memory },
			say: only("have " + gib(r.Memory) + " of memory"),
		},
	}
	if c != none {
		filters = append(filters, filter{
			lasting: true, pass: func(i int) bool { return s.nodes[i].has[c] >= r.GPUs.Count },
			say: func(left, before int) string {
				return only("have "+count(r.GPUs.Count, "such GPU"))(left, before) +
					fmt.Sprintf(" (most on one node: %d)", s.most(c))
			},
		}, filter{
			pass: func(i int) bool { return int(s.free[c][i]) >= r.GPUs.Count },
			say: func(left, before int) string {
				free, has := s.totals(c)
				return only("have "+count(r.GPUs.Count, "such GPU")+" free")(left, before) +
					fmt.Sprintf(" (%d of %d in the cluster are free)", free, has)
			},
		})
	}
	return append(filters,
		filter{pass: func(i int) bool { return s.nodes[i].fitsCPUs(r) }, say: only("have " + count(r.CPUs, "CPU") + " free")},
		filter{pass: func(i int) bool { return s.nodes[i].fitsMemory(r) }, say: only("have " + gib(r.Memory) + " of memory free")})
}

// only says how many nodes pass: "0 of 3 nodes have 8 CPUs".
func only(what string) func(left, before int) string {
	return func(left, before int) string { return fmt.Sprintf("%d of %s %s", left, count(before, "node"), what) }
}

// missing explains why no kind of card will do.
func (s *Space) missing(r jobspecs.GPURequest) string {
	var kinds []string
	most, typed := uint64(0), false
	for _, c := range s.classes {
		if (class{kind: c.kind, memory: uint64(r.Memory)}).matches(r) {
			most, typed = max(most, c.memory), true
		}
		kind := c.kind
		if kind == "" {
			kind = "of unnamed type"
		}
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	switch {
	case len(kinds) == 0:
		return "the cluster has no GPU"
	case !typed:
		slices.Sort(kinds)
		return fmt.Sprintf("no GPU is of type %q (there are: %s)", r.Type, strings.Join(kinds, ", "))
	case most == 0:
		return "the memory of the GPUs is unknown"
	}
	return fmt.Sprintf("the largest GPU has %s", gib(most))
}

func (s *Space) most(c int) (most int) {
	for i := range s.nodes {
		most = max(most, s.nodes[i].has[c])
	}
	return most
}

func (s *Space) totals(c int) (free, has int) {
	for i := range s.nodes {
		if s.nodes[i].up {
			free, has = free+int(s.free[c][i]), has+s.nodes[i].has[c]
		}
	}
	return free, has
}

// wanted is the request in words, without what the reason names anyway.
func wanted(r Request) string {
	s := count(r.Nodes, "node")
	if r.GPUs.Count == 0 {
		return s
	}
	s += " with " + count(r.GPUs.Count, "GPU")
	if r.GPUs.Type != "" {
		s += " of type " + r.GPUs.Type
	}
	if r.GPUs.Memory > 0 {
		s += " of at least " + gib(uint64(r.GPUs.Memory))
	}
	if r.Nodes > 1 {
		s += " each"
	}
	return s
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func gib(b uint64) string { return fmt.Sprintf("%.4g GiB", float64(b)/(1<<30)) }
