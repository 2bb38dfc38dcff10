package engine

import (
	"encoding/json"
	"path"
	"strconv"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// trtllm is `trtllm-serve`. It has neither a unix socket nor a key.
type trtllm struct{}

func (trtllm) Kind() jobspecs.EngineKind { return jobspecs.TRTLLM }

func (trtllm) Traits() Traits {
	return Traits{
		HealthPath: "/health",
		ModelsPath: "/v1/models",
		// JSON: the statistics of the iterations since the last read, so there must be one reader only. The Prometheus
		// form at /prometheus/metrics has running and waiting requests in the newest versions only.
		MetricsPath:    "/metrics",
		Events:         PolledJSON,
		Disaggregation: DisaggParams,
		TokenIDs:       NoTokenIDs,
		Paths:          []string{"/v1/chat/completions", "/v1/completions"},
		StopGrace:      30 * time.Second,
		RejectsUnknown: true,
		MultiNode:      true, // under Slurm; see check
	}
}

// trtllmConfig is the file beside the launch line. YAML reads JSON.
const trtllmConfig = "trtllm.yaml"

func (t trtllm) Command(s Start) (Command, error) {
	if err := s.check(); err != nil {
		return Command{}, err
	}
	if s.Nodes > 1 && s.Rank > 0 {
		return Command{}, nil
	}
	d, r := s.Deployment, s.role()
	line := s.program("trtllm-serve")
	line.add(s.weights())
	line.address(s)
	line.add("--backend", "pytorch")
	line.above("--tp_size", r.Parallel.Tensor)
	line.above("--pp_size", r.Parallel.Pipeline)
	line.number("--max_seq_len", d.Serving.MaxContext)
	if d.Model.ServedName != t.ownName(d.Model) {
		line.add("--served_model_name", d.Model.ServedName) // newer versions only
	}
	var rest Command
	if !overrides(s.userArgs(), "config", "extra-llm-api-options") {
		rest.Files = map[string]string{trtllmConfig: t.config(s)}
		line.add("--extra_llm_api_options", s.inDir(trtllmConfig)) // newer versions call it --config, and know both
	}
	line.add(s.userArgs()...)
	if s.Nodes > 1 {
		return t.world(s, line, rest)
	}
	return s.finish(line, nil, rest)
}

// ownName is how trtllm-serve calls a model by itself: the folder's name, else the hub name.
func (trtllm) ownName(m jobspecs.Model) string {
	if m.Path != "" {
		return path.Base(m.Path)
	}
	return m.ID
}

// world starts one MPI rank per GPU on all nodes of the Slurm job, from rank 0.
func (trtllm) world(s Start, line words, rest Command) (Command, error) {
	perNode := s.role().GPUs.Count
	return s.finish(append(words{"trtllm-llmapi-launch"}, line...), nil, rest,
		"srun", "--overlap", "--mpi=pmix", "--export=ALL", "--gpu-bind=none", "--kill-on-bad-exit=1", "--nodes="+strconv.Itoa(s.Nodes),
		"--ntasks="+strconv.Itoa(s.Nodes*perNode), "--ntasks-per-node="+strconv.Itoa(perNode))
}

func (trtllm) config(s Start) string {
	d := s.Deployment
	cache := map[string]any{"enable_block_reuse": true, "event_buffer_max_size": 16384}
	if host := engineHost(d); host > 0 {
		cache["host_cache_size"] = uint64(host) / uint64(max(s.role().GPUs.Count, 1)) // bytes per rank
	}
	if d.KV.BlockTokens > 0 {
		cache["tokens_per_block"] = d.KV.BlockTokens
	}
	conf := map[string]any{"kv_cache_config": cache, "enable_iter_perf_stats": true}
	if s.split() {
		transceiver := map[string]any{"backend": "DEFAULT"}
		if d.Serving.MaxContext > 0 {
			transceiver["max_tokens_in_buffer"] = d.Serving.MaxContext
		}
		conf["cache_transceiver_config"] = transceiver
	}
	if s.Role == jobspecs.Prefill {
		conf["disable_overlap_scheduler"] = true
	}
	text, err := json.MarshalIndent(conf, "", "  ")
	if err != nil {
		panic(err) // maps of numbers, text and booleans always marshal
	}
	return string(text) + "\n"
}

func (trtllm) owned() map[string]string {
	return map[string]string{
		"host": "", "port": "", "backend": "", "served-model-name": "model.servedName", "max-seq-len": "serving.maxContext",
		"tp-size": "roles.ROLE.parallel", "tensor-parallel-size": "roles.ROLE.parallel",
		"pp-size": "roles.ROLE.parallel", "pipeline-parallel-size": "roles.ROLE.parallel",
	}
}

func (trtllm) check(d jobspecs.Deployment) jobspecs.Errors {
	errs := needGPUs(d)
	for kind, r := range d.Roles {
		if r.Nodes > 1 && d.Cluster != jobspecs.SlurmCluster {
			errs = append(errs, problem(rolePath(kind, "nodes"), "use cluster: slurm, or one node",
				"trtllm over several nodes is one MPI world, which Slurm starts; cluster %s can't", d.Cluster))
		}
		if r.Parallel.Data > 1 {
			errs = append(errs, problem(rolePath(kind, "parallel.data"), "use replicas instead", "trtllm has no data parallel copies in one server"))
		}
	}
	return errs
}

func (trtllm) progress(line string) (float64, bool) { return bar(line) }
