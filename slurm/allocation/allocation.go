// Package allocation is the cluster of one Slurm allocation that Penstock holds as a whole: its nodes, on which Penstock
// places by itself. It is a cluster.Submitter.
//
// On each node runs a Keeper, started by the job's one srun. It starts, watches and ends the agents of that node as its own
// children, and ends with the job. The controller on the first node gives it orders over mTLS: Cluster asks all keepers,
// puts what they say together, and keeps nothing that a keeper does not know, so that a controller that is started again
// finds every job. A keeper makes its own key at its start; its certificate and its address stand in a file in the
// job's folder (Member), where nobody but this user can write, and Cluster trusts no other.
//
// A node whose keeper does not answer is unknown at first, lost after Options.LostAfter, and back as soon as it answers.
// Where no keeper answers, nothing is lost: then it is this process that is cut off.
//
// The package knows neither agents nor deployments, and runs none of Slurm's commands. cli makes a Cluster for `penstock
// serve --allocation` and a Keeper for `penstock keeper`, and gives the Keeper agent/process to start with.
package allocation

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// Options say which allocation this is. Dir, Nodes, Certificate and AgentCommand are required.
type Options struct {
	Dir   string   // the job's folder, where keepers leave their Member files
	Nodes []string // of the allocation, by Slurm's names
	// EndsAt is the job's time limit; zero = none is known. Nothing is placed in the last Closing before it.
	EndsAt  time.Time
	Closing time.Duration
	// Certificate is shown to keepers; it must be a controller's.
	Certificate func() *tls.Certificate
	// AgentCommand is the command line of one rank's agent. It holds no secret.
	AgentCommand func(sub cluster.Submission, job string, rank int) []string

	// Before are jobs of earlier allocations that the caller knows to be over; they stay in Jobs for Remember.
	Before []cluster.Job

	LostAfter time.Duration // a node whose keeper is silent for so long is lost; default 30s
	Remember  time.Duration // how long jobs of lost nodes stay in Jobs; default 1h
	Log       zerolog.Logger
}

// Cluster is one allocation. It is safe for concurrent use and starts no goroutine that outlives a call.
type Cluster struct {
	o     Options
	fs    statefile.FS
	since time.Time

	mu      sync.Mutex
	members map[string]*member
	lost    map[string]lostTask // tasks that lived when their node was lost, by job and rank
	closed  string              // why nothing is placed any more; empty = it is
}

var _ cluster.Submitter = (*Cluster)(nil)

// New checks the options. It asks nobody.
func New(o Options) (*Cluster, error) {
	if o.Dir == "" || len(o.Nodes) == 0 || o.Certificate == nil || o.AgentCommand == nil {
		return nil, errors.New("allocation: Dir, Nodes, Certificate and AgentCommand must be set")
	}
	if o.LostAfter == 0 {
		o.LostAfter = 30 * time.Second
	}
	if o.Remember == 0 {
		o.Remember = time.Hour
	}
	c := &Cluster{o: o, fs: statefile.OS{}, since: time.Now(), members: map[string]*member{}, lost: map[string]lostTask{}}
	for _, name := range o.Nodes {
		c.members[name] = &member{name: name}
	}
	return c, nil
}

// Kind returns slurm: deployments for Slurm run here.
func (c *Cluster) Kind() jobspecs.ClusterKind { return jobspecs.SlurmCluster }

// CloseFor ends placing: Capacity shows all nodes as leaving from now on. What runs is left alone.
func (c *Cluster) CloseFor(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = reason
}

// names lists the nodes in order.
func (c *Cluster) names() []string { return slices.Sorted(maps.Keys(c.members)) }

var jobIDs = regexp.MustCompile(`^([a-z0-9][a-z0-9-]{0,39})\.([0-9a-f]{16})$`)

// jobID is a native ID: launch token and the run's nonce.
func jobID(launch cluster.LaunchID, run string) string { return string(launch) + "." + run }

// unknown says that the cluster cannot tell.
func unknown(err error) error { return fmt.Errorf("%w: %w", cluster.ErrUnknown, err) }

// refused says that nothing was done.
func refused(err error) error { return fmt.Errorf("%w: %w", cluster.ErrRefused, err) }
