package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/agent"
	"github.com/penstock/penstock/agent/gpu"
	"github.com/penstock/penstock/agent/process"
	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/local"
	"github.com/penstock/penstock/slurm"
)

func agentCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "agent", Usage: "start and watch the engine on one node of a job (jobs call this)", Hidden: true,
		Flags: append(roleFlags("network.reach"),
			&cli.StringFlag{Name: "join", Usage: "the join file, 0600"},
			&cli.StringFlag{Name: "node", Usage: "the cluster's name of this node"},
			&cli.IntFlag{Name: "rank", Usage: "of this node in the job, from 0"},
			&cli.IntFlag{Name: "nodes", Value: 1, Usage: "of the job"},
			&cli.StringFlag{Name: "job", Usage: "the cluster's own ID of the job"},
			&cli.StringFlag{Name: "ends-at", Usage: "when the job's time is over, in seconds since 1970; default: $PENSTOCK_ENDS_AT, $SLURM_JOB_END_TIME"},
			&cli.StringFlag{Name: "listen-host", Usage: "where the data port listens; default: all interfaces"},
			logFileFlag(),
			&cli.StringFlag{Name: "cluster", Usage: "whose environment says which node this is: slurm or nomad"},
			&cli.IntFlag{Name: "first-rank", Usage: "slurm: rank of the first task of this step"},
			&cli.DurationFlag{Name: "kill-wait", Usage: "slurm, nomad: time between TERM and KILL"},
			&cli.DurationFlag{Name: "warning", Usage: "slurm: how long before the time limit its warning comes"},
		),
		Action: action(std, parseAgent, runAgent),
	}
}

type agentOptions struct {
	join, node, job, listenHost, endsAt string
	logFile                             string
	rank, nodes                         int
	cluster                             string
	slurm                               slurmOptions
	nomad                               nomadOptions
}

func parseAgent(c *cli.Context) (agentOptions, error) {
	_, err := nothing(c)
	o := agentOptions{
		join: c.String("join"), node: c.String("node"), job: c.String("job"), listenHost: c.String("listen-host"),
		rank: c.Int("rank"), nodes: c.Int("nodes"), endsAt: c.String("ends-at"), cluster: c.String("cluster"), logFile: c.String("log-file"),
		slurm: slurmOptions{firstRank: c.Int("first-rank"), killWait: c.Duration("kill-wait"), warning: c.Duration("warning")},
	}
	switch {
	case err != nil:
	case o.join == "":
		err = usageError("penstock agent needs --join FILE")
	case o.cluster != "" && o.cluster != string(jobspecs.SlurmCluster) && o.cluster != string(jobspecs.NomadCluster):
		err = usageError("--cluster %s: only slurm and nomad tell agents their place", o.cluster)
	}
	return o, err
}

// agentArgv is the command line of one rank of a local job. It holds the path of the join file and no secret.
func agentArgv(inv *invocation, s cluster.Submission, rank int) []string {
	return append(render.Agent(inv.Self, s.JoinFile, rank, s.Launch.Nodes), "--node", s.Launch.Placement[rank].Node,
		"--listen-host", "127.0.0.1", "--runtime-dir", inv.set.get("runtimeDir"),
		"--log-file", filepath.Join(s.LogDir, fmt.Sprintf("agent-%d.log", rank)))
}

