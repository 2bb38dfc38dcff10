package reconcile

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/ledger"
)

// An hour of everything that can go wrong, then calm: never more runs admitted than wanted plus surge (pass checks it), no
// token submitted twice (the recorder checks it), and at the end exactly what is wanted.
func TestChaos(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { chaos(t, seed) })
		})
	}
}

func chaos(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	in := install(t, clustertest.SimOptions{
		Nodes: clustertest.Nodes(4, 2), QueueDelay: time.Second, QueueJitter: 20 * time.Second, Seed: seed, Requeue: seed%2 == 0,
		Rates: clustertest.Rates{Refuse: 0.1, Lose: 0.1, Accept: 0.1, AcceptLate: 0.1, Twice: 0.1, Unknown: 0.1},
	})
	in.highest = 4
	in.ledger.apply(spec("d", 3))
	c := in.control()
	for range 120 {
		in.pass(30 * time.Second)
		switch node := fmt.Sprintf("node%d", rng.IntN(4)); rng.IntN(12) {
		case 0:
			in.sim.KillNode(node)
		case 1:
			in.sim.CutNode(node)
		case 2, 3:
			in.sim.ReturnNode(node)
		case 4:
			if err := c.stop(); err != nil {
				t.Fatal(err)
			}
			c = in.control()
		case 5:
			if alive := in.sim.Alive(); len(alive) > 0 {
				in.sim.Exit(alive[rng.IntN(len(alive))].Job.ID, cluster.Exit{Signal: 9})
			}
		case 6:
			in.ledger.change("d", func(d *ledger.Deployment) { d.Scale = map[jobspecs.RoleKind]int{jobspecs.Mixed: rng.IntN(5)} })
		case 7:
			in.sim.Silence(true)
			in.pass(time.Duration(rng.IntN(120)) * time.Second)
			in.sim.Silence(false)
		case 8:
			if alive := in.sim.Alive(); len(alive) > 0 {
				in.sim.Preempt(alive[rng.IntN(len(alive))].Job.ID, 5*time.Second)
			}
		case 9:
			in.ledger.apply(spec("d", 3, []string{"a", "b", "c", "bad"}[rng.IntN(4)]))
		case 10:
			in.set(func() { in.cut = !in.cut })
		case 11:
			in.ledger.change("d", func(d *ledger.Deployment) { d.Stopped = !d.Stopped })
		}
	}
	in.sim.SetRates(clustertest.Rates{})
	for i := range 4 {
		in.sim.ReturnNode(fmt.Sprint("node", i))
	}
	in.set(func() { in.cut = false })
	in.ledger.apply(spec("d", 3, "last"))
	in.ledger.change("d", func(d *ledger.Deployment) { d.Stopped, d.Scale = false, nil })
	in.pass(30 * time.Minute)
	in.expect("d", 3, 3)
	if err := c.stop(); err != nil {
		t.Error(err)
	}
}

// A role on a cluster that counts is told once per change, and a later controller reads off the cluster what it holds.
func TestCountedCluster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := install(t, clustertest.SimOptions{Nodes: clustertest.Nodes(1, 1)})
		inner := clustertest.NewSim(clustertest.SimOptions{Nodes: clustertest.Nodes(2, 4), Start: time.Now()})
		counter := clustertest.NewSimCounter(inner, clustertest.SimCounterOptions{})
		in.others = map[jobspecs.ClusterKind]cluster.Cluster{jobspecs.NomadCluster: counter}
		d := spec("n", 3)
		d.Cluster = jobspecs.NomadCluster
		in.ledger.apply(d)
		told := func(want string) {
			t.Helper()
			role := cluster.RoleRef{Deployment: "n", Role: jobspecs.Mixed}
			revision, n, _ := counter.Count(role)
			if got := fmt.Sprintf("%d of %d, %d calls", n, revision, inner.Calls(clustertest.SetCountCall)); got != want {
				t.Errorf("told %s, want %s", got, want)
			}
		}
		c := in.control()
		time.Sleep(time.Minute)
		told("3 of 1, 1 calls")
		in.ledger.change("n", func(d *ledger.Deployment) { d.Stopped = true })
		time.Sleep(time.Minute)
		told("0 of 1, 2 calls")
		if err := c.stop(); err != nil {
			t.Error(err)
		}
		c = in.control()
		time.Sleep(time.Minute)
		told("0 of 1, 2 calls")
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

