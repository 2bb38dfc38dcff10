package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/plan"
	"github.com/penstock/penstock/scheduler/reconcile"
)

const (
	half, full   = 5_000, 10_000 // replicas
	planGoal     = 100           // ms
	planEach     = 500 * time.Millisecond
	cyclesFor    = 3 * time.Second
	cycleEvery   = 100 * time.Millisecond // a new answer of the cluster, and a cycle for it
	cyclesWarmup = 500 * time.Millisecond
)

// planBench is what is measured at two sizes, in turn.
type planBench struct {
	estates   map[int]*estate
	plans     map[string]map[int][]float64 // ms, by situation
	cycles    map[int][]float64            // ms
	allocated map[int][]float64            // MiB a cycle
	heap      map[int]float64              // MiB
}

// benchPlan measures plans and cycles.
func benchPlan(ctx context.Context, o *options, r *report) (err error) {
	if o.profile != "" {
		stop, err := startProfile("plan")
		if err != nil {
			return err
		}
		defer stop()
	}
	b := &planBench{
		estates: map[int]*estate{}, plans: map[string]map[int][]float64{"cold": {}, "steady": {}, "rollout": {}},
		cycles: map[int][]float64{}, allocated: map[int][]float64{}, heap: map[int]float64{},
	}
	defer func() {
		for _, e := range b.estates {
			err = errors.Join(err, e.close())
		}
	}()
	for _, n := range []int{half, full} {
		if err := b.open(ctx, n); err != nil {
			return err
		}
	}
	for range rounds {
		for _, n := range []int{half, full} {
			if err := b.round(ctx, n); err != nil {
				return err
			}
		}
	}
	for _, s := range []string{"cold", "steady", "rollout"} {
		r.figure("plan_"+s+"_10000", median(b.plans[s][full]), "ms", "goal", planGoal, less)
	}
	r.figure("reconcile_cycle_10000", median(b.cycles[full]), "ms", "goal", planGoal, less)
	r.figure("reconcile_cycle_growth", median(b.cycles[full])/median(b.cycles[half]), "x", "linear", 2, less)
	r.figure("reconcile_allocated_10000", median(b.allocated[full]), "MiB/cycle", "twice_5000", 2*median(b.allocated[half]), less)
	r.figure("reconcile_heap_10000", b.heap[full], "MiB", "twice_5000", 2*b.heap[half], less)
	return nil
}

// open makes an estate of a size, with everything running on it; on the way it plans while nothing does.
func (b *planBench) open(ctx context.Context, n int) error {
	before := heapNow()
	e, err := newEstate(ctx, 100, n, time.Hour) // nobody reports meanwhile
	if err != nil {
		return err
	}
	b.estates[n] = e
	if err := e.apply(); err != nil {
		return err
	}
	if b.plans["cold"][n], err = e.timePlans(ctx, nil); err != nil {
		return err
	}
	if err := e.start(ctx); err != nil {
		return err
	}
	b.heap[n] = heapNow() - before
	return nil
}

// round measures one size once.
func (b *planBench) round(ctx context.Context, n int) error {
	for s, change := range map[string]func(*plan.Wanted){"steady": nil, "rollout": nextRevision} {
		took, err := b.estates[n].timePlans(ctx, change)
		if err != nil {
			return err
		}
		b.plans[s][n] = append(b.plans[s][n], took...)
	}
	c, err := b.estates[n].cycles(ctx)
	b.cycles[n], b.allocated[n] = append(b.cycles[n], c.milliseconds), append(b.allocated[n], c.megabytes)
	return err
}

func heapNow() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

// nextRevision gives every deployment a revision of which nothing runs.
func nextRevision(w *plan.Wanted) {
	for i := range w.Deployments {
		d := &w.Deployments[i]
		d.Revisions = map[int]jobspecs.Deployment{d.Revision: d.Spec}
		d.Previous, d.Revision = d.Revision, d.Revision+1
		d.Spec.Engine.Version = "2"
	}
}

// timePlans plans over and over, and returns how long each took, in ms.
func (e *estate) timePlans(ctx context.Context, change func(*plan.Wanted)) (took []float64, err error) {
	w, s, err := e.look(ctx)
	if err != nil {
		return nil, err
	}
	if change != nil {
		change(&w)
	}
	for begin := time.Now(); time.Since(begin) < planEach || len(took) < 3; {
		now := time.Now()
		actions := plan.Plan(w, s, now)
		took = append(took, milli(int64(time.Since(now))))
		runtime.KeepAlive(actions)
	}
	return took, nil
}

// cycleCost is what one cycle took.
type cycleCost struct{ milliseconds, megabytes float64 }

// nobody stands in for agents that are not there.
type nobody struct{}

// Send does nothing.
func (nobody) Send(string, *apiv1.Command) error { return nil }

// Probe finds every replica well.
func (nobody) Probe(context.Context, reconcile.Target) error { return nil }

// cycles runs a reconcile loop for a while on what is at rest, with a new answer of the cluster for each cycle. The time
// is the loop's own metric, from the look at everything to the end of the plan; allocated is all that the process does
// for it, answers included.
func (e *estate) cycles(ctx context.Context) (cost cycleCost, err error) {
	registry := prometheus.NewRegistry()
	loop, err := reconcile.New(reconcile.Options{
		Ledger: e.ledger, Fleet: e.fleet, Clusters: map[jobspecs.ClusterKind]cluster.Cluster{jobspecs.LocalCluster: e.sim},
		JoinFile: func(cluster.Launch) (string, error) { return "", nil }, RemoveJoinFile: func(cluster.Launch) error { return nil },
		LogDir: func(cluster.Launch) string { return "" }, Commander: nobody{}, Prober: nobody{},
		PollEvery: map[jobspecs.ClusterKind]time.Duration{jobspecs.LocalCluster: cycleEvery},
		Log:       zerolog.Nop(), Registerer: registry,
	})
	if err != nil {
		return cost, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	time.Sleep(cyclesWarmup)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, sum, err := counted(registry, "penstock_reconcile_cycle_seconds")
	time.Sleep(cyclesFor)
	n2, sum2, err2 := counted(registry, "penstock_reconcile_cycle_seconds")
	runtime.ReadMemStats(&after)
	last := loop.Last()
	cancel()
	if err = errors.Join(err, err2, <-ended); err != nil {
		return cost, err
	}
	if len(last) > 0 {
		return cost, fmt.Errorf("the loop is not at rest: %s %s: %s", last[0].Verb, last[0].Deployment, last[0].Reason)
	}
	if n2 == n {
		return cost, errors.New("the loop made no cycle")
	}
	per := float64(n2 - n)
	return cycleCost{1000 * (sum2 - sum) / per, float64(after.TotalAlloc-before.TotalAlloc) / per / (1 << 20)}, nil
}

// counted reads a histogram's count and sum.
func counted(g prometheus.Gatherer, name string) (n uint64, sum float64, err error) {
	families, err := g.Gather()
	if err != nil {
		return 0, 0, err
	}
	for _, f := range families {
		if f.GetName() == name {
			h := f.GetMetric()[0].GetHistogram()
			return h.GetSampleCount(), h.GetSampleSum(), nil
		}
	}
	return 0, 0, fmt.Errorf("there is no metric %s", name)
}
