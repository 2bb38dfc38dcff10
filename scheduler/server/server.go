// Package server is the controller's API: agents join and report, gateways watch and hand over records, the command line
// asks and orders. It checks who calls, keeps the open streams, and turns calls into changes of the ledger and the keys,
// and reports into changes of the fleet. It decides nothing about replicas: the reconcile loop does.
package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/kvstore/index"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/blocks"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/keys"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// loop is what the server asks of the reconcile loop.
type loop interface {
	Wake()
	// Refresh is Wake with a fresh look at what the clusters have.
	Refresh()
	// Last is what the last cycle decided, waits included.
	Last() []plan.Action
	// DryRun is what would be decided now, if the deployment were applied; nil = as things are.
	DryRun(ctx context.Context, d *jobspecs.Deployment) ([]plan.Action, error)
	// Supports says whether deployments can run on a cluster.
	Supports(jobspecs.ClusterKind) error
	Warnings() []string
	// Handovers is what the last cycle expects of replicas whose jobs have an end.
	Handovers() []plan.Handover
	// Excluded lists the nodes that get no launches for a while.
	Excluded() []plan.Excluded
}

// Options are all that a Server needs. Notices and Deployments may be nil, nothing else.
type Options struct {
	Ledger    *ledger.Ledger
	Fleet     *fleet.Fleet
	Publisher *fleet.Publisher
	Loop      loop
	Clusters  map[jobspecs.ClusterKind]cluster.Cluster
	CA        *identity.CA
	Tokens    *identity.JoinTokens
	// Deployments are the secrets of deployments whose runs a cluster starts by itself; nil = there are none.
	Deployments *identity.DeploymentTokens
	Keys        *keys.Store
	KV          kvAgents // the way to agents' KV tiers
	StateDir    string
	LogDir      func(cluster.Launch) string
	Endpoint    func() *apiv1.EndpointResponse // without models
	Shutdown    func()                         // asks the process to end
	Version     string
	StartedAt   time.Time
	Log         zerolog.Logger
	Metrics     prometheus.Registerer
	Gatherer    prometheus.Gatherer // what /metrics shows
	Notices     []string            // what the start has found; stands among the warnings of every status
}

// Server holds the open streams and the last records. Make it with New, mount Agents and Owner, and Close it before the
// listeners' servers are shut down, so that streams end.
type Server struct {
	o        Options
	log      zerolog.Logger
	refusals map[refusal]zerolog.Logger // the first few of each minute
	patience time.Duration              // with callers that show no certificate
	commands *commands
	gateways gatewayList
	records  *records
	blocks   *blocks.Board
	metrics  metrics
	closing  chan struct{}
	once     sync.Once
}

type metrics struct {
	agents  prometheus.Gauge
	refused *prometheus.CounterVec
}

// blockMemory bounds what is kept of engines' caches: some 30 million blocks.
const blockMemory = 1 << 30

func blockGauge(b *blocks.Board) prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "penstock_controller_kv_blocks", Help: "Distinct KV blocks that engines have told of and hold.",
	}, func() float64 { return float64(b.Stats().Blocks) })
}

// New checks the usage folder and starts nothing.
func New(o Options) (*Server, error) {
	usage := filepath.Join(o.StateDir, "usage")
	if err := identity.SecureDir(usage); err != nil {
		return nil, err
	}
	s := &Server{
		o: o, log: o.Log.With().Str("component", "server").Logger(), commands: newCommands(), records: newRecords(usage),
		blocks: blocks.NewBoard(index.Limit{Bytes: blockMemory}), closing: make(chan struct{}), patience: strangerTime,
		metrics: metrics{
			agents: prometheus.NewGauge(prometheus.GaugeOpts{Name: "penstock_controller_agents", Help: "Agents with an open report stream."}),
			refused: prometheus.NewCounterVec(prometheus.CounterOpts{
				Name: "penstock_controller_refused_total", Help: "Calls that were refused: the caller's role may not make them, or its token is not good.",
			}, []string{"code"}),
		},
	}
	s.refusals = refusalLogs(s.log)
	o.Metrics.MustRegister(s.metrics.agents, s.metrics.refused, blockGauge(s.blocks))
	return s, nil
}

