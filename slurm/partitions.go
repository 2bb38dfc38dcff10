package slurm

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// partitionFields are what is asked of sinfo, in the order of parsePartitions' reading.
var partitionFields = strings.Fields("Partition Available Time Nodes CPUs Memory Gres")

// Partition is what one partition allows, and what its nodes have.
type Partition struct {
	Name    string
	Default bool
	Up      bool
	MaxTime time.Duration // 0 = no limit
	Groups  []NodeGroup
}

// NodeGroup is some equal nodes of a partition.
type NodeGroup struct {
	Nodes, CPUs int
	Memory      uint64         // bytes
	GPUs        map[string]int // per node, by Slurm's word for the type
}

// Partitions asks for the partitions that this user may see.
func (c *Cluster) Partitions(ctx context.Context) ([]Partition, error) {
	list, err := c.slurm.partitions(ctx)
	if err != nil {
		return nil, fmt.Errorf("list Slurm's partitions: %w", unknown(err))
	}
	return list, nil
}

// parsePartitions reads sinfo's answer, in which each group of equal nodes is a line.
func parsePartitions(out string) (list []Partition, err error) {
	records, err := parseRecords(out, len(partitionFields))
	if err != nil {
		return nil, fmt.Errorf("sinfo's answer: %w", err)
	}
	at := map[string]int{}
	for _, r := range records {
		for i := range r {
			r[i] = strings.TrimSpace(r[i])
		}
		name, isDefault := strings.CutSuffix(r[0], "*")
		i, known := at[name]
		if !known {
			limit, err := parseSpan(r[2])
			if err != nil {
				return nil, fmt.Errorf("sinfo's answer: partition %s: %w", cut(name), err)
			}
			i = len(list)
			at[name] = i
			list = append(list, Partition{Name: name, Default: isDefault, Up: r[1] == "up", MaxTime: limit})
		}
		g := NodeGroup{GPUs: map[string]int{}}
		g.Nodes, _ = strconv.Atoi(r[3])
		g.CPUs, _ = strconv.Atoi(strings.TrimRight(r[4], "+"))
		mebibytes, _ := strconv.ParseUint(strings.TrimRight(r[5], "+"), 10, 43)
		g.Memory = mebibytes << 20
		for _, card := range gpusOf("", r[6]) {
			g.GPUs[card.Type]++
		}
		list[i].Groups = append(list[i].Groups, g)
	}
	return list, nil
}

// parseSpan reads Slurm's spans of time: days-hours:minutes:seconds, of which the left parts may be missing. 0 = no limit.
func parseSpan(text string) (time.Duration, error) {
	switch text {
	case "infinite", "UNLIMITED", "n/a", "":
		return 0, nil
	}
	days, clock, hasDays := strings.Cut(text, "-")
	if !hasDays {
		days, clock = "0", text
	}
	parts := strings.Split(clock, ":")
	if len(parts) > 3 {
		return 0, fmt.Errorf("%q is no span of time", cut(text))
	}
	units := []time.Duration{time.Hour, time.Minute, time.Second}
	if !hasDays {
		units = units[3-max(len(parts), 2):] // a number alone is minutes
	}
	n, err := strconv.ParseUint(days, 10, 16)
	total := time.Duration(n) * 24 * time.Hour
	for i, p := range parts {
		n, perr := strconv.ParseUint(p, 10, 16)
		if err != nil || perr != nil {
			return 0, fmt.Errorf("%q is no span of time", cut(text))
		}
		total += time.Duration(n) * units[i]
	}
	return total, nil
}
