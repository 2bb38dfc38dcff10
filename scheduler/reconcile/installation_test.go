package reconcile

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
	"github.com/penstock/penstock/scheduler/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// installation is a controller's surroundings in a synctest bubble: a ledger, a simulated cluster, and agents that join,
// load, report, drain and exit in the bubble's time. Loops come and go on top of it.
type installation struct {
	t      *testing.T
	ctx    context.Context
	ledger *memLedger
	sim    *clustertest.Sim
	others map[jobspecs.ClusterKind]cluster.Cluster
	wg     sync.WaitGroup

	mu        sync.Mutex
	fleet     *fleet.Fleet
	agents    map[string]*simAgent // by run
	submitted map[cluster.LaunchID]int
	joinFiles map[cluster.LaunchID]bool
	probe     func(Target) error
	load      time.Duration
	deaf      bool // agents hear no commands
	cut       bool // agents reach no controller
	highest   int
}

// simAgent is one run's agent.
type simAgent struct {
	run   clustertest.SimRun
	stop  chan struct{} // asked to end: drain
	gone  chan struct{} // its processes are gone
	once  sync.Once
	ended sync.Once
}

func (a *simAgent) drain() { a.once.Do(func() { close(a.stop) }) }
func (a *simAgent) die()   { a.ended.Do(func() { close(a.gone) }) }

// install makes an installation; what runs in it ends with the test function.
func install(t *testing.T, o clustertest.SimOptions) *installation {
	ctx, cancel := context.WithCancel(t.Context())
	in := &installation{
		t: t, ctx: ctx, ledger: newMemLedger(), fleet: fleet.New(fleet.Options{}), agents: map[string]*simAgent{},
		submitted: map[cluster.LaunchID]int{}, joinFiles: map[cluster.LaunchID]bool{}, load: 5 * time.Second,
	}
	o.Start, o.Places = time.Now(), o.Kind != jobspecs.SlurmCluster
	o.OnStart = func(r clustertest.SimRun) {
		a := &simAgent{run: r, stop: make(chan struct{}), gone: make(chan struct{})}
		in.mu.Lock()
		in.agents[r.Nonce] = a
		in.mu.Unlock()
		in.wg.Go(func() { in.live(a) })
	}
	o.OnStop = func(r clustertest.SimRun, _ time.Duration) { in.agent(r.Nonce).drain() }
	o.OnEnd = func(r clustertest.SimRun, _ *cluster.Exit) { in.agent(r.Nonce).die() }
	in.sim = clustertest.NewSim(o)
	in.wg.Go(func() { _ = in.sim.Run(ctx, 250*time.Millisecond) })
	t.Cleanup(func() {
		cancel()
		in.mu.Lock()
		for _, a := range in.agents {
			a.die()
		}
		in.mu.Unlock()
		in.wg.Wait()
	})
	return in
}

func (in *installation) agent(run string) *simAgent {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.agents[run]
}

func (in *installation) now() (*fleet.Fleet, bool, time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.fleet, !in.cut, in.load
}

// live is an agent's life. A revision whose engine has the argument "bad" fails after loading.
func (in *installation) live(a *simAgent) {
	defer a.die()
	sub := a.run.Submission
	x, err := in.ledger.admit(sub.Launch.ID, a.run.Nonce, !in.connected(sub.Launch.ID), time.Now())
	if err != nil {
		in.sim.Exit(a.run.Job.ID, cluster.Exit{Code: 1})
		return
	}
	f, _, load := in.now()
	f.Admit(x.ID, x.Run, x.Epoch, 1)
	bad := slices.Contains(sub.Deployment.Engine.Args, "bad")
	began, phase, seq := time.Now(), apiv1.Phase_PHASE_LOADING, uint64(0)
	var connectedTo *fleet.Fleet
	for {
		if time.Since(began) >= load && phase == apiv1.Phase_PHASE_LOADING {
			if phase = apiv1.Phase_PHASE_STARTED; bad {
				phase = apiv1.Phase_PHASE_FAILED
			}
		}
		seq++
		connectedTo = in.report(x, phase, seq, connectedTo)
		if bad && phase == apiv1.Phase_PHASE_FAILED {
			in.sim.Exit(a.run.Job.ID, cluster.Exit{Code: 1})
		}
		select {
		case <-a.gone:
			if connectedTo != nil {
				connectedTo.Disconnected(x.ID, x.Run, 0)
			}
			return
		case <-a.stop:
			if phase == apiv1.Phase_PHASE_DRAINING {
				in.sim.Exit(a.run.Job.ID, cluster.Exit{})
			}
			phase = apiv1.Phase_PHASE_DRAINING
		case <-time.After(time.Second):
			continue
		}
		select {
		case <-a.gone:
		case <-time.After(time.Second):
		}
	}
}

