// Package jobspecs holds what a user asks for: the deployment file, its strict parser, its defaults and its checks.
//
// It knows nothing of clusters, engines' command lines or running things. Everything else in Penstock takes its values
// from here, so a Deployment is complete (defaults filled in) and valid once Parse has returned it.
//
// To add a key: a field with a yaml tag here, a line in rules, where it has one a default in blank, and checks against
// other keys in validate.go. Parser, canonical form and schema follow from those. A new key that is left out when it has
// its zero value changes no deployment's hash.
package jobspecs

import "time"

// APIVersion is the one version of the deployment file that this release reads.
const APIVersion = "penstock/v1"

// Deployment is one deployment file after defaults. It is a value: nobody changes it after Parse.
type Deployment struct {
	APIVersion string            `yaml:"apiVersion"`
	Name       string            `yaml:"name"` // DNS label: lower case letters, digits and dashes, at most 40
	Model      Model             `yaml:"model"`
	Engine     Engine            `yaml:"engine"`
	Cluster    ClusterKind       `yaml:"cluster"` // default local
	Roles      map[RoleKind]Role `yaml:"roles"`   // mixed alone, or prefill and decode together
	KV         KV                `yaml:"kv,omitempty"`
	SLO        SLO               `yaml:"slo,omitempty"`
	Serving    Serving           `yaml:"serving,omitempty"`
	Lifetime   Lifetime          `yaml:"lifetime,omitempty"`
	Local      Local             `yaml:"local,omitempty"`
	Slurm      Slurm             `yaml:"slurm,omitempty"`
	Nomad      Nomad             `yaml:"nomad,omitempty"`
}

// Model says which weights, and under which names clients ask for them.
type Model struct {
	ID         string    `yaml:"id,omitempty"`         // hub name such as Qwen/Qwen3-8B
	Path       string    `yaml:"path,omitempty"`       // file or folder with local weights; wins over ID
	ServedName string    `yaml:"servedName,omitempty"` // default: ID, else the base of Path
	Adapters   []Adapter `yaml:"adapters,omitempty"`   // LoRA adapters, each a model name of its own
}

// Adapter is a LoRA adapter on top of the model.
type Adapter struct {
	Name string `yaml:"name"`
	Path string `yaml:"path"`
}

// EngineKind names an inference engine.
type EngineKind string

// The engines that Penstock can start.
const (
	VLLM     EngineKind = "vllm"
	SGLang   EngineKind = "sglang"
	TRTLLM   EngineKind = "trtllm"
	LlamaCpp EngineKind = "llamacpp"
	Sim      EngineKind = "sim" // built in; needs no GPU
)

// Engine says what serves the model and how it is started.
type Engine struct {
	Kind      EngineKind        `yaml:"kind"`
	Version   string            `yaml:"version,omitempty"` // for people and for command lines that differ by version
	Command   []string          `yaml:"command,omitempty"` // replaces the engine's own program, e.g. [/opt/llama/llama-server]
	Args      []string          `yaml:"args,omitempty"`    // appended to the launch line
	Env       map[string]string `yaml:"env,omitempty"`
	Setup     []string          `yaml:"setup,omitempty"` // shell lines before the engine: module load, source venv
	Container Container         `yaml:"container,omitempty"`
}

// ContainerRuntime names what runs an engine's image.
type ContainerRuntime string

// The container runtimes that Penstock can drive.
const (
	NoContainer ContainerRuntime = "none"
	Apptainer   ContainerRuntime = "apptainer"
	Enroot      ContainerRuntime = "enroot"
	Pyxis       ContainerRuntime = "pyxis"
	Podman      ContainerRuntime = "podman"
)

// Container runs the engine in a site's image. The zero value means: no container.
type Container struct {
	Runtime ContainerRuntime `yaml:"runtime,omitempty"` // default none
	Image   string           `yaml:"image,omitempty"`
	Mounts  []string         `yaml:"mounts,omitempty"` // SRC:DST[:ro]
}

// ClusterKind names where replicas run.
type ClusterKind string

// The clusters that Penstock can use.
const (
	LocalCluster ClusterKind = "local"
	SlurmCluster ClusterKind = "slurm"
	NomadCluster ClusterKind = "nomad"
)

// RoleKind is what an engine does: prefill, decode, or both.
type RoleKind string

// The roles of replicas.
const (
	Prefill RoleKind = "prefill"
	Decode  RoleKind = "decode"
	Mixed   RoleKind = "mixed"
)

