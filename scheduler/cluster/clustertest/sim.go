package clustertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// SimOptions describe a simulated cluster. The zero value is an empty cluster that places jobs itself.
type SimOptions struct {
	Kind  jobspecs.ClusterKind // default local with Places, else slurm
	Start time.Time            // the clock's first reading; default 2026-01-01 00:00 UTC
	Seed  uint64               // of nonces, queue jitter and Rates: the same calls give the same history

	Nodes  []cluster.Node
	Places bool // as cluster.Capacity: true = the caller chooses nodes and GPUs, false = the simulated cluster does

	QueueDelay  time.Duration // from the submit to the first moment at which a job may start
	QueueJitter time.Duration // up to so much more, drawn from Seed
	// Wait, where set, is the queue delay of the nth submit (from 0) in place of QueueDelay and QueueJitter.
	Wait      func(n int) time.Duration
	MaxJobs   int           // jobs that may run at a time, as a limit of the user; 0 = any number
	Walltime  time.Duration // limit of a job whose deployment names none (slurm.time, local.walltime); 0 = no limit
	StopTakes time.Duration // how long jobs take to obey a Stop when OnStop is nil; longer than the grace = they never do
	Late      time.Duration // how long after the submit a job of AcceptLate appears; default 30s
	Remember  time.Duration // how long ended jobs stay in Jobs; default 5m
	Requeue   bool          // a job that was preempted or lost its node runs again under the same ID and token

	Rates Rates // random faults; none by default

	// The hooks stand for the processes of a job. They run inside Advance, one at a time, without a lock held, so they may
	// call every method of Sim. Each run that OnStart has seen is seen by OnEnd exactly once.
	OnStart func(SimRun)                        // a run's processes start, with a fresh nonce
	OnStop  func(r SimRun, grace time.Duration) // they were asked to end: call Exit, or be killed after the grace
	OnEnd   func(r SimRun, exit *cluster.Exit)  // they are gone; exit nil = nobody knows how
}

// SimRun is one start of a job's processes: the requeue of a job is another run with another nonce.
type SimRun struct {
	Job        cluster.Job // as it was at the start
	Nonce      string      // PENSTOCK_RUN of all its ranks
	Submission cluster.Submission
}

// Sim is a cluster in memory. It is a cluster.Submitter; NewSimCounter wraps one into a cluster.Counter.
//
// Time passes only in Advance (or Run, which calls it): jobs start, obey, time out and die there, never inside a call of
// the Cluster interface. So Submit leaves a pending job, and Advance(0) starts it when there is no queue delay.
//
//	sim := clustertest.NewSim(clustertest.SimOptions{
//		Places:  true,
//		Nodes:   clustertest.Nodes(4, 8),             // node0..node3 with 8 GPUs each: node0-gpu0, ...
//		OnStart: func(r clustertest.SimRun) { ... },     // the simulated agent joins
//	})
//	job, err := sim.Submit(ctx, submission)           // pending
//	sim.Advance(10 * time.Second)                     // queue delay is over: OnStart has run
//	sim.Exit(job, cluster.Exit{Code: 1})              // the agent ended by itself
//	sim.Fail(clustertest.SubmitCall, clustertest.Accept) // next submit: ErrUnknown, but the job exists
//	sim.KillNode("node2")                             // node loss; sim.ReturnNode("node2")
//	sim.CutNode("node3")                              // lost for the cluster, but its processes live on
//	sim.Preempt(job, 30*time.Second); sim.Cancel(job, 30*time.Second); sim.Requeue(job)
//	sim.Silence(true)                                 // every call answers ErrUnknown
//	sim.Alive()                                       // runs whose processes live, for "never two of one launch"
//	sim.Conflicts()                                   // GPUs that two live runs hold, for "never two for one GPU"
//
// All methods may be called from several goroutines; Advance itself from one at a time for a history that repeats.
type Sim struct {
	opts SimOptions

	mu       sync.Mutex
	now      time.Time
	target   time.Time // where Advance has moved the clock to
	settling bool      // somebody is working events off
	dirty    bool      // pending jobs may fit now
	events   eventQueue
	seq      int
	hooks    []func()
	rng      *rand.Rand
	nodes    []*simNode
	nodeBy   map[string]*simNode
	jobs     []*simJob // in the order of their submits
	ready    []*simJob // pending ones whose delay is over
	byID     map[string]*simJob
	lastID   int
	alive    []*simRun
	faults   map[Call][]Fault
	silent   bool
	calls    map[Call]int
	changed  func(cluster.Job) // a SimCounter's; called with the lock held when a job starts or ends
}

