package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// inBubble runs a test with an installation of 2 nodes with 2 GPUs each and a running loop.
func inBubble(t *testing.T, o clustertest.SimOptions, test func(t *testing.T, in *installation, c controller)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		if o.Nodes == nil {
			o.Nodes = clustertest.Nodes(2, 2)
		}
		in := install(t, o)
		c := in.control()
		test(t, in, c)
		if err := c.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestUpAndSteady(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		in.ledger.apply(spec("d", 2))
		c.Wake()
		in.pass(20 * time.Second)
		in.expect("d", 2, 2)
		told := in.ledger.kinds()
		slices.Sort(told)
		want := []string{
			"ready mixed/0", "ready mixed/1", "start mixed/0", "start mixed/1", "started mixed/0", "started mixed/1",
			"submitted mixed/0", "submitted mixed/1",
		}
		if d := cmp.Diff(want, told); d != "" {
			t.Error(d)
		}
		in.pass(time.Hour)
		if now := in.ledger.kinds(); len(now) != len(told) {
			t.Errorf("events while nothing changes: %v", now[len(told):])
		}
		for _, x := range in.ledger.Launches() {
			if x.ReadyAt.IsZero() || x.Job == "" {
				t.Errorf("not in the ledger: %+v", x)
			}
		}
		if !c.Settled() || len(c.Warnings()) > 0 || len(c.Last()) > 0 {
			t.Errorf("settled %v, warnings %v, last %v", c.Settled(), c.Warnings(), c.Last())
		}
	})
}

func TestFaultsOfSubmits(t *testing.T) {
	tests := []struct {
		name       string
		faults     []clustertest.Fault
		over, bad  int // launches that ended, and those of them that count as failed
		event, say string
	}{
		{"answer lost", []clustertest.Fault{clustertest.Accept}, 0, 0, "found", "carries this launch's token"},
		{"lost", []clustertest.Fault{clustertest.Lose}, 1, 0, "ended", "submit was lost"},
		{"hangs", []clustertest.Fault{clustertest.Hang}, 1, 0, "ended", "submit was lost"},
		{"accepted long after it was given up", []clustertest.Fault{clustertest.AcceptLate}, 1, 0, "stop", "belongs to a launch that is over"},
		{"run twice", []clustertest.Fault{clustertest.Twice}, 0, 0, "cancel", "2 jobs carry this launch's token"},
		{"refused", []clustertest.Fault{clustertest.Refuse}, 1, 1, "failed", "simulated refusal"},
		{"refused three times", []clustertest.Fault{clustertest.Refuse, clustertest.Refuse, clustertest.Refuse}, 3, 3, "wait", "has failed 2 times in a row"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, clustertest.SimOptions{Late: 2 * time.Minute, QueueDelay: 5 * time.Second}, func(t *testing.T, in *installation, c controller) {
				in.sim.Fail(clustertest.SubmitCall, tt.faults...)
				in.ledger.apply(spec("d", 1))
				c.Wake()
				in.pass(5 * time.Minute)
				in.expect("d", 1, 1)
				if over, bad := in.ends(); over != tt.over || bad != tt.bad {
					t.Errorf("%d launches are over, %d failed", over, bad)
				}
				if !in.ledger.said(tt.event, tt.say) {
					t.Errorf("no event %s with %q in %v", tt.event, tt.say, in.ledger.kinds())
				}
				if g := in.sim.Conflicts(); len(g) > 0 {
					t.Errorf("GPUs with two holders: %v", g)
				}
				in.set(func() {
					if len(in.joinFiles) != 1 {
						t.Errorf("join files are left behind: %v", in.joinFiles)
					}
				})
			})
		})
	}
}

func TestNodeLoss(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		in.ledger.apply(spec("d", 2))
		in.pass(20 * time.Second)
		in.sim.KillNode("node0") // both are there: packed
		in.pass(20 * time.Second)
		in.expect("d", 2, 2)
		if !in.ledger.said("ended", "node node0 was lost") {
			t.Errorf("nobody says why: %v", in.ledger.kinds())
		}
		in.sim.KillNode("node1")
		in.pass(time.Minute)
		in.expect("d", 0, 0)
		in.sim.ReturnNode("node0")
		in.pass(time.Minute)
		in.expect("d", 2, 2)
	})
}

