package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/agent/cache"
	"github.com/penstock/penstock/agent/process"
	"github.com/penstock/penstock/jobspecs"
	spec "github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

// run is one admitted run on this node, from admission to its end.
type run struct {
	agent *Agent
	opts  Options
	adm   *admission
	home  *controller
	end   *ending
	log   zerolog.Logger

	kind     spec.Engine
	traits   spec.Traits
	startAt  time.Time
	folder   *runDir
	dir      string // of folder: 0700, for sockets and files of this run; removed at the end
	address  string // of the data port
	state    *state
	blocks   *heldBlocks
	port     *port
	outward  *outward
	cards    *cards
	reporter *reporter
	output   *process.Rotating
	leader   *leader      // rank 0 of several
	follower *follower    // another rank
	kv       *cache.Cache // tiers below the engine's own; nil = none

	begin  func(n int, m meeting) (*engineRun, error) // starts the engine: launch
	engine atomic.Pointer[engineRun]                  // the one that runs now
	tokens atomic.Uint64                              // generated and read by the engine, at the last sample
}

// newRun puts the parts together and starts nothing.
func (a *Agent) newRun(home *controller, adm *admission) (*run, error) {
	kind := spec.For(adm.deployment.Engine.Kind)
	if kind == nil {
		return nil, fmt.Errorf("%w: this agent does not know the engine %q; it is older than the controller", ErrFailed, adm.deployment.Engine.Kind)
	}
	r := &run{
		agent: a, opts: a.opts, adm: adm, home: home, end: a.end, kind: kind, traits: kind.Traits(), startAt: time.Now(),
		log:   a.log.With().Str("deployment", adm.deployment.Name).Str("replica", string(adm.role)).Logger(),
		state: newState(), blocks: &heldBlocks{},
		cards: &cards{sampler: a.opts.Sampler, err: a.opts.SamplerErr, placed: adm.gpus, visible: valueOf(a.opts.Environ, "CUDA_VISIBLE_DEVICES")},
	}
	var err error
	if r.folder, err = claimDir(a.opts); err != nil {
		return nil, err
	}
	r.dir = r.folder.path
	if r.output, err = r.openOutput(); err != nil {
		return nil, err
	}
	r.begin = r.launch
	r.gather()
	r.port = newPort(portOptions{
		launch: a.opts.Join.Launch, run: a.opts.Run, epoch: adm.epoch, traits: r.traits, tenantTag: spec.TenantTag(adm.deployment), metrics: a.metrics,
		scrape: promhttp.HandlerFor(a.opts.Registry, promhttp.HandlerOpts{}), gang: r.gangHandler(), log: r.log,
	})
	r.outward = &outward{
		mode: a.opts.Reach, port: r.port, dial: a.opts.Dial, patience: a.opts.Limits.Dialled, log: r.log,
		tls: func(want func(identity.ID) error) *tls.Config {
			return identity.ClientConfig(adm.certs.Certificate, home.pool, want)
		},
	}
	r.reporter = &reporter{
		home: home, state: r.state, blocks: r.blocks, interval: a.opts.Interval, certs: adm.certs.Certificate, obey: r.obey, meet: r.meet, peers: r.outward.meet,
		rejoin: r.rejoin, refused: r.refusedRun, metrics: a.metrics, log: r.log,
	}
	return r, nil
}

// gather makes this rank's side of a run over several nodes.
func (r *run) gather() {
	switch {
	case r.opts.Nodes == 1:
	case r.opts.Rank == 0:
		r.leader = newLeader(r.opts.Nodes)
	default:
		conf := identity.ClientConfig(r.adm.certs.Certificate, r.home.pool, onlyHead(r.opts.Join.Launch, r.opts.Run))
		t := &http.Transport{TLSClientConfig: conf, TLSHandshakeTimeout: 5 * time.Second}
		r.follower = newFollower(&http.Client{Transport: t}, r.adm.head, r.opts.Interval)
	}
}

// gangHandler is the leader as a handler; nil without one.
func (r *run) gangHandler() http.Handler {
	if r.leader == nil {
		return nil
	}
	return r.leader
}

