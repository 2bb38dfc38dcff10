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
	// Field is what the request would have to ask less or something else of, below a role in a deployment file: cpus.
	Field string
}

func (e *NoFit) Error() string { return e.Reason }

// A filter is one thing that a node must have. The first that leaves too few nodes is the reason.
type filter struct {
	pass func(i int) bool
	// lasting: waiting does not help.
	lasting bool
	field   string
	what    string                  // it has: "has 4 CPUs"
	there   func(before int) string // instead, on those that came so far
}

// say tells how few nodes pass: "no node has 4 CPUs (the largest has 2)".
func (f filter) say(left, before int) string {
	nodes := "no node " + f.what
	if left > 0 {
		nodes = fmt.Sprintf("only %s %s", count(left, "node"), f.what)
	}
	if left > 1 {
		nodes = fmt.Sprintf("only %d nodes %s", left, plural(f.what))
	}
	return nodes + " (" + f.there(before) + ")"
}

// plural turns the verb that what begins with.
func plural(what string) string {
	verb, rest, _ := strings.Cut(what, " ")
	return map[string]string{"is": "are", "has": "have"}[verb] + " " + rest
}

// explain finds out why nothing fits.
func (s *Space) explain(r Request) *NoFit {
	want := "needs " + wanted(r)
	classes := s.suitable(r.GPUs)
	if len(classes) == 0 {
		reason, field := s.missing(r.GPUs)
		return &NoFit{Never: true, Reason: want + ": " + reason, Field: field}
	}
	e := &NoFit{Never: true}
	most := -1
	for _, c := range classes {
		reason, field, left := s.runsOut(s.filters(r, c), r.Nodes)
		if left > most {
			most, e.Reason, e.Field = left, want+": "+reason, field
		}
		lasting := slices.DeleteFunc(s.filters(r, c), func(f filter) bool { return !f.lasting })
		if _, _, left := s.runsOut(lasting, r.Nodes); left >= r.Nodes {
			e.Never = false
		}
	}
	return e
}

// runsOut applies the filters one after the other, and says which of them leaves fewer nodes than are needed.
func (s *Space) runsOut(filters []filter, need int) (reason, field string, left int) {
	nodes := make([]int, len(s.nodes))
	for i := range nodes {
		nodes[i] = i
	}
	if len(nodes) < need {
		return fmt.Sprintf("the cluster has %s", count(len(nodes), "node")), "nodes", len(nodes)
	}
	for _, f := range filters {
		before := len(nodes)
		nodes = slices.DeleteFunc(nodes, func(i int) bool { return !f.pass(i) })
		if len(nodes) < need {
			return f.say(len(nodes), before), f.field, len(nodes)
		}
	}
	return "", "", len(nodes)
}

func (s *Space) filters(r Request, c int) []filter {
	filters := []filter{{
		pass: func(i int) bool { return s.nodes[i].up }, field: "nodes", what: "is up",
		there: func(before int) string { return "of " + count(before, "node") },
	}, {
		lasting: true, pass: func(i int) bool { return s.nodes[i].cpus == 0 || s.nodes[i].cpus >= r.CPUs },
		field: "cpus", what: "has " + count(r.CPUs, "CPU"),
		there: largest(func() string { return fmt.Sprint(s.most(func(n node) uint64 { return uint64(n.cpus) })) }),
	}, {
		lasting: true, pass: func(i int) bool { return s.nodes[i].memory == 0 || s.nodes[i].memory >= r.Memory },
		field: "memory", what: "has " + gib(r.Memory) + " of memory",
		there: largest(func() string { return gib(s.most(func(n node) uint64 { return n.memory })) }),
	}}
	if c != none {
		filters = append(filters, filter{
			lasting: true, pass: func(i int) bool { return s.nodes[i].has[c] >= r.GPUs.Count },
			field: "gpus", what: "has " + count(r.GPUs.Count, "such GPU"),
			there: largest(func() string { return fmt.Sprint(s.most(func(n node) uint64 { return uint64(n.has[c]) })) }),
		}, filter{
			pass:  func(i int) bool { return int(s.free[c][i]) >= r.GPUs.Count },
			field: "gpus", what: "has " + count(r.GPUs.Count, "such GPU") + " free",
			there: func(int) string {
				free, has := s.totals(c)
				return fmt.Sprintf("%d of %d in the cluster are free", free, has)
			},
		})
	}
	return append(filters, filter{
		pass: func(i int) bool { return s.nodes[i].fitsCPUs(r) }, field: "cpus", what: "has " + count(r.CPUs, "CPU") + " free",
		there: func(int) string {
			return fmt.Sprintf("most on one: %d", s.most(func(n node) uint64 { return uint64(max(0, n.cpus-n.cpusUsed)) }))
		},
	}, filter{
		pass: func(i int) bool { return s.nodes[i].fitsMemory(r) }, field: "memory", what: "has " + gib(r.Memory) + " of memory free",
		there: func(int) string {
			return "most on one: " + gib(s.most(func(n node) uint64 { return n.memory - min(n.memory, n.memUsed) }))
		},
	})
}

// largest says what the largest node has.
func largest(amount func() string) func(before int) string {
	return func(before int) string {
		if before == 1 {
			return "the only one has " + amount()
		}
		return "the largest has " + amount()
	}
}

// missing explains why no kind of card will do.
func (s *Space) missing(r jobspecs.GPURequest) (reason, field string) {
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
		return "the cluster has no GPU", "gpus"
	case !typed:
		slices.Sort(kinds)
		return fmt.Sprintf("no GPU is of type %q (there are: %s)", r.Type, strings.Join(kinds, ", ")), "gpus.type"
	case most == 0:
		return "the memory of the GPUs is unknown", "gpus.memory"
	}
	return fmt.Sprintf("the largest GPU has %s", gib(most)), "gpus.memory"
}

// most is the largest amount on one node that is up.
func (s *Space) most(amount func(node) uint64) (most uint64) {
	for _, n := range s.nodes {
		if n.up {
			most = max(most, amount(n))
		}
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