// firstID is the native ID of the first job.
const firstID = 1001

var _ cluster.Submitter = (*Sim)(nil)

// NewSim makes a cluster that nothing runs on. It starts no goroutine.
func NewSim(o SimOptions) *Sim {
	if o.Kind == "" {
		o.Kind = jobspecs.SlurmCluster
		if o.Places {
			o.Kind = jobspecs.LocalCluster
		}
	}
	if o.Start.IsZero() {
		o.Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if o.Late == 0 {
		o.Late = 30 * time.Second
	}
	if o.Remember == 0 {
		o.Remember = 5 * time.Minute
	}
	s := &Sim{
		opts: o, now: o.Start, target: o.Start, lastID: firstID - 1,
		rng:    rand.New(rand.NewPCG(o.Seed, 0x70656e73746f636b)),
		byID:   map[string]*simJob{},
		faults: map[Call][]Fault{},
		calls:  map[Call]int{},
	}
	nodes := make([]*simNode, len(o.Nodes))
	for i, n := range o.Nodes {
		nodes[i] = newSimNode(n)
	}
	s.setNodes(nodes)
	return s
}

// Kind returns the kind that the options name.
func (s *Sim) Kind() jobspecs.ClusterKind { return s.opts.Kind }

// Submit queues a job, or fails as the next fault says.
func (s *Sim) Submit(ctx context.Context, sub cluster.Submission) (string, error) {
	fault, err := s.enter(ctx, SubmitCall)
	if err != nil {
		return "", fmt.Errorf("submit %s: %w", sub.Launch.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.need(sub)
	if err != nil {
		return "", fmt.Errorf("submit %s: %w", sub.Launch.ID, err)
	}
	if fault == AcceptLate {
		s.at(s.now.Add(s.opts.Late), func() { s.enqueue(sub, n) })
		return "", fmt.Errorf("submit %s: no answer in time: %w", sub.Launch.ID, cluster.ErrUnknown)
	}
	j := s.enqueue(sub, n)
	switch fault {
	case Twice:
		s.enqueue(sub, n)
	case Accept:
		return "", fmt.Errorf("submit %s: answer lost: %w", sub.Launch.ID, cluster.ErrUnknown)
	}
	return j.job.ID, nil
}

// Jobs lists all jobs, ended ones for as long as they are remembered, in the order of their submits.
func (s *Sim) Jobs(ctx context.Context) ([]cluster.Job, error) {
	if _, err := s.enter(ctx, JobsCall); err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]cluster.Job, len(s.jobs))
	for i, j := range s.jobs {
		list[i] = s.view(j)
	}
	return list, nil
}

// Stop asks a job's processes to end and kills them after the grace.
func (s *Sim) Stop(ctx context.Context, job string, grace time.Duration) error {
	fault, err := s.enter(ctx, StopCall)
	if err != nil {
		return fmt.Errorf("stop job %s: %w", job, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.byID[job]; j != nil {
		s.stop(j, grace, "stopped", cluster.EndedAsked, false)
	}
	if fault == Accept || fault == AcceptLate {
		return fmt.Errorf("stop job %s: answer lost: %w", job, cluster.ErrUnknown)
	}
	return nil
}

// Capacity lists the nodes as the simulated cluster sees them.
func (s *Sim) Capacity(ctx context.Context) (cluster.Capacity, error) {
	if _, err := s.enter(ctx, CapacityCall); err != nil {
		return cluster.Capacity{}, fmt.Errorf("list nodes: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := cluster.Capacity{Places: s.opts.Places, At: s.now}
	for _, n := range s.nodes {
		node := n.Node
		node.GPUs = slices.Clone(node.GPUs)
		c.Nodes = append(c.Nodes, node)
	}
	return c, nil
}

// Calls counts the calls of one kind so far, failed ones too.
func (s *Sim) Calls(c Call) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[c]
}