// openOutput prepares the log of the engine's output. It lies in the state folder; where that is not to be had on this node
// the output is lost, and its last lines are not.
func (r *run) openOutput() (*process.Rotating, error) {
	dir := orElse(r.opts.OutputDir, orElse(r.adm.logDir, r.dir))
	if err := identity.SecureDir(dir); err != nil {
		r.log.Warn().Err(err).Msg("engine output is not kept")
	}
	return process.NewRotating(process.RotatingOptions{
		Path: filepath.Join(dir, fmt.Sprintf("engine-%d.log", r.opts.Rank)), MaxBytes: process.LogBytes, Keep: process.LogsKept,
	})
}

// tend is the whole life of the run: it starts everything, waits for the end, and ends everything.
func (r *run) tend(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer func() { _ = r.folder.remove() }() // what is left is tidied up by the next agent
	listener, err := net.Listen("tcp", net.JoinHostPort(r.opts.ListenHost, strconv.Itoa(r.opts.ListenPort)))
	if err != nil {
		cancel()
		return fmt.Errorf("open the data port: %w", err)
	}
	r.introduce(listener)

	var parts sync.WaitGroup
	r.kv = r.openKV(ctx)
	others := r.openPeers()
	r.port.meetPeers(others)
	defer r.closeKV()
	defer others.close()
	defer parts.Wait()
	defer cancel()
	conf := identity.ServerConfig(r.adm.certs.Certificate, r.home.pool, true)
	conf.NextProtos = []string{"http/1.1"}
	parts.Go(func() { r.servePort(ctx, listener, conf) })
	parts.Go(func() { _ = r.output.Run(ctx) })
	parts.Go(func() { r.sample(ctx) })
	parts.Go(func() { r.reporter.run(ctx) })
	parts.Go(func() { r.renew(ctx) })
	parts.Go(func() { r.watchOrphan(ctx) })
	if r.opts.Rank == 0 {
		parts.Go(func() { r.outward.run(ctx) })
	}
	parts.Go(func() { r.watchEnd(ctx) })
	if r.follower != nil {
		parts.Go(func() { r.follower.run(ctx) })
	}
	if r.opts.ReadyAddress != "" {
		parts.Go(func() { r.showReady(ctx) })
	}
	if r.kv != nil {
		parts.Go(func() { r.kv.Run(ctx) })
	}
	if r.kv != nil && r.adm.role != jobspecs.Mixed {
		tidyNeighbours(r.opts.RuntimeDir)
		parts.Go(func() { r.serveNeighbours(ctx) })
	}

	r.sweep(ctx)
	err = r.supervise(ctx)
	r.farewell(ctx)
	return err
}

func (r *run) servePort(ctx context.Context, l net.Listener, conf *tls.Config) {
	if err := r.port.serve(ctx, l, conf); err != nil {
		r.end.stop("the data port broke", fmt.Errorf("%w: %w", ErrFailed, err))
	}
}

// introduce fills in who this is and where it is reached.
func (r *run) introduce(l net.Listener) {
	o := r.opts
	tcp, _ := l.Addr().(*net.TCPAddr)
	r.address = net.JoinHostPort(o.AdvertiseHost, strconv.Itoa(tcp.Port))
	id := &apiv1.Identity{
		Launch: o.Join.Launch, Run: o.Run, Epoch: r.adm.epoch, NodeRank: uint32(o.Rank), Nodes: uint32(o.Nodes),
		Node: o.Node, Hostname: o.Hostname, Address: r.address, Version: o.Version, StartedAt: timestamppb.New(r.startAt),
		EngineKind: string(r.kind.Kind()), EngineVersion: r.adm.deployment.Engine.Version, Pid: int64(os.Getpid()),
	}
	if !o.EndsAt.IsZero() {
		id.EndsAt = timestamppb.New(o.EndsAt)
	}
	if r.leader != nil {
		id.HeadAddress = r.address
	}
	r.state.setIdentity(id)
	r.state.setPorts(&apiv1.Ports{Ports: r.ownPorts()})
	r.phase(apiv1.Phase_PHASE_JOINING, "prepares the node")
}

