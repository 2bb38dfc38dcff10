package engine

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"github.com/penstock/penstock/jobspecs"
)

// Door is by which of the agent's doors an engine's KV reaches Penstock's tiers.
type Door int

// The doors.
const (
	NoDoor   Door = iota // the engine keeps what it has
	SlotDoor             // llama.cpp: the agent saves and restores the server's slots
	RESPDoor             // LMCache and sim: Redis protocol on a unix socket
	S3Door               // vLLM's object tier and SGLang's, both through NIXL: S3 on loopback, signed
	FileDoor             // vLLM's fs tier and SGLang's file storage: a folder that the agent watches
)

// KVAccess is where a door is. Of its fields those of the deployment's door are set.
type KVAccess struct {
	Socket      string // RESPDoor: a unix socket in the run's folder
	Address     string // S3Door: HOST:PORT on loopback
	Credentials string // S3Door: file (0600) in the form of AWS's shared credentials
	Folder      string // FileDoor
}

// KVBucket is the bucket that engines are told to use at the S3 door.
const KVBucket = "penstock-kv"

// chunk is the number of tokens that LMCache stores together.
const chunk = 256

// KVDoor is the door of a deployment's connector.
func KVDoor(d jobspecs.Deployment) Door {
	kv, c := d.KV, d.KV.Connector
	if c == "" {
		c = jobspecs.AutoConnector
	}
	below := kv.Disk.Path != "" || kv.Object != nil
	switch {
	case c == jobspecs.NoConnector, kv.Host == 0 && !below:
		return NoDoor
	case c == jobspecs.FilesConnector:
		return FileDoor
	case d.Engine.Kind == jobspecs.LlamaCpp:
		return SlotDoor
	case d.Engine.Kind == jobspecs.Sim, c == jobspecs.LMCacheConnector:
		return RESPDoor
	case !below: // the engine's own host tier is all that was asked for
		return NoDoor
	case d.Engine.Kind == jobspecs.SGLang, d.Engine.Kind == jobspecs.VLLM && c == jobspecs.NativeConnector:
		return S3Door
	case d.Engine.Kind == jobspecs.VLLM:
		return RESPDoor
	}
	return NoDoor
}

// KVHost is how much of kv.host the agent's own host tier has; the engine has the rest. Engines copy KV from their cards into
// pinned memory of their own first, so that a connector without any is none.
func KVHost(d jobspecs.Deployment) jobspecs.Bytes {
	host := d.KV.Host
	switch KVDoor(d) {
	case SlotDoor:
		return host
	case RESPDoor:
		return host - lmcacheHost(d)
	case S3Door: // what comes through is on its way to the disk
		return host / 4
	}
	return 0
}

// lmcacheHost is the part of kv.host that LMCache's buffers take: a quarter, since the agent's tier outlives the engine.
func lmcacheHost(d jobspecs.Deployment) jobspecs.Bytes {
	if d.Engine.Kind == jobspecs.Sim {
		return 0
	}
	return d.KV.Host / 4
}

// engineHost is what the engine's own host tier may take. Without a connector to ours it is all there is.
func engineHost(d jobspecs.Deployment) jobspecs.Bytes {
	if d.KV.Connector == jobspecs.NoConnector {
		return 0
	}
	return d.KV.Host - KVHost(d)
}

// TenantTag is the field of kv_transfer_params by which a request's tenant becomes a part of its blocks' names; empty = the
// engine does that itself. LMCache names chunks by their tokens: cache_salt is not in the name in all of its versions.
func TenantTag(d jobspecs.Deployment) string {
	if KVDoor(d) == RESPDoor {
		return "lmcache.tag.tenant"
	}
	return ""
}

// KVFormat is what of a deployment's role decides, beside the weights, what an engine's KV bytes mean: for people the engine and
// its version, and a digest of the rest. What is not known to be without effect counts: it costs a cold start, and the other
// way round it would cost wrong text.
func KVFormat(d jobspecs.Deployment, role jobspecs.RoleKind) string {
	e := d.Engine
	h := sha256.New()
	add := func(text string) { fmt.Fprintf(h, "%d:%s", len(text), text) }
	for _, text := range append(slices.Clone(e.Command), e.Container.Image, fmt.Sprint(KVDoor(d)), KVIdentity(d, role)) {
		add(text)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Env)) {
		add(name + "=" + e.Env[name])
	}
	return fmt.Sprintf("%s %s %x", e.Kind, orElse(e.Version, "unknown"), h.Sum(nil)[:8])
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// lmcacheConfig is LMCache's configuration for one rank of perNode on its node. The socket lies in the run's folder, so that
// there is no password, which LMCache would write into its log.
func (s Start) lmcacheConfig(perNode int) string {
	gb := float64(lmcacheHost(s.Deployment)) / float64(max(perNode, 1)) / (1 << 30)
	return fmt.Sprintf(`chunk_size: %d
local_cpu: false
max_local_cpu_size: %.3f
remote_url: "unix://%s"
remote_serde: naive
pre_caching_hash_algorithm: sha256_cbor
save_unfull_chunk: false
`, chunk, gb, s.KV.Socket)
}

const lmcacheFile = "lmcache.yaml"

