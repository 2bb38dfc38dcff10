package slurm

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/penstock/penstock/scheduler/cluster"
)

// nodeFields are what is asked of sinfo, in the order of parseNodes' reading.
var nodeFields = strings.Fields("NodeList CPUs Memory Gres StateLong")

// Capacity lists the nodes of all partitions that this user may see, with the GPUs that Slurm declares. Who holds them is
// Slurm's business.
func (c *Cluster) Capacity(ctx context.Context) (cluster.Capacity, error) {
	nodes, err := c.slurm.nodes(ctx)
	if err != nil {
		return cluster.Capacity{}, fmt.Errorf("list Slurm's nodes: %w", unknown(err))
	}
	types := map[string]bool{}
	for _, n := range nodes {
		for _, g := range n.GPUs {
			types[g.Type] = true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gpuTypes = types
	return cluster.Capacity{Nodes: nodes, At: c.now()}, nil
}

// parseNodes reads sinfo's answer. A node of several partitions is listed several times.
func parseNodes(out string) ([]cluster.Node, error) {
	records, err := parseRecords(out, len(nodeFields))
	if err != nil {
		return nil, fmt.Errorf("sinfo's answer: %w", err)
	}
	seen := map[string]bool{}
	nodes := make([]cluster.Node, 0, len(records))
	for _, r := range records {
		name := strings.TrimSpace(r[0])
		if seen[name] || name == "" {
			continue
		}
		seen[name] = true
		cpus, err1 := strconv.Atoi(strings.TrimRight(strings.TrimSpace(r[1]), "+"))
		mebibytes, err2 := strconv.ParseUint(strings.TrimRight(strings.TrimSpace(r[2]), "+"), 10, 43)
		if err1 != nil || err2 != nil || cpus < 0 {
			return nil, fmt.Errorf("sinfo's answer: node %s with %q CPUs and %q MiB", cut(name), cut(r[1]), cut(r[2]))
		}
		nodes = append(nodes, cluster.Node{
			Name: name, Up: isUp(strings.TrimSpace(r[4])), CPUs: cpus, Memory: mebibytes << 20, GPUs: gpusOf(name, r[3]),
		})
	}
	return nodes, nil
}

// isUp tells whether a node in this state can be given jobs, now or when others leave it. Appended characters mean: * does
// not answer, others that it sleeps, boots, or is planned for.
func isUp(state string) bool {
	if strings.ContainsAny(state, "*") {
		return false
	}
	for _, bad := range []string{"down", "drain", "drng", "fail", "unk", "maint", "error", "inval", "perfctrs", "no_respond", "not_responding", "future", "reboot"} {
		if strings.Contains(strings.ToLower(state), bad) {
			return false
		}
	}
	return state != ""
}

// gresWord is one generic resource: gpu:h100:8(S:0-1), gpu:2, gpu:a100_3g.20gb:4.
var gresWord = regexp.MustCompile(`^gpu(?::([^:()]+))?:(\d+)(?:\(.*\))?$`)

// maxGPUs bounds the cards of one node that are believed.
const maxGPUs = 1024

// gpusOf lists the cards that a node's generic resources declare, by names of ours: Slurm tells no UUIDs.
func gpusOf(node, gres string) (gpus []cluster.GPU) {
	for _, word := range splitGres(gres) {
		m := gresWord.FindStringSubmatch(word)
		if m == nil {
			continue
		}
		n, err := strconv.Atoi(m[2])
		for ; err == nil && n > 0 && len(gpus) < maxGPUs; n-- {
			gpus = append(gpus, cluster.GPU{ID: fmt.Sprintf("%s-gpu%d", node, len(gpus)), Type: m[1]})
		}
	}
	return gpus
}

// splitGres splits at commas outside of parentheses.
func splitGres(gres string) (words []string) {
	depth, from := 0, 0
	gres = strings.TrimSpace(gres)
	for i, r := range gres {
		switch {
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth <= 0:
			words = append(words, gres[from:i])
			from = i + 1
		}
	}
	return append(words, gres[from:])
}

// gpuType is the cluster's own word for the type of cards that a deployment means: sbatch takes no parts of words.
func (c *Cluster) gpuType(wanted string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	best := ""
	for name := range c.gpuTypes {
		switch {
		case wanted == "" || name == "":
		case name == wanted:
			return name
		case strings.Contains(strings.ToLower(name), strings.ToLower(wanted)) && (best == "" || len(name) < len(best) || len(name) == len(best) && name < best):
			best = name
		}
	}
	return best
}