func (r *run) ownPorts() []*apiv1.Port {
	return []*apiv1.Port{{Address: r.address, Purpose: "requests", Protection: "mtls"}}
}

// sweep ends what earlier runs of this launch, or an earlier agent of this run, have left on this node.
func (r *run) sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	launch := process.LaunchToken(r.opts.Join.Launch)
	for _, what := range []process.Leftovers{
		{Launch: launch, ExceptRun: r.opts.Run},
		{Launch: launch, Run: r.opts.Run, Rank: strconv.Itoa(r.opts.Rank)},
	} {
		killed, err := process.Sweep(ctx, what)
		for _, k := range killed {
			r.log.Warn().Int("pid", k.PID).Str("command", k.Command).Str("run", k.Mark.Run).Msg("killed a leftover of this launch")
		}
		if err != nil {
			r.log.Warn().Err(err).Msg("leftovers remain")
		}
	}
}

// farewell lets the controller and the other ranks learn of the end.
func (r *run) farewell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Limits.Farewell)
	defer cancel()
	var told sync.WaitGroup
	if r.leader != nil {
		told.Go(func() { r.leader.farewell(ctx) })
	}
	if r.follower != nil {
		told.Go(func() { _ = r.follower.exchange(ctx) })
	}
	if _, err := r.end.cause(); !errors.Is(err, ErrRefused) {
		if err := r.reporter.flush(ctx); err != nil {
			r.log.Warn().Err(err).Msg("the end is not reported")
		}
	}
	told.Wait()
}

// obey carries out a command of the controller.
func (r *run) obey(c *apiv1.Command) {
	switch verb := c.GetVerb().(type) {
	case *apiv1.Command_Drain:
		r.log.Info().Str("reason", verb.Drain.GetReason()).Dur("deadline", verb.Drain.GetDeadline().AsDuration()).Msg("told to drain")
		r.end.drain(verb.Drain.GetReason(), verb.Drain.GetDeadline().AsDuration())
	case *apiv1.Command_Stop:
		r.log.Info().Str("reason", verb.Stop.GetReason()).Msg("told to stop")
		r.end.stop(verb.Stop.GetReason(), nil)
	}
}

func (r *run) meet(head string) {
	if r.follower != nil {
		r.follower.meet(head)
	}
}

func (r *run) refusedRun(err error) {
	r.end.stop("the controller admits this run no more", fmt.Errorf("%w: %w", ErrRefused, err))
}

// phase moves the run on, and tells everybody who asks. What else changes with it is told in the same breath.
func (r *run) phase(p apiv1.Phase, message string, more ...func(*apiv1.Health)) {
	r.health(func(h *apiv1.Health) {
		if h.GetPhase() != p {
			h.Since = timestamppb.New(time.Now())
		}
		h.Phase, h.Message = p, message
		if p != apiv1.Phase_PHASE_LOADING {
			h.Loading = nil
		}
		h.RetryAt = nil
		for _, change := range more {
			change(h)
		}
	})
}

// health changes the health section, and with it what the other ranks hear.
func (r *run) health(change func(*apiv1.Health)) {
	r.state.health(change)
	now, _ := r.state.read()
	h := now.GetHealth()
	r.agent.metrics.phase.Set(float64(h.GetPhase()))
	w := word{Rank: r.opts.Rank, Node: r.opts.Node, Phase: h.GetPhase(), Message: h.GetMessage()}
	if w.Phase == apiv1.Phase_PHASE_FAILED {
		w.Lines = h.GetLastLines()
	}
	if e := r.engine.Load(); e != nil {
		w.Port, w.Secret = e.meeting.port, e.meeting.secret
	}
	if closed(r.end.drained) {
		w.Left = time.Until(r.drainBy())
	}
	if r.leader != nil {
		r.leader.say(w)
	}
	if r.follower != nil {
		r.follower.say(w)
	}
}

// valueOf reads one variable of an environment.
func valueOf(environ []string, name string) string {
	for _, entry := range environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}
