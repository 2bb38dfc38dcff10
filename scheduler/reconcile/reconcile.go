// Package reconcile is the loop that makes what runs into what is wanted: it polls the clusters, takes snapshots of the
// fleet, has package plan decide, and carries the actions out through the ledger, the clusters and the agents. It also
// probes replicas that say they have started, and writes down as events what has changed and why.
//
// It decides nothing itself and knows no wire protocol and no adapter; cli wires it, and package server wakes it and
// shows what it last planned.
//
// What it holds to: intent is on disk before a submit, and the term is checked right before it; a submit without an
// answer is never repeated under the same token; a cluster that hangs holds up neither the loop nor another cluster.
package reconcile

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// store is what the loop needs of the ledger.
type store interface {
	Deployments() []ledger.Deployment
	Revision(name string, n int) (jobspecs.Deployment, error)
	Launches() []cluster.Launch
	PutLaunch(cluster.Launch) error
	UpdateLaunch(cluster.LaunchID, func(*cluster.Launch) error) error
	Rollback(name string, bad, good int, reason string) error
	NoteTold(name string, role jobspecs.RoleKind, t cluster.Told) error
	Follow(name string, role jobspecs.RoleKind, t cluster.Told) error
	Retire(name, reason string) error
	CheckTerm() error
	Term() uint64
	AppendEvent(*apiv1.Event)
}

// Commander takes commands to the connected agents of a launch. Send must not block; an agent that gets a command twice
// acts once.
type Commander interface {
	Send(launch string, cmd *apiv1.Command) error
}

// Prober gets one real token (for embeddings, a vector) from a replica through its agent's port, and returns nil if it
// did. It may be called for several replicas at once.
type Prober interface {
	Probe(ctx context.Context, t Target) error
}

// Options are all that a Loop needs. What has no default is required.
type Options struct {
	Ledger   store
	Fleet    *fleet.Fleet
	Clusters map[jobspecs.ClusterKind]cluster.Cluster

	// JoinFile writes a launch's join file and returns its path; it is called before the submit. RemoveJoinFile is called
	// when the launch is over, and must not mind a file that is gone.
	JoinFile       func(cluster.Launch) (path string, err error)
	RemoveJoinFile func(cluster.Launch) error
	LogDir         func(cluster.Launch) string
	Commander      Commander
	Prober         Prober
	// AskedAt is when the last request for a deployment came that this controller has heard of; zero = it has heard of none.
	// Nil = it hears of none, and no deployment is taken for idle.
	AskedAt func(deployment string) time.Time

	Interval  time.Duration                          // between plans when nothing happens; default 1s
	PollEvery map[jobspecs.ClusterKind]time.Duration // default 1s for local, 10s for others
	// CallTimeout bounds each call of a cluster but Submit (default 10s), SubmitTimeout that one (default 60s),
	// ProbeTimeout each probe (default 30s).
	CallTimeout, SubmitTimeout, ProbeTimeout time.Duration
	// CallsAtOnce bounds the calls that change something, per cluster; default 8. ProbesAtOnce likewise, in all; default 16.
	CallsAtOnce, ProbesAtOnce int
	// SettleFor is how long after its start the loop waits for replicas that served before to be heard of again; default 10s.
	SettleFor time.Duration
	Timing    plan.Timing
	Rand      io.Reader // of launch tokens; default crypto/rand

	Log        zerolog.Logger
	Registerer prometheus.Registerer // nil = no metrics
}

func (o Options) withDefaults() Options {
	o.Interval = orDefault(o.Interval, time.Second)
	o.CallTimeout = orDefault(o.CallTimeout, 10*time.Second)
	o.SubmitTimeout = orDefault(o.SubmitTimeout, 60*time.Second)
	o.ProbeTimeout = orDefault(o.ProbeTimeout, 30*time.Second)
	o.SettleFor = orDefault(o.SettleFor, 10*time.Second)
	o.CallsAtOnce = orDefault(o.CallsAtOnce, 8)
	o.ProbesAtOnce = orDefault(o.ProbesAtOnce, 16)
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	return o
}