// A cut-off node's processes live on while their replacement serves: they are fenced, and they are never counted.
func TestCutOffNode(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		in.ledger.apply(spec("d", 1))
		in.pass(20 * time.Second)
		in.sim.CutNode("node0")
		in.pass(20 * time.Second)
		in.expect("d", 1, 2)
		in.sim.ReturnNode("node0")
		in.pass(20 * time.Second)
		in.expect("d", 1, 1)
	})
}

func TestCrashLoopBacksOff(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		in.set(func() { in.load = time.Second })
		in.ledger.apply(spec("d", 1, "bad"))
		in.pass(20 * time.Minute)
		var gaps []time.Duration
		launches := in.ledger.Launches()
		for i := 1; i < len(launches); i++ {
			gaps = append(gaps, launches[i].CreatedAt.Sub(launches[i-1].EndedAt).Round(5*time.Second))
		}
		want := []time.Duration{0, 5, 10, 20, 40, 80, 160, 300, 300}
		for i := range want {
			want[i] *= time.Second
		}
		if d := cmp.Diff(want, gaps); d != "" {
			t.Error(d)
		}
		if !in.ledger.said("failed", "no such flag: bad") {
			t.Error("no event has the engine's last line")
		}
		if x := launches[0]; !x.Failed || x.LastLines[len(x.LastLines)-1] != "no such flag: bad" {
			t.Errorf("%+v", x)
		}
	})
}

func TestRollingReplacement(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		in.ledger.apply(spec("d", 3))
		in.pass(30 * time.Second)
		in.expect("d", 3, 3)
		in.ledger.apply(spec("d", 3, "--new"))
		c.Wake()
		for range 120 {
			in.pass(time.Second)
			if n := in.ready("d"); n < 3 {
				t.Fatalf("%d replicas are ready in the middle of it", n)
			}
		}
		in.expect("d", 3, 3)
		for _, x := range in.ledger.Launches() {
			if x.Phase != cluster.Ended && x.Revision != 2 {
				t.Errorf("%s is of revision %d", x.ID, x.Revision)
			}
		}
		if _, failed := in.ends(); failed > 0 {
			t.Errorf("%d launches count as failed", failed)
		}
	})
}

func TestFailingRevisionIsRolledBack(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		in.ledger.apply(spec("d", 2))
		in.pass(30 * time.Second)
		in.ledger.apply(spec("d", 2, "bad"))
		for range 120 {
			in.pass(time.Second)
			if n := in.ready("d"); n < 2 {
				t.Fatalf("%d replicas are ready in the middle of it", n)
			}
		}
		if rolledBack(in, "d") != 2 || !in.ledger.said("rollback", "failed 3 times and were never ready") {
			t.Errorf("not rolled back: %v", in.ledger.kinds())
		}
		in.pass(time.Hour)
		in.expect("d", 2, 2)
		if n := in.ledger.kinds("rollback"); len(n) != 1 {
			t.Errorf("%v", n)
		}
	})
}

func TestScaleToZeroAndBack(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		in.ledger.apply(spec("d", 2))
		in.pass(20 * time.Second)
		to := func(n int) {
			in.ledger.change("d", func(d *ledger.Deployment) { d.Scale = map[jobspecs.RoleKind]int{jobspecs.Mixed: n} })
			c.Wake()
			in.pass(30 * time.Second)
			in.expect("d", n, n)
		}
		for _, n := range []int{0, 2, 1, 4, 0} {
			to(n)
		}
		if _, failed := in.ends(); failed > 0 {
			t.Errorf("%d launches count as failed", failed)
		}
		in.ledger.change("d", func(d *ledger.Deployment) { d.Scale = nil })
		in.pass(30 * time.Second)
		in.expect("d", 2, 2)
		in.ledger.change("d", func(d *ledger.Deployment) { d.Stopped = true })
		in.pass(30 * time.Second)
		in.expect("d", 0, 0)
	})
}