// What somebody else tells a cluster that counts is followed and said; what the cluster starts is adopted, under its own
// launch, and ended there when the cluster says so. A lost answer is nobody else's change.
func TestCountedClusterOfSeveralMasters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := install(t, clustertest.SimOptions{Nodes: clustertest.Nodes(1, 1)})
		inner := clustertest.NewSim(clustertest.SimOptions{Nodes: clustertest.Nodes(2, 4), Start: time.Now()})
		counter := clustertest.NewSimCounter(inner, clustertest.SimCounterOptions{})
		in.others = map[jobspecs.ClusterKind]cluster.Cluster{jobspecs.NomadCluster: counter}
		d := spec("n", 1)
		d.Cluster = jobspecs.NomadCluster
		in.ledger.apply(d)
		role := cluster.RoleRef{Deployment: "n", Role: jobspecs.Mixed}
		is := func(want int) {
			t.Helper()
			if _, n, _ := counter.Count(role); n != want {
				t.Errorf("the cluster is at %d, want %d; events %v", n, want, in.ledger.kinds())
			}
		}
		pass := func() {
			for range 12 {
				time.Sleep(5 * time.Second)
				inner.Advance(5 * time.Second)
			}
		}
		c := in.control()
		pass()
		is(1)
		inner.Fail(clustertest.SetCountCall, clustertest.Accept)
		in.ledger.change("n", func(d *ledger.Deployment) { d.Scale = map[jobspecs.RoleKind]int{jobspecs.Mixed: 2} })
		pass()
		is(2)
		if in.ledger.said("scaled-outside", "") {
			t.Errorf("a lost answer is taken for somebody else's change: %v", in.ledger.kinds())
		}
		counter.ScaleBy("scaled by ada", role, 3)
		pass()
		is(3)
		if !in.ledger.said("scaled-outside", "scaled by ada") {
			t.Errorf("nobody tells of the change: %v", in.ledger.kinds())
		}
		for _, n := range in.ledger.Deployments() {
			if n.Scale[jobspecs.Mixed] != 3 {
				t.Errorf("wanted are %v", n.Scale)
			}
		}
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestJoinFileThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := install(t, clustertest.SimOptions{Nodes: clustertest.Nodes(1, 1)})
		in.ledger.apply(spec("d", 1))
		failing := true
		c := in.control(func(o *Options) {
			write := o.JoinFile
			o.JoinFile = func(x cluster.Launch) (string, error) {
				in.mu.Lock()
				fails := failing
				in.mu.Unlock()
				if fails {
					return "", fmt.Errorf("no space left on device")
				}
				return write(x)
			}
		})
		in.pass(8 * time.Second)
		if n := in.sim.Calls(clustertest.SubmitCall); n != 0 || !in.ledger.said("failed", "no space left") {
			t.Errorf("%d submits, events %v", n, in.ledger.kinds())
		}
		in.set(func() { failing = false })
		in.pass(time.Minute)
		in.expect("d", 1, 1)
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestMetricsAreNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := install(t, clustertest.SimOptions{Nodes: clustertest.Nodes(1, 1)})
		in.ledger.apply(spec("d", 2))
		registry := prometheus.NewRegistry()
		c := in.control(func(o *Options) { o.Registerer = registry })
		in.pass(20 * time.Second)
		if err := c.stop(); err != nil {
			t.Error(err)
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range families {
			names = append(names, strings.TrimPrefix(f.GetName(), "penstock_reconcile_"))
			if f.GetName() == "penstock_reconcile_waits" && f.GetMetric()[0].GetLabel()[0].GetValue() != "never-fits" {
				t.Errorf("waits: %v", f)
			}
		}
		want := []string{"actions_total", "cluster_call_seconds", "cycle_seconds", "handover_gap_seconds", "handovers_total", "launches", "probes_total", "waits"}
		if !slices.Equal(names, want) {
			t.Errorf("%v, want %v", names, want)
		}
		o := in.options()
		o.Fleet, o.Registerer = fleet.New(fleet.Options{}), registry
		if _, err := New(o); err == nil {
			t.Error("the same metrics can be registered twice")
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("a loop without a ledger")
	}
}

func replica(id cluster.LaunchID, starts uint32) fleet.Replica {
	return fleet.Replica{Launch: id, Run: "r", Epoch: 1, Nodes: 1, EngineStarts: starts, Phase: apiv1.Phase_PHASE_STARTED}
}
