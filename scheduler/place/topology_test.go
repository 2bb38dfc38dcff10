package place

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// fabric makes nodes with so many cards, half of them on each NUMA node, from lines of NAME@SWITCHES.
func fabric(gpus int, lines ...string) (c cluster.Capacity) {
	c.Places = true
	for _, line := range lines {
		name, where, _ := strings.Cut(line, "@")
		n := cluster.Node{Name: name, Up: true, Fabric: where}
		for k := range gpus {
			n.GPUs = append(n.GPUs, cluster.GPU{ID: fmt.Sprintf("%s-%d", name, k), NUMA: fmt.Sprint(k * 2 / gpus)})
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c
}

func TestTopology(t *testing.T) {
	t.Parallel()
	cards := func(n int) jobspecs.GPURequest { return jobspecs.GPURequest{Count: n} }
	four := fabric(4, "a@s.l0", "b@s.l1", "c@s.l1", "d@s.l0")
	tests := map[string]struct {
		c    cluster.Capacity
		used []Use
		r    Request
		want string
	}{
		"a gang keeps to one switch": {four, []Use{{Node: "a", GPUs: []string{"a-0"}}}, Request{Nodes: 2, GPUs: cards(4)}, "b c"},
		"a gang takes the smallest switch that has room": {
			fabric(1, "a@l0", "b@l0", "c@l0", "d@l1", "e@l1"), nil, Request{Nodes: 2, GPUs: cards(1)}, "d e",
		},
		"a gang goes over switches where it must": {four, nil, Request{Nodes: 3, GPUs: cards(4)}, "a b c"},
		"a decode replica hangs on its prefill replica's switch": {
			four,
			[]Use{{Node: "c", GPUs: []string{"c-0", "c-1", "c-2", "c-3"}, Spread: "x/prefill", Near: "x"}},
			Request{Nodes: 1, GPUs: cards(2), Spread: "x/decode", Near: "x"},
			"b",
		},
		"nobody knows the fabric": {
			fabric(4, "a", "b"), []Use{{Node: "b", GPUs: []string{"b-0"}, Near: "x"}}, Request{Nodes: 1, GPUs: cards(4), Near: "x"}, "a",
		},
	}
	for name, tt := range tests {
		placed, err := Place(tt.c, tt.used, tt.r)
		var got []string
		for _, p := range placed {
			got = append(got, p.Node)
		}
		if strings.Join(got, " ") != tt.want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, tt.want)
		}
	}
}

func TestNUMA(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		used  string
		count int
		want  string
	}{
		{"", 2, "0 1"},
		{"0", 2, "1 2"}, // one that has just enough before one that is whole
		{"0 1", 2, "3 4"},
		{"0 1", 3, "3 4 5"},
		{"0 1", 4, "2 3 4 5"}, // none has enough
	} {
		c := fabric(6, "n")
		var used []string
		for u := range strings.FieldsSeq(tt.used) {
			used = append(used, "n-"+u)
		}
		placed, err := Place(c, []Use{{Node: "n", GPUs: used}}, Request{Nodes: 1, GPUs: jobspecs.GPURequest{Count: tt.count}})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.ReplaceAll(strings.Join(placed[0].GPUs, " "), "n-", ""); got != tt.want {
			t.Errorf("%d cards beside %q: got %s, want %s", tt.count, tt.used, got, tt.want)
		}
	}
}

