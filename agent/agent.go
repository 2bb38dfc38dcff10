// Package agent is the loop that runs on every node of every job: it joins the run to its launch, starts the engine and sees
// that all of it ends, lets gateways in through its own mTLS port, samples load, KV cache and GPUs, reports to the
// controller, and drains.
//
// It decides nothing about other replicas and knows no cluster: what its job is, and when it ends, its caller says. The
// caller is `penstock agent`; it reads the environment and the join file, handles signals by calling Drain, and turns
// Run's error into an exit code.
//
// How the parts hang together: Run joins (join.go), and then tends one run (run.go): supervise.go starts and restarts the
// engine, attend.go watches one start of it, sample.go and reporter.go tell the controller, port.go serves requests,
// gang.go keeps several ranks together, watch.go ends a run that nobody wants any more.
package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent/gpu"
	"github.com/penstock/penstock/scheduler/identity"
)

// What Run ends with, where it was not asked to end.
var (
	// ErrRefused: this run may not serve: another one is admitted, or the launch is over. Trying again is useless.
	ErrRefused = errors.New("the run is not wanted")
	// ErrFailed: the engine, the node or another rank failed, beyond what restarts help.
	ErrFailed = errors.New("the run has failed")
	// ErrOrphaned: neither a controller nor a request was seen for too long.
	ErrOrphaned = errors.New("nobody needs this run")
)

// Options say what an agent is. Fields without a default must be set.
type Options struct {
	Join     identity.JoinFile
	Run      string // nonce of this start of the job, equal on all its nodes
	Rank     int    // of this node, from 0
	Nodes    int    // of the job; default 1
	Node     string // the cluster's name of this node
	Hostname string
	Job      string    // the cluster's own ID, empty if unknown
	EndsAt   time.Time // when the job ends by its time limit; zero = none known
	Version  string    // of this binary

	Self       string // path of this binary, for the simulated engine
	RuntimeDir string // node-local folder for sockets; short, made 0700
	// ListenHost is where the data port listens; empty = all interfaces. AdvertiseHost is the name that others dial; default
	// ListenHost, else Hostname.
	ListenHost    string
	AdvertiseHost string
	// ListenPort is the data port's number, where the cluster has chosen one; 0 = any free one.
	ListenPort int
	// ReadyAddress is a further port, open only while this run serves, for clusters that check ports; empty = none. Over TLS
	// GET /ready answers there too, to everybody, and with nothing but a word.
	ReadyAddress string
	// OutputDir is where the engine's output goes in place of the controller's folder for it, where nodes share none.
	OutputDir string
	// Environ is what the engine's environment is chosen from, entry by entry.
	Environ []string

	// SignalStep sends a signal to the tasks of a step of the job, JOB.STEP, where Slurm has started the engine; nil = nobody can.
	SignalStep func(ctx context.Context, step, signal string) error
	// StepNode is Slurm's name of this node, where such steps run.
	StepNode string

	Sampler    gpu.Sampler // nil: none, and SamplerErr says why
	SamplerErr error

	Log      zerolog.Logger
	Registry *prometheus.Registry // gets the agent's metrics and serves them at the data port
	// Dial reaches the controller; nil = net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	Reach    Reach         // who dials whom; default ReachAuto
	Interval time.Duration // between two samples, and at most between two reports; default 1s
	Limits   Limits
}

// Limits bound how long the agent waits for what. Zero values mean the defaults.
type Limits struct {
	Liveness Liveness
	FreeGPUs time.Duration // for cards that others hold; default 10m
	Barrier  time.Duration // for the other ranks to come; default 10m
	LostRank time.Duration // without a word from a rank that was there; default 30s
	Farewell time.Duration // for the controller and the other ranks to learn of the end; default 5s
	Dialled  time.Duration // for the controller and gateways to dial an engine that serves, before they are dialled; default 8s
}

func (o Options) withDefaults() Options {
	o.Nodes = orElse(o.Nodes, 1)
	o.AdvertiseHost = orElse(orElse(o.AdvertiseHost, o.ListenHost), o.Hostname)
	o.Interval = orElse(o.Interval, time.Second)
	o.Reach = orElse(o.Reach, ReachAuto)
	o.Limits = Limits{
		Liveness: o.Limits.Liveness.withDefaults(),
		FreeGPUs: orElse(o.Limits.FreeGPUs, 10*time.Minute),
		Barrier:  orElse(o.Limits.Barrier, 10*time.Minute),
		LostRank: orElse(o.Limits.LostRank, 30*time.Second),
		Farewell: orElse(o.Limits.Farewell, 5*time.Second),
		Dialled:  orElse(o.Limits.Dialled, dialPatience),
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	return o
}

// Validate names the first thing that is missing or impossible.
func (o Options) Validate() error {
	id := identity.ID{Role: identity.Agent, Launch: o.Join.Launch, Run: o.Run, Rank: o.Rank}
	switch err := id.Validate(); {
	case err != nil:
		return err
	case o.Rank >= max(o.Nodes, 1):
		return fmt.Errorf("rank %d of %d nodes", o.Rank, o.Nodes)
	case o.RuntimeDir == "":
		return errors.New("no runtime folder")
	case o.Hostname == "" && o.AdvertiseHost == "" && o.ListenHost == "":
		return errors.New("no host name under which others reach this node")
	case o.Registry == nil:
		return errors.New("no metrics registry")
	}
	return nil
}

// Agent is one agent. Make it with New, run it once.
type Agent struct {
	opts    Options
	log     zerolog.Logger
	metrics *metrics
	end     *ending
}

// New makes an agent and starts nothing.
func New(o Options) (*Agent, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	o = o.withDefaults()
	log := o.Log.With().Str("launch", o.Join.Launch).Str("node", o.Node).Int("rank", o.Rank).Logger()
	return &Agent{opts: o, log: log, metrics: newMetrics(o.Registry), end: newEnding()}, nil
}

// Drain asks for an orderly end: no new requests, open ones finish, the engine stops, all within the deadline. A deadline
// of 0 means the deployment's. It returns at once; Run returns nil when it is done. Asking again can only shorten it.
// It may be called from any goroutine, before Run too.
func (a *Agent) Drain(reason string, deadline time.Duration) { a.end.drain(reason, deadline) }

// Run joins, serves and returns after everything that it started has ended: nil where it was asked to end, else an error
// that wraps ErrRefused, ErrFailed or ErrOrphaned, or says what is wrong on this node. The end of ctx stops the engine's
// whole process tree without waiting for requests.
func (a *Agent) Run(ctx context.Context) error {
	// What an orderly end needs must outlive ctx, so that ctx only asks for it.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { a.end.stop("the agent is told to end", nil) })()

	home, err := newController(a.opts)
	if err != nil {
		return err
	}
	adm, err := a.join(work, home)
	if err != nil || adm == nil {
		return err
	}
	r, err := a.newRun(home, adm)
	if err != nil {
		return err
	}
	return r.tend(work)
}
