package cli

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent"
	"github.com/penstock/penstock/nomad"
)

// An agent in a Nomad allocation is told its place by Nomad's environment: the allocation's ID is its run, its index the
// rank, and the ports are those of the job's network block. TERM comes kill_timeout before KILL.

// nomadOptions are what only agents in Nomad allocations have.
type nomadOptions struct {
	join            string // path of the join file
	allocation, job string // native IDs
	counted         bool   // Nomad keeps the role at a count
	host            string // under which others reach this node
	port            int
	ready           string        // address of the ready port
	output          string        // folder of the engine's output
	granted         []string      // UUIDs of the cards that Nomad has granted; nil = none were asked for
	killWait        time.Duration // from TERM to KILL
}

// fromNomad fills in what Nomad's environment says of this agent's place. What flags say stays.
func (o agentOptions) fromNomad(getenv func(string) string) (agentOptions, error) {
	n := nomadOptions{join: o.join, allocation: getenv("NOMAD_ALLOC_ID"), killWait: o.slurm.killWait}
	if n.allocation == "" {
		return o, fail(ExitError, "Nomad starts it", "this is no Nomad allocation: NOMAD_ALLOC_ID is not set")
	}
	if n.killWait <= 0 {
		n.killWait = 5 * time.Second // Nomad's own
	}
	n.job = getenv("NOMAD_JOB_ID") + "@" + orDefault(getenv("NOMAD_NAMESPACE"), "default")
	var err error
	if n.port, err = nomadPort(getenv, "data"); err != nil {
		return o, err
	}
	ready, err := nomadPort(getenv, "ready")
	if err != nil {
		return o, err
	}
	n.host = orDefault(getenv("NOMAD_HOST_IP_data"), getenv("NOMAD_IP_data"))
	n.ready = net.JoinHostPort(getenv("NOMAD_IP_ready"), strconv.Itoa(ready))
	if dir := getenv("NOMAD_ALLOC_DIR"); dir != "" {
		n.output = filepath.Join(dir, "logs", "penstock")
	}
	if cards := getenv("NVIDIA_VISIBLE_DEVICES"); strings.Contains(cards, "GPU-") || strings.Contains(cards, "MIG-") {
		n.granted = strings.Split(cards, ",")
	}
	if o.nodes > 1 {
		index := getenv("NOMAD_ALLOC_INDEX")
		if o.rank, err = strconv.Atoi(index); err != nil || o.rank < 0 {
			return o, fail(ExitError, "", "NOMAD_ALLOC_INDEX is %q, which is no number of a member", index)
		}
	}
	o.node = orDefault(o.node, getenv("PENSTOCK_NODE"))
	o.nomad = n
	return o, nil
}

func nomadPort(getenv func(string) string, label string) (int, error) {
	text := getenv("NOMAD_PORT_" + label)
	port, err := strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 {
		return 0, fail(ExitError, "the job needs a port "+label+" in its network block; `penstock render` prints one", "NOMAD_PORT_%s is %q, which is no port", label, text)
	}
	return port, nil
}

// apply makes the agent's options those of its allocation. What Nomad has started by itself is a launch of the name that the
// controller derives from the allocation too.
func (n *nomadOptions) apply(o agent.Options) (agent.Options, error) {
	o.Join.EndpointFile = filepath.Join(filepath.Dir(n.join), "endpoint.json") // beside it, and put there anew when the controller moves
	if o.Join.Deployment != "" {
		n.counted = true
		o.Join.Launch, o.Run, o.Job = string(nomad.LaunchOf(n.allocation)), n.allocation, n.allocation
	} else {
		o.Job = n.job
	}
	o.ListenPort, o.AdvertiseHost, o.ReadyAddress, o.OutputDir = n.port, n.host, n.ready, n.output
	if n.granted == nil {
		return o, nil
	}
	o.Environ = append(slices.DeleteFunc(slices.Clone(o.Environ), func(e string) bool {
		return strings.HasPrefix(e, "CUDA_VISIBLE_DEVICES=")
	}), "CUDA_VISIBLE_DEVICES="+strings.Join(n.granted, ","))
	return o, n.checkCards(o)
}

// checkCards fails where this node's own list has not the cards that Nomad has granted: its device plugin's list is old then,
// or another node's, and the engine would start on whatever is there.
func (n *nomadOptions) checkCards(o agent.Options) error {
	if o.Sampler == nil {
		return nil // the agent reports that the cards cannot be asked
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	sample, err := o.Sampler.Sample(ctx)
	if err != nil {
		return fmt.Errorf("ask for the cards that Nomad has granted: %w", err)
	}
	var there []string
	for _, g := range sample.GPUs {
		there = append(there, g.UUID)
	}
	for _, card := range n.granted {
		if !slices.Contains(there, card) {
			return fail(ExitError, "restart Nomad's client there, so that its device plugin looks anew", "Nomad has granted card %s, and this node has %s", card, strings.Join(there, ", "))
		}
	}
	return nil
}

// grace is what a drain may take of the time between TERM and KILL.
func (n *nomadOptions) grace() time.Duration { return n.killWait - min(5*time.Second, n.killWait/5) }

// holdFor is how long an agent that was drained by the controller waits for Nomad to end it. An allocation of a counted role
// whose agent ended by itself would be started again at once: the count is lowered after the drain.
const holdFor = 10 * time.Minute

// run runs the agent: TERM drains within kill_timeout, the second one ends at once.
func (n *nomadOptions) run(ctx context.Context, now context.CancelFunc, a *agent.Agent, log zerolog.Logger) error {
	told := make(chan struct{})
	stop := onSignals(func(name string) {
		close(told)
		a.Drain(fmt.Sprintf("Nomad ends the allocation (%s) and kills it in %s", name, n.killWait), n.grace())
	}, now)
	defer stop()
	err := a.Run(ctx)
	if err != nil || !n.counted {
		return err
	}
	select {
	case <-told:
		return nil
	default:
	}
	log.Info().Msg("drained; waits for Nomad to end the allocation")
	hold := time.NewTimer(holdFor)
	defer hold.Stop()
	select {
	case <-told:
	case <-ctx.Done():
	case <-hold.C:
	}
	return nil
}
