package engine

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/jobspecs"
)

var update = flag.Bool("update", false, "rewrite golden files")

// bases are one deployment per engine, without container, cluster and roles.
var bases = map[jobspecs.EngineKind]string{
	jobspecs.VLLM: `
model: {id: Qwen/Qwen3-8B, path: /models/Qwen3-8B, servedName: qwen, adapters: [{name: legal, path: /adapters/legal}, {name: odd, path: "/adapters/a=b"}]}
engine: {kind: vllm, args: [--gpu-memory-utilization, "0.9"], env: {UCX_TLS: all}, setup: [module load cuda], container: CONTAINER}
kv: {blockTokens: 16, host: 64GiB}
serving: {maxContext: 32768}`,
	jobspecs.SGLang: `
model: {path: /models/DeepSeek-V3, servedName: deepseek}
engine: {kind: sglang, args: [--trust-remote-code], container: CONTAINER}
kv: {blockTokens: 64, host: 64GB}
serving: {maxContext: 65536, tenant: one}`,
	jobspecs.TRTLLM: `
model: {path: /models/Llama-405B, servedName: llama}
engine: {kind: trtllm, container: CONTAINER}
kv: {blockTokens: 32, host: 64GiB}
serving: {maxContext: 8192, tenant: one}`,
	jobspecs.LlamaCpp: `
model: {path: /models/qwen.gguf, servedName: qwen}
engine: {kind: llamacpp, command: [/opt/llama/llama-server], args: [-np, 8], container: CONTAINER}
kv: {host: 2GiB}
serving: {maxContext: 4096}`,
	jobspecs.Sim: `
model: {id: penstock/sim, servedName: sim, adapters: [{name: pirate, path: /adapters/pirate}]}
engine: {kind: sim, args: [--speedup, 10], container: CONTAINER}
kv: {blockTokens: 16}
serving: {maxContext: 4096}`,
}

var containers = map[jobspecs.ContainerRuntime]string{
	jobspecs.NoContainer: "{}",
	jobspecs.Apptainer:   `{runtime: apptainer, image: /images/engine.sif, mounts: ["/scratch:/scratch", "/etc/pki:/etc/pki:ro"]}`,
	jobspecs.Enroot:      `{runtime: enroot, image: /images/engine.sqsh, mounts: ["/scratch:/scratch", "/etc/pki:/etc/pki:ro"]}`,
	jobspecs.Podman:      `{runtime: podman, image: registry.example/engine:1, mounts: ["/scratch:/scratch", "/etc/pki:/etc/pki:ro"]}`,
	jobspecs.Pyxis:       `{runtime: pyxis, image: /images/engine.sqsh, mounts: ["/scratch:/scratch", "/etc/pki:/etc/pki:ro"]}`,
}

const roles = `
roles:
  prefill: {gpus: 1, args: [--role-arg]}
  decode: {nodes: 2, gpus: 8}`

const mixed = `
roles:
  mixed: {gpus: 2, cpus: 4}`

// deployment puts a test's file together.
func deployment(t *testing.T, kind jobspecs.EngineKind, runtime jobspecs.ContainerRuntime, roles string) jobspecs.Deployment {
	t.Helper()
	cluster := "\ncluster: local"
	if kind == jobspecs.TRTLLM || runtime == jobspecs.Pyxis {
		cluster = "\ncluster: slurm"
	}
	if kind == jobspecs.LlamaCpp {
		roles = strings.ReplaceAll(roles, "nodes: 2, ", "")
	}
	base := strings.ReplaceAll(bases[kind], "CONTAINER", containers[runtime])
	d, err := jobspecs.Parse(string(kind), []byte("apiVersion: penstock/v1\nname: golden"+base+cluster+roles))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// start fills in what the agent would.
func start(d jobspecs.Deployment, role jobspecs.RoleKind, rank int) Start {
	s := Start{
		Deployment: d, Role: role, Rank: rank, Nodes: d.Roles[role].Nodes,
		Dir: "/run/penstock/a1", Self: "/usr/bin/penstock",
		KeyFile:        "/run/penstock/a1/key",
		EventsEndpoint: "ipc:///run/penstock/a1/events.sock", EventsReplay: "ipc:///run/penstock/a1/replay.sock",
		GPUs: []string{"GPU-11111111-2222-3333-4444-555555555555"},
	}
	if For(d.Engine.Kind).Traits().UnixSocket {
		s.Socket = "/run/penstock/a1/engine.sock"
	} else {
		s.Host, s.Port = "127.0.0.1", 40001
	}
	switch KVDoor(d) {
	case RESPDoor:
		s.KV.Socket = "/run/penstock/a1/kv1.sock"
	case S3Door:
		s.KV.Address, s.KV.Credentials = "127.0.0.1:40002", "/run/penstock/a1/kv1.credentials"
	case FileDoor:
		s.KV.Folder = "/nvme/kv/golden-mixed"
	}
	if role != jobspecs.Mixed {
		s.TransferHost, s.TransferPort = fmt.Sprintf("10.0.0.%d", rank+1), 5600
	}
	if s.Nodes > 1 {
		s.HeadHost, s.HeadPort = "10.0.0.1", 29501
	}
	return s
}

// TestLaunchLines compares each engine x container x role x rank with its golden file.
func TestLaunchLines(t *testing.T) {
	t.Parallel()
	for kind := range bases {
		for runtime := range containers {
			name := fmt.Sprintf("%s-%s", kind, runtime)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				var got strings.Builder
				for _, file := range []string{mixed, roles} {
					d := deployment(t, kind, runtime, file)
					for _, role := range jobspecs.RoleKinds {
						for rank := range d.Roles[role].Nodes {
							show(t, &got, d, role, rank)
						}
					}
				}
				compare(t, filepath.Join("testdata", name+".golden"), got.String())
			})
		}
	}
}