// A controller that is replaced at any moment leaves nothing double and nothing behind.
func TestRestartsOfTheController(t *testing.T) {
	t.Parallel()
	for moment := range 8 {
		t.Run(fmt.Sprint("every ", time.Duration(moment)*700*time.Millisecond), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				in := install(t, clustertest.SimOptions{
					Nodes: clustertest.Nodes(2, 3), QueueDelay: 2 * time.Second, Seed: uint64(moment),
					Rates: clustertest.Rates{Accept: 0.2, Lose: 0.2, Twice: 0.1},
				})
				in.ledger.apply(spec("d", 3))
				for range 5 {
					c := in.control()
					in.pass(time.Duration(moment) * 700 * time.Millisecond)
					if err := c.stop(); err != nil {
						t.Fatal(err)
					}
				}
				in.sim.SetRates(clustertest.Rates{})
				c := in.control()
				in.pass(5 * time.Minute)
				in.expect("d", 3, 3)
				before := len(in.ledger.Launches())
				if err := c.stop(); err != nil {
					t.Fatal(err)
				}
				c = in.control()
				in.pass(time.Minute)
				in.expect("d", 3, 3)
				if n := len(in.ledger.Launches()); n != before {
					t.Errorf("%d launches instead of %d after a restart in a steady state", n, before)
				}
				if n := in.ledger.kinds("ready"); len(n) > len(in.ledger.Launches()) {
					t.Errorf("told again after restarts: %v", n)
				}
				if err := c.stop(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// While the cluster does not answer nothing is started or ended, whatever goes wrong; afterwards everything is put right.
func TestSilentCluster(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		in.ledger.apply(spec("d", 2))
		in.pass(20 * time.Second)
		in.sim.Silence(true)
		in.pass(5 * time.Second)
		in.sim.KillNode("node0")
		in.pass(10 * time.Minute)
		in.expect("d", 0, 0)
		if over, _ := in.ends(); over > 0 || len(in.ledger.Launches()) != 2 {
			t.Errorf("%d launches were ended, %d are there", over, len(in.ledger.Launches()))
		}
		if w := c.Warnings(); len(w) != 1 || !strings.Contains(w[0], "simulated silence") {
			t.Errorf("warnings: %v", w)
		}
		in.sim.Silence(false)
		in.pass(2 * time.Minute)
		in.expect("d", 2, 2)
		if n := in.ledger.kinds("cluster"); len(n) != 1 {
			t.Errorf("%v", n)
		}
	})
}

// A cluster whose every call hangs does not hold up another one.
func TestHangingClusterHoldsUpNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := install(t, clustertest.SimOptions{Nodes: clustertest.Nodes(1, 1)})
		hanging := clustertest.NewSim(clustertest.SimOptions{Kind: jobspecs.SlurmCluster, Nodes: clustertest.Nodes(1, 1), Start: time.Now()})
		for _, call := range []clustertest.Call{clustertest.JobsCall, clustertest.CapacityCall, clustertest.SubmitCall} {
			hanging.Fail(call, slices.Repeat([]clustertest.Fault{clustertest.Hang}, 1000)...)
		}
		in.others = map[jobspecs.ClusterKind]cluster.Cluster{jobspecs.SlurmCluster: hanging}
		elsewhere := spec("s", 1)
		elsewhere.Cluster = jobspecs.SlurmCluster
		in.ledger.apply(elsewhere)
		c := in.control()
		in.ledger.apply(spec("d", 1))
		in.pass(12 * time.Second)
		in.expect("d", 1, 1)
		if hanging.Calls(clustertest.SubmitCall) > 0 {
			t.Error("submitted to a cluster of which nothing is known")
		}
		if err := c.Supports(jobspecs.NomadCluster); err == nil || !strings.Contains(err.Error(), "[local slurm]") {
			t.Error(err)
		}
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestTermIsCheckedBeforeEachSubmit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := install(t, clustertest.SimOptions{Nodes: clustertest.Nodes(1, 1)})
		in.ledger.apply(spec("d", 1))
		in.ledger.loseTerm()
		c := in.control()
		in.pass(10 * time.Second)
		if err := c.stop(); !errors.Is(err, ledger.ErrTermLost) {
			t.Errorf("Run: %v", err)
		}
		if n := in.sim.Calls(clustertest.SubmitCall); n > 0 {
			t.Errorf("%d submits without a term", n)
		}
	})
}