// connected says whether an agent of the launch has an open stream.
func (in *installation) connected(id cluster.LaunchID) bool {
	f, _, _ := in.now()
	return f.Snapshot(time.Now()).Replicas[id].Connected()
}

// report sends a full state to the fleet of the controller that lives now, over the stream that is open or a new one.
func (in *installation) report(x cluster.Launch, phase apiv1.Phase, seq uint64, connectedTo *fleet.Fleet) *fleet.Fleet {
	f, reachable, _ := in.now()
	if connectedTo != nil && (connectedTo != f || !reachable) {
		connectedTo.Disconnected(x.ID, x.Run, 0)
		connectedTo = nil
	}
	if !reachable {
		return nil
	}
	if connectedTo == nil {
		f.Connected(x.ID, x.Run, 0)
	}
	_, err := f.Apply(x.ID, x.Run, x.Epoch, 0, &apiv1.ReportRequest{Seq: seq, Body: &apiv1.ReportRequest_Full{Full: &apiv1.RunState{
		Identity: &apiv1.Identity{Launch: string(x.ID), Run: x.Run, Epoch: x.Epoch, Address: "node:1"},
		Health:   &apiv1.Health{Phase: phase, EngineStarts: 1, LastLines: map[bool][]string{true: {"loading", "no such flag: bad"}}[phase == apiv1.Phase_PHASE_FAILED]},
	}}}, time.Now())
	if err != nil {
		in.t.Error(err)
	}
	return f
}

// Send hands a command to the agents of a launch.
func (in *installation) Send(launch string, cmd *apiv1.Command) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.deaf || in.cut {
		return errors.New("nobody is connected")
	}
	for _, a := range in.agents {
		if string(a.run.Submission.Launch.ID) == launch && cmd.GetDrain() != nil {
			a.drain()
		}
	}
	return nil
}

// Probe asks the test, or finds everything well.
func (in *installation) Probe(_ context.Context, t Target) error {
	in.mu.Lock()
	probe := in.probe
	in.mu.Unlock()
	if probe != nil {
		return probe(t)
	}
	return nil
}

// Submit counts the submits of each token.
func (in *installation) submits(c cluster.Submitter) cluster.Submitter { return recorder{c, in} }

type recorder struct {
	cluster.Submitter
	in *installation
}

func (r recorder) Submit(ctx context.Context, s cluster.Submission) (string, error) {
	r.in.mu.Lock()
	r.in.submitted[s.Launch.ID]++
	if r.in.submitted[s.Launch.ID] > 1 {
		r.in.t.Errorf("%s is submitted twice", s.Launch.ID)
	}
	if !r.in.joinFiles[s.Launch.ID] {
		r.in.t.Errorf("%s is submitted without a join file", s.Launch.ID)
	}
	r.in.mu.Unlock()
	if x, ok := r.in.ledger.launch(s.Launch.ID); !ok || x.Phase != cluster.Intended {
		r.in.t.Errorf("%s is submitted and not intended in the ledger: %+v", s.Launch.ID, x)
	}
	return r.Submitter.Submit(ctx, s)
}

func (m *memLedger) launch(id cluster.LaunchID) (cluster.Launch, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x, ok := m.launches[id]
	return x, ok
}

func (in *installation) options() Options {
	clusters := map[jobspecs.ClusterKind]cluster.Cluster{in.sim.Kind(): in.submits(in.sim)}
	maps.Copy(clusters, in.others)
	return Options{
		Ledger: in.ledger, Clusters: clusters, Commander: in, Prober: in,
		JoinFile: func(x cluster.Launch) (string, error) {
			in.mu.Lock()
			defer in.mu.Unlock()
			in.joinFiles[x.ID] = true
			return "/join/" + string(x.ID), nil
		},
		RemoveJoinFile: func(x cluster.Launch) error {
			in.mu.Lock()
			defer in.mu.Unlock()
			delete(in.joinFiles, x.ID)
			return nil
		},
		LogDir: func(x cluster.Launch) string { return "/logs/" + string(x.ID) },
		Log:    zerolog.New(zerolog.NewTestWriter(in.t)), Registerer: prometheus.NewRegistry(),
	}
}

