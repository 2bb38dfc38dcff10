// Package local is the cluster of processes on this machine, seen as one node or as several logical ones. It is a
// cluster.Submitter that places nothing itself: the planner chooses nodes and GPUs (cluster.Capacity.Places).
//
// A job is a folder, and for each rank a small detached process, the shim (RunJob), which starts the agent, waits for it,
// sweeps what it has left behind and spools its exit status to a file. The controller may come and go meanwhile: what is
// known of a job stands in its folder, and whether a rank lives is told by a lock (flock) on a file in a node-local
// folder, held by the shim and by the agent. A rank is never believed to live, or signalled, for its process ID alone:
// processes are found by the launch, run and rank in their environment, checked for their user, and signalled through a
// pidfd.
//
// The package knows neither what an agent does nor when a job should run. The reconcile loop calls Cluster; cli's command
// local-job calls RunJob and gives it agent/process to start with; cli's command agent calls HoldLock.
//
// A service manager that runs the controller must leave its children alone when it stops it (systemd: KillMode=process).
package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// Options say where the cluster keeps its jobs and how it starts them. Shim and AgentCommand are required.
type Options struct {
	Dir        string // job folders; in the state folder; made 0700
	RuntimeDir string // lock files; on a file system of this machine (not NFS or Lustre); made 0700

	// Shim is the command line that ends up in RunJob(dir). It gets the allowed part of Environ.
	Shim func(dir string) []string
	// AgentCommand is the command line of one rank's agent. It holds no secret.
	AgentCommand func(sub cluster.Submission, rank int) []string
	// Environ is what jobs' environments are taken from, as os.Environ returns it; only what Environment lets pass.
	Environ []string

	// Nodes lists who declares logical nodes, the first word on a name counts: the configuration, then each deployment that
	// is wanted, also where its file declares none. nil = nobody.
	Nodes func() []Declaration
	// Held lists what launches hold that have not ended, so that a card stays on its node, and a node that nobody declares
	// any more is there as long as something runs on it. nil = nothing.
	Held func() []cluster.Placement
	// Hostname names the node that is the machine itself; default: the machine's name.
	Hostname string
	// GPUs lists the machine's cards; nil: it has none. Logical nodes get these first, then declared ones.
	GPUs func(ctx context.Context) ([]cluster.GPU, error)

	Remember time.Duration // how long ended jobs stay in Jobs; default 1h
	Log      zerolog.Logger
}

// Cluster runs jobs as processes of this machine. It starts no goroutine; jobs outlive it. Several may work on the same
// folders, also in several processes.
type Cluster struct {
	o  Options
	fs statefile.FS

	mu       sync.Mutex
	shims    []int                // children of this process that nobody has waited for
	doubted  map[string]time.Time // ranks without a living process, as far as it shows; by the monotonic clock
	stopping map[jobID]stopping   // what this Cluster knows of stops, by the monotonic clock
}

var _ cluster.Submitter = (*Cluster)(nil)

// New checks and makes the folders. It fails where another user could change what is kept in them.
func New(o Options) (*Cluster, error) {
	if o.Shim == nil || o.AgentCommand == nil {
		return nil, errors.New("local cluster: Shim and AgentCommand must be set")
	}
	if o.Remember == 0 {
		o.Remember = time.Hour
	}
	if o.Hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("local cluster: name of this machine: %w", err)
		}
		o.Hostname = name
	}
	for _, dir := range []*string{&o.Dir, &o.RuntimeDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return nil, fmt.Errorf("local cluster: %w", err)
		}
		*dir = abs
		if err := statefile.SecureDir(abs); err != nil {
			return nil, fmt.Errorf("local cluster: %w", err)
		}
	}
	return &Cluster{o: o, fs: statefile.OS{}, stopping: map[jobID]stopping{}, doubted: map[string]time.Time{}}, nil
}

// Kind returns local.
func (c *Cluster) Kind() jobspecs.ClusterKind { return jobspecs.LocalCluster }

// jobID is a native ID: the launch token and the run's nonce. All that finds a job's processes can be read off it, so that
// a job whose folder is damaged can still be told and stopped.
type jobID string

var jobIDs = regexp.MustCompile(`^([a-z0-9][a-z0-9-]{0,39})\.([0-9a-f]{16})$`)

// split returns what the ID is made of; false = it is none of ours.
func (id jobID) split() (launch cluster.LaunchID, run string, ok bool) {
	m := jobIDs.FindStringSubmatch(string(id))
	if m == nil {
		return "", "", false
	}
	return cluster.LaunchID(m[1]), m[2], true
}

// mark is what all processes of the job carry.
func (id jobID) mark() mark {
	launch, run, _ := id.split()
	return mark{Launch: string(launch), Run: run}
}

func (c *Cluster) dir(id jobID) string { return filepath.Join(c.o.Dir, string(id)) }

// unknown says that the cluster cannot tell.
func unknown(err error) error { return fmt.Errorf("%w: %w", cluster.ErrUnknown, err) }

// refused says that nothing was done.
func refused(err error) error { return fmt.Errorf("%w: %w", cluster.ErrRefused, err) }

// expired tells as ErrUnknown that the caller has no time left. The files that calls work on are local and cannot be
// interrupted, so deadlines are looked at between them.
func expired(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return unknown(err)
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) { // its timer may not have fired yet
		return unknown(context.DeadlineExceeded)
	}
	return nil
}
