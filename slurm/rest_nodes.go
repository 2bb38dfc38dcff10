package slurm

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// restNode is what is read of a node.
type restNode struct {
	Name   string `json:"name"`
	CPUs   number `json:"cpus"`
	Memory number `json:"real_memory"` // MiB
	Gres   string `json:"gres"`
	State  list   `json:"state"`
	Flags  list   `json:"state_flags"` // 22.05
}

func (r *rest) nodes(ctx context.Context) (nodes []cluster.Node, err error) {
	body, err := r.lists(ctx, "/nodes")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return readNodes(body)
}

// lists asks for one of the lists.
func (r *rest) lists(ctx context.Context, path string) (io.ReadCloser, error) {
	if _, err := r.version(ctx); err != nil {
		return nil, err
	}
	return r.ask(ctx, http.MethodGet, path+r.slash(), nil)
}

func readNodes(body io.Reader) (nodes []cluster.Node, err error) {
	err = eachOf(body, "nodes", func(n restNode) error {
		if n.Name == "" || n.CPUs.n < 0 || n.CPUs.n > 1<<20 || n.Memory.n < 0 || n.Memory.n > 1<<43 {
			return fmt.Errorf("node %q with %d CPUs and %d MiB", cut(n.Name), n.CPUs.n, n.Memory.n)
		}
		if len(nodes) >= maxHosts {
			return errTooManyHosts
		}
		nodes = append(nodes, cluster.Node{
			Name: n.Name, Up: n.up(), CPUs: int(n.CPUs.n), Memory: uint64(n.Memory.n) << 20, GPUs: gpusOf(n.Name, n.Gres),
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("slurmrestd's list of nodes: %w", err)
	}
	return nodes, nil
}

// up tells whether the node can be given jobs. One that sleeps is woken for them.
func (n restNode) up() bool {
	words := slices.Concat(n.State, n.Flags)
	words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(strings.ToUpper(w), "POWER") })
	return len(words) > 0 && isUp(strings.Join(words, "+"))
}

// restPartition is what is read of a partition; 22.05 has the plain fields.
type restPartition struct {
	Name     string `json:"name"`
	Flags    *list  `json:"flags"` // nil = this release does not tell
	MaxTime  number `json:"max_time_limit"`
	Maximums struct {
		Time number `json:"time"`
	} `json:"maximums"`
	State     list `json:"state"`
	Partition struct {
		State list `json:"state"`
	} `json:"partition"`
	Nodes configured `json:"nodes"`
}

// configured is a list of nodes, or an object that has one.
type configured string

// UnmarshalJSON reads both forms.
func (c *configured) UnmarshalJSON(b []byte) error {
	var o struct{ Configured string }
	text, err := either(b, &o)
	*c = configured(text + o.Configured)
	return err
}

// partitions asks for partitions and nodes, since partitions only name theirs.
func (r *rest) partitions(ctx context.Context) ([]Partition, error) {
	nodes, err := r.nodes(ctx)
	if err != nil {
		return nil, err
	}
	body, err := r.lists(ctx, "/partitions")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return readPartitions(body, nodes)
}

func readPartitions(body io.Reader, nodes []cluster.Node) (all []Partition, err error) {
	named := map[string]cluster.Node{}
	for _, n := range nodes {
		named[n.Name] = n
	}
	err = eachOf(body, "partitions", func(p restPartition) error {
		names, err := expandHosts(string(p.Nodes))
		if err != nil {
			return fmt.Errorf("partition %s: %w", cut(p.Name), err)
		}
		part := Partition{Name: p.Name, Default: p.mayBeDefault(), Up: slices.Contains(append(p.State, p.Partition.State...), "UP"), Groups: groupsOf(names, named)}
		for _, limit := range []number{p.MaxTime, p.Maximums.Time} {
			if limit.set && !limit.unlimited() && limit.n < 1<<31 {
				part.MaxTime = time.Duration(limit.n) * time.Minute
			}
		}
		all = append(all, part)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("slurmrestd's list of partitions: %w", err)
	}
	return all, nil
}

// mayBeDefault: some parsers do not tell which partition is the default, and then it may be any of them.
func (p restPartition) mayBeDefault() bool {
	return p.Flags == nil || slices.ContainsFunc(*p.Flags, func(f string) bool { return strings.EqualFold(f, "default") })
}

// groupsOf groups nodes that are alike.
func groupsOf(names []string, nodes map[string]cluster.Node) (groups []NodeGroup) {
	at := map[string]int{}
	for _, name := range names {
		n, ok := nodes[name]
		if !ok {
			continue
		}
		g := NodeGroup{CPUs: n.CPUs, Memory: n.Memory, GPUs: map[string]int{}}
		for _, card := range n.GPUs {
			g.GPUs[card.Type]++
		}
		alike := fmt.Sprint(g)
		i, ok := at[alike]
		if !ok {
			i = len(groups)
			at[alike] = i
			groups = append(groups, g)
		}
		groups[i].Nodes++
	}
	return groups
}

// usualKillWait is Slurm's default, for a site that slurmrestd does not tell.
const usualKillWait = 30 * time.Second

// config asks for the release. Timers are not among what slurmrestd tells; the defaults are taken.
func (r *rest) config(ctx context.Context) (Config, error) {
	body, err := r.lists(ctx, "/ping")
	if err != nil {
		return Config{}, err
	}
	var answer struct {
		errorsOf
		Meta struct {
			Old   struct{ Release string }          `json:"Slurm"`
			Slurm struct{ Release, Cluster string } `json:"slurm"`
		}
	}
	if err := readAnswer(body, &answer); err != nil {
		return Config{}, err
	}
	c := Config{Version: answer.Meta.Slurm.Release, Cluster: answer.Meta.Slurm.Cluster, KillWait: usualKillWait, MinJobAge: 5 * time.Minute}
	if c.Version == "" {
		c.Version = answer.Meta.Old.Release
	}
	return c, nil
}

// accounts: what slurmrestd tells of the accounting is not read; `sacct` is for that.
func (r *rest) accounts(context.Context, accountQuery) ([]account, error) {
	return nil, errNoAccounting
}
