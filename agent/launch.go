package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/agent/engine"
	"github.com/penstock/penstock/agent/engine/kvevents"
	"github.com/penstock/penstock/agent/process"
	"github.com/penstock/penstock/agent/slots"
	"github.com/penstock/penstock/jobspecs"
	spec "github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/statefile"
)

const (
	tailLines = 40  // kept of the engine's output
	tailWidth = 400 // bytes of each
)

// engineRun is one start of the engine, from the start of its process to its end.
type engineRun struct {
	proc      *process.Process     // nil: rank 0 starts the processes of this rank too
	usage     func() process.Usage // of its whole tree, as far as it can be told; set where it has a process
	tail      *process.Tail
	reader    *engine.Reader  // nil where this rank answers no HTTP
	step      bool            // Slurm has started it: proc is an srun
	weights   string          // fingerprint of what it loads; empty = not known, or no use for it
	slots     *slots.Slots    // nil = its KV has no tiers, or reaches them by itself
	door      *door           // by which it reaches them; nil = by none
	meeting   meeting         // of the ranks' engines
	serving   atomic.Bool     // it has answered with a token
	startedAt time.Time       // of that token; zero = not yet
	events    kvevents.Source // where it tells what its cache holds; empty = nowhere
}

// ended is closed when the engine's first process has ended.
func (e *engineRun) ended() <-chan struct{} {
	if e.proc == nil {
		return nil
	}
	return e.proc.Ended()
}

// meeting is where the engines of several ranks find each other; port 0 = they don't. The secret is for engines that can
// tell their own by one: it comes to them by environment. (The run's nonce would not do, since its folder's name shows in ps.)
type meeting struct {
	host   string
	port   int
	secret string
}

// launch starts the engine. n counts the starts of this run. It is the run's begin, except in tests of supervision.
func (r *run) launch(n int, m meeting) (*engineRun, error) {
	weights := r.weights()
	o, err := r.openDoor(n, weights)
	if err != nil {
		return nil, err
	}
	e, err := r.startEngine(n, m, weights, o)
	if err != nil && o != nil {
		o.close()
	}
	return e, err
}

// startEngine starts the engine whose door is open already.
func (r *run) startEngine(n int, m meeting, weights string, o *door) (*engineRun, error) {
	s, err := r.start(n, m, o)
	if err != nil {
		return nil, err
	}
	cmd, err := r.kind.Command(s)
	if err != nil {
		return nil, err
	}
	e := &engineRun{
		tail: process.NewTail(tailLines, tailWidth), meeting: m, weights: weights, door: o,
		events: kvevents.Source{Endpoint: s.EventsEndpoint, Replay: s.EventsReplay},
	}
	if len(cmd.Argv) == 0 && r.opts.Rank > 0 {
		return e, nil
	}
	key, err := r.prepare(s, cmd)
	if err != nil {
		return nil, err
	}
	e.step = startedBySlurm(cmd)
	out := io.MultiWriter(r.output, e.tail)
	e.proc, err = process.Start(process.Spec{
		Argv: withSetup(cmd), Env: r.environment(cmd, key, m), Dir: r.dir, Stdout: out, Stderr: out,
		Mark:  process.Mark{Launch: process.LaunchToken(r.opts.Join.Launch), Run: r.opts.Run, Rank: strconv.Itoa(r.opts.Rank)},
		Grace: r.traits.StopGrace,
	})
	if err != nil {
		return nil, err
	}
	e.usage = func() process.Usage {
		tree, _ := e.proc.Tree()
		return process.IO(tree)
	}
	if r.opts.Rank == 0 {
		e.reader = r.reader(e.proc, s, key)
	}
	r.state.setPorts(&apiv1.Ports{Ports: append(append(r.ownPorts(), o.ports()...), enginePorts(s, cmd)...)})
	return e, nil
}

