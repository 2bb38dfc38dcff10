package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/jobspecs"
)

func command(t *testing.T, s Start) Command {
	t.Helper()
	c, err := For(s.Deployment.Engine.Kind).Command(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// line is the launch line for looking into it.
func line(t *testing.T, s Start) string {
	t.Helper()
	return strings.Join(command(t, s).Argv, " ") + " "
}

func mixedStart(t *testing.T, body string) Start {
	t.Helper()
	return start(parse(t, body), jobspecs.Mixed, 0)
}

// overTCP moves a start from its unix socket to TCP with a key.
func overTCP(s Start) Start {
	s.Socket, s.Host, s.Port = "", "127.0.0.1", 40001
	return s
}

func TestCommandRefuses(t *testing.T) {
	t.Parallel()
	whole := mixedStart(t, "model: {id: m}\nengine: {kind: llamacpp}\nroles: {mixed: {}}")
	pyxis := parse(t, "model: {id: m}\nengine: {kind: sim, container: {runtime: pyxis, image: i}}\ncluster: slurm\nroles: {mixed: {}}")
	pyxis.Cluster = jobspecs.LocalCluster
	for name, c := range map[string]struct {
		change func(*Start)
		want   string
	}{
		"role":      {func(s *Start) { s.Role = jobspecs.Decode }, "deployment test has no role decode"},
		"rank":      {func(s *Start) { s.Rank = 1 }, "rank 1 of 1 nodes does not exist"},
		"head":      {func(s *Start) { s.Nodes = 2 }, "the address of rank 0 is not known"},
		"folder":    {func(s *Start) { s.Dir = "" }, "has no folder of its own"},
		"socket":    {func(s *Start) { s.Socket = "/run/x" }, "its socket must end in .sock"},
		"container": {func(s *Start) { s.Deployment = pyxis }, "pyxis is a part of Slurm"},
		"runtime":   {func(s *Start) { s.Deployment.Engine.Container.Runtime = "docker" }, `"docker" is not known`},
	} {
		s := whole
		c.change(&s)
		if _, err := For(s.Deployment.Engine.Kind).Command(s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// TestKeys: a key reaches the engine by file or environment, only where it listens on TCP and rank 0 answers.
func TestKeys(t *testing.T) {
	t.Parallel()
	for kind, want := range map[jobspecs.EngineKind]string{jobspecs.VLLM: "VLLM_API_KEY", jobspecs.Sim: "VLLM_API_KEY", jobspecs.SGLang: "", jobspecs.TRTLLM: "", jobspecs.LlamaCpp: ""} {
		s := mixedStart(t, fmt.Sprintf("model: {id: m}\nengine: {kind: %s}\nroles: {mixed: {gpus: 1}}", kind))
		if got := command(t, overTCP(s)).KeyEnv; got != want {
			t.Errorf("%s over TCP: key in %q, want %q", kind, got, want)
		}
		if got := command(t, s).KeyEnv; got != "" {
			t.Errorf("%s over a socket: key in %q", kind, got)
		}
	}
	s := mixedStart(t, "model: {id: m}\nengine: {kind: llamacpp}\nroles: {mixed: {}}")
	if got := line(t, overTCP(s)); !strings.Contains(got, "--host 127.0.0.1 --port 40001 --api-key-file /run/penstock/a1/key ") {
		t.Errorf("llama-server gets no key file: %s", got)
	}
	if got := line(t, s); strings.Contains(got, "key") {
		t.Errorf("llama-server gets a key on its socket: %s", got)
	}
}

// TestNoValueOfTheEnvironmentInArgv: whatever the user puts into the environment, ps never shows it.
func TestNoValueOfTheEnvironmentInArgv(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		kind := rapid.SampledFrom([]jobspecs.EngineKind{jobspecs.VLLM, jobspecs.SGLang, jobspecs.TRTLLM, jobspecs.LlamaCpp, jobspecs.Sim}).Draw(r, "kind")
		runtime := rapid.SampledFrom([]jobspecs.ContainerRuntime{jobspecs.NoContainer, jobspecs.Apptainer, jobspecs.Enroot, jobspecs.Podman, jobspecs.Pyxis}).Draw(r, "runtime")
		s := start(deployment(t, kind, runtime, mixed), jobspecs.Mixed, 0)
		if rapid.Bool().Draw(r, "tcp") {
			s = overTCP(s)
		}
		secret := rapid.StringMatching(`hf_[A-Za-z0-9]{30}`).Draw(r, "secret")
		s.Deployment.Engine.Env = map[string]string{"ANY": secret}
		c := command(t, s)
		if c.Env["ANY"] != secret {
			r.Fatalf("the variable is lost: %v", c.Env)
		}
		for _, word := range c.Argv {
			if strings.Contains(word, secret) || flagName(word) == "api-key" {
				r.Fatalf("argv shows a secret: %q", c.Argv)
			}
		}
		if runtime != jobspecs.NoContainer && runtime != jobspecs.Apptainer && !strings.Contains(strings.Join(c.Argv, " "), "ANY") {
			r.Fatalf("the variable does not reach the container: %q", c.Argv)
		}
	})
}

// TestUserWins: the user's environment replaces the engine's, and arguments come last.
func TestUserWins(t *testing.T) {
	t.Parallel()
	c := command(t, mixedStart(t, "model: {path: /m, servedName: m}\nengine: {kind: vllm, env: {PYTHONHASHSEED: 7, HF_HUB_OFFLINE: 0}, args: [a]}\nroles: {mixed: {gpus: 1, args: [b]}}"))
	if c.Env["PYTHONHASHSEED"] != "7" || c.Env["HF_HUB_OFFLINE"] != "0" {
		t.Errorf("got %v", c.Env)
	}
	if n := len(c.Argv); !slices.Equal(c.Argv[n-2:], []string{"a", "b"}) {
		t.Errorf("got %q", c.Argv)
	}
}

func TestOfflineOnlyWithLocalWeights(t *testing.T) {
	t.Parallel()
	c := command(t, mixedStart(t, "model: {id: Qwen/Qwen3-8B}\nengine: {kind: vllm}\nroles: {mixed: {gpus: 1}}"))
	if _, set := c.Env["HF_HUB_OFFLINE"]; set {
		t.Error("a hub model can't be downloaded offline")
	}
}

func TestLlamaDefaultsGiveWay(t *testing.T) {
	t.Parallel()
	const head = "model: {path: /m.gguf, servedName: m}\nserving: {maxContext: 1000}\nroles: {mixed: {}}\nengine: {kind: llamacpp, args: "
	for args, c := range map[string]struct{ gone, stays []string }{
		"[-t, 9]":                {[]string{"-t 1 "}, []string{"-tb 1 ", "-kvu ", "-np 4 ", "-c 4000 "}},
		"[--threads=9]":          {[]string{"-t 1 "}, nil},
		"[--parallel, 2]":        {[]string{"-np 4 "}, []string{"-c 2000 "}},
		"[-np=3]":                {[]string{"-np 4 "}, []string{"-c 3000 "}},
		"[--parallel, many]":     {[]string{"-np 4 "}, []string{"-c 4000 "}},
		"[--ctx-size, 512]":      {[]string{"-c 4000 "}, nil},
		"[--no-kv-unified]":      {[]string{"-kvu "}, nil},
		"[--cache-idle-slots]":   {[]string{"--no-cache-idle-slots "}, nil},
		"[--cache_ram, 8192]":    {[]string{"--cache-ram 0 "}, nil},
		"[--webui]":              {[]string{"--no-ui "}, nil},
		"[--no-slots]":           {[]string{" --slots "}, nil},
		"[--threads-http, 4, t]": {nil, []string{"-t 1 "}},
	} {
		got := line(t, mixedStart(t, head+args+"}"))
		for _, word := range c.gone {
			if strings.Contains(got, word) {
				t.Errorf("%s: %q is still there: %s", args, word, got)
			}
		}
		for _, word := range c.stays {
			if !strings.Contains(got, word) {
				t.Errorf("%s: %q is missing: %s", args, word, got)
			}
		}
	}
	hub := line(t, mixedStart(t, "model: {id: ggml-org/m}\nengine: {kind: llamacpp}\nroles: {mixed: {}}"))
	if !strings.Contains(hub, "-hf ggml-org/m ") || !strings.Contains(hub, "-c 0 ") {
		t.Errorf("got %s", hub)
	}
}

func TestVLLMVersions(t *testing.T) {
	t.Parallel()
	for version, want := range map[string][2]bool{"": {true, true}, "0.10.2": {false, false}, "v0.11.0": {true, false}, "0.18": {true, true}, "1.0": {true, true}, "nightly": {true, true}} {
		got := line(t, mixedStart(t, fmt.Sprintf("model: {id: m}\nengine: {kind: vllm%s}\nroles: {mixed: {gpus: 1}}", versionKey(version))))
		if has := [2]bool{strings.Contains(got, "sha256_cbor"), strings.Contains(got, "--shutdown-timeout 60 ")}; has != want {
			t.Errorf("version %q: got %v, want %v", version, has, want)
		}
	}
}

func versionKey(version string) string {
	if version == "" {
		return ""
	}
	return `, version: "` + version + `"`
}

// TestVLLMCopiesOverNodes: whole data parallel copies on each node need no common world.
func TestVLLMCopiesOverNodes(t *testing.T) {
	t.Parallel()
	d := parse(t, "model: {id: m}\nengine: {kind: vllm}\nroles: {mixed: {nodes: 2, gpus: 4, parallel: {data: 4}}}")
	head, worker := line(t, start(d, jobspecs.Mixed, 0)), line(t, start(d, jobspecs.Mixed, 1))
	common := "--tensor-parallel-size 2 --data-parallel-size 4 --data-parallel-size-local 2 "
	address := "--data-parallel-address 10.0.0.1 --data-parallel-rpc-port 29501 "
	if !strings.Contains(head, common+address) || strings.Contains(head, "--headless") || strings.Contains(head, "--nnodes") {
		t.Errorf("head: %s", head)
	}
	if !strings.Contains(worker, common+"--data-parallel-start-rank 2 "+address+"--headless ") || strings.Contains(worker, "--uds") {
		t.Errorf("worker: %s", worker)
	}
}

// TestEventsOfSeveralCopies: the engines can't number a socket without a port, so there are none.
func TestEventsOfSeveralCopies(t *testing.T) {
	t.Parallel()
	for _, kind := range []jobspecs.EngineKind{jobspecs.VLLM, jobspecs.SGLang} {
		s := mixedStart(t, fmt.Sprintf("model: {id: m}\nengine: {kind: %s}\nroles: {mixed: {gpus: 2, parallel: {data: 2}}}", kind))
		if got := line(t, s); strings.Contains(got, "kv-events") {
			t.Errorf("%s: %s", kind, got)
		}
		s.EventsEndpoint, s.EventsReplay = "tcp://127.0.0.1:5557", ""
		if got := line(t, s); !strings.Contains(got, `"publisher":"zmq","endpoint":"tcp://127.0.0.1:5557"}`) {
			t.Errorf("%s: %s", kind, got)
		}
	}
}

func TestDeclaredCardsAreNotShownToDrivers(t *testing.T) {
	t.Parallel()
	s := mixedStart(t, "model: {id: m}\nengine: {kind: vllm, container: {runtime: podman, image: i}}\nroles: {mixed: {gpus: 2}}")
	s.GPUs = []string{"node-a-gpu0", "node-a-gpu1"}
	c := command(t, s)
	if _, set := c.Env["CUDA_VISIBLE_DEVICES"]; set || !slices.Contains(c.Argv, "nvidia.com/gpu=all") {
		t.Errorf("env %v, argv %q", c.Env, c.Argv)
	}
}

// TestBinds: nothing is mounted twice, and sockets outside the run's folder are seen inside.
func TestBinds(t *testing.T) {
	t.Parallel()
	s := mixedStart(t, "model: {path: /run/penstock/a1/m, servedName: m}\nengine: {kind: vllm, container: {runtime: apptainer, image: i, mounts: ['/x:/y']}}\nroles: {mixed: {gpus: 1}}")
	s.Socket, s.EventsEndpoint, s.KeyFile = "/tmp/s/e.sock", "ipc:///tmp/e/events", ""
	got := line(t, s)
	if want := "--bind /run/penstock/a1:/run/penstock/a1 --bind /tmp/s:/tmp/s --bind /tmp/e:/tmp/e --bind /x:/y i "; !strings.Contains(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestRPCSockets: vLLM's own sockets lie in the run's folder, unless their paths would be longer than the kernel takes.
func TestRPCSockets(t *testing.T) {
	t.Parallel()
	s := mixedStart(t, "model: {id: m}\nengine: {kind: vllm}\nroles: {mixed: {gpus: 1}}")
	for length, set := range map[int]bool{20: true, 70: true, 71: false} {
		s.Dir = "/" + strings.Repeat("d", length-1)
		got, ok := command(t, s).Env["VLLM_RPC_BASE_PATH"]
		if ok != set || set && got != s.Dir {
			t.Errorf("folder of %d bytes: %q, %v", length, got, ok)
		}
	}
}

func TestIPv6Head(t *testing.T) {
	t.Parallel()
	s := start(parse(t, "model: {id: m}\nengine: {kind: sglang}\nroles: {mixed: {nodes: 2, gpus: 1}}"), jobspecs.Mixed, 1)
	s.HeadHost = "fd00::1"
	if got := line(t, s); !strings.Contains(got, "--dist-init-addr [fd00::1]:29501 ") {
		t.Errorf("got %s", got)
	}
}

// TestTRTLLMOwnConfig: a configuration file of the user's replaces ours, and a served name is only given where it differs.
func TestTRTLLMOwnConfig(t *testing.T) {
	t.Parallel()
	s := mixedStart(t, "model: {path: /models/m}\nengine: {kind: trtllm, args: [--config, /etc/mine.yaml]}\nroles: {mixed: {gpus: 1}}")
	c := command(t, s)
	if c.Files != nil || slices.Contains(c.Argv, "--extra_llm_api_options") || slices.Contains(c.Argv, "--served_model_name") {
		t.Errorf("files %v, argv %q", c.Files, c.Argv)
	}
}
