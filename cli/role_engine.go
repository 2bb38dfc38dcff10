package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/agent/engine/sim"
	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
)

func engineCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "engine", Usage: "engines that are built in",
		Subcommands: []*cli.Command{{
			Name: "sim", Usage: "a simulated engine that speaks vLLM's API and needs no GPU",
			Description: "Flags are named as vLLM's. Its text is a pure function of the tokens before it.",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "model", Usage: "a file or folder that is read at the start, or just a name"},
				&cli.StringSliceFlag{Name: "served-model-name", Usage: "name in the API; may be repeated"},
				&cli.StringSliceFlag{Name: "lora-modules", Usage: "NAME=PATH; may be repeated"},
				&cli.StringFlag{Name: "uds", Usage: "unix socket to listen on, instead of host and port"},
				&cli.StringFlag{Name: "host", Value: "127.0.0.1"},
				&cli.IntFlag{Name: "port", Value: 8000},
				&cli.IntFlag{Name: "block-size", Usage: "tokens per KV block"},
				&cli.IntFlag{Name: "num-gpu-blocks-override", Usage: "KV blocks"},
				&cli.IntFlag{Name: "max-model-len", Usage: "tokens of prompt and answer"},
				&cli.IntFlag{Name: "max-num-seqs", Usage: "sequences that run at once"},
				&cli.IntFlag{Name: "max-num-batched-tokens", Usage: "tokens per step"},
				&cli.Float64Flag{Name: "speedup", Usage: "divides the time of every step and transfer"},
				&cli.StringFlag{Name: "load-rate", Usage: "weights read per second, e.g. 96MiB; default: as fast as they can be read"},
				&cli.StringFlag{Name: "kv-events-config", Usage: "JSON as vLLM takes it"},
				&cli.StringFlag{Name: "kv-events-form", Usage: "map or array"},
				&cli.StringFlag{Name: "kv-transfer-config", Usage: "JSON as vLLM takes it"},
				&cli.StringFlag{Name: "kv-transfer-bandwidth", Usage: "bytes of KV per second between engines, e.g. 64GB"},
				&cli.StringFlag{Name: "transfer-host", Usage: "where other engines fetch KV from"},
				&cli.IntFlag{Name: "transfer-port"},
				&cli.IntFlag{Name: "tensor-parallel-size"},
				&cli.IntFlag{Name: "nnodes", Usage: "ranks of this engine"},
				&cli.IntFlag{Name: "node-rank"},
				&cli.StringFlag{Name: "master-addr"},
				&cli.IntFlag{Name: "master-port"},
				&cli.BoolFlag{Name: "headless", Usage: "this rank answers no HTTP"},
				&cli.DurationFlag{Name: "shutdown-timeout", Usage: "finish what runs for this long after SIGTERM"},
				&cli.StringSliceFlag{Name: "fail", Usage: "inject a failure, e.g. die-after-tokens:100; may be repeated"},
			},
			Action: func(c *cli.Context) error {
				o, err := parseSim(c, std)
				if err != nil {
					return err
				}
				inv, err := begin(c, std)
				if err != nil {
					return err
				}
				return runSim(c.Context, inv, o)
			},
		}},
	}
}