// RoleKinds lists all roles in the order in which they are shown and planned.
var RoleKinds = []RoleKind{Prefill, Decode, Mixed}

// Role says how many replicas of one kind there are and what each of them needs.
type Role struct {
	Replicas int        `yaml:"replicas"`        // default 1; 0 is allowed
	Min      int        `yaml:"min,omitempty"`   // bounds for `scale` and the planner; default 0
	Max      int        `yaml:"max,omitempty"`   // 0 = no bound
	Nodes    int        `yaml:"nodes,omitempty"` // per replica; default 1
	GPUs     GPURequest `yaml:"gpus,omitempty"`
	Parallel Parallel   `yaml:"parallel,omitempty"`
	CPUs     int        `yaml:"cpus,omitempty"`   // per node; 0 = the cluster's default
	Memory   Bytes      `yaml:"memory,omitempty"` // per node; 0 = the cluster's default
	Args     []string   `yaml:"args,omitempty"`   // appended after engine.args
	Rollout  Rollout    `yaml:"rollout,omitempty"`
}

// GPURequest says which GPUs each node of a replica needs. In the file it is a number, or a map.
type GPURequest struct {
	Count  int    `yaml:"count,omitempty"`  // per node
	Type   string `yaml:"type,omitempty"`   // matched against the cluster's type or the card's name, case-insensitive part
	Memory Bytes  `yaml:"memory,omitempty"` // at least so much per card
}

// Parallel is how a replica's engine is spread over its GPUs. tensor * pipeline * data = nodes * gpus when gpus > 0.
type Parallel struct {
	Tensor   int `yaml:"tensor,omitempty"`   // default: what is left inside a node (1 without GPUs)
	Pipeline int `yaml:"pipeline,omitempty"` // default: what is left, which is nodes unless tensor or data say otherwise
	Data     int `yaml:"data,omitempty"`     // default 1
}

// Rollout limits a rolling replacement when the revision changes.
type Rollout struct {
	Surge       *int `yaml:"surge,omitempty"`       // replicas above the wanted count; default 1
	Unavailable *int `yaml:"unavailable,omitempty"` // ready replicas below the wanted count; default 0
	// ProgressDeadline: a new revision whose first replica is not ready for so long after the engine stopped making
	// progress is rolled back. Default 15m.
	ProgressDeadline Duration `yaml:"progressDeadline,omitempty"`
}

// KV says how KV cache is cut into blocks and where it overflows to.
type KV struct {
	BlockTokens int         `yaml:"blockTokens,omitempty"` // 0 = the engine's default
	Connector   KVConnector `yaml:"connector,omitempty"`   // empty = auto
	Host        Bytes       `yaml:"host,omitempty"`        // host memory per node
	Disk        KVDisk      `yaml:"disk,omitempty"`
	Object      *KVObject   `yaml:"object,omitempty"`
	KeyFile     string      `yaml:"keyFile,omitempty"` // 0600; its keys encrypt what leaves the job's memory
}

// KVConnector names how an engine reaches the KV tiers. engine.KVDoor says which door of the agent's each leads to.
type KVConnector string

// The connectors.
const (
	AutoConnector    KVConnector = "auto"    // what the engine has for the tiers that are named
	LMCacheConnector KVConnector = "lmcache" // LMCache inside the engine, which must have it installed
	NativeConnector  KVConnector = "native"  // the engine's own offloading
	FilesConnector   KVConnector = "files"   // the engine reads and writes files itself; nothing is verified
	NoConnector      KVConnector = "none"    // the tiers are not used
)

// KVDisk is a node-local folder for KV blocks.
type KVDisk struct {
	Path string `yaml:"path,omitempty"`
	Size Bytes  `yaml:"size,omitempty"`
}

// KVObject is an object store for KV blocks: s3://bucket/prefix or file:///folder.
type KVObject struct {
	URL             string `yaml:"url"`
	Endpoint        string `yaml:"endpoint,omitempty"`        // host:port of an S3-compatible server
	CredentialsFile string `yaml:"credentialsFile,omitempty"` // 0600; never the secret itself
	CAFile          string `yaml:"caFile,omitempty"`          // PEM, of a server with a certificate of the site's own
	Size            Bytes  `yaml:"size,omitempty"`
}

// SLO is what clients should see. Zero = none.
type SLO struct {
	TTFT Duration `yaml:"ttft,omitempty"` // time to first token
	ITL  Duration `yaml:"itl,omitempty"`  // between tokens
}

