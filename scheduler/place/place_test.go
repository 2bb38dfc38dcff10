package place

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// parseNode reads "name gpus type GiB", with ",down", ",cpus=N" or ",mem=GiB" behind it.
func parseNode(t testing.TB, text string) cluster.Node {
	t.Helper()
	main, flags, _ := strings.Cut(text, ",")
	n := cluster.Node{Up: true}
	var count, memory int
	kind := ""
	if _, err := fmt.Sscan(main, &n.Name, &count, &kind, &memory); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	if kind == "-" {
		kind = ""
	}
	for i := range count {
		n.GPUs = append(n.GPUs, cluster.GPU{ID: fmt.Sprintf("%s-%d", n.Name, i), Type: kind, Memory: uint64(memory) << 30})
	}
	for f := range strings.SplitSeq(flags, ",") {
		switch k, v, _ := strings.Cut(f, "="); k {
		case "down":
			n.Up = false
		case "cpus":
			_, _ = fmt.Sscan(v, &n.CPUs)
		case "mem":
			_, _ = fmt.Sscan(v, &n.Memory)
			n.Memory <<= 30
		}
	}
	return n
}

func capacity(t testing.TB, nodes ...string) cluster.Capacity {
	t.Helper()
	c := cluster.Capacity{Places: true}
	for _, n := range nodes {
		c.Nodes = append(c.Nodes, parseNode(t, n))
	}
	return c
}

// show writes placements as "node:gpu,gpu node:".
func show(ps []cluster.Placement) string {
	var s []string
	for _, p := range ps {
		s = append(s, p.Node+":"+strings.Join(p.GPUs, ","))
	}
	return strings.Join(s, " ")
}

func use(node string, spread string, gpus ...string) Use {
	return Use{Node: node, GPUs: gpus, Spread: spread}
}

func TestPlace(t *testing.T) {
	gpus := func(n int) jobspecs.GPURequest { return jobspecs.GPURequest{Count: n} }
	tests := []struct {
		name  string
		nodes []string
		used  []Use
		r     Request
		want  string
	}{
		{"the first by name", []string{"b 2 - 0", "a 2 - 0"}, nil, Request{GPUs: gpus(1)}, "a:a-0"},
		{
			"packs: the node with the fewest free that will do",
			[]string{"a 4 - 0", "b 4 - 0"},
			[]Use{use("b", "x", "b-0")},
			Request{GPUs: gpus(2)},
			"b:b-1,b-2",
		},
		{
			"leaves the node alone that is too full",
			[]string{"a 4 - 0", "b 4 - 0"},
			[]Use{use("b", "x", "b-0")},
			Request{GPUs: gpus(4)},
			"a:a-0,a-1,a-2,a-3",
		},
		{
			"spreads a role where packing does not care",
			[]string{"a 4 - 0", "b 4 - 0"},
			[]Use{use("a", "d/decode", "a-0"), use("b", "other", "b-0")},
			Request{GPUs: gpus(1), Spread: "d/decode"},
			"b:b-1",
		},
		{"without GPUs it spreads", []string{"a 0 - 0", "b 0 - 0"}, []Use{use("a", "x")}, Request{Spread: "x"}, "b:"},
		{
			"type by a part of the name",
			[]string{"a 2 NVIDIA-A100 80", "b 2 NVIDIA-H100 80"},
			nil,
			Request{GPUs: jobspecs.GPURequest{Count: 1, Type: "h100"}},
			"b:b-0",
		},
		{
			"the smallest card that will do",
			[]string{"a 2 X 80", "b 2 X 24", "c 2 X 40"},
			nil,
			Request{GPUs: jobspecs.GPURequest{Count: 1, Memory: 30 << 30}},
			"c:c-0",
		},
		{
			"gang",
			[]string{"a 2 - 0", "b 2 - 0", "c 2 - 0"},
			[]Use{use("a", "x", "a-1")},
			Request{Nodes: 2, GPUs: gpus(2)},
			"b:b-0,b-1 c:c-0,c-1",
		},
		{
			"a gang's cards are of one kind",
			[]string{"a 2 X 40", "b 2 Y 40", "c 2 X 80", "d 2 Y 40"},
			nil,
			Request{Nodes: 2, GPUs: gpus(2)},
			"b:b-0,b-1 d:d-0,d-1",
		},
		{"a node that is down has nothing", []string{"a 2 - 0,down", "b 2 - 0"}, nil, Request{GPUs: gpus(1)}, "b:b-0"},
		{
			"CPUs and memory count",
			[]string{"a 2 - 0,cpus=8,mem=64", "b 2 - 0,cpus=16,mem=32", "c 2 - 0,cpus=16,mem=64"},
			[]Use{{Node: "c", CPUs: 4}},
			Request{GPUs: gpus(1), CPUs: 12, Memory: 64 << 30},
			"c:c-0",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Place(capacity(t, tt.nodes...), tt.used, tt.r)
			if d := cmp.Diff(tt.want, show(got)); d != "" || err != nil {
				t.Error(err, d)
			}
		})
	}
}

