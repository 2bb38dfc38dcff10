package place

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

var kinds = []cluster.GPU{{}, {Type: "A100", Memory: 40 << 30}, {Type: "A100", Memory: 80 << 30}, {Type: "H100", Memory: 80 << 30}}

func drawCapacity(t *rapid.T) cluster.Capacity {
	c := cluster.Capacity{Places: true}
	for i := range rapid.IntRange(0, 6).Draw(t, "nodes") {
		n := cluster.Node{Name: fmt.Sprintf("n%d", i), Up: rapid.IntRange(0, 4).Draw(t, "up") > 0}
		n.CPUs = rapid.SampledFrom([]int{0, 8, 16}).Draw(t, "cpus")
		n.Memory = rapid.SampledFrom([]uint64{0, 64 << 30}).Draw(t, "memory")
		n.Fabric = rapid.SampledFrom([]string{"", "s0.l0", "s0.l1", "s1.l0", "s1"}).Draw(t, "fabric")
		for k := range rapid.IntRange(0, 5).Draw(t, "gpus") {
			g := rapid.SampledFrom(kinds).Draw(t, "kind")
			g.ID = fmt.Sprintf("n%d-g%d", i, k)
			g.NUMA = rapid.SampledFrom([]string{"", "0", "1"}).Draw(t, "numa")
			n.GPUs = append(n.GPUs, g)
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c
}

func drawRequest(t *rapid.T) Request {
	return Request{
		Nodes: rapid.IntRange(1, 3).Draw(t, "gang"),
		GPUs: jobspecs.GPURequest{
			Count: rapid.IntRange(0, 4).Draw(t, "count"), Type: rapid.SampledFrom([]string{"", "a1", "H100"}).Draw(t, "type"),
			Memory: rapid.SampledFrom([]jobspecs.Bytes{0, 50 << 30}).Draw(t, "gpu memory"),
		},
		CPUs:   rapid.SampledFrom([]int{0, 4, 9}).Draw(t, "cpus wanted"),
		Memory: rapid.SampledFrom([]uint64{0, 20 << 30}).Draw(t, "memory wanted"),
		Spread: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "spread"),
		Near:   rapid.SampledFrom([]string{"", "p"}).Draw(t, "near"),
	}
}

// fitsBruteForce asks whether enough nodes have, for one and the same kind of card, what the request needs.
func fitsBruteForce(c cluster.Capacity, used []Use, r Request) bool {
	for _, kind := range kinds {
		able := 0
		for _, n := range c.Nodes {
			free, cpus, memory := 0, n.CPUs, n.Memory
			for _, g := range n.GPUs {
				taken := slices.ContainsFunc(used, func(u Use) bool { return slices.Contains(u.GPUs, g.ID) })
				if !taken && g.Type == kind.Type && g.Memory == kind.Memory && (class{g.Type, g.Memory}).matches(r.GPUs) {
					free++
				}
			}
			for _, u := range used {
				if u.Node == n.Name {
					cpus, memory = cpus-u.CPUs, memory-u.Memory
				}
			}
			if n.Up && free >= r.GPUs.Count && (n.CPUs == 0 || r.CPUs == 0 || cpus >= r.CPUs) &&
				(n.Memory == 0 || r.Memory == 0 || int64(memory) >= int64(r.Memory)) {
				able++
			}
		}
		if able >= r.Nodes {
			return true
		}
	}
	return false
}

// A stream of requests: each gets what it asked for, of one kind, on different nodes that are up, and no GPU twice; it is
// refused only when it does not fit, and called impossible only when an empty cluster would not do either.
func TestEveryPlacementIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCapacity(t)
		kindOf, upOf := map[string]cluster.GPU{}, map[string]bool{}
		for _, n := range c.Nodes {
			upOf[n.Name] = n.Up
			for _, g := range n.GPUs {
				kindOf[n.Name+g.ID] = cluster.GPU{Type: g.Type, Memory: g.Memory}
			}
		}
		space := New(c, nil)
		var used []Use
		taken := map[string]bool{}
		for range rapid.IntRange(1, 12).Draw(t, "requests") {
			r := drawRequest(t)
			again, againErr := Place(c, used, r)
			got, err := space.Place(r)
			if d := cmp.Diff(got, again); d != "" || (err == nil) != (againErr == nil) {
				t.Fatalf("one by one it is another placement: %s%v, %v", d, err, againErr)
			}
			if fits := fitsBruteForce(c, used, r); fits != (err == nil) {
				t.Fatalf("fits %v, but %v", fits, err)
			}
			var no *NoFit
			if errors.As(err, &no) {
				all := c
				all.Nodes = slices.Clone(c.Nodes)
				for i := range all.Nodes {
					all.Nodes[i].Up = true
				}
				if ever := fitsBruteForce(all, nil, r); ever == no.Never || no.Reason == "" {
					t.Fatalf("never %v, but an empty cluster %v: %s", no.Never, ever, no.Reason)
				}
				continue
			}
			nodes, used0 := map[string]bool{}, map[cluster.GPU]bool{}
			for _, p := range got {
				nodes[p.Node] = true
				if !upOf[p.Node] || len(p.GPUs) != r.GPUs.Count {
					t.Fatalf("%+v for %+v", p, r)
				}
				for _, id := range p.GPUs {
					kind, exists := kindOf[p.Node+id]
					if used0[kind] = true; !exists || taken[id] {
						t.Fatalf("GPU %s: exists %v, taken %v", id, exists, taken[id])
					}
					taken[id] = true
				}
				used = append(used, Use{Node: p.Node, GPUs: p.GPUs, CPUs: r.CPUs, Memory: r.Memory, Spread: r.Spread, Near: r.Near})
			}
			if len(nodes) != r.Nodes || len(used0) > 1 {
				t.Fatalf("%d nodes, kinds %v for %+v", len(nodes), used0, r)
			}
		}
	})
}

// The order in which nodes and uses are listed changes nothing.
func TestOrderOfInputsIsIrrelevant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, r := drawCapacity(t), drawRequest(t)
		var used []Use
		for _, n := range c.Nodes {
			for _, g := range n.GPUs {
				if rapid.Bool().Draw(t, "used") {
					used = append(used, Use{Node: n.Name, GPUs: []string{g.ID}, CPUs: 1, Spread: "x"})
				}
			}
		}
		want, wantErr := Place(c, used, r)
		c.Nodes, used = rapid.Permutation(c.Nodes).Draw(t, "order"), rapid.Permutation(used).Draw(t, "order of uses")
		got, err := Place(c, used, r)
		if d := cmp.Diff(want, got); d != "" || fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Fatal(d, err, wantErr)
		}
	})
}

func BenchmarkPlace(b *testing.B) {
	for _, gpus := range []int{0, 1, 4, 8} {
		b.Run(fmt.Sprintf("nodes=1000/replicas=10000/gpus=%d", gpus), func(b *testing.B) {
			var c cluster.Capacity
			for i := range 1000 {
				n := cluster.Node{Name: fmt.Sprintf("n%d", i), Up: true}
				for k := range 8 {
					n.GPUs = append(n.GPUs, cluster.GPU{ID: fmt.Sprintf("n%d-g%d", i, k)})
				}
				c.Nodes = append(c.Nodes, n)
			}
			for b.Loop() {
				s := New(c, nil)
				for i := range 10000 {
					_, err := s.Place(Request{GPUs: jobspecs.GPURequest{Count: gpus}, Spread: fmt.Sprint("d", i/100)})
					if err != nil && i < 1000 {
						b.Fatal(err)
					}
					if err != nil {
						break // full, as package plan does
					}
				}
			}
		})
	}
}