// Serving bounds how replicas start, stop and drain.
type Serving struct {
	LoadingStall Duration `yaml:"loadingStall,omitempty"` // no progress for so long = failed; default 15m
	DrainTimeout Duration `yaml:"drainTimeout,omitempty"` // default 60s
	OrphanAfter  Duration `yaml:"orphanAfter,omitempty"`  // default 1h
	Restarts     *int     `yaml:"restarts,omitempty"`     // engine restarts inside a run before the run fails; default 3
	MaxContext   int      `yaml:"maxContext,omitempty"`   // tokens; 0 = the engine's default
	// AllowForeignGPUProcesses starts the engine although other processes hold memory on its cards.
	AllowForeignGPUProcesses bool `yaml:"allowForeignGPUProcesses,omitempty"`
	// Tenant is the only one that is served; empty = all, each with a cache of its own; SharedCache = all, out of one cache.
	Tenant string `yaml:"tenant,omitempty"`
}

// SharedCache as Serving.Tenant says that tenants may find each other's prompts in an engine's cache.
const SharedCache = "shared"

// Lifetime says when a deployment ends by itself: whichever comes first. It is stopped then as by `penstock stop`, and
// applying its file again starts it anew. Zero values = never.
type Lifetime struct {
	KeepAlive Duration `yaml:"keepAlive,omitempty"` // since it was last applied or started
	Until     string   `yaml:"until,omitempty"`     // RFC 3339, such as 2026-12-24T18:00:00Z; see Lifetime.End
	GPUHours  int      `yaml:"gpuHours,omitempty"`  // of all its jobs since it was last applied or started; 0 = no cap
	Idle      Duration `yaml:"idle,omitempty"`      // without a request
}

// End is Until as a time; zero where there is none.
func (l Lifetime) End() time.Time {
	t, _ := time.Parse(time.RFC3339, l.Until) // Parse has checked it
	return t
}

// Local is the section for processes on this machine.
type Local struct {
	// Walltime ends each job after so long, as a cluster with a time limit does: for trying out what happens there. 0 = no
	// limit.
	Walltime Duration `yaml:"walltime,omitempty"`
	// Nodes declares logical nodes when this machine should look like several; the deployment then runs on these alone.
	// Empty: on any node there is, by default the one that is named after the host.
	Nodes []LocalNode `yaml:"nodes,omitempty"`
}

// LocalNode is one logical node of the local cluster.
type LocalNode struct {
	Name string `yaml:"name"`
	GPUs int    `yaml:"gpus,omitempty"` // declared cards; real ones are used first where NVML finds them
}

// Slurm is the section for Slurm clusters.
type Slurm struct {
	Partition   string   `yaml:"partition,omitempty"`
	Account     string   `yaml:"account,omitempty"`
	QOS         string   `yaml:"qos,omitempty"`
	Time        Duration `yaml:"time,omitempty"`
	Constraint  string   `yaml:"constraint,omitempty"`
	Reservation string   `yaml:"reservation,omitempty"`
	// GPUOption is how the site wants cards asked for: gres (default), gpus-per-node, or none.
	GPUOption string   `yaml:"gpuOption,omitempty"`
	Setup     []string `yaml:"setup,omitempty"`  // shell lines of the job before Penstock's agent: module load
	Sbatch    []string `yaml:"sbatch,omitempty"` // further options as sbatch takes them
}

// Nomad is the section for Nomad clusters.
type Nomad struct {
	Namespace   string   `yaml:"namespace,omitempty"`
	Datacenters []string `yaml:"datacenters,omitempty"`
	NodePool    string   `yaml:"nodePool,omitempty"`
	Driver      string   `yaml:"driver,omitempty"` // raw_exec, exec, docker or podman; default raw_exec
	Priority    int      `yaml:"priority,omitempty"`

	Image       string            `yaml:"image,omitempty"`  // docker and podman: holds penstock's program and the engine
	Mounts      []string          `yaml:"mounts,omitempty"` // docker and podman: SRC:DST[:ro]
	User        string            `yaml:"user,omitempty"`   // docker and podman: the tasks' user, a number; default the image's
	Constraints []NomadConstraint `yaml:"constraints,omitempty"`
	Spread      string            `yaml:"spread,omitempty"` // attribute over whose values replicas are spread evenly
}

// NomadConstraint is what a client must be like to run replicas, as in Nomad's constraint block.
type NomadConstraint struct {
	Attribute string `yaml:"attribute"`
	Operator  string `yaml:"operator,omitempty"` // default =
	Value     string `yaml:"value,omitempty"`
}
