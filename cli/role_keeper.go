package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/agent/gpu"
	"github.com/penstock/penstock/agent/process"
	"github.com/penstock/penstock/scheduler/accept"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/slurm/allocation"
)

// keeperCommand is the process of one node of an allocation. The script of `penstock render` calls it, through srun.
func keeperCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "keeper", Hidden: true, Usage: "start and end the agents of one node of a Slurm allocation (rendered scripts call this)",
		Flags: []cli.Flag{&cli.StringFlag{Name: "job-dir", Usage: "folder of the job, shared by its nodes"}},
		Action: action(std, func(c *cli.Context) (string, error) {
			if _, err := nothing(c); err != nil || c.String("job-dir") != "" {
				return c.String("job-dir"), err
			}
			return "", usageError("penstock keeper needs --job-dir DIR")
		}, runKeeper),
	}
}

func runKeeper(ctx context.Context, inv *invocation, dir string) error {
	dir = inv.path(dir)
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find this host's name: %w", err)
	}
	name := orDefault(inv.Getenv("SLURMD_NODENAME"), host)
	log, flush, err := inv.roleLogger(filepath.Join(dir, "keeper-"+name+".log"))
	if err != nil {
		return err
	}
	defer flush()
	log = log.With().Str("node", name).Logger()
	err = keep(ctx, inv, dir, name, host, log)
	if err != nil {
		log.Error().Err(err).Msg("keeper ends")
	}
	return err
}

func keep(ctx context.Context, inv *invocation, dir, name, host string, log zerolog.Logger) error {
	pointer, err := awaitPointer(ctx, dir)
	if err != nil {
		return err
	}
	pool, err := identity.PoolFromPEM([]byte(pointer.CAPEM))
	if err != nil {
		return fmt.Errorf("read the controller's CA: %w", err)
	}
	cert, certPEM, err := allocation.NewCertificate(time.Now())
	if err != nil {
		return err
	}
	k, err := allocation.NewKeeper(allocation.KeeperOptions{
		Node: nodeOfJob(ctx, inv, name, log), Start: agentStarter(inv), Grace: slurmOptions{killWait: killWaitOf(ctx, inv)}.grace(), Log: log,
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return fmt.Errorf("listen for the controller: %w", err)
	}
	conf := identity.ServerConfig(func() *tls.Certificate { return &cert }, pool, true)
	conf.NextProtos = []string{"http/1.1"}
	want := identity.WantRole(identity.Controller)
	authorize := func(state *tls.ConnectionState) error {
		id, err := identity.FromState(state)
		if err != nil {
			return err
		}
		return want(id)
	}
	srv := &http.Server{
		Handler: k.Handler(authorize), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: identity.RefusalLog(log),
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx)) // the controller is answered to the last
	served := make(chan error, 1)
	go func() {
		served <- untilDone(serving, srv, bounded(l, "keeper", accept.NewRefusals(newRegistry()), conf), func() {})
	}()
	err = allocation.WriteMember(dir, allocation.Member{Node: name, Addresses: addressesOf(l, name, host), CertificatePEM: certPEM})
	if err == nil {
		err = k.Run(ctx)
	}
	stop()
	return errors.Join(err, <-served)
}

// awaitPointer waits until the controller has said which state folder the job has.
func awaitPointer(ctx context.Context, dir string) (jobPointer, error) {
	for {
		entries, err := os.ReadDir(dir) // listing asks an NFS server anew
		if err != nil {
			return jobPointer{}, fmt.Errorf("list the job's folder: %w", err)
		}
		if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == jobState }) {
			return readJSON[jobPointer](filepath.Join(dir, jobState))
		}
		select {
		case <-ctx.Done():
			return jobPointer{}, errors.New("ended before its controller began")
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// addressesOf lists where the controller may reach a port of this node, the likeliest first.
func addressesOf(l net.Listener, names ...string) (list []string) {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	add := func(host string) {
		if at := net.JoinHostPort(host, port); !slices.Contains(list, at) && len(list) < mostAddresses {
			list = append(list, at)
		}
	}
	for _, name := range names {
		add(name)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return list
	}
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
			add(ip.IP.String())
		}
	}
	return list
}

