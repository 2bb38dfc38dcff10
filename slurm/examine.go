package slurm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// Finding is one thing that was looked at.
type Finding struct {
	Check string // what, in a word or two
	Level Level
	Text  string // what was found
	Fix   string // what to do; empty = nothing
}

// Level says what a finding means.
type Level string

// The levels of findings.
const (
	Fine    Level = "ok"
	Notice  Level = "notice" // works, and may surprise
	Problem Level = "problem"
	Unknown Level = "unknown" // could not be found out
)

// examineLimit bounds each question; a slurmctld that is away takes Slurm's commands 9 to 20 seconds.
const examineLimit = 12 * time.Second

// Examine looks at Slurm as a user of this host finds it. It asks and changes nothing.
func Examine(ctx context.Context, environ []string) []Finding {
	e := examination{slurm: newRunner(environ, "", newMetrics(nil))}
	if !e.commands() || !e.controller(ctx) {
		return e.found
	}
	e.configuration(ctx)
	e.partitions(ctx)
	e.accounts(ctx)
	return e.found
}

type examination struct {
	slurm  runner
	config Config
	found  []Finding
}

func (e *examination) add(check string, level Level, fix, format string, args ...any) {
	e.found = append(e.found, Finding{check, level, fmt.Sprintf(format, args...), fix})
}

func (e *examination) ask(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, examineLimit)
	defer cancel()
	return e.slurm.run(ctx, "", name, args...)
}

// commands looks for the client commands.
func (e *examination) commands() bool {
	var missing []string
	for _, name := range []string{"sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun"} {
		if _, err := e.slurm.find(name); err != nil {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) == 6:
		e.add("slurm", Notice, "on a login node: module load slurm, or put its commands on the PATH", "no command of Slurm's is on the PATH")
	case len(missing) > 0:
		e.add("slurm commands", Problem, "put them on the PATH", "not on the PATH: %s", strings.Join(missing, ", "))
	}
	return len(missing) == 0
}

// controller looks whether slurmctld answers.
func (e *examination) controller(ctx context.Context) bool {
	version, err := e.ask(ctx, "sinfo", "--version")
	if err == nil {
		e.add("slurm version", Fine, "", "%s", strings.TrimSpace(version))
	}
	ping, err := e.ask(ctx, "scontrol", "ping")
	switch {
	case strings.Contains(ping, "is UP"):
		return true
	case strings.Contains(ping, "lurmctld"):
		e.add("slurmctld", Problem, "try again later; deployments that run go on serving meanwhile", "%s", oneLine(ping))
	default:
		e.add("slurmctld", Notice, "on a node of a Slurm cluster its configuration is found by itself, or by SLURM_CONF", "this host belongs to no Slurm cluster: %v", err)
	}
	return false
}

// tightKillWait is what a drain and the end of an engine can hardly do with.
const tightKillWait = 10 * time.Second

func (e *examination) configuration(ctx context.Context) {
	out, err := e.ask(ctx, "scontrol", "show", "config")
	if err == nil {
		e.config, err = parseConfig(out)
	}
	if err != nil {
		e.add("slurm configuration", Unknown, "", "%v", err)
		return
	}
	if e.config.KillWait < tightKillWait {
		e.add("KillWait", Notice, "only the site can change it; planned ends do not depend on it",
			"a job that is cancelled or preempted by others has %s to finish its requests", e.config.KillWait)
	} else {
		e.add("KillWait", Fine, "", "a job that is cancelled or preempted by others has %s to finish its requests", e.config.KillWait)
	}
	if e.config.MinJobAge < 30*time.Second && !e.config.Accounting {
		e.add("MinJobAge", Notice, "only the site can change it", "Slurm forgets ended jobs after %s and has no accounting: how they ended may stay unknown", e.config.MinJobAge)
	}
}

func (e *examination) partitions(ctx context.Context) {
	out, err := e.ask(ctx, "sinfo", "--noheader", format(partitionFields))
	var list []Partition
	if err == nil {
		list, err = parsePartitions(out)
	}
	if err != nil {
		e.add("partitions", Unknown, "", "%v", err)
		return
	}
	cards := map[string]bool{}
	open, byDefault := 0, ""
	for _, p := range list {
		level, fix := Fine, ""
		if !p.Up {
			level, fix = Notice, "choose another slurm.partition"
		} else {
			open++
		}
		if p.Default {
			byDefault = p.Name
		}
		for _, g := range p.Groups {
			for name := range g.GPUs {
				cards[name] = true
			}
		}
		e.add("partition "+p.Name, level, fix, "%s", p.describe())
	}
	switch {
	case open == 0:
		e.add("partitions", Problem, "ask the site which partitions are open to you", "no partition is up")
	case byDefault == "":
		e.add("partitions", Notice, "set slurm.partition in each file", "there is no default partition")
	}
	e.cards(slices.Sorted(maps.Keys(cards)))
}

func (e *examination) cards(types []string) {
	switch {
	case len(types) == 0:
		e.add("GPUs", Notice, "engines without GPUs work; sites that hide their GPUs: slurm.gpuOption: none, and slurm.sbatch", "no node declares any")
	case slices.Equal(types, []string{""}):
		e.add("GPUs", Fine, "", "declared without a type: write gpus: N")
	default:
		e.add("GPUs", Fine, "", "types %s: write gpus: {count: N, type: %s}", strings.Join(types, ", "), types[len(types)-1])
	}
}

// describe is a partition on one line.
func (p Partition) describe() string {
	limit := "no time limit"
	if p.MaxTime > 0 {
		limit = "at most " + jobspecs.Duration(p.MaxTime).String()
	}
	var groups []string
	for _, g := range p.Groups {
		text := fmt.Sprintf("%d nodes of %d CPUs, %d GiB", g.Nodes, g.CPUs, g.Memory>>30)
		for _, name := range slices.Sorted(maps.Keys(g.GPUs)) {
			text += fmt.Sprintf(", %d %s", g.GPUs[name], orCards(name))
		}
		groups = append(groups, text)
	}
	text := limit + "; " + strings.Join(groups, "; ")
	if p.Default {
		text = "default; " + text
	}
	if !p.Up {
		text = "not up; " + text
	}
	return text
}

// accounts lists what jobs can be charged to, where the site keeps accounts.
func (e *examination) accounts(ctx context.Context) {
	if !e.config.Accounting {
		e.add("accounting", Notice, "", "there is none: no accounts, and no history of jobs")
		return
	}
	out, err := e.ask(ctx, "sacctmgr", "--noheader", "--parsable2", "show", "associations", "user="+myUser(), "format=Account,QOS")
	if err != nil {
		if errors.Is(err, errNoCommand) {
			err = errNoCommand
		}
		e.add("accounts", Unknown, "ask the site whether jobs need slurm.account", "%v", err)
		return
	}
	var accounts []string
	for line := range strings.Lines(out) {
		account, qos, _ := strings.Cut(strings.TrimSpace(line), "|")
		if qos != "" {
			account += " (QOS " + qos + ")"
		}
		if account != "" && !slices.Contains(accounts, account) {
			accounts = append(accounts, account)
		}
	}
	switch len(accounts) {
	case 0:
		e.add("accounts", Notice, "ask the site for one if submits are refused", "you have no account of your own here")
	case 1:
		e.add("accounts", Fine, "", "%s", accounts[0])
	default:
		e.add("accounts", Fine, "", "%s: choose by slurm.account, and slurm.qos", some(accounts))
	}
}