func TestNoFitNamesTheField(t *testing.T) {
	gpus := jobspecs.GPURequest{Count: 1, Type: "A100"}
	for want, r := range map[string]Request{
		"nodes":       {Nodes: 2},
		"cpus":        {CPUs: 64},
		"memory":      {Memory: 1 << 50},
		"gpus":        {GPUs: jobspecs.GPURequest{Count: 8}},
		"gpus.type":   {GPUs: jobspecs.GPURequest{Count: 1, Type: "H200"}},
		"gpus.memory": {GPUs: jobspecs.GPURequest{Count: 1, Type: "A100", Memory: 1 << 50}},
	} {
		var e *NoFit
		if _, err := Place(capacity(t, "a 4 A100 80,cpus=8,mem=8"), nil, r); !errors.As(err, &e) || e.Field != want {
			t.Errorf("%+v: field %q, want %q", r, e.Field, want)
		}
	}
	var e *NoFit
	if _, err := Place(capacity(t, "a 4 A100 80"), []Use{use("a", "x", "a-0", "a-1", "a-2", "a-3")}, Request{GPUs: gpus}); !errors.As(err, &e) || e.Field != "gpus" {
		t.Errorf("field %q, want gpus", e.Field)
	}
}

func TestNoFit(t *testing.T) {
	gpu := func(n int, kind string, gib int) jobspecs.GPURequest {
		return jobspecs.GPURequest{Count: n, Type: kind, Memory: jobspecs.Bytes(gib) << 30}
	}
	tests := []struct {
		nodes []string
		used  []Use
		r     Request
		never bool
		want  string
	}{
		{nil, nil, Request{}, true, "needs 1 node: the cluster has 0 nodes"},
		{[]string{"a 0 - 0"}, nil, Request{GPUs: gpu(1, "", 0)}, true, "needs 1 node with 1 GPU: the cluster has no GPU"},
		{
			[]string{"a 1 A100 80", "b 1 - 0"},
			nil,
			Request{GPUs: gpu(1, "H200", 0)},
			true,
			`needs 1 node with 1 GPU of type H200: no GPU is of type "H200" (there are: A100, of unnamed type)`,
		},
		{
			[]string{"a 1 A100 40"},
			nil,
			Request{GPUs: gpu(1, "", 80)},
			true,
			"needs 1 node with 1 GPU of at least 80 GiB: the largest GPU has 40 GiB",
		},
		{
			[]string{"a 1 A100 0"},
			nil,
			Request{GPUs: gpu(1, "", 80)},
			true,
			"needs 1 node with 1 GPU of at least 80 GiB: the memory of the GPUs is unknown",
		},
		{
			[]string{"a 4 - 0", "b 2 - 0"},
			nil,
			Request{GPUs: gpu(8, "", 0)},
			true,
			"needs 1 node with 8 GPUs: no node has 8 such GPUs (the largest has 4)",
		},
		{
			[]string{"a 4 - 0", "b 2 - 0"},
			nil,
			Request{Nodes: 2, GPUs: gpu(4, "", 0)},
			true,
			"needs 2 nodes with 4 GPUs each: only 1 node has 4 such GPUs (the largest has 4)",
		},
		{[]string{"a 4 - 0"}, nil, Request{Nodes: 2, GPUs: gpu(1, "", 0)}, true, "needs 2 nodes with 1 GPU each: the cluster has 1 node"},
		{
			[]string{"a 4 - 0", "b 4 - 0"},
			[]Use{use("a", "", "a-0"), use("b", "", "b-3", "b-2")},
			Request{GPUs: gpu(4, "", 0)},
			false,
			"needs 1 node with 4 GPUs: no node has 4 such GPUs free (5 of 8 in the cluster are free)",
		},
		{[]string{"a 4 - 0,down", "b 4 - 0,down"}, nil, Request{GPUs: gpu(1, "", 0)}, false, "needs 1 node with 1 GPU: no node is up (of 2 nodes)"},
		{[]string{"a 4 - 0,cpus=8"}, nil, Request{CPUs: 9}, true, "needs 1 node: no node has 9 CPUs (the only one has 8)"},
		{[]string{"a 4 - 0,cpus=8"}, []Use{{Node: "a", CPUs: 4}}, Request{CPUs: 8}, false, "needs 1 node: no node has 8 CPUs free (most on one: 4)"},
		{
			[]string{"a 4 - 0,mem=8", "b 4 - 0,mem=8"},
			[]Use{{Node: "a", Memory: 1 << 30}},
			Request{Nodes: 2, Memory: 8 << 30},
			false,
			"needs 2 nodes: only 1 node has 8 GiB of memory free (most on one: 8 GiB)",
		},
		{
			[]string{"a 4 - 0,mem=8", "b 4 - 0,mem=8", "c 4 - 0,mem=4"},
			nil,
			Request{Nodes: 3, Memory: 8 << 30},
			true,
			"needs 3 nodes: only 2 nodes have 8 GiB of memory (the largest has 8 GiB)",
		},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			t.Parallel()
			got, err := Place(capacity(t, tt.nodes...), tt.used, tt.r)
			var e *NoFit
			if got != nil || !errors.As(err, &e) || e.Reason != tt.want || e.Never != tt.never {
				t.Errorf("got %s, %v (never %v)", show(got), err, e != nil && e.Never)
			}
		})
	}
}
