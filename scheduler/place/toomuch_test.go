package place

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

func TestTooMuch(t *testing.T) {
	t.Parallel()
	of := func(name string, cpus, gpus int) cluster.Node {
		n := cluster.Node{Name: name, Up: name != "down", Leaving: name == "leaving", CPUs: cpus, Memory: 64 << 30}
		for k := range gpus {
			n.GPUs = append(n.GPUs, cluster.GPU{ID: fmt.Sprint(name, k)})
		}
		return n
	}
	c := cluster.Capacity{Nodes: []cluster.Node{of("a", 8, 3), of("down", 8, 1), of("leaving", 8, 8)}}
	gpus := func(n int) Request { return Request{GPUs: jobspecs.GPURequest{Count: n}} }
	for _, tt := range []struct {
		name  string
		wants []Want
		want  string
	}{
		{"nothing", nil, ""},
		{"as much as there is, nodes that are down too", []Want{{"mixed", gpus(1), 4}}, ""},
		{"by shape", []Want{{"mixed", gpus(2), 2}}, "2 replicas of mixed are wanted, and no more than 1 fit"},
		{"gangs", []Want{{"mixed", Request{Nodes: 2, GPUs: jobspecs.GPURequest{Count: 1}}, 3}}, "3 replicas of mixed are wanted, and no more than 2 fit"},
		{"CPUs", []Want{{"mixed", Request{CPUs: 5}, 3}}, "3 replicas of mixed are wanted, and no more than 2 fit"},
		{"memory", []Want{{"mixed", Request{Memory: 33 << 30}, 3}}, "3 replicas of mixed are wanted, and no more than 2 fit"},
		{"roles together", []Want{{"decode", gpus(1), 3}, {"prefill", gpus(1), 2}}, "all its replicas need 5 GPUs together, and there are 4"},
		{"roles' CPUs", []Want{{"decode", Request{CPUs: 4}, 3}, {"prefill", Request{CPUs: 4}, 2}}, "all its replicas need 20 CPUs together, and there are 16"},
		{"on some nodes only", []Want{{"mixed", Request{GPUs: jobspecs.GPURequest{Count: 1}, Among: []string{"down"}}, 2}}, "2 replicas of mixed are wanted, and no more than 1 fit"},
	} {
		if got := TooMuch(c, tt.wants); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestTooMuchIsNeverWrong: what can be placed on an empty cluster is not too much for it.
func TestTooMuchIsNeverWrong(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := drawCapacity(t)
		for i := range c.Nodes {
			c.Nodes[i].Leaving = rapid.IntRange(0, 5).Draw(t, "leaving") == 0
		}
		var among []string
		if rapid.Bool().Draw(t, "some nodes only") {
			among = []string{"n0", "n2", "n4"}
		}
		s, placed := New(c, nil), map[string]Want{}
		for _, name := range []string{"a", "b"} {
			w := Want{Name: name, Request: drawRequest(t)}
			w.Request.Among = among
			for range rapid.IntRange(0, 6).Draw(t, "replicas") {
				if _, err := s.Place(w.Request); err == nil {
					w.N++
				}
			}
			placed[name] = w
		}
		if why := TooMuch(c, []Want{placed["a"], placed["b"]}); why != "" {
			t.Fatalf("%v were placed: %s", placed, why)
		}
	})
}
