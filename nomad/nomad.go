// Package nomad is the cluster of a Nomad region, over github.com/hashicorp/nomad/api. It is a cluster.Counter for roles of
// one node per replica, whose group Nomad keeps at a count, replaces and rolls out by itself; and a cluster.Submitter for
// replicas over several nodes, each a batch job of its own whose members all run or none does.
//
// One job holds a deployment's counted roles, as groups. What is whose stands in the meta of jobs and groups: installation,
// deployment, launch, revision. An allocation's ID is a run's identity, and LaunchOf names the launch that it is in the
// ledger; its index is none, since two allocations of one index are normal while one leaves. `lost` does not mean gone.
//
// It decides nothing, and knows neither agents nor controllers: jobs come from jobspecs/render. The reconcile loop calls it;
// cli makes it. Only Watch starts goroutines, and ends them.
package nomad

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Options say whose jobs these are and how Nomad is reached. API, Installation, Penstock, Join and Endpoint must be set.
type Options struct {
	// API is where Nomad is and who asks: address, region, namespace, ACL token, TLS.
	API          *api.Config
	Installation string // at least 12 characters of [0-9a-f], in every job's meta
	Penstock     string // path of the program on the clients

	// Join is what the allocations of a deployment's counted roles join with: the content of a join file that names the
	// deployment and no launch. Endpoint says where the controller is. Both go into the job's variable, which only its own
	// tasks can read. Revoke is called when nothing of the deployment is to run any more; nil = nothing is revoked.
	Join     func(deployment string) ([]byte, error)
	Endpoint func() ([]byte, error)
	Revoke   func(deployment string) error

	MaxKillTimeout time.Duration // the clients' max_kill_timeout; default 30s, which is Nomad's
	MinHealthy     time.Duration // for how long a replica must be ready to count as healthy; default 10s
	// Barrier is how long the members of a replica over several nodes wait for each other before all are released; default 5m.
	Barrier time.Duration

	Log        zerolog.Logger
	Registerer prometheus.Registerer // nil: metrics are not shown
}

// Cluster is one Nomad region. It is safe for concurrent use.
type Cluster struct {
	o       Options
	api     *api.Client
	log     zerolog.Logger
	metrics metrics
	now     func() time.Time

	mu       sync.Mutex
	jobs     map[jobKey]*jobRecord
	stopping map[string]time.Time // by native ID: when its grace is over
	modern   bool                 // all clients know the disconnect block
}

var (
	_ cluster.Counter   = (*Cluster)(nil)
	_ cluster.Submitter = (*Cluster)(nil)
)

var installations = regexp.MustCompile(`^[0-9a-f]{12}`)

// Open checks the options and makes the client. It asks Nomad nothing.
func Open(o Options) (*Cluster, error) {
	switch {
	case o.API == nil || o.Join == nil || o.Endpoint == nil:
		return nil, errors.New("nomad: API, Join and Endpoint must be set")
	case !installations.MatchString(o.Installation):
		return nil, fmt.Errorf("nomad: installation %q is not at least 12 hexadecimal digits", o.Installation)
	case !strings.HasPrefix(o.Penstock, "/"):
		return nil, fmt.Errorf("nomad: %q is no absolute path of the program", o.Penstock)
	}
	if o.MaxKillTimeout <= 0 {
		o.MaxKillTimeout = 30 * time.Second
	}
	if o.Barrier <= 0 {
		o.Barrier = 5 * time.Minute
	}
	client, err := api.NewClient(o.API)
	if err != nil {
		return nil, fmt.Errorf("nomad: %w", err)
	}
	return &Cluster{
		o: o, api: client, log: o.Log, metrics: newMetrics(o.Registerer), now: time.Now,
		jobs: map[jobKey]*jobRecord{}, stopping: map[string]time.Time{},
	}, nil
}

// Kind returns nomad.
func (c *Cluster) Kind() jobspecs.ClusterKind { return jobspecs.NomadCluster }

// LaunchOf is the launch that an allocation of a counted role is in the ledger.
func LaunchOf(allocation string) cluster.LaunchID {
	return cluster.LaunchID("alloc-" + strings.ReplaceAll(allocation, "-", ""))
}

// site is what jobs are rendered for.
func (c *Cluster) site() render.NomadSite {
	c.mu.Lock()
	defer c.mu.Unlock()
	return render.NomadSite{
		Installation: c.o.Installation, Penstock: c.o.Penstock, MaxKillTimeout: c.o.MaxKillTimeout, MinHealthy: c.o.MinHealthy,
		Disconnect: c.modern,
	}
}