// agentStarter starts agents as children. They inherit the job's environment, and choose from it what engines get.
func agentStarter(inv *invocation) func(allocation.Order) (allocation.Tree, error) {
	return func(o allocation.Order) (allocation.Tree, error) {
		if err := identity.SecureDir(o.LogDir); err != nil {
			return nil, err
		}
		path := filepath.Join(o.LogDir, fmt.Sprintf("agent-%d.log", o.Rank))
		out, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open the agent's log: %w", err)
		}
		defer out.Close()
		p, err := process.Start(process.Spec{
			Argv: o.Argv, Env: inv.Environ, Dir: o.LogDir, Stdout: out, Stderr: out,
			Mark: process.Mark{Launch: process.LaunchToken(o.Launch), Run: o.Run, Rank: strconv.Itoa(o.Rank)},
		})
		if err != nil {
			return nil, err
		}
		return tree{p}, nil
	}
}

// nodeOfJob is this node as placement sees it: what the job has of it.
func nodeOfJob(ctx context.Context, inv *invocation, name string, log zerolog.Logger) cluster.Node {
	n := cluster.Node{Name: name, Fabric: fabricOf(inv.Getenv("SLURM_TOPOLOGY_ADDR"))}
	n.CPUs, _ = strconv.Atoi(inv.Getenv("SLURM_CPUS_ON_NODE")) // 0 = unknown
	if mebibytes, err := strconv.ParseUint(inv.Getenv("SLURM_MEM_PER_NODE"), 10, 43); err == nil {
		n.Memory = mebibytes << 20
	}
	n.GPUs = gpusOfJob(name, orDefault(inv.Getenv("SLURM_STEP_GPUS"), inv.Getenv("SLURM_JOB_GPUS")), sampleGPUs(ctx, log), numaOf("/"))
	return n
}

// fabricOf takes Slurm's address of a node in the network apart: the switches above it. One switch that all nodes hang on, which is
// what a cluster without a topology looks like, says nothing.
func fabricOf(address string) string {
	at := strings.LastIndexByte(address, '.')
	if at < 0 {
		return ""
	}
	return address[:at]
}

func sampleGPUs(ctx context.Context, log zerolog.Logger) []gpu.GPU {
	sampler, done, err := gpu.Open(ctx, gpu.Options{})
	if err != nil {
		if !errors.Is(err, gpu.ErrNoGPU) {
			log.Warn().Err(err).Msg("GPUs of this node do not answer")
		}
		return nil
	}
	defer func() { _ = done() }()
	sample, err := sampler.Sample(ctx)
	if err != nil {
		log.Warn().Err(err).Msg("GPUs of this node do not answer")
		return nil
	}
	return sample.GPUs
}

// gpusOfJob lists the cards that the job has on this node, from Slurm's list of their numbers: those that the driver shows, by UUID;
// where it shows all of the node's, those of these numbers; where it shows none, declared ones by names of ours.
func gpusOfJob(node, list string, seen []gpu.GPU, numa map[string]string) (gpus []cluster.GPU) {
	numbers, err := allocation.Numbers(list)
	if err != nil {
		numbers = nil
	}
	seen = slices.DeleteFunc(slices.Clone(seen), func(g gpu.GPU) bool { return g.UUID == "" })
	if len(seen) > len(numbers) && len(numbers) > 0 {
		seen = slices.DeleteFunc(seen, func(g gpu.GPU) bool { return !slices.Contains(numbers, g.Index) })
	}
	if len(seen) == 0 {
		for _, n := range numbers {
			gpus = append(gpus, cluster.GPU{ID: fmt.Sprintf("%s-gpu%d", node, n)})
		}
		return gpus
	}
	for _, g := range seen {
		c := cluster.GPU{ID: g.UUID, Type: g.Name, NUMA: numa[g.UUID]}
		if g.MemoryTotal != nil {
			c.Memory = *g.MemoryTotal
		}
		gpus = append(gpus, c)
	}
	return gpus
}