func orDefault[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

func (o Options) pollEvery(kind jobspecs.ClusterKind) time.Duration {
	def := 10 * time.Second
	if kind == jobspecs.LocalCluster {
		def = time.Second
	}
	return orDefault(o.PollEvery[kind], def)
}

// gap is the shortest rest between two plans, so that a burst of reports makes one plan. A plan that took longer is
// followed by a rest of its own length, so that the loop never takes more than half a core.
const gap = 20 * time.Millisecond

// Loop is the reconcile loop. Its methods may be called from several goroutines.
type Loop struct {
	o       Options
	log     zerolog.Logger
	metrics metrics
	since   time.Time
	polls   map[jobspecs.ClusterKind]*poll
	slots   map[jobspecs.ClusterKind]chan struct{}
	wake    chan struct{}
	work    *errgroup.Group // calls and probes under way; set by Run before it is used
	tasks   tasks
	probes  probes
	watch   watch // of the deciding goroutine alone

	mu      sync.Mutex
	last    plan.Result
	missing map[cluster.LaunchID]plan.Missing
	counted map[jobspecs.ClusterKind]int // answers of a cluster that missing has taken in
	proven  map[provenRevision]bool
	trouble map[string]string // what fails now, by what it is
	settled bool
}

// provenRevision names a revision of which a replica has been ready.
type provenRevision struct {
	deployment string
	revision   int
}

// New makes a Loop. It starts nothing.
func New(o Options) (*Loop, error) {
	if o.Ledger == nil || o.Fleet == nil || o.JoinFile == nil || o.RemoveJoinFile == nil || o.LogDir == nil || o.Commander == nil || o.Prober == nil {
		return nil, errors.New("reconcile: an option without a default is missing")
	}
	o = o.withDefaults()
	l := &Loop{
		o: o, log: o.Log, since: time.Now(), wake: make(chan struct{}, 1),
		polls: map[jobspecs.ClusterKind]*poll{}, slots: map[jobspecs.ClusterKind]chan struct{}{},
		tasks: newTasks(), probes: newProbes(o.ProbesAtOnce), watch: newWatch(),
		missing: map[cluster.LaunchID]plan.Missing{}, counted: map[jobspecs.ClusterKind]int{},
		proven: map[provenRevision]bool{}, trouble: map[string]string{},
	}
	var err error
	if l.metrics, err = newMetrics(o.Registerer); err != nil {
		return nil, fmt.Errorf("reconcile: %w", err)
	}
	for kind, c := range o.Clusters {
		l.polls[kind] = newPoll(c, o.pollEvery(kind), o.CallTimeout, l.metrics, l.Wake)
		l.slots[kind] = make(chan struct{}, o.CallsAtOnce)
	}
	return l, nil
}

// Wake has the loop plan again soon. It never blocks; many wakes make one plan.
func (l *Loop) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Refresh has the clusters asked anew and the loop plan again soon, since what they have may have changed, e.g. by a file
// that declares nodes.
func (l *Loop) Refresh() {
	for _, p := range l.polls {
		p.refresh()
	}
	l.Wake()
}

// Run keeps at it until ctx ends, and returns when everything that it began has ended. Its error is nil then;
// ledger.ErrTermLost means that another controller has taken over, and that this one must end.
func (l *Loop) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	l.work = group
	for _, p := range l.polls {
		group.Go(func() error { return p.run(ctx) })
	}
	group.Go(func() error { return l.decide(ctx) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("reconcile: %w", err)
	}
	return nil
}

// decide plans and acts, over and over.
func (l *Loop) decide(ctx context.Context) error {
	tick := time.NewTicker(l.o.Interval)
	defer tick.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		changed := l.o.Fleet.Changed()
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
		}
		if ctx.Err() != nil {
			return nil // both were due: the polls are ending, and what they say is no news
		}
		began := time.Now()
		more, err := l.cycle(ctx, began)
		if err != nil {
			return err
		}
		rest.Reset(max(gap, time.Since(began)))
		if more {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-l.wake:
		case <-tick.C:
		}
	}
}

// Last returns the last plan: what was begun, and what is waited for and why. It must not be changed.
func (l *Loop) Last() []plan.Action {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last.Actions
}

// Handovers returns what is expected of the replicas whose jobs have an end, as of the last plan. It must not be changed.
func (l *Loop) Handovers() []plan.Handover {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last.Handovers
}

// Excluded returns the nodes that get no launches for a while, as of the last plan. It must not be changed.
func (l *Loop) Excluded() []plan.Excluded {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last.Excluded
}

// Waits returns what the last plan waits for, as the gateways' view needs it.
func (l *Loop) Waits() (waits []fleet.Wait) {
	for _, a := range l.Last() {
		if a.Verb == plan.Wait && a.Deployment != "" {
			waits = append(waits, fleet.Wait{Deployment: a.Deployment, Launch: a.Launch, Reason: a.Reason, Until: a.Until})
		}
	}
	return waits
}

// Settled reports whether all replicas that served before this loop was made have been heard of and probed again, or have
// had the time to.
func (l *Loop) Settled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settled
}

// Supports returns nil if deployments can run on a cluster.
func (l *Loop) Supports(kind jobspecs.ClusterKind) error {
	if _, ok := l.o.Clusters[kind]; ok {
		return nil
	}
	var have []string
	for k := range l.o.Clusters {
		have = append(have, string(k))
	}
	slices.Sort(have)
	return fmt.Errorf("this controller cannot use cluster %s; it has %v", kind, have)
}

// Warnings lists what is wrong with clusters and ledger now, in words.
func (l *Loop) Warnings() (warnings []string) {
	for kind, p := range l.polls {
		if a := p.answers(time.Now()); !a.jobsKnown || !a.capacityKnown {
			warnings = append(warnings, fmt.Sprintf("cluster %s does not answer: %s", kind, a.why))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for what, why := range l.trouble {
		warnings = append(warnings, what+": "+why)
	}
	slices.Sort(warnings)
	return warnings
}
