package reconcile

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
	"github.com/penstock/penstock/scheduler/ledger"
)

// queued makes an installation whose cluster has a queue and places jobs itself, with a deployment d of n replicas on it.
func queued(t *testing.T, n int, o clustertest.SimOptions) *installation {
	o.Kind = jobspecs.SlurmCluster
	in := install(t, o)
	in.ledger.apply(onSlurm(n))
	return in
}

func onSlurm(n int) jobspecs.Deployment {
	d := spec("d", n)
	d.Cluster = jobspecs.SlurmCluster
	return d
}

// gaps lets time go by and sums up for how long fewer replicas than wanted served.
func (in *installation) gaps(d time.Duration, wanted int) (short time.Duration) {
	const step = 500 * time.Millisecond
	for end := time.Now().Add(d); time.Now().Before(end); {
		in.pass(step)
		if in.ready("d") < wanted {
			short += step
		}
	}
	return short
}

// successors counts the launches that were to replace others, and by how many of those each was replaced at the most.
func (in *installation) successors() (n, most int) {
	of := map[cluster.LaunchID]int{}
	for _, x := range in.ledger.Launches() {
		if x.Replaces != "" && !x.Failed {
			n++
			of[x.Replaces]++
			most = max(most, of[x.Replaces])
		}
	}
	return n, most
}

// Over many walltimes, with waits in the queue as clusters have them, replicas hand over to one another, and once the queue
// is known, nobody misses one.
func TestHandoversOverManyWalltimes(t *testing.T) {
	t.Parallel()
	waits := map[string]struct {
		wait    func(*rand.Rand) time.Duration
		allowed time.Duration // without a replica: once, when a wait is longer than all that were seen
	}{
		"no queue": {func(*rand.Rand) time.Duration { return 0 }, 0},
		"mostly short": {func(r *rand.Rand) time.Duration {
			return min(time.Duration(r.ExpFloat64()*60)*time.Second, 10*time.Minute)
		}, 3 * time.Minute},
		"short and long": {func(r *rand.Rand) time.Duration { return []time.Duration{time.Second, 8 * time.Minute}[r.IntN(2)] }, 8 * time.Minute},
	}
	for name, test := range waits {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(1, 2))
				in := queued(t, 2, clustertest.SimOptions{
					Nodes: clustertest.Nodes(2, 4), Walltime: time.Hour, Wait: func(int) time.Duration { return test.wait(rng) },
				})
				in.load = time.Minute
				c := in.control()
				for in.ready("d") < 2 {
					in.pass(10 * time.Second)
				}
				short := in.gaps(4*time.Hour, 2)
				n, most := in.successors()
				if short > test.allowed {
					t.Errorf("for %s of 4h fewer than 2 replicas served; %d handovers", short, n)
				}
				if n < 6 || n > 20 || most > 1 {
					t.Errorf("%d handovers in four walltimes of 2 replicas, up to %d of one launch", n, most)
				}
				if _, failed := in.ends(); failed > 0 {
					t.Errorf("%d launches failed", failed)
				}
				if err := c.stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A controller that restarts in the middle of handovers finds them again and starts nothing twice.
func TestHandoverSurvivesRestarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := queued(t, 2, clustertest.SimOptions{Nodes: clustertest.Nodes(2, 4), Walltime: time.Hour, QueueDelay: 4 * time.Minute})
		in.load = time.Minute
		c := in.control()
		for range 14 {
			in.pass(7 * time.Minute)
			if err := c.stop(); err != nil {
				t.Fatal(err)
			}
			c = in.control()
		}
		if n, most := in.successors(); n < 2 || n > 9 || most > 1 {
			t.Errorf("%d handovers in one and a half walltimes of 2 replicas, up to %d of one launch", n, most)
		}
		in.pass(time.Minute)
		if r := in.ready("d"); r < 2 {
			t.Errorf("%d replicas serve", r)
		}
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

// A limit that lets only one job run: the successor starts when its predecessor is over, the gap is announced beforehand, and
// the next successor waits for its predecessor's job from the start.
func TestHandoverUnderALimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := queued(t, 1, clustertest.SimOptions{Nodes: clustertest.Nodes(2, 4), Walltime: time.Hour, MaxJobs: 1})
		in.load = 20 * time.Second
		registry := prometheus.NewRegistry()
		c := in.control(func(o *Options) { o.Registerer = registry })
		in.pass(time.Minute)
		short := in.gaps(3*time.Hour, 1)
		if short == 0 || short > 3*3*time.Minute {
			t.Errorf("no replica served for %s of three walltimes", short)
		}
		if !in.ledger.said("limit", "MaxJobs") || !in.ledger.said("wait", "pass without it") {
			t.Errorf("the gap was not announced: %v", in.ledger.kinds())
		}
		followed := slices.ContainsFunc(in.ledger.Launches(), func(x cluster.Launch) bool { return x.Replaces != "" && x.After != "" })
		if !followed {
			t.Error("no successor was made to wait for its predecessor")
		}
		if _, failed := in.ends(); failed > 0 {
			t.Errorf("%d launches failed", failed)
		}
		if err := c.stop(); err != nil {
			t.Error(err)
		}
		if late := counter(t, registry, "penstock_reconcile_handovers_total", "late"); late < 2 {
			t.Errorf("%v late handovers are counted", late)
		}
	})
}

