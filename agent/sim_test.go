package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent/engine/sim"
	spec "github.com/penstock/penstock/jobspecs/engine"
)

// playSim is `penstock engine sim`, as far as an agent's launch line goes.
func playSim(args []string) int {
	o := sim.DefaultOptions()
	o.Output, o.Speedup, o.GroupSecret = os.Stdout, 20, os.Getenv(spec.RanksSecretEnv)
	for i, arg := range args {
		value := strings.Join(args[i+1:min(i+2, len(args))], "")
		switch arg {
		case "--model":
			o.Model = value
		case "--served-model-name":
			o.ServedModelNames = []string{value}
		case "--kv-events-config":
			o.KVEvents, _ = sim.ParseKVEventsConfig(value)
		case "--kv-transfer-config":
			o.KVTransfer, _ = sim.ParseKVTransferConfig(value)
			text, _ := os.ReadFile(os.Getenv("LMCACHE_CONFIG_FILE"))
			o.ExternalKV, _ = sim.ParseLMCacheConfig(string(text))
		case "--uds":
			o.UDS = value
		case "--headless":
			o.Headless = true
		case "--master-addr":
			o.MasterAddr = value
		case "--nnodes":
			o.Nodes, _ = strconv.Atoi(value)
		case "--node-rank":
			o.NodeRank, _ = strconv.Atoi(value)
		case "--master-port":
			o.MasterPort, _ = strconv.Atoi(value)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := sim.New(o, zerolog.New(os.Stderr))
	if err == nil {
		err = s.Run(ctx)
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// simYAML is a deployment of the simulated engine.
const simYAML = `apiVersion: penstock/v1
name: d
model: {id: test-model}
engine: {kind: sim}
roles: {mixed: {replicas: 1}}
`

func TestSimulatedEngine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.controller.yaml = simYAML
	a := w.start(selfIsSim(t)).reach(started)
	resp, err := a.ask(clientOf(t, w.ca, asGateway), `{"model":"test-model","prompt":"Once upon a time","stream":true,"max_tokens":50,"temperature":0,"ignore_eos":true}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || bytes.Count(body, []byte("data: ")) < 20 || !bytes.HasSuffix(body, []byte("data: [DONE]\n\n")) {
		t.Errorf("%s, %d bytes, %v", resp.Status, len(body), err)
	}
	eventually(t, "what the engine did is reported", func() bool {
		s := w.controller.state(0)
		return s.GetLoad().GetGenerationTokensTotal() >= 50 && s.GetKv().GetCapacityTokens() > 0 && s.GetKv().GetBlockTokens() > 0
	})
	a.Drain("done", 0)
	if err := a.wait(); err != nil {
		t.Error(err)
	}
}

func TestSimulatedGang(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.controller.yaml = strings.Replace(simYAML, "replicas: 1", "replicas: 1, nodes: 2", 1)
	var ranks [2]*agentUnderTest
	for rank := range ranks {
		ranks[rank] = w.start(func(o *Options) {
			selfIsSim(t)(o)
			o.Rank, o.Nodes = rank, 2
		})
	}
	for _, a := range ranks {
		a.reach(started)
	}
	for _, a := range ranks {
		a.Drain("done", 0)
	}
	for rank, a := range ranks {
		if err := a.wait(); err != nil {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
}

func selfIsSim(t testing.TB) func(*Options) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) { o.Self = self }
}