// start is what the launch line depends on.
func (r *run) start(n int, m meeting, o *door) (spec.Start, error) {
	s := spec.Start{
		Deployment: r.adm.deployment, Role: r.adm.role, Rank: r.opts.Rank, Nodes: r.opts.Nodes,
		HeadHost: m.host, HeadPort: m.port, TransferHost: r.opts.AdvertiseHost,
		Dir: r.dir, GPUs: r.adm.gpus, Self: r.opts.Self, StepNode: r.opts.StepNode,
	}
	if o != nil {
		s.KV = o.access
	}
	s.EventsEndpoint, s.EventsReplay = r.eventSockets(n)
	var err error
	if r.traits.UnixSocket {
		s.Socket, err = identity.SocketPath(r.dir, fmt.Sprintf("e%d.sock", n))
	} else {
		s.Host, s.KeyFile = "127.0.0.1", filepath.Join(r.dir, fmt.Sprintf("key%d", n))
		s.Port, err = freePort(s.Host)
	}
	if err == nil && r.adm.role != jobspecs.Mixed {
		s.TransferPort, err = freePort("")
	}
	return s, err
}

// freePort finds a port that nobody uses now. Somebody may take it before the engine does; the engine then ends, and is
// started again with another one.
func freePort(host string) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// prepare writes what the engine reads at its start, and draws its key.
func (r *run) prepare(s spec.Start, cmd spec.Command) (key string, err error) {
	for name, content := range cmd.Files {
		if err := writeFile(r.dir, name, content); err != nil {
			return "", fmt.Errorf("write the engine's file %s: %w", name, err)
		}
	}
	if s.KeyFile == "" {
		return "", nil
	}
	key = rand.Text()
	if err := statefile.Write(statefile.OS{}, s.KeyFile, []byte(key+"\n")); err != nil {
		return "", fmt.Errorf("write the engine's key: %w", err)
	}
	return key, nil
}

func writeFile(dir, name, content string) error {
	if !filepath.IsLocal(name) {
		return errors.New("its name leads out of the run's folder")
	}
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return statefile.Write(statefile.OS{}, path, []byte(content))
}

// environment is the whole environment of the engine.
func (r *run) environment(cmd spec.Command, key string, m meeting) []string {
	secret := map[string]string{}
	if cmd.KeyEnv != "" && key != "" {
		secret[cmd.KeyEnv] = key
	}
	if m.secret != "" {
		secret[spec.RanksSecretEnv] = m.secret
	}
	return environment(r.opts.Environ, caches(r.opts.Environ, r.dir), cmd.Env, secret)
}

// withSetup puts the deployment's shell lines before the engine.
func withSetup(cmd spec.Command) []string {
	if len(cmd.Setup) == 0 {
		return cmd.Argv
	}
	script := strings.Join(cmd.Setup, "\n") + "\nexec \"$@\""
	return append([]string{"bash", "-c", script, "penstock"}, cmd.Argv...)
}

// reader reads this engine, over connections that are checked to be its own.
func (r *run) reader(p *process.Process, s spec.Start, key string) *engine.Reader {
	o := engine.Options{Kind: r.kind.Kind(), Role: r.adm.role, Traits: r.traits, Socket: s.Socket, Key: key}
	o.Check = func(_ context.Context, c net.Conn) error { return p.OwnsConn(c) }
	if s.Socket == "" {
		o.Address = net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
		o.Check = func(ctx context.Context, _ net.Conn) error { return p.Owns(ctx, "tcp", o.Address) }
	}
	return engine.New(o)
}

// enginePorts lists what the engine listens on, for status.
func enginePorts(s spec.Start, cmd spec.Command) (ports []*apiv1.Port) {
	switch {
	case s.Rank > 0:
	case s.Socket != "":
		ports = append(ports, &apiv1.Port{Address: "unix:" + s.Socket, Purpose: "engine", Protection: "directory"})
	default:
		protection := "none"
		if cmd.KeyEnv != "" || slices.Contains(cmd.Argv, s.KeyFile) {
			protection = "key"
		}
		ports = append(ports, &apiv1.Port{Address: net.JoinHostPort(s.Host, strconv.Itoa(s.Port)), Purpose: "engine", Protection: protection})
	}
	if s.Nodes > 1 && s.Rank == 0 {
		ports = append(ports, &apiv1.Port{Address: net.JoinHostPort(s.HeadHost, strconv.Itoa(s.HeadPort)), Purpose: "ranks of the engine", Protection: "none"})
	}
	if s.TransferPort > 0 {
		ports = append(ports, &apiv1.Port{Address: net.JoinHostPort(s.TransferHost, strconv.Itoa(s.TransferPort)), Purpose: "kv transfer", Protection: "none"})
	}
	return ports
}