// counter reads one counter.
func counter(t *testing.T, r *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no %s of %s", name, label)
	return 0
}

// Jobs that are preempted or cancelled by others are replaced at once, and count as nobody's failure.
func TestPreemptedAndCancelled(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*clustertest.Sim, string){
		"preempted": func(s *clustertest.Sim, job string) { s.Preempt(job, 30*time.Second) },
		"cancelled": func(s *clustertest.Sim, job string) { s.Cancel(job, 30*time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				in := queued(t, 2, clustertest.SimOptions{Nodes: clustertest.Nodes(2, 4)})
				c := in.control()
				in.pass(time.Minute)
				for range 4 {
					end(in.sim, in.sim.Alive()[0].Job.ID)
					in.pass(2 * time.Minute)
					in.expect("d", 2, 2)
				}
				if over, failed := in.ends(); over != 4 || failed != 0 {
					t.Errorf("%d launches are over, %d failed", over, failed)
				}
				for _, x := range in.ledger.Launches() {
					if x.Phase == cluster.Ended && string(x.Cause) != name {
						t.Errorf("%s ended: %s (%s)", x.ID, x.Cause, x.EndReason)
					}
				}
				if err := c.stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A node that is lost again and again is left out for a while.
func TestKillingNodeIsExcluded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := queued(t, 1, clustertest.SimOptions{Nodes: clustertest.Nodes(4, 1)})
		c := in.control()
		in.pass(time.Minute)
		for range 2 {
			in.sim.KillNode("node0")
			in.sim.ReturnNode("node0")
			in.pass(5 * time.Minute)
			in.expect("d", 1, 1)
		}
		if x := c.Excluded(); len(x) != 0 && x[0].Node != "node0" {
			t.Errorf("excluded: %+v", x)
		}
		var on []string
		for _, x := range in.ledger.Launches() {
			on = append(on, fmt.Sprint(x.Ran))
		}
		// The first fit is node0, as long as it is not left out.
		if want := []string{"[node0]", "[node0]", "[node1]"}; !slices.Equal(on, want) {
			t.Errorf("launches ran on %v, want %v", on, want)
		}
		if !in.ledger.said("wait", "node node0 gets no launches until") {
			t.Errorf("nobody says so: %v", in.ledger.kinds())
		}
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

// A deployment whose lifetime is over is stopped, and stays so until somebody starts it.
func TestLifetimeEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := queued(t, 1, clustertest.SimOptions{Nodes: clustertest.Nodes(1, 1)})
		d := onSlurm(1)
		d.Lifetime = jobspecs.Lifetime{Idle: jobspecs.Duration(10 * time.Minute)}
		in.ledger.apply(d)
		asked := time.Time{}
		c := in.control(func(o *Options) {
			o.AskedAt = func(string) time.Time {
				in.mu.Lock()
				defer in.mu.Unlock()
				return asked
			}
		})
		in.pass(8 * time.Minute)
		in.set(func() { asked = time.Now() })
		in.pass(8 * time.Minute)
		in.expect("d", 1, 1)
		in.pass(4 * time.Minute)
		in.expect("d", 0, 0)
		if !in.ledger.said("retired", "no request has come for 10m") {
			t.Errorf("events %v", in.ledger.kinds())
		}
		in.ledger.change("d", func(d *ledger.Deployment) { d.Stopped, d.Since = false, time.Now() })
		in.pass(time.Minute)
		in.expect("d", 1, 1)
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}
