package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// estate is what a reconcile loop works on: a ledger, a fleet, and a cluster that is simulated.
type estate struct {
	dir         string
	ledger      *ledger.Ledger
	fleet       *fleet.Fleet
	sim         *clustertest.Sim
	deployments int
	replicas    int // in all

	// begun is told of every start of a job; nil = nobody is.
	begun func(clustertest.SimRun)
}

const gpusPerNode = 10

// newEstate makes one on which nothing runs yet, with a node for each ten replicas. The ledger is in memory where the
// system has a place for that: the disk is not what is measured.
func newEstate(ctx context.Context, deployments, replicas int, reports time.Duration) (*estate, error) {
	parent := "/dev/shm"
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "ps-bench-")
	if err != nil {
		return nil, err
	}
	e := &estate{
		dir: dir, fleet: fleet.New(fleet.Options{Interval: reports}), deployments: deployments, replicas: replicas,
	}
	e.sim = clustertest.NewSim(clustertest.SimOptions{
		Kind: jobspecs.LocalCluster, Places: true, Start: time.Now(), Nodes: clustertest.Nodes(replicas/gpusPerNode, gpusPerNode),
		OnStart: func(r clustertest.SimRun) {
			if e.begun != nil {
				e.begun(r)
			}
		},
	})
	if e.ledger, err = ledger.Open(dir, ledger.Options{Log: zerolog.Nop()}); err != nil {
		return nil, errors.Join(err, e.close())
	}
	holder, err := ledger.ThisProcess(time.Now())
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	if _, err := e.ledger.Acquire(ctx, holder); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

func (e *estate) close() error { return os.RemoveAll(e.dir) }

// spec is one of the deployments.
func (e *estate) spec(i int) (jobspecs.Deployment, error) {
	return jobspecs.Parse("bench.yaml", fmt.Appendf(nil, `apiVersion: penstock/v1
name: d%03d
model: {id: bench, servedName: m%03d}
engine: {kind: sim}
cluster: local
roles:
  mixed: {replicas: %d, gpus: 1}
`, i, i, e.replicas/e.deployments))
}

// apply wants all replicas.
func (e *estate) apply() error {
	for i := range e.deployments {
		d, err := e.spec(i)
		if err != nil {
			return err
		}
		if _, _, err := e.ledger.Apply(d, "bench.yaml"); err != nil {
			return err
		}
	}
	return nil
}

// look is what plan.Plan is given.
func (e *estate) look(ctx context.Context) (plan.Wanted, plan.Seen, error) {
	jobs, err := e.sim.Jobs(ctx)
	if err != nil {
		return plan.Wanted{}, plan.Seen{}, err
	}
	capacity, err := e.sim.Capacity(ctx)
	if err != nil {
		return plan.Wanted{}, plan.Seen{}, err
	}
	var w plan.Wanted
	for _, d := range e.ledger.Deployments() {
		w.Deployments = append(w.Deployments, plan.Deployment{
			Name: d.Name, Spec: d.Spec, Revision: d.Revision, Previous: d.Previous, Scale: d.Scale, Revisions: map[int]jobspecs.Deployment{},
		})
	}
	return w, plan.Seen{
		Fleet: e.fleet.Snapshot(time.Now()), Launches: e.ledger.Launches(), Since: time.Now(),
		Clusters: map[jobspecs.ClusterKind]plan.Cluster{
			jobspecs.LocalCluster: {Jobs: jobs, JobsKnown: true, Capacity: capacity, CapacityKnown: true},
		},
	}, nil
}

// start makes all wanted replicas run and be ready, where a plan puts them.
func (e *estate) start(ctx context.Context) error {
	w, s, err := e.look(ctx)
	if err != nil {
		return err
	}
	specs := map[string]jobspecs.Deployment{}
	for _, d := range w.Deployments {
		specs[d.Name] = d.Spec
	}
	started := 0
	for _, a := range plan.Plan(w, s, time.Now()) {
		if a.Verb != plan.Start {
			continue
		}
		x := *a.New
		x.ID = cluster.LaunchID(fmt.Sprintf("%s-%s-%d-k3v9x2mq", x.Deployment, x.Role, x.Index))
		if err := e.startOne(ctx, x, specs[x.Deployment]); err != nil {
			return err
		}
		started++
	}
	if started != e.replicas {
		return fmt.Errorf("%d of %d replicas were planned to start", started, e.replicas)
	}
	return nil
}

func (e *estate) startOne(ctx context.Context, x cluster.Launch, d jobspecs.Deployment) error {
	if err := e.ledger.PutLaunch(x); err != nil {
		return err
	}
	job, err := e.sim.Submit(ctx, cluster.Submission{Launch: x, Deployment: d})
	if err != nil {
		return err
	}
	e.sim.Advance(0)
	const run = "r1"
	epoch, err := e.ledger.Admit(x.ID, run, true)
	if err != nil {
		return err
	}
	now := time.Now()
	if err := e.ledger.UpdateLaunch(x.ID, func(x *cluster.Launch) error {
		x.Phase, x.Job, x.ReadyAt = cluster.Submitted, job, now
		return nil
	}); err != nil {
		return err
	}
	e.fleet.Admit(x.ID, run, epoch, 1)
	state := bigState(identityOf(x, run, epoch), 0)
	if _, err := e.fleet.Apply(x.ID, run, epoch, 0, &apiv1.ReportRequest{Body: &apiv1.ReportRequest_Full{Full: state}}, now); err != nil {
		return err
	}
	e.fleet.SetReady(x.ID, run, 1, now, nil)
	return nil
}

func identityOf(x cluster.Launch, run string, epoch uint64) *apiv1.Identity {
	return &apiv1.Identity{
		Launch: string(x.ID), Run: run, Epoch: epoch, Nodes: 1, Node: x.Placement[0].Node, Hostname: x.Placement[0].Node,
		Address: "127.0.0.1:9", Version: "bench", EngineKind: "sim",
	}
}
