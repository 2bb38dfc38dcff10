package sim

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Options are all settings of a simulated engine. DefaultOptions has vLLM's or, where vLLM has none, Dynamo's mocker's.
type Options struct {
	Model            string   // a file or folder to read at the start, or just a name
	ServedModelNames []string // names in the API; empty: Model
	LoRAModules      []LoRAModule

	UDS  string // unix socket to listen on; else Host and Port
	Host string
	Port int // 0: any free port, see Server.Addr

	BlockSize        int // tokens per KV block
	NumGPUBlocks     int
	MaxModelLen      int // tokens of prompt and answer
	MaxSeqs          int // sequences that run at once
	MaxBatchedTokens int // tokens per step

	Speedup  float64 // divides the time of every step and transfer
	LoadRate int64   // bytes of weights per second; 0: as fast as they can be read
	HashSeed string  // what PYTHONHASHSEED is to vLLM

	KVEvents     KVEventsConfig
	KVEventsForm EventsForm

	KVTransfer KVTransferConfig
	// TransferHost and TransferPort are where other engines fetch KV from (VLLM_NIXL_SIDE_CHANNEL_HOST and _PORT);
	// port 0: at the API's own address. The host must be one that others can dial.
	TransferHost      string
	TransferPort      int
	TransferBandwidth int64 // bytes of KV per second between engines
	KVBytesPerToken   int64 // size of one token's KV

	// ExternalKV is the remote_url of LMCache's configuration: where full blocks are kept beside the engine's own cache.
	// Empty: nowhere.
	ExternalKV string

	TensorParallel int // shown to other engines; changes nothing else
	Nodes          int // ranks of this engine, each its own process
	NodeRank       int // 0 answers HTTP
	MasterAddr     string
	MasterPort     int
	Headless       bool   // this rank answers no HTTP; all but rank 0
	GroupSecret    string // proves that a rank belongs to this engine; empty: anyone may join

	ShutdownTimeout time.Duration // 0: abort at once
	WriteTimeout    time.Duration // a client that takes nothing for so long is cut off
	APIKey          string        // guards /v1; empty: open
	Failures        []Failure
	Output          io.Writer // progress of loading and the last line, for people; nil: discarded
}

// LoRAModule is one of vLLM's --lora-modules.
type LoRAModule struct{ Name, Path string }

// DefaultOptions are the defaults. Model must still be set.
func DefaultOptions() Options {
	events, _ := ParseKVEventsConfig("")
	transfer, _ := ParseKVTransferConfig("")
	return Options{
		Host: "127.0.0.1", Port: 8000,
		BlockSize: 16, NumGPUBlocks: 16384, MaxModelLen: 32768, MaxSeqs: 256, MaxBatchedTokens: 8192,
		Speedup: 1, HashSeed: defaultHashSeed,
		KVEvents: events, KVEventsForm: EventsAsMaps,
		KVTransfer: transfer, TransferBandwidth: 64e9, KVBytesPerToken: 131072,
		TensorParallel: 1, Nodes: 1, MasterAddr: "127.0.0.1", MasterPort: 29501,
		WriteTimeout: 30 * time.Second,
	}
}

// Validate names every setting that cannot work.
func (o Options) Validate() error {
	var errs []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	need(o.Model != "", "model: must not be empty")
	need(o.BlockSize > 0, "block size: must be > 0 (got %d)", o.BlockSize)
	need(o.NumGPUBlocks > 0, "number of GPU blocks: must be > 0 (got %d)", o.NumGPUBlocks)
	need(o.MaxModelLen > 1, "max model length: must be > 1 (got %d)", o.MaxModelLen)
	need(o.MaxModelLen <= o.BlockSize*o.NumGPUBlocks, "max model length: %d tokens do not fit %d KV blocks of %d tokens; lower it or give more blocks", o.MaxModelLen, o.NumGPUBlocks, o.BlockSize)
	need(o.MaxSeqs > 0, "max sequences: must be > 0 (got %d)", o.MaxSeqs)
	need(o.MaxBatchedTokens > 0, "max batched tokens: must be > 0 (got %d)", o.MaxBatchedTokens)
	need(o.Speedup > 0, "speedup: must be > 0 (got %g)", o.Speedup)
	need(o.LoadRate >= 0, "load rate: must be >= 0 (got %d)", o.LoadRate)
	need(o.TransferBandwidth > 0, "KV transfer bandwidth: must be > 0 (got %d)", o.TransferBandwidth)
	need(o.KVBytesPerToken > 0, "KV bytes per token: must be > 0 (got %d)", o.KVBytesPerToken)
	need(o.KVEventsForm == EventsAsMaps || o.KVEventsForm == EventsAsArrays, "KV events form: must be map or array (got %q)", o.KVEventsForm)
	need(len(o.UDS) < 108, "unix socket %s: the path is %d bytes long, the system allows 107; choose a shorter folder", o.UDS, len(o.UDS))
	need(o.WriteTimeout > 0, "write timeout: must be > 0 (got %s)", o.WriteTimeout)
	need(o.ShutdownTimeout >= 0, "shutdown timeout: must be >= 0 (got %s)", o.ShutdownTimeout)
	need(o.Nodes >= 1 && o.NodeRank >= 0 && o.NodeRank < o.Nodes, "node rank: must be from 0 to %d (got %d)", o.Nodes-1, o.NodeRank)
	need(o.Headless == (o.NodeRank > 0), "headless: every rank but 0 must be headless, and rank 0 must not (rank %d)", o.NodeRank)
	need(o.Nodes == 1 || o.MasterPort > 0, "master port: needed with %d nodes", o.Nodes)
	if err := o.KVEvents.validate(); err != nil {
		errs = append(errs, err)
	}
	if err := o.KVTransfer.validate(); err != nil {
		errs = append(errs, err)
	}
	need(o.ExternalKV != "" || !o.KVTransfer.LMCache, "KV transfer config: LMCacheConnectorV1 needs a configuration file: set LMCACHE_CONFIG_FILE")
	if o.ExternalKV != "" {
		if err := validRemote(o.ExternalKV); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, o.validateNames()...)...)
}

func (o Options) validateNames() (errs []error) {
	seen := map[string]bool{}
	for _, n := range o.ServedModelNames {
		seen[n] = true
	}
	for _, l := range o.LoRAModules {
		if l.Name == "" || seen[l.Name] {
			errs = append(errs, fmt.Errorf("LoRA module %q: needs a name of its own", l.Name))
		}
		seen[l.Name] = true
	}
	return errs
}

// servedNames are the names of the base model in the API; the first is the one that answers carry.
func (o Options) servedNames() []string {
	if len(o.ServedModelNames) == 0 {
		return []string{o.Model}
	}
	return o.ServedModelNames
}

// masterAddress is where rank 0 waits for the others.
func (o Options) masterAddress() string {
	return net.JoinHostPort(o.MasterAddr, fmt.Sprint(o.MasterPort))
}