// A ledger that cannot write starts nothing, and the loop neither spins nor stays stuck.
func TestFullDisk(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		in.ledger.fail(errors.New("no space left on device"))
		in.ledger.apply(spec("d", 1))
		in.pass(30 * time.Second)
		if n := in.sim.Calls(clustertest.SubmitCall); n > 0 {
			t.Errorf("%d submits without a record", n)
		}
		if w := c.Warnings(); len(w) != 1 || !strings.Contains(w[0], "no space left") {
			t.Errorf("warnings: %v", w)
		}
		in.ledger.fail(nil)
		in.pass(30 * time.Second)
		in.expect("d", 1, 1)
		if w := c.Warnings(); len(w) > 0 {
			t.Errorf("warnings: %v", w)
		}
	})
}

// An agent that does not hear the order is ended by the cluster when its time is over.
func TestDeafAgentIsStopped(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		in.ledger.apply(spec("d", 1))
		in.pass(20 * time.Second)
		in.set(func() { in.deaf = true })
		in.ledger.change("d", func(d *ledger.Deployment) { d.Stopped = true })
		in.pass(50 * time.Second)
		in.expect("d", 0, 1)
		in.pass(40 * time.Second)
		in.expect("d", 0, 0)
		if n := in.ledger.kinds("drain", "stop"); len(n) != 2 {
			t.Errorf("%v", n)
		}
	})
}

// Agents that reach nobody for a while serve on, and are not replaced.
func TestSilentAgentsAreNotDead(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		in.ledger.apply(spec("d", 2))
		in.pass(20 * time.Second)
		in.set(func() { in.cut = true })
		in.pass(30 * time.Minute)
		if n := in.runs(); n != 2 || len(in.ledger.Launches()) != 2 {
			t.Errorf("%d runs, %d launches", n, len(in.ledger.Launches()))
		}
		if n := in.ledger.kinds("wait"); len(n) != 2 {
			t.Errorf("told: %v", n)
		}
		in.set(func() { in.cut = false })
		in.pass(10 * time.Second)
		in.expect("d", 2, 2)
	})
}

// grown is a cluster that has as many nodes as deployments declare.
type grown struct{ cluster.Submitter }

func (g grown) CapacityWith(ctx context.Context, d jobspecs.Deployment) (cluster.Capacity, error) {
	c, err := g.Capacity(ctx)
	c.Nodes = append(c.Nodes, clustertest.Nodes(len(d.Local.Nodes), 1)...)
	return c, err
}

// Nodes that a file declares count when it is planned, and are known soon after it was applied.
func TestNodesThatDeploymentsDeclare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := install(t, clustertest.SimOptions{})
		c := in.control(func(o *Options) {
			o.Clusters[jobspecs.LocalCluster] = grown{in.submits(in.sim)}
			o.PollEvery = map[jobspecs.ClusterKind]time.Duration{jobspecs.LocalCluster: time.Minute}
		})
		time.Sleep(13 * time.Second) // the first poll is long over
		d := spec("d", 1)
		d.Local.Nodes = []jobspecs.LocalNode{{Name: "node0", GPUs: 1}}
		actions, err := c.DryRun(t.Context(), &d)
		if err != nil || len(actions) != 1 || actions[0].Verb != plan.Start || actions[0].New.Placement[0].Node != "node0" {
			t.Errorf("%v, %v", actions, err)
		}
		in.sim.SetNodes(clustertest.Nodes(1, 1))
		in.ledger.apply(d)
		c.Refresh()
		in.pass(40 * time.Second)
		in.expect("d", 1, 1)
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestDryRunDoesNothing(t *testing.T) {
	inBubble(t, clustertest.SimOptions{}, func(t *testing.T, in *installation, c controller) {
		in.ledger.apply(spec("d", 1))
		in.pass(20 * time.Second)
		next, more := spec("d", 3, "--new"), spec("e", 1)
		actions, err := c.DryRun(t.Context(), &next)
		if err != nil {
			t.Fatal(err)
		}
		var starts int
		for _, a := range actions {
			if a.Verb == plan.Start && a.Revision == 2 {
				starts++
			}
		}
		if starts != 3 {
			t.Errorf("%d starts in %v", starts, actions)
		}
		if actions, err = c.DryRun(t.Context(), &more); err != nil || len(actions) != 1 || actions[0].Deployment != "e" {
			t.Errorf("%v, %v", actions, err)
		}
		if actions, err = c.DryRun(t.Context(), nil); err != nil || len(actions) != 0 {
			t.Errorf("%v, %v", actions, err)
		}
		in.pass(20 * time.Second)
		in.expect("d", 1, 1)
	})
}
