package ledger

import (
	"context"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// op is one call of a controller's life.
type op struct {
	name string
	do   func(ctx context.Context, l *Ledger) error
}

func opApply(name string, replicas int, arg string) op {
	return op{"apply " + name + " " + arg, func(_ context.Context, l *Ledger) error {
		_, _, err := l.Apply(deploymentFile(name, replicas, arg), "f.yaml")
		return err
	}}
}

func opPut(deployment string, id cluster.LaunchID, rev int) op {
	return op{"put " + string(id), func(_ context.Context, l *Ledger) error {
		return l.PutLaunch(launchOf(deployment, id, rev))
	}}
}

func opAdmit(id cluster.LaunchID, run string, supersede bool) op {
	return op{"admit " + string(id) + " " + run, func(_ context.Context, l *Ledger) error {
		_, err := l.Admit(id, run, supersede)
		return err
	}}
}

func opPhase(id cluster.LaunchID, p cluster.LaunchPhase, ended time.Time) op {
	return op{string(p) + " " + string(id), func(_ context.Context, l *Ledger) error {
		return l.UpdateLaunch(id, func(x *cluster.Launch) error {
			x.Phase, x.EndedAt = p, ended
			return nil
		})
	}}
}

func opScale(name string, n int) op {
	return op{"scale " + name, func(_ context.Context, l *Ledger) error { return l.SetScale(name, jobspecs.Mixed, n) }}
}

func opStopped(name string, stopped bool) op {
	return op{"stop " + name, func(_ context.Context, l *Ledger) error { return l.SetStopped(name, stopped) }}
}

func opRollback(name string, bad, good int) op {
	return op{"rollback " + name, func(_ context.Context, l *Ledger) error { return l.Rollback(name, bad, good, "never ready") }}
}

func opRemove(name string) op {
	return op{"remove " + name, func(_ context.Context, l *Ledger) error { return l.Remove(name) }}
}

func opAcquire(nonce string) op {
	return op{"acquire", func(ctx context.Context, l *Ledger) error {
		_, err := l.Acquire(ctx, holder(nonce))
		return err
	}}
}

var opRelease = op{"release", func(_ context.Context, l *Ledger) error { return l.Release() }}

// script goes through all that a controller writes: two terms, with everything that intent can be.
func script() []op {
	end := time.Unix(1_700_000_100, 0).UTC()
	return []op{
		opAcquire("a"),
		opApply("qwen", 2, "one"),
		opPut("qwen", "l1", 1),
		opPhase("l1", cluster.Submitted, time.Time{}),
		opAdmit("l1", "run1", false),
		opPut("qwen", "l2", 1),
		opAdmit("l2", "run2", false),
		opScale("qwen", 3),
		opApply("qwen", 2, "two"),
		opAdmit("l1", "run1b", true),
		opRollback("qwen", 2, 1),
		opApply("tiny", 1, "one"),
		opPut("tiny", "l3", 1),
		opStopped("qwen", true),
		opRelease,
		opAcquire("b"),
		opApply("qwen", 2, "one"), // wanted again
		opAdmit("l3", "run3", false),
		opPhase("l2", cluster.Ended, end),
		opPhase("l1", cluster.Ended, end.Add(time.Second)), // forgets l2
		opRemove("tiny"),
		opPhase("l3", cluster.Ended, end),
		opAcquire("c"), // forgets nothing of tiny: l3 is remembered
		opApply("tiny", 1, "three"),
		opScale("tiny", 0),
	}
}

// scriptOptions forgets ended launches soon.
func scriptOptions(o Options) Options {
	o.KeepEnded = 1
	o.KeepEndedFor = 100 * 365 * 24 * time.Hour
	return o
}