// lmcacheEnv has LMCache find its configuration, and tell nobody of its use.
func (s Start) lmcacheEnv() map[string]string {
	return map[string]string{"LMCACHE_CONFIG_FILE": s.inDir(lmcacheFile), "LMCACHE_USE_EXPERIMENTAL": "True", "LMCACHE_TRACK_USAGE": "false"}
}

// awsEnv has NIXL's S3 client find its credentials, and ask no cloud for others.
func (s Start) awsEnv() map[string]string {
	return map[string]string{
		"AWS_SHARED_CREDENTIALS_FILE": s.KV.Credentials, "AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1",
	}
}

// missingDoor reports a start without what its door needs.
func (s Start) missingDoor() error {
	door := KVDoor(s.Deployment)
	if door == RESPDoor && s.KV.Socket == "" || door == S3Door && (s.KV.Address == "" || s.KV.Credentials == "") || door == FileDoor && s.KV.Folder == "" {
		return fmt.Errorf("deployment %s wants a KV connector, and its door is not known", s.Deployment.Name)
	}
	return nil
}

// knows lists the connectors of each engine, beside auto and none.
var knows = map[jobspecs.EngineKind][]jobspecs.KVConnector{
	jobspecs.VLLM:     {jobspecs.LMCacheConnector, jobspecs.NativeConnector, jobspecs.FilesConnector},
	jobspecs.SGLang:   {jobspecs.NativeConnector, jobspecs.FilesConnector},
	jobspecs.TRTLLM:   {jobspecs.NativeConnector},
	jobspecs.LlamaCpp: {},
	jobspecs.Sim:      {jobspecs.LMCacheConnector},
}

// why says why an engine lacks a connector that others have.
var why = map[jobspecs.EngineKind]string{
	jobspecs.SGLang:   "sglang reaches LMCache through a server of LMCache's own, which Penstock does not start",
	jobspecs.TRTLLM:   "trtllm has its own host tier alone in this release",
	jobspecs.LlamaCpp: "llamacpp needs none: the agent saves and restores its slots",
	jobspecs.Sim:      "sim speaks LMCache's protocol alone",
	jobspecs.VLLM:     "",
}

// checkConnector finds connectors that can't work, or by which blocks of different weights or tenants could meet.
func checkConnector(d jobspecs.Deployment) (errs jobspecs.Errors) {
	kv, kind := d.KV, d.Engine.Kind
	switch c := kv.Connector; c {
	case "", jobspecs.AutoConnector, jobspecs.NoConnector:
	default:
		if !slices.Contains(knows[kind], c) {
			return jobspecs.Errors{problem("kv.connector", "leave it out", "%s is not there: %s", c, why[kind])}
		}
		if kv.Host == 0 && kv.Disk.Path == "" && kv.Object == nil {
			return jobspecs.Errors{problem("kv.connector", "name kv.host, kv.disk or kv.object", "there is no tier that it could reach")}
		}
	}
	door := KVDoor(d)
	if door == NoDoor || door == SlotDoor || kind == jobspecs.Sim {
		return nil
	}
	if d.Model.Path == "" {
		errs = append(errs, problem("model.path", "download the weights and name their folder",
			"is missing: KV that outlives the job is named by its weights, and a hub's may change under one name"))
	}
	if kv.Host == 0 {
		errs = append(errs, problem("kv.host", "say how much host memory KV may take on each node, such as 64GiB", "is missing: %s stages KV there on its way", kind))
	}
	if door == RESPDoor && len(d.Model.Adapters) > 0 {
		errs = append(errs, problem("kv.connector", "use native, or a deployment without adapters", "LMCache's names of KV leave out the adapter in some versions, so that answers could mix"))
	}
	if door == FileDoor && kv.Disk.Path == "" {
		errs = append(errs, problem("kv.disk", "name the folder and its size", "is missing: it is where the engine's files lie"))
	}
	if door == FileDoor && kv.KeyFile != "" {
		errs = append(errs, problem("kv.keyFile", "use another kv.connector", "files that the engine itself reads can't be encrypted"))
	}
	return errs
}

// connectorAdvice says what becomes of tiers that don't do all that they seem to.
func connectorAdvice(d jobspecs.Deployment) (notes jobspecs.Errors) {
	kv, kind, door := d.KV, d.Engine.Kind, KVDoor(d)
	if kv.Connector == jobspecs.NoConnector && (kv.Host > 0 || kv.Disk.Path != "" || kv.Object != nil) {
		notes = append(notes, problem("kv.connector", "", "none: the tiers are not used"))
	}
	if door == NoDoor && kv.Connector != jobspecs.NoConnector {
		if kv.Disk.Path != "" {
			notes = append(notes, problem("kv.disk", "", "%s reaches no disk tier in this release: it has no effect", kind))
		}
		if kv.Object != nil {
			notes = append(notes, problem("kv.object", "", "%s reaches no object tier in this release: it has no effect", kind))
		}
	}
	switch {
	case door == FileDoor:
		notes = append(notes, problem("kv.connector", "use another connector where answers must not depend on a disk's health",
			"files: the engine reads blocks itself, and a damaged one is noticed only some time later"))
	case door == RESPDoor && kind == jobspecs.VLLM:
		notes = append(notes, problem("kv.connector", "", "lmcache must be installed beside vllm"))
	}
	return notes
}