// Blocks is what engines' caches hold, by the agents' reports. Nobody but the server changes it.
func (s *Server) Blocks() *blocks.Board { return s.blocks }

// Close ends all open streams. It may be called twice.
func (s *Server) Close() { s.once.Do(func() { close(s.closing) }) }

// follow runs a stream until it ends by itself, its caller goes or the server closes. The caller is told of the latter: it
// would take a plain end for the end of what it follows.
func (s *Server) follow(ctx context.Context, stream func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := stream(ctx)
	cut := ctx.Err() != nil
	cancel()
	<-done
	select {
	case <-s.closing:
		if cut {
			return errClosing
		}
	default:
	}
	return answer(err)
}

var errClosing = connect.NewError(connect.CodeUnavailable, errors.New("the controller shuts down"))

// maxMessage bounds one message from outside: a full state with a large range of block events fits.
const maxMessage = 16 << 20

// compressFrom is the size from which answers are compressed. Below it, as an acknowledgement is, compressing costs more
// than everything else that is done about a report.
const compressFrom = 4 << 10

// Agents is the handler for the TLS listener: agents, gateways, and the owner from another host.
func (s *Server) Agents() http.Handler { return s.authorize(s.mux(), byCertificate) }

// Owner is the handler for the unix socket: the API, and the process's metrics at /metrics.
func (s *Server) Owner() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.o.Gatherer, promhttp.HandlerOpts{}))
	mux.Handle("/", s.authorize(s.mux(), byOwner))
	return mux
}

func (s *Server) mux() http.Handler {
	mux := http.NewServeMux()
	limits := connect.WithHandlerOptions(connect.WithReadMaxBytes(maxMessage), connect.WithCompressMinBytes(compressFrom))
	mux.Handle(apiv1.NewAgentServiceHandler(agentAPI{s}, limits))
	mux.Handle(apiv1.NewGatewayServiceHandler(gatewayAPI{s}, limits))
	mux.Handle(apiv1.NewEnrollServiceHandler(enrollAPI{s}, limits))
	mux.Handle(apiv1.NewControlServiceHandler(controlAPI{s}, limits))
	return mux
}

// Send implements the reconcile loop's commander.
func (s *Server) Send(launch string, cmd *apiv1.Command) error { return s.commands.send(launch, cmd) }

// Forget drops what is kept for a launch that is over.
func (s *Server) Forget(launch string) { s.commands.forget(launch) }

// event records something that happened to a launch.
func (s *Server) event(kind string, l cluster.Launch, message string) {
	s.o.Ledger.AppendEvent(&apiv1.Event{
		Kind: kind, Deployment: l.Deployment, Replica: string(l.Role) + "/" + strconv.Itoa(l.Index), Launch: string(l.ID), Message: message,
		At: timestamppb.Now(),
	})
}

// note records something that happened to a deployment.
func (s *Server) note(kind, deployment, launch, message string) {
	s.o.Ledger.AppendEvent(&apiv1.Event{Kind: kind, Deployment: deployment, Launch: launch, Message: message, At: timestamppb.Now()})
}

// OwnerListener opens the unix socket for the owner: 0600 in a folder of the owner's, and each connection's peer must have
// the owner's uid.
func OwnerListener(path string, log zerolog.Logger) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return ownerListener{l, log}, nil
}

type ownerListener struct {
	net.Listener
	log zerolog.Logger
}

// Accept drops connections of other users.
func (l ownerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := identity.PeerUID(conn)
		if err == nil && uid == os.Getuid() {
			return conn, nil
		}
		l.log.Warn().Err(err).Int("uid", uid).Msg("connection of another user dropped")
		conn.Close()
	}
}