// A gang never goes over more switches than there would be need for, and a replica's cards over more NUMA nodes.
func TestNothingIsSpreadWithoutNeed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, r := drawCapacity(t), drawRequest(t)
		r.GPUs = jobspecs.GPURequest{Count: r.GPUs.Count}
		for i := range c.Nodes {
			for k := range c.Nodes[i].GPUs {
				c.Nodes[i].GPUs[k].Type, c.Nodes[i].GPUs[k].Memory = "", 0
			}
		}
		placed, err := Place(c, nil, r)
		if err != nil {
			return
		}
		byName := map[string]cluster.Node{}
		able := map[string]int{}
		for _, n := range c.Nodes {
			byName[n.Name] = n
			if fitsBruteForce(cluster.Capacity{Nodes: []cluster.Node{n}}, nil, Request{Nodes: 1, GPUs: r.GPUs, CPUs: r.CPUs, Memory: r.Memory}) && n.Fabric != "" {
				able[n.Fabric]++
			}
		}
		leaves := map[string]bool{}
		for _, p := range placed {
			n := byName[p.Node]
			leaves[n.Fabric] = true
			free, got := map[string]int{}, map[string]bool{}
			for _, g := range n.GPUs {
				free[g.NUMA]++
				if slices.Contains(p.GPUs, g.ID) {
					got[g.NUMA] = true
				}
			}
			for name, n := range free {
				if n >= r.GPUs.Count && r.GPUs.Count > 0 && len(got) > 1 {
					t.Fatalf("cards of %d NUMA nodes, and %q has enough: %+v", len(got), name, p)
				}
			}
		}
		for leaf, n := range able {
			if strings.Contains(leaf, ".") && n >= r.Nodes && len(leaves) > 1 {
				t.Fatalf("a gang on %d switches, and %s has room: %+v", len(leaves), leaf, placed)
			}
		}
	})
}

func TestFit(t *testing.T) {
	t.Parallel()
	one := Request{Nodes: 1, GPUs: jobspecs.GPURequest{Count: 1}, CPUs: 4, Memory: 10, Spread: "p"}
	gang := Request{Nodes: 2, GPUs: jobspecs.GPURequest{Count: 8}, Spread: "g"}
	for _, tt := range []struct {
		requests    []Request
		gpus, nodes int
		want        Shape
		err         string
	}{
		{[]Request{one}, 8, 0, Shape{1, 1, 4, 10}, ""},
		{slices.Repeat([]Request{one}, 3), 8, 0, Shape{1, 3, 12, 30}, ""},
		{slices.Repeat([]Request{one}, 9), 8, 0, Shape{2, 5, 20, 50}, ""}, // as even as it goes
		{slices.Repeat([]Request{one}, 3), 8, 3, Shape{3, 1, 4, 10}, ""},
		{[]Request{gang, one}, 8, 0, Shape{3, 8, 4, 10}, ""},
		{[]Request{gang}, 4, 0, Shape{}, "asks for 8 GPUs on a node, and nodes have 4"},
		{[]Request{gang}, 8, 1, Shape{}, "no room"},
		{[]Request{{Nodes: 1}, {Nodes: 1}}, 8, 0, Shape{Nodes: 1}, ""},
		{
			[]Request{{Nodes: 1, GPUs: jobspecs.GPURequest{Count: 1, Type: "a"}}, {Nodes: 1, GPUs: jobspecs.GPURequest{Count: 1, Type: "b"}}},
			8, 0,
			Shape{},
			"types a and b",
		},
	} {
		got, err := Fit(tt.requests, tt.gpus, tt.nodes)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%d requests: %v, want %q", len(tt.requests), err, tt.err)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%d requests on nodes with %d GPUs: %s", len(tt.requests), tt.gpus, d)
		}
	}
}

// What Fit finds has room for all, and one node less has not.
func TestFitIsEnoughAndNoMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var requests []Request
		for range rapid.IntRange(1, 8).Draw(t, "replicas") {
			requests = append(requests, Request{
				Nodes: rapid.IntRange(1, 2).Draw(t, "nodes"), GPUs: jobspecs.GPURequest{Count: rapid.IntRange(0, 4).Draw(t, "gpus")}, Spread: "x",
			})
		}
		s, err := Fit(requests, 4, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := fits(requests, Shape{Nodes: s.Nodes, GPUs: s.GPUs}, ""); !ok {
			t.Fatalf("%+v is too small", s)
		}
		if _, ok := fits(requests, Shape{Nodes: s.Nodes - 1, GPUs: 4}, ""); ok {
			t.Fatalf("%d nodes are one too many", s.Nodes)
		}
	})
}