// connectors are deployments that differ in how KV goes down.
var connectors = map[string]string{
	"auto":    "{host: 64GiB, disk: {path: /nvme/kv, size: 1TiB}}",
	"object":  "{host: 64GiB, object: {url: s3://kv/x}}",
	"lmcache": "{host: 64GiB, connector: lmcache}",
	"native":  "{host: 64GiB, disk: {path: /nvme/kv, size: 1TiB}, connector: native}",
	"files":   "{host: 64GiB, disk: {path: /nvme/kv, size: 1TiB}, connector: files}",
	"none":    "{host: 64GiB, disk: {path: /nvme/kv, size: 1TiB}, connector: none}",
}

// TestConnectorLines compares each engine x role x connector with its golden file. What an engine can't do is in it as the
// reason that people are given.
func TestConnectorLines(t *testing.T) {
	t.Parallel()
	for _, kind := range []jobspecs.EngineKind{jobspecs.VLLM, jobspecs.SGLang, jobspecs.TRTLLM, jobspecs.LlamaCpp, jobspecs.Sim} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			var got strings.Builder
			for _, connector := range slices.Sorted(maps.Keys(connectors)) {
				for _, roles := range []string{"mixed: {gpus: 2}", "prefill: {gpus: 1}\n  decode: {gpus: 4}"} {
					d := parse(t, "model: {path: /models/m}\nengine: {kind: "+string(kind)+"}\ncluster: slurm\nroles:\n  "+roles+"\nserving: {tenant: one}\nkv: "+connectors[connector])
					fmt.Fprintf(&got, "#### %s\n", connector)
					if err := Check(d); err != nil {
						fmt.Fprintf(&got, "refused: %v\n\n", err)
						break
					}
					for _, note := range Advice(d) {
						fmt.Fprintf(&got, "advice: %v\n", note)
					}
					for _, role := range jobspecs.RoleKinds {
						if _, ok := d.Roles[role]; ok {
							show(t, &got, d, role, 0)
						}
					}
				}
			}
			compare(t, filepath.Join("testdata", "kv-"+string(kind)+".golden"), got.String())
		})
	}
}

func show(t *testing.T, w *strings.Builder, d jobspecs.Deployment, role jobspecs.RoleKind, rank int) {
	t.Helper()
	if err := Check(d); err != nil {
		t.Fatal(err)
	}
	c, err := For(d.Engine.Kind).Command(start(d, role, rank))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(w, "== %s, rank %d of %d\n", role, rank, d.Roles[role].Nodes)
	if len(c.Argv) == 0 {
		w.WriteString("no process of its own\n\n")
		return
	}
	for _, line := range c.Setup {
		fmt.Fprintf(w, "setup  %s\n", line)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		fmt.Fprintf(w, "env    %s=%s\n", name, c.Env[name])
	}
	if c.KeyEnv != "" {
		fmt.Fprintf(w, "key in %s\n", c.KeyEnv)
	}
	for _, line := range options(c.Argv) {
		fmt.Fprintf(w, "argv   %s\n", line)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Files)) {
		fmt.Fprintf(w, "file   %s\n%s", name, c.Files[name])
	}
	w.WriteString("\n")
}

// options puts each option and its values on a line.
func options(argv []string) (lines []string) {
	for _, word := range argv {
		if len(lines) > 0 && !strings.HasPrefix(word, "-") {
			lines[len(lines)-1] += " " + word
			continue
		}
		lines = append(lines, word)
	}
	return lines
}

func compare(t *testing.T, golden, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", golden, diff)
	}
}
