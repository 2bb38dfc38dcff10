// Package slurm is the cluster of a Slurm site, as an ordinary user of it sees it: through sbatch, squeue, scancel, scontrol,
// sinfo, and sacct where there is accounting, or through slurmrestd. It is a cluster.Submitter; Slurm places, so
// Capacity.Places is false.
//
// A job is found again by its mark: the first word of its comment, which names the installation and the launch; where a site
// overwrites comments, its working folder, which is the launch's log folder. A job ID alone is no identity: after a crash
// Slurm gives it to somebody else. What Slurm says is asked for with explicit formats, in one squeue for all jobs; what has
// vanished from there is looked up in the accounting, and is unknown where there is none.
//
// It decides nothing, and knows neither agents nor controllers: the script that it submits comes from jobspecs/render. The
// reconcile loop calls it; cli makes it. It starts no goroutine.
package slurm

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Options say whose jobs these are and how Slurm is reached. Installation, LogRoot, Penstock and Environ must be set.
type Options struct {
	Installation string // at least 12 characters of [0-9a-f], in every job's mark
	LogRoot      string // the folder in which all launches' log folders lie, shared with the nodes
	Penstock     string // path of the program on the nodes
	// Environ is what Slurm's commands inherit from, as os.Environ returns it; only what says where Slurm is passes.
	Environ []string
	// REST is where slurmrestd is; nil = Slurm's commands are run.
	REST *REST
	// Commands is the folder of Slurm's commands; empty = they are on the PATH of Environ.
	Commands string

	Remember   time.Duration // how long ended jobs stay in Jobs after Slurm has forgotten them; default 1h
	Log        zerolog.Logger
	Registerer prometheus.Registerer // nil: metrics are not shown
}

// Cluster is one Slurm cluster. It is safe for concurrent use.
type Cluster struct {
	o       Options
	log     zerolog.Logger
	slurm   transport
	metrics metrics
	now     func() time.Time

	asking chan struct{} // holds a token while Slurm is asked for the jobs: one question at a time

	mu       sync.Mutex
	known    map[jobKey]*record // jobs of ours that were seen or acknowledged
	stopping map[jobKey]*stop
	config   cached[Config]
	noSacct  bool            // the accounting is closed to us; not asked again
	gpuTypes map[string]bool // as the last Capacity saw them
}

var _ cluster.Submitter = (*Cluster)(nil)

var installations = regexp.MustCompile(`^[0-9a-f]{12}`)

// New checks the options. It asks Slurm nothing.
func New(o Options) (*Cluster, error) {
	if !installations.MatchString(o.Installation) {
		return nil, fmt.Errorf("slurm: installation %q is not at least 12 hexadecimal digits", o.Installation)
	}
	for _, path := range []string{o.LogRoot, o.Penstock} {
		if !filepath.IsAbs(path) || strings.ContainsAny(path, "\n\r\x00") {
			return nil, fmt.Errorf("slurm: %q is no absolute path", path)
		}
	}
	if o.Environ == nil {
		return nil, errors.New("slurm: Environ must be set")
	}
	if o.Remember == 0 {
		o.Remember = time.Hour
	}
	m := newMetrics(o.Registerer)
	return &Cluster{
		o: o, log: o.Log, metrics: m, now: time.Now, asking: make(chan struct{}, 1),
		slurm: newTransport(o.REST, o.Environ, o.Commands, m),
		known: map[jobKey]*record{}, stopping: map[jobKey]*stop{},
	}, nil
}

func newTransport(r *REST, environ []string, folder string, m metrics) transport {
	if r != nil {
		return newREST(*r, environ, m)
	}
	return commands{newRunner(environ, folder, m)}
}

// Kind returns slurm.
func (c *Cluster) Kind() jobspecs.ClusterKind { return jobspecs.SlurmCluster }

// jobKey is a job of ours: its ID and the launch that it carries, since IDs are used again.
type jobKey struct {
	id     string
	launch cluster.LaunchID
}

const markWord = "penstock"

// mark is the first word of a job's comment.
func (c *Cluster) mark(l cluster.LaunchID) string {
	return markWord + ":" + c.o.Installation[:12] + ":" + string(l)
}

var launchIDs = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// launchOf tells whose job one is: by its comment, else by its working folder. Empty = none of this installation's.
func (c *Cluster) launchOf(comment, workDir string) cluster.LaunchID {
	first, _, _ := strings.Cut(comment, " ")
	if parts := strings.Split(first, ":"); len(parts) == 3 && parts[0] == markWord && launchIDs.MatchString(parts[2]) {
		if parts[1] != c.o.Installation[:12] {
			return ""
		}
		return cluster.LaunchID(parts[2])
	}
	rel, err := filepath.Rel(c.o.LogRoot, workDir)
	if dir, base := filepath.Split(rel); err == nil && dir != "" && !strings.HasPrefix(rel, "..") && launchIDs.MatchString(base) {
		return cluster.LaunchID(base)
	}
	return ""
}

// myUID is how squeue is told whose jobs; numbers need no user database.
func myUID() string { return strconv.Itoa(os.Geteuid()) }

// unknown says that the cluster cannot tell.
func unknown(err error) error { return fmt.Errorf("%w: %w", cluster.ErrUnknown, err) }

// refused says that nothing was done.
func refused(err error) error { return fmt.Errorf("%w: %w", cluster.ErrRefused, err) }

// myUser is the name of this user where a number will not do.
func myUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return myUID()
}
