// Package engine holds what Penstock knows of each inference engine, one file per engine: how it is started, when it is
// ready, how its metrics are called, which KV events it sends, how it is split into prefill and decode, how it is
// stopped.
//
// The package is pure: it turns values into values, and neither starts nor reads anything. The agent starts what Command
// says; the agent's reader and the gateway follow Traits; whoever takes a deployment file in asks Check after
// jobspecs.Parse.
//
// To add an engine: name its kind in jobspecs (EngineKind and the list of enums), write one file here with a type that
// has the methods of knowledge (vllm.go is the fullest example, sim.go the shortest), name it in kinds, run the tests
// with -update and read the new golden files in testdata. A launch line holds no secret and no shell: words go to the
// engine as they are, values that the user may override come before engine.args, and what needs a file goes into
// Command.Files. Say in comments which source a flag or a name was taken from where it is not in the engine's --help.
package engine

import (
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// Engine is one engine's knowledge. Implementations are stateless values.
type Engine interface {
	Kind() jobspecs.EngineKind
	// Command is the process that one rank runs. It fails when the deployment asks for something this engine cannot do;
	// such errors name the field and come out of `penstock plan` too.
	Command(Start) (Command, error)
	Traits() Traits
}

// knowledge is all that this package wants of an engine.
type knowledge interface {
	Engine
	// check lists what of a deployment this engine can't do, beyond what Traits say.
	check(d jobspecs.Deployment) jobspecs.Errors
	// owned lists the options that Penstock sets itself, without dashes, and the field of the deployment that sets them
	// (empty = none does). They are refused in args.
	owned() map[string]string
	// progress reads the share of loading that is done from a line of the engine's output.
	progress(line string) (float64, bool)
}

var kinds = map[jobspecs.EngineKind]knowledge{
	jobspecs.VLLM:     vllm{},
	jobspecs.SGLang:   sglang{},
	jobspecs.TRTLLM:   trtllm{},
	jobspecs.LlamaCpp: llamacpp{},
	jobspecs.Sim:      sim{},
}

// For returns the knowledge of an engine; nil for a kind that jobspecs.Parse would have refused.
func For(kind jobspecs.EngineKind) Engine {
	if k, ok := kinds[kind]; ok {
		return k
	}
	return nil
}

// Start is everything that a launch line depends on, all known before the process starts.
type Start struct {
	Deployment jobspecs.Deployment
	Role       jobspecs.RoleKind
	Rank       int    // 0 is the rank that answers HTTP
	Nodes      int    // ranks in all
	HeadHost   string // address of rank 0's node that the other ranks can dial
	HeadPort   int    // rendezvous port on it

	// Socket is the unix socket to listen on where the engine can (Traits.UnixSocket); else Host and Port.
	Socket string
	Host   string
	Port   int
	// KeyFile holds the key that the engine must ask for, where it listens on TCP. 0600, one line.
	KeyFile string
	// EventsEndpoint and EventsReplay are ZMQ endpoints (ipc://... where possible) for KV events; empty = none.
	EventsEndpoint string
	EventsReplay   string
	// TransferHost and TransferPort are the side channel for disaggregated serving, on the fabric; 0 = not used.
	TransferHost string
	TransferPort int
	// KV is where the engine's connector reaches Penstock's KV tiers, for the door that KVDoor names.
	KV KVAccess
	// Dir is the run's private folder (0700): slot files, caches, engine configuration files.
	Dir string
	// GPUs are the UUIDs this rank may use; empty = whatever the environment already says.
	GPUs []string
	// StepNode is Slurm's name of this rank's node, for engines that Slurm starts as a step there; empty = the job's node of
	// that rank.
	StepNode string
	// Self is the path of the penstock binary, for the simulated engine.
	Self string
}

// Command is what the agent runs for one rank.
type Command struct {
	// Argv never holds a secret. It is empty where this rank starts no process of its own, because rank 0 starts the
	// processes of all ranks (TensorRT-LLM over several nodes).
	Argv  []string
	Env   map[string]string // added to the allow-listed environment
	Setup []string          // shell lines before it; if any, the agent runs `bash -c 'setup; exec argv'`
	Files map[string]string // written to Start.Dir (0600) before the start: relative name -> content
	// KeyEnv names the environment variable that receives the content of Start.KeyFile; empty = by file or none.
	KeyEnv string
}

// Traits are an engine's fixed properties.
type Traits struct {
	UnixSocket     bool   // HTTP over a unix socket
	HealthPath     string // 200 when the process can serve
	ModelsPath     string // names the served model; readiness asks it too
	MetricsPath    string // empty: none
	Metrics        MetricNames
	TokenizePath   string // POST; empty: none
	Events         EventFeed
	Disaggregation Disaggregation
	TokenIDs       TokenIDs // how the gateway learns the token ids of a stream, to continue it elsewhere
	Paths          []string // OpenAI paths that the engine serves, e.g. /v1/chat/completions
	// DrainsItself: on SIGTERM the engine finishes what runs. No engine's own drain is trusted alone: the agent waits for
	// its own open requests and the engine's running and waiting counts first.
	DrainsItself bool
	StopGrace    time.Duration // between SIGTERM and SIGKILL
	// RejectsUnknown: unknown request fields are errors, so the gateway must not add its own.
	RejectsUnknown bool
	// CacheSalt: the engine parts its prefix cache by the request field cache_salt.
	CacheSalt bool
	MultiNode bool
	// Adapters: LoRA adapters are models of their own in ModelsPath and in requests.
	Adapters bool
}

// PartsTenants tells whether no tenant can find another's prompts in the cache: by the engine's salt, or since the agent deals its
// slots out.
func (t Traits) PartsTenants() bool { return t.CacheSalt || t.Disaggregation == SlotFiles }

// MetricNames are the Prometheus names that the agent reads; empty = the engine has none and the value is unknown.
type MetricNames struct {
	Running, Waiting   string // gauges
	KVUsage            string // gauge, 0..1
	PromptTokens       string // counter
	GenerationTokens   string // counter
	CacheQueriedTokens string // counter
	CacheHitTokens     string // counter
	Preemptions        string // counter
	CacheConfig        string // info metric with labels block_size and num_gpu_blocks
	MaxTokens          string // gauge: KV capacity in tokens
}

// EventFeed says how KV events come.
type EventFeed int

// The ways in which engines publish what is in their KV cache.
const (
	NoEvents   EventFeed = iota
	ZMQEvents            // PUB socket with replay, vLLM's and SGLang's form
	PolledJSON           // POST /kv_cache_events drains a queue (TensorRT-LLM)
)

// Disaggregation says which request protocol splits prefill from decode; notes in ARCHITECTURE.md.
type Disaggregation int

// The protocols of disaggregated serving.
const (
	NoDisaggregation Disaggregation = iota
	KVTransferParams                // vLLM and sim: prefill answers first, its kv_transfer_params go to decode
	Bootstrap                       // SGLang: both at once, joined by bootstrap_room
	DisaggParams                    // TensorRT-LLM: context_only, then generation_only
	SlotFiles                       // llama.cpp: slot saved, moved, restored
)

// TokenIDs says how token ids of a stream are asked for.
type TokenIDs int

// The ways to learn a stream's token ids.
const (
	NoTokenIDs     TokenIDs = iota
	ReturnTokenIDs          // vLLM and sim: "return_token_ids": true; prompt_token_ids and choices[].token_ids in chunks
	LlamaVerbose            // llama.cpp: not of a stream (see ARCHITECTURE.md); those of a prompt by /apply-template and /tokenize
)
