package engine

import (
	"strconv"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// sglang is `python3 -m sglang.launch_server`. It has no unix socket and takes a key in its arguments only, where every
// user of the node could read it: it gets none, and whoever starts it guards its loopback port by other means.
type sglang struct{}

func (sglang) Kind() jobspecs.EngineKind { return jobspecs.SGLang }

func (sglang) Traits() Traits {
	return Traits{
		HealthPath:  "/health",
		ModelsPath:  "/v1/models",
		MetricsPath: "/metrics",
		Metrics: MetricNames{
			Running:            "sglang:num_running_reqs",
			Waiting:            "sglang:num_queue_reqs",
			KVUsage:            "sglang:token_usage",
			PromptTokens:       "sglang:prompt_tokens_total",
			GenerationTokens:   "sglang:generation_tokens_total",
			CacheQueriedTokens: "sglang:prompt_tokens_total",
			CacheHitTokens:     "sglang:cached_tokens_total",
			MaxTokens:          "sglang:max_total_num_tokens",
		},
		Events:         ZMQEvents,
		Disaggregation: Bootstrap,
		// Newer versions know return_token_ids, but answer a streamed chat that asks for it with an error.
		TokenIDs:     NoTokenIDs,
		Paths:        []string{"/v1/chat/completions", "/v1/completions", "/v1/embeddings"},
		DrainsItself: true, // with no limit
		StopGrace:    30 * time.Second,
		MultiNode:    true,
		// Adapters are asked for as BASE:ADAPTER there, never by their own name.
		Adapters: false,
	}
}

func (g sglang) Command(s Start) (Command, error) {
	if err := s.check(); err != nil {
		return Command{}, err
	}
	d, r := s.Deployment, s.role()
	line := s.program("python3", "-m", "sglang.launch_server")
	line.add("--model-path", s.weights(), "--served-model-name", d.Model.ServedName)
	line.address(s) // ranks above 0 answer health checks there
	line.above("--tp-size", r.Parallel.Tensor)
	line.above("--pp-size", r.Parallel.Pipeline)
	line.above("--dp-size", r.Parallel.Data)
	if s.Nodes > 1 {
		line.add("--nnodes", strconv.Itoa(s.Nodes), "--node-rank", strconv.Itoa(s.Rank), "--dist-init-addr", hostPort(s.HeadHost, s.HeadPort))
	}
	line.number("--context-length", d.Serving.MaxContext)
	line.number("--page-size", d.KV.BlockTokens)
	line.add("--enable-metrics", "--enable-cache-report", "--log-level-http", "warning")
	env, files := g.hicache(&line, s)
	if e, ok := s.events(); ok {
		line.json("--kv-events-config", e)
	}
	if s.split() {
		line.add("--disaggregation-mode", string(s.Role), "--disaggregation-transfer-backend", "nixl")
	}
	if s.Role == jobspecs.Prefill {
		line.number("--disaggregation-bootstrap-port", s.TransferPort)
	}
	line.add(s.userArgs()...)
	return s.finish(line, env, Command{Files: files})
}

// hicache is HiCache in host memory, and where it stores what it has.
func (g sglang) hicache(line *words, s Start) (env, files map[string]string) {
	gb := g.hostGB(engineHost(s.Deployment), s.role())
	if gb == 0 {
		return nil, nil
	}
	line.add("--enable-hierarchical-cache", "--hicache-size", strconv.Itoa(gb))
	switch KVDoor(s.Deployment) {
	case S3Door:
		// Path style: the door's address is no domain. NIXL takes the credentials of the environment.
		obj := map[string]any{
			"active": true, "bucket": KVBucket, "endpoint_override": "http://" + s.KV.Address, "scheme": "http", "region": "us-east-1",
			"use_virtual_addressing": "false",
		}
		line.add("--hicache-storage-backend", "nixl", "--hicache-storage-backend-extra-config", "@"+s.inDir(nixlFile))
		return s.awsEnv(), map[string]string{nixlFile: toJSON(map[string]any{"plugin": map[string]any{"obj": obj}}) + "\n"}
	case FileDoor:
		line.add("--hicache-storage-backend", "file")
		return map[string]string{"SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR": s.KV.Folder}, nil
	}
	return nil, nil
}

const nixlFile = "nixl.json"

// hostGB is the host memory of one rank, which is what SGLang asks for.
func (sglang) hostGB(host jobspecs.Bytes, r jobspecs.Role) int {
	if host == 0 {
		return 0
	}
	return max(int(uint64(host)/1e9)/max(r.GPUs.Count, 1), 1)
}

func (sglang) owned() map[string]string {
	return map[string]string{
		"host": "", "port": "", "nnodes": "", "node-rank": "", "dist-init-addr": "", "kv-events-config": "", "hicache-storage-backend": "kv.connector",
		"disaggregation-mode": "roles", "disaggregation-bootstrap-port": "", "served-model-name": "model.servedName",
		"model-path": "model.path", "model": "model.path", "context-length": "serving.maxContext", "page-size": "kv.blockTokens",
		"tp-size": "roles.ROLE.parallel", "tensor-parallel-size": "roles.ROLE.parallel", "tp": "roles.ROLE.parallel",
		"pp-size": "roles.ROLE.parallel", "pipeline-parallel-size": "roles.ROLE.parallel",
		"dp-size": "roles.ROLE.parallel", "data-parallel-size": "roles.ROLE.parallel", "dp": "roles.ROLE.parallel",
	}
}

func (sglang) check(d jobspecs.Deployment) jobspecs.Errors {
	errs := needGPUs(d)
	for kind, r := range d.Roles {
		if r.Nodes > 1 && r.Parallel.Data > 1 {
			errs = append(errs, problem(rolePath(kind, "parallel.data"), "use replicas instead", "sglang has data parallel copies on one node only"))
		}
	}
	return errs
}

func (sglang) progress(line string) (float64, bool) { return shards(line) }