// controller is a running loop.
type controller struct {
	*Loop
	stop func() error // ends it and waits
}

// control starts a loop with an empty fleet, as a controller that has just been started.
func (in *installation) control(change ...func(*Options)) controller {
	in.t.Helper()
	f := fleet.New(fleet.Options{})
	in.mu.Lock()
	in.fleet = f
	in.mu.Unlock()
	o := in.options()
	o.Fleet = f
	for _, c := range change {
		c(&o)
	}
	l, err := New(o)
	if err != nil {
		in.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(in.ctx)
	done := make(chan error, 1)
	in.wg.Go(func() { done <- l.Run(ctx) })
	return controller{l, func() error { cancel(); return <-done }}
}

// spec is a deployment of n mixed replicas of one GPU each.
func spec(name string, n int, args ...string) jobspecs.Deployment {
	return jobspecs.Deployment{
		Name: name, Cluster: jobspecs.LocalCluster, Engine: jobspecs.Engine{Kind: jobspecs.Sim, Args: args},
		Roles: map[jobspecs.RoleKind]jobspecs.Role{jobspecs.Mixed: {Replicas: n, Nodes: 1, GPUs: jobspecs.GPURequest{Count: 1}}},
	}
}

// pass lets time go by, and checks all the while that no more runs are admitted than wanted plus surge (by default 1).
func (in *installation) pass(d time.Duration) {
	in.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(500*time.Millisecond, time.Until(end)))
		for _, d := range in.ledger.Deployments() {
			in.highest = max(in.highest, d.Wanted(jobspecs.Mixed))
			n := 0
			live := map[cluster.LaunchID]bool{}
			for _, x := range in.ledger.Launches() {
				live[x.ID] = x.Phase != cluster.Ended
				// A launch and its successor count as one.
				if x.Deployment == d.Name && live[x.ID] && x.Run != "" && !live[x.Replaces] {
					n++
				}
			}
			if n > in.highest+1 {
				in.t.Fatalf("%d runs of %s are admitted, at most %d were wanted", n, d.Name, in.highest)
			}
		}
	}
}

// ready counts replicas that serve.
func (in *installation) ready(name string) (n int) {
	f, _, _ := in.now()
	s := f.Snapshot(time.Now())
	for _, x := range in.ledger.Launches() {
		if x.Deployment == name && x.Phase == cluster.Submitted && s.Replicas[x.ID].Serving() && s.Fresh(s.Replicas[x.ID]) {
			n++
		}
	}
	return n
}

// runs counts processes on the cluster.
func (in *installation) runs() int { return len(in.sim.Alive()) }

// expect fails the test unless so many replicas serve and so many runs live.
func (in *installation) expect(name string, ready, runs int) {
	in.t.Helper()
	if r, a := in.ready(name), in.runs(); r != ready || a != runs {
		for _, x := range in.ledger.Launches() {
			in.t.Logf("%s %s/%d revision %d %s job %s run %q: %s", x.ID, x.Role, x.Index, x.Revision, x.Phase, x.Job, x.Run, x.EndReason)
		}
		in.t.Fatalf("%d replicas of %s are ready and %d runs live, want %d and %d", r, name, a, ready, runs)
	}
}

// ends counts the launches that are over, and those of them that failed.
func (in *installation) ends() (over, failed int) {
	for _, x := range in.ledger.Launches() {
		if x.Phase == cluster.Ended {
			over++
			if x.Failed {
				failed++
			}
		}
	}
	return over, failed
}

var errProbe = errors.New("HTTP 500")

func (in *installation) set(change func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	change()
}

func rolledBack(in *installation, name string) int {
	for _, d := range in.ledger.Deployments() {
		if d.Name == name {
			return d.RolledBackFrom
		}
	}
	return 0
}

var _ store = (*memLedger)(nil)