// parseSim starts from the defaults and changes what is set.
func parseSim(c *cli.Context, std IO) (sim.Options, error) {
	o := sim.DefaultOptions()
	o.Output, o.Model, o.UDS, o.Host, o.Port = std.Out, c.String("model"), c.String("uds"), c.String("host"), c.Int("port")
	o.ServedModelNames, o.Headless, o.ShutdownTimeout = c.StringSlice("served-model-name"), c.Bool("headless"), c.Duration("shutdown-timeout")
	o.APIKey, o.GroupSecret = std.Getenv("VLLM_API_KEY"), std.Getenv(engine.RanksSecretEnv)
	if seed := std.Getenv("PYTHONHASHSEED"); seed != "" {
		o.HashSeed = seed
	}
	if form := c.String("kv-events-form"); form != "" {
		o.KVEventsForm = sim.EventsForm(form)
	}
	ints := map[string]*int{
		"block-size": &o.BlockSize, "num-gpu-blocks-override": &o.NumGPUBlocks, "max-model-len": &o.MaxModelLen,
		"max-num-seqs": &o.MaxSeqs, "max-num-batched-tokens": &o.MaxBatchedTokens, "tensor-parallel-size": &o.TensorParallel,
		"nnodes": &o.Nodes, "node-rank": &o.NodeRank, "master-port": &o.MasterPort, "transfer-port": &o.TransferPort,
	}
	for name, to := range ints {
		if c.IsSet(name) {
			*to = c.Int(name)
		}
	}
	if c.IsSet("speedup") {
		o.Speedup = c.Float64("speedup")
	}
	if c.IsSet("master-addr") {
		o.MasterAddr = c.String("master-addr")
	}
	o.TransferHost = orDefault(c.String("transfer-host"), std.Getenv("VLLM_NIXL_SIDE_CHANNEL_HOST"))
	if err := parseSimValues(c, &o); err != nil {
		return o, err
	}
	if err := errors.Join(externalKV(std, &o), o.Validate()); err != nil {
		return o, &exitError{code: ExitUsage, err: fmt.Errorf("penstock engine sim: %w", err)}
	}
	return o, nil
}

// externalKV reads where LMCache's configuration says that KV is kept, if the engine is to use it.
func externalKV(std IO, o *sim.Options) error {
	file := std.Getenv("LMCACHE_CONFIG_FILE")
	if !o.KVTransfer.LMCache || file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("LMCACHE_CONFIG_FILE: %w", err)
	}
	o.ExternalKV, err = sim.ParseLMCacheConfig(string(text))
	return err
}

func orDefault(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

// parseSimValues reads flags whose values have a form of their own.
func parseSimValues(c *cli.Context, o *sim.Options) error {
	var errs []error
	size := func(flag string, to *int64) {
		if text := c.String(flag); text != "" {
			n, err := jobspecs.ParseBytes(text)
			*to = int64(n)
			errs = append(errs, named(flag, err))
		}
	}
	size("load-rate", &o.LoadRate)
	size("kv-transfer-bandwidth", &o.TransferBandwidth)
	var err error
	o.KVEvents, err = sim.ParseKVEventsConfig(c.String("kv-events-config"))
	errs = append(errs, named("kv-events-config", err))
	o.KVTransfer, err = sim.ParseKVTransferConfig(c.String("kv-transfer-config"))
	errs = append(errs, named("kv-transfer-config", err))
	for _, spec := range c.StringSlice("fail") {
		f, err := sim.ParseFailure(spec)
		o.Failures = append(o.Failures, f)
		errs = append(errs, named("fail", err))
	}
	for _, spec := range c.StringSlice("lora-modules") {
		name, path, ok := strings.Cut(spec, "=")
		if !ok {
			errs = append(errs, fmt.Errorf("--lora-modules: %q is not NAME=PATH", spec))
		}
		o.LoRAModules = append(o.LoRAModules, sim.LoRAModule{Name: name, Path: path})
	}
	if err := errors.Join(errs...); err != nil {
		return &exitError{code: ExitUsage, err: fmt.Errorf("penstock engine sim: %w", err)}
	}
	return nil
}

func named(flag string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("--%s: %w", flag, err)
}

func runSim(ctx context.Context, inv *invocation, o sim.Options) error {
	log, err := inv.logger()
	if err != nil {
		return err
	}
	server, err := sim.New(o, log)
	if err != nil {
		return err
	}
	err = server.Run(ctx)
	var exit *sim.ExitError
	if errors.As(err, &exit) {
		fmt.Fprintln(inv.Out, exit.Reason)
		return exitWith(exit.Code)
	}
	return err
}