// runAgent runs until the launch is over. The first SIGTERM (or ctrl-c) drains, the second ends at once.
func runAgent(_ context.Context, inv *invocation, o agentOptions) (err error) {
	if path := inv.Getenv(local.EnvLock); path != "" { // a job of this machine
		lock, err := local.HoldLock(path)
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	switch jobspecs.ClusterKind(o.cluster) {
	case jobspecs.SlurmCluster:
		o, err = o.fromSlurm(inv.Getenv)
	case jobspecs.NomadCluster:
		o, err = o.fromNomad(inv.Getenv)
	}
	if err != nil {
		return err
	}
	if o.cluster != "" {
		inv.set.replace("runtimeDir", slurmRuntimeDir(inv.set, inv.Getenv))
	}
	log, flush, err := inv.roleLogger(o.logFile)
	if err != nil {
		return err
	}
	defer flush()
	options, done, err := newAgentOptions(inv, o, log)
	if err != nil {
		return err
	}
	defer done()
	if o.cluster == string(jobspecs.SlurmCluster) {
		options.SignalStep = func(ctx context.Context, step, signal string) error {
			return slurm.SignalStep(ctx, inv.Environ, step, signal)
		}
		options.StepNode = o.node
	}
	a, err := agent.New(options)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	switch jobspecs.ClusterKind(o.cluster) {
	case jobspecs.SlurmCluster:
		defer onSlurmSignals(o.slurm, options.EndsAt, a, cancel, options.Log)()
		err = a.Run(ctx)
	case jobspecs.NomadCluster:
		err = o.nomad.run(ctx, cancel, a, log)
	default:
		defer onSignals(func(name string) { a.Drain("signal "+name, 0) }, cancel)()
		err = a.Run(ctx)
	}
	if errors.Is(err, agent.ErrRefused) {
		return fail(ExitNotFound, "", "%v", err)
	}
	return err
}

func newAgentOptions(inv *invocation, o agentOptions, log zerolog.Logger) (agent.Options, func(), error) {
	join, err := identity.ReadJoinFile(o.join)
	if err != nil {
		return agent.Options{}, nil, err
	}
	if err := inv.secureRuntimeDir(); err != nil {
		return agent.Options{}, nil, err
	}
	run := inv.Getenv(process.EnvRun)
	if run == "" {
		var nonce [8]byte
		_, _ = rand.Read(nonce[:])
		run = hex.EncodeToString(nonce[:])
	}
	host, err := os.Hostname()
	if err != nil {
		return agent.Options{}, nil, fmt.Errorf("find this host's name: %w", err)
	}
	reach, err := inv.reach()
	if err != nil {
		return agent.Options{}, nil, err
	}
	sampler, closeSampler, samplerErr := gpu.Open(context.Background(), gpu.Options{})
	endsAt, err := jobEnd(inv, o.endsAt)
	if err != nil {
		log.Warn().Err(err).Msg("the job's time limit is not known")
	}
	done := func() {
		if closeSampler == nil {
			return
		}
		if err := closeSampler(); err != nil {
			log.Warn().Err(err).Msg("GPUs not closed")
		}
	}
	options := agent.Options{
		Join: join, Run: run, Rank: o.rank, Nodes: o.nodes, Node: orDefault(o.node, host), Hostname: host, Job: jobID(inv, o.job, join.Launch, run),
		EndsAt: endsAt, Version: Version(), Self: inv.Self, RuntimeDir: filepath.Join(inv.set.get("runtimeDir"), "agent"), ListenHost: o.listenHost,
		Environ: inv.Environ, Sampler: sampler, SamplerErr: samplerErr, Log: log, Registry: newRegistry(),
		Dial: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, Reach: reach,
	}
	if o.cluster == string(jobspecs.NomadCluster) {
		options, err = o.nomad.apply(options)
	}
	return options, done, err
}

// jobEnd is when the job's time is over, as the first of flag and variables says; zero = no limit is known.
func jobEnd(inv *invocation, flag string) (time.Time, error) {
	text := cmp.Or(flag, inv.Getenv(local.EnvEndsAt), inv.Getenv("SLURM_JOB_END_TIME"))
	if text == "" || text == "0" {
		return time.Time{}, nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("%q is no time in seconds since 1970", text)
	}
	return time.Unix(seconds, 0), nil
}

// jobID is the cluster's own ID of the job. A local job's is made of its launch and run.
func jobID(inv *invocation, given, launch, run string) string {
	if given == "" && inv.Getenv(local.EnvLock) != "" {
		return launch + "." + run
	}
	return given
}

// localGPUs lists this machine's cards for placement. Where none can be asked, there are none; that there seem to be some
// that do not answer is said once.
func localGPUs(log zerolog.Logger) func(context.Context) ([]cluster.GPU, error) {
	warned := false
	return func(ctx context.Context) ([]cluster.GPU, error) {
		sampler, done, err := gpu.Open(ctx, gpu.Options{})
		if err != nil {
			if !errors.Is(err, gpu.ErrNoGPU) && !warned {
				warned = true
				log.Warn().Err(err).Msg("GPUs of this machine do not answer")
			}
			return nil, nil
		}
		defer func() { _ = done() }()
		sample, err := sampler.Sample(ctx)
		if err != nil {
			return nil, err
		}
		var out []cluster.GPU
		for _, g := range sample.GPUs {
			c := cluster.GPU{ID: g.UUID, Type: g.Name}
			if g.MemoryTotal != nil {
				c.Memory = *g.MemoryTotal
			}
			out = append(out, c)
		}
		return out, nil
	}
}
