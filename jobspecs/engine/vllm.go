package engine

import (
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// vllm is `vllm serve`.
type vllm struct{}

func (vllm) Kind() jobspecs.EngineKind { return jobspecs.VLLM }

func (vllm) Traits() Traits {
	return Traits{
		UnixSocket:  true,
		HealthPath:  "/health",
		ModelsPath:  "/v1/models",
		MetricsPath: "/metrics",
		Metrics: MetricNames{
			Running:            "vllm:num_requests_running",
			Waiting:            "vllm:num_requests_waiting",
			KVUsage:            "vllm:kv_cache_usage_perc",
			PromptTokens:       "vllm:prompt_tokens_total",
			GenerationTokens:   "vllm:generation_tokens_total",
			CacheQueriedTokens: "vllm:prefix_cache_queries_total",
			CacheHitTokens:     "vllm:prefix_cache_hits_total",
			Preemptions:        "vllm:num_preemptions_total",
			CacheConfig:        "vllm:cache_config_info",
		},
		TokenizePath:   "/tokenize",
		Events:         ZMQEvents,
		Disaggregation: KVTransferParams,
		TokenIDs:       ReturnTokenIDs,
		Paths:          []string{"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"},
		DrainsItself:   true, // with --shutdown-timeout
		StopGrace:      30 * time.Second,
		CacheSalt:      true,
		MultiNode:      true,
		Adapters:       true,
	}
}

func (v vllm) Command(s Start) (Command, error) {
	if err := s.check(); err != nil {
		return Command{}, err
	}
	d, r := s.Deployment, s.role()
	line := s.program("vllm", "serve")
	line.add(s.weights(), "--served-model-name", d.Model.ServedName)
	line.listen(s, "--uds")
	v.parallel(&line, s)
	line.number("--max-model-len", d.Serving.MaxContext)
	line.number("--block-size", d.KV.BlockTokens)
	line.add("--enable-prefix-caching")
	if !older(d, 0, 11) {
		// SHA-256 over CBOR can be computed outside Python; one seed makes all replicas name blocks alike.
		line.add("--prefix-caching-hash-algo", "sha256_cbor")
	}
	line.add("--enable-prompt-tokens-details", "--disable-uvicorn-access-log")
	if !older(d, 0, 18) {
		line.number("--shutdown-timeout", s.drainSeconds())
	}
	v.adapters(&line, d.Model.Adapters)
	if e, ok := s.events(); ok {
		e.Enable = true
		line.json("--kv-events-config", e)
	}
	if c := v.connector(s, r); c != nil {
		line.json("--kv-transfer-config", c)
	}
	line.add(s.userArgs()...)
	env, rest := v.env(s), Command{KeyEnv: s.keyEnv("VLLM_API_KEY")}
	switch KVDoor(d) {
	case RESPDoor:
		maps.Copy(env, s.lmcacheEnv())
		rest.Files = map[string]string{lmcacheFile: s.lmcacheConfig(r.GPUs.Count)}
	case S3Door:
		maps.Copy(env, s.awsEnv())
	}
	return s.finish(line, env, rest)
}

// parallel spreads the engine: one world over all nodes, or whole data parallel copies on each node.
func (vllm) parallel(line *words, s Start) {
	p := s.role().Parallel
	line.above("--tensor-parallel-size", p.Tensor)
	line.above("--pipeline-parallel-size", p.Pipeline)
	line.above("--data-parallel-size", p.Data)
	switch {
	case s.Nodes < 2:
		return
	case p.Data > 1:
		local := p.Data / s.Nodes
		line.add("--data-parallel-size-local", strconv.Itoa(local))
		line.number("--data-parallel-start-rank", s.Rank*local)
		line.add("--data-parallel-address", s.HeadHost, "--data-parallel-rpc-port", strconv.Itoa(s.HeadPort))
	default:
		line.add("--nnodes", strconv.Itoa(s.Nodes), "--node-rank", strconv.Itoa(s.Rank),
			"--master-addr", s.HeadHost, "--master-port", strconv.Itoa(s.HeadPort))
	}
	if s.Rank > 0 {
		line.add("--headless")
	}
}

// adapters names each as NAME=PATH. vLLM splits at = and takes what holds a comma for JSON.
func (vllm) adapters(line *words, adapters []jobspecs.Adapter) {
	if len(adapters) == 0 {
		return
	}
	line.add("--enable-lora", "--lora-modules")
	for _, a := range adapters {
		if strings.ContainsAny(a.Path, "=,") {
			line.add(toJSON(struct {
				Name string `json:"name"`
				Path string `json:"path"`
			}{a.Name, a.Path}))
			continue
		}
		line.add(a.Name + "=" + a.Path)
	}
}

// connector is one of vLLM's KV connectors.
type connector struct {
	Name  string     `json:"kv_connector"`
	Role  string     `json:"kv_role"`
	Extra *extraKeys `json:"kv_connector_extra_config,omitempty"`
}

type extraKeys struct {
	Spec       string          `json:"spec_name,omitempty"`
	CPUBytes   uint64          `json:"cpu_bytes_to_use,omitempty"`
	Tiers      []secondaryTier `json:"secondary_tiers,omitempty"`
	Connectors []connector     `json:"connectors,omitempty"`
}

// secondaryTier is one of vLLM's own tiers below host memory.
type secondaryTier struct {
	Type  string       `json:"type"`
	Root  string       `json:"root_dir,omitempty"`
	Store *storeConfig `json:"store_config,omitempty"`
}

// storeConfig has no credentials: without them NIXL takes those of the environment.
type storeConfig struct {
	Bucket   string `json:"bucket"`
	Endpoint string `json:"endpoint_override"`
	Scheme   string `json:"scheme"`
	Region   string `json:"region"`
}

// connector moves KV between prefill and decode (NIXL, where the router decides who is who), and to the tiers.
func (v vllm) connector(s Start, r jobspecs.Role) *connector {
	var used []connector
	if s.split() {
		used = append(used, connector{Name: "NixlConnector", Role: "kv_both"})
	}
	if c := v.offload(s, r); c != nil {
		used = append(used, *c)
	}
	return together(used)
}

// together is one connector for all that are used; nil = none.
func together(used []connector) *connector {
	switch len(used) {
	case 0:
		return nil
	case 1:
		return &used[0]
	}
	return &connector{"MultiConnector", "kv_both", &extraKeys{Connectors: used}}
}

// offload is the connector to the tiers. cpu_bytes_to_use counts all workers of all nodes together.
func (vllm) offload(s Start, r jobspecs.Role) *connector {
	keys := &extraKeys{CPUBytes: uint64(engineHost(s.Deployment)) * uint64(max(r.Nodes, 1))}
	switch KVDoor(s.Deployment) {
	case RESPDoor:
		return &connector{Name: "LMCacheConnectorV1", Role: "kv_both"}
	case S3Door:
		keys.Tiers = []secondaryTier{{Type: "obj", Store: &storeConfig{KVBucket, s.KV.Address, "http", "us-east-1"}}}
	case FileDoor:
		keys.Tiers = []secondaryTier{{Type: "fs", Root: s.KV.Folder}}
	}
	if len(keys.Tiers) > 0 {
		keys.Spec = "TieringOffloadingSpec"
	}
	if keys.CPUBytes == 0 {
		return nil
	}
	return &connector{"OffloadingConnector", "kv_both", keys}
}

// vLLM's processes talk over unix sockets with names of its own, by default in /tmp, where everybody may look.
const (
	rpcName       = len("/01234567-89ab-cdef-0123-456789abcdef")
	longestSocket = 107 // the kernel's limit of a socket's path
)

func (vllm) env(s Start) map[string]string {
	env := map[string]string{"PYTHONHASHSEED": "0", "VLLM_NO_USAGE_STATS": "1"}
	if len(s.Dir)+rpcName <= longestSocket {
		env["VLLM_RPC_BASE_PATH"] = s.Dir
	}
	if s.split() && s.TransferPort > 0 {
		env["VLLM_NIXL_SIDE_CHANNEL_HOST"] = s.TransferHost
		env["VLLM_NIXL_SIDE_CHANNEL_PORT"] = strconv.Itoa(s.TransferPort)
	}
	switch {
	case s.Nodes < 2:
	case s.TransferHost != "":
		env["VLLM_HOST_IP"] = s.TransferHost
	case s.Rank == 0:
		env["VLLM_HOST_IP"] = s.HeadHost
	}
	return env
}

func (vllm) owned() map[string]string {
	return map[string]string{
		"uds": "", "host": "", "port": "", "nnodes": "", "node-rank": "", "master-addr": "", "master-port": "", "headless": "",
		"kv-events-config": "", "kv-transfer-config": "kv.connector", "served-model-name": "model.servedName", "lora-modules": "model.adapters",
		"tensor-parallel-size": "roles.ROLE.parallel", "tp": "roles.ROLE.parallel",
		"pipeline-parallel-size": "roles.ROLE.parallel", "pp": "roles.ROLE.parallel",
		"data-parallel-size": "roles.ROLE.parallel", "dp": "roles.ROLE.parallel",
		"max-model-len": "serving.maxContext", "block-size": "kv.blockTokens",
	}
}

func (vllm) check(d jobspecs.Deployment) jobspecs.Errors {
	errs := needGPUs(d)
	for kind, r := range d.Roles {
		if r.Nodes > 1 && r.Parallel.Data > 1 && r.Parallel.Data%r.Nodes != 0 {
			errs = append(errs, problem(rolePath(kind, "parallel.data"), "make it a multiple of nodes, or use replicas",
				"vllm can't split a data parallel copy between nodes: %d copies on %d nodes", r.Parallel.Data, r.Nodes))
		}
	}
	return errs
}

func (vllm) progress(line string) (float64, bool) { return shards(line) }
