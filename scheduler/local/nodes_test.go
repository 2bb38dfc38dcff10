package local

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// says parses "a:2 b" into what somebody declares.
func says(by, nodes string) Declaration {
	d := Declaration{By: by}
	for _, f := range strings.Fields(nodes) {
		name, gpus, _ := strings.Cut(f, ":")
		d.Nodes = append(d.Nodes, jobspecs.LocalNode{Name: name, GPUs: len(gpus)}) // a:xx = 2
	}
	return d
}

func held(node string, gpus ...string) cluster.Placement {
	return cluster.Placement{Node: node, GPUs: gpus}
}

// layoutText is a capacity as text: "a(GPU-1 GPU-2) b()", a dash before the name of a node that is leaving.
func layoutText(nodes []cluster.Node) string {
	var out []string
	for _, n := range nodes {
		var ids []string
		for _, g := range n.GPUs {
			ids = append(ids, g.ID)
		}
		name := n.Name
		if n.Leaving {
			name = "-" + name
		}
		out = append(out, name+"("+strings.Join(ids, " ")+")")
	}
	return strings.Join(out, " ")
}

func TestNodes(t *testing.T) {
	t.Parallel()
	both := []cluster.GPU{{ID: "GPU-1", Type: "H100", Memory: 80 << 30}, {ID: "GPU-2"}}
	for name, tt := range map[string]struct {
		declared []Declaration
		cards    []cluster.GPU
		held     []cluster.Placement
		want     string
	}{
		"nothing":         {want: "host()"},
		"real cards":      {cards: both, want: "host(GPU-1 GPU-2)"},
		"declared":        {declared: []Declaration{says("", ""), says("d", "a:xx b")}, want: "a(a-gpu0 a-gpu1) b()"},
		"real ones first": {declared: []Declaration{says("", "a:x b:xx")}, cards: both, want: "a(GPU-1) b(GPU-2 b-gpu1)"},
		"by the configuration, deployments that declare none run there": {
			declared: []Declaration{says("", "a:x"), says("d", "")}, cards: both, want: "a(GPU-1)",
		},
		"two deployments add up": {
			declared: []Declaration{says("", ""), says("d", "a:x"), says("e", "a:x b:x")}, cards: both, want: "a(GPU-1) b(GPU-2)",
		},
		"one that declares none has what is left": {
			declared: []Declaration{says("", ""), says("d", "a:x"), says("e", "")}, cards: both, want: "a(GPU-1) host(GPU-2)",
		},
		"one that comes first by its name takes no card of the other's": {
			declared: []Declaration{says("", ""), says("a", "x:x"), says("d", "y:x")}, cards: both,
			held: []cluster.Placement{held("y", "GPU-1")}, want: "x(GPU-2) y(GPU-1)",
		},
		"a stopped one's node stays until its replicas have ended": {
			declared: []Declaration{says("", ""), says("e", "")}, cards: both,
			held: []cluster.Placement{held("a", "GPU-1"), held("a")}, want: "host(GPU-2) -a(GPU-1)",
		},
		"the machine is leaving too": {
			declared: []Declaration{says("", ""), says("d", "a:x")}, cards: both,
			held: []cluster.Placement{held("host", "GPU-1")}, want: "a(GPU-2) -host(GPU-1)",
		},
		"fewer cards than before": {
			declared: []Declaration{says("", "a")}, held: []cluster.Placement{held("a", "a-gpu1")}, want: "a(a-gpu1)",
		},
		"declared cards keep their places": {
			declared: []Declaration{says("", "a:xxx")}, held: []cluster.Placement{held("a", "a-gpu1")}, want: "a(a-gpu0 a-gpu1 a-gpu2)",
		},
		"a card that is gone is held all the same": {
			held: []cluster.Placement{held("host", "GPU-9")}, cards: both, want: "host(GPU-1 GPU-2 GPU-9)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := layout{host: "host", declared: tt.declared, cards: tt.cards, held: tt.held}
			if got := layoutText(l.nodes()); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// TestNodesProperties: whatever is declared and held, no card is on two nodes, and what is held stays where it is.
func TestNodesProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"a", "b", "host"})
		l := layout{host: "host"}
		for i := range rapid.IntRange(0, 3).Draw(t, "deployments") {
			d := Declaration{By: []string{"", "d", "e"}[i]}
			for _, n := range rapid.SliceOfNDistinct(name, 0, 2, rapid.ID[string]).Draw(t, "nodes") {
				d.Nodes = append(d.Nodes, jobspecs.LocalNode{Name: n, GPUs: rapid.IntRange(0, 3).Draw(t, "gpus")})
			}
			l.declared = append(l.declared, d)
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "cards") {
			l.cards = append(l.cards, cluster.GPU{ID: "GPU-" + string(rune('0'+i))})
		}
		// What is held was given out by another layout of the same machine.
		before := layout{host: "host", declared: []Declaration{says("", "b:xx a:x")}, cards: l.cards}
		for _, n := range before.nodes() {
			for _, g := range n.GPUs {
				if rapid.Bool().Draw(t, "held") {
					l.held = append(l.held, held(n.Name, g.ID))
				}
			}
		}
		on := map[string]string{}
		for _, n := range l.nodes() {
			for _, g := range n.GPUs {
				if on[g.ID] != "" {
					t.Fatalf("card %s is on %s and on %s", g.ID, on[g.ID], n.Name)
				}
				on[g.ID] = n.Name
			}
		}
		for _, p := range l.held {
			if on[p.GPUs[0]] != p.Node {
				t.Fatalf("card %s, held on %s, is on %q", p.GPUs[0], p.Node, on[p.GPUs[0]])
			}
		}
		said := slices.ContainsFunc(l.union(), func(n jobspecs.LocalNode) bool { return n.Name == l.host })
		for _, g := range l.cards {
			if l.hostCounts() && !said && on[g.ID] == "" {
				t.Fatalf("card %s is on no node, although the machine is one", g.ID)
			}
		}
	})
}

// TestCheck: a node that two deployments declare differently is refused, and their own earlier word is none of another's.
func TestCheck(t *testing.T) {
	t.Parallel()
	m := &machine{t: t, root: t.TempDir()}
	o := m.options()
	o.Nodes = func() []Declaration {
		return []Declaration{says("", "site:xx"), says("d", "a:x"), says("e", "b:x")}
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name, nodes string) jobspecs.Deployment {
		return jobspecs.Deployment{Name: name, Local: jobspecs.Local{Nodes: says(name, nodes).Nodes}}
	}
	for _, tt := range []struct{ name, nodes, want string }{
		{"d", "a:xx", ""},
		{"f", "a:x b:x", ""},
		{"f", "c:x a:xx", "local.nodes[1].gpus: deployment d says that node a has 1 GPUs, not 2"},
		{"f", "site", "the configuration (local.nodes) says that node site has 2 GPUs, not 0"},
	} {
		errs := c.Check(t.Context(), file(tt.name, tt.nodes))
		if got := errs.Err(); (got == nil) != (tt.want == "") || got != nil && !strings.Contains(got.Error(), tt.want) {
			t.Errorf("%s with %s: %v, want %q", tt.name, tt.nodes, got, tt.want)
		}
	}
	preview, err := c.CapacityWith(t.Context(), file("d", "z:x"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff("site(site-gpu0 site-gpu1) b(b-gpu0) z(z-gpu0)", layoutText(preview.Nodes)); d != "" || !preview.Places || preview.Nodes[0].CPUs == 0 || preview.Nodes[0].Memory == 0 {
		t.Errorf("with another file of d: %s; %+v", d, preview.Nodes[0])
	}
}
