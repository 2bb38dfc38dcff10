package render

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
)

var update = flag.Bool("update", false, "rewrite golden files")

// cases are deployments beyond the examples, each for something that those don't show.
var cases = map[string]string{
	"sglang-two-nodes": `
model: {path: /models/DeepSeek-V3, servedName: deepseek}
engine: {kind: sglang, args: [--trust-remote-code]}
roles: {mixed: {nodes: 2, gpus: 8, parallel: {tensor: 16}}}`,
	"trtllm-pair": `
model: {path: /models/Llama-8B}
engine: {kind: trtllm}
roles: {prefill: {gpus: 1, replicas: 2}, decode: {gpus: 1}}`,
	"vllm-awkward": `
model: {path: "/models/it's here", servedName: m, adapters: [{name: a, path: /a=b}]}
engine:
  kind: vllm
  args: [--override, '{"a": "b c", "d": "$(rm -rf /)"}', "", "--port-like", 61001, "--many=161001"]
  env: {GREETING: "it's $HOME\nand more", EMPTY: ""}
  setup: ["module load cuda", "source /opt/venv/bin/activate\nexport TOKEN_FILE=~/.token"]
roles: {mixed: {gpus: 1}}`,
	"llamacpp-podman": `
model: {path: /models/m.gguf}
engine: {kind: llamacpp, container: {runtime: podman, image: ghcr.io/ggml-org/llama.cpp:server}}
roles: {mixed: {cpus: 4}}`,
}

func parse(t *testing.T, name, src string) jobspecs.Deployment {
	t.Helper()
	d, err := jobspecs.Parse(name, []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// deployments are all that Local is tried on: the examples for this cluster, and the cases.
func deployments(t *testing.T) map[string]jobspecs.Deployment {
	t.Helper()
	all := map[string]jobspecs.Deployment{}
	for name, body := range cases {
		all[name] = parse(t, name, "apiVersion: penstock/v1\nname: "+name+body)
	}
	files, err := filepath.Glob("../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := parse(t, file, string(src)); d.Cluster == jobspecs.LocalCluster {
			all["example-"+strings.TrimSuffix(filepath.Base(file), ".yaml")] = d
		}
	}
	return all
}

func local(t *testing.T, d jobspecs.Deployment) string {
	t.Helper()
	text, err := Local(d)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestLocalGolden(t *testing.T) {
	t.Parallel()
	for name, d := range deployments(t) {
		got, golden := local(t, d), filepath.Join("testdata", name+".sh")
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
}

// TestShellcheck: what is printed passes the linter that people run over what they are given.
func TestShellcheck(t *testing.T) {
	t.Parallel()
	linter, err := exec.LookPath("shellcheck")
	if err != nil {
		t.Skip("shellcheck is not installed: rendered scripts are not linted")
	}
	scripts, err := filepath.Glob("testdata/*.sh")
	if err != nil || len(scripts) == 0 {
		t.Fatal("no scripts", err)
	}
	if out, err := exec.Command(linter, append([]string{"--shell=bash"}, scripts...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestLocalRefuses(t *testing.T) {
	t.Parallel()
	d := parse(t, "x", "apiVersion: penstock/v1\nname: x\nmodel: {id: m}\nengine: {kind: sim}\ncluster: slurm\nroles: {mixed: {}}")
	if _, err := Local(d); err == nil || !strings.Contains(err.Error(), "deployment x runs on cluster slurm") {
		t.Errorf("got %v", err)
	}
	d.Cluster = jobspecs.LocalCluster
	d.Engine.Container = jobspecs.Container{Runtime: jobspecs.Pyxis, Image: "i"}
	if _, err := Local(d); err == nil || !strings.Contains(err.Error(), "role mixed, rank 0: engine.container.runtime: pyxis") {
		t.Errorf("got %v", err)
	}
}

// TestScriptRunsTheLaunchLine: the script starts the engine with the words and variables that the agent would use.
func TestScriptRunsTheLaunchLine(t *testing.T) {
	t.Parallel()
	for name, d := range deployments(t) {
		if d.Engine.Container.Runtime != jobspecs.NoContainer {
			continue // the program is the container's then
		}
		for role, r := range d.Roles {
			for rank := range r.Nodes {
				t.Run(strings.Join([]string{name, string(role)}, "-"), func(t *testing.T) {
					t.Parallel()
					runs(t, d, role, rank)
				})
			}
		}
	}
}

func runs(t *testing.T, d jobspecs.Deployment, role jobspecs.RoleKind, rank int) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	write(t, program, "#!/bin/bash\nprintf '%s\\0' \"$0\" \"$@\" >\"$RECORD\"\nenv -0 >\"$RECORD.env\"\n", 0o700)
	d.Engine.Setup = nil // module is no command here
	if len(d.Engine.Command) > 0 || d.Engine.Kind != jobspecs.Sim {
		d.Engine.Command = []string{program}
	}
	file := filepath.Join(dir, "script.sh")
	write(t, file, local(t, d), 0o600)
	record := filepath.Join(dir, "record")
	cmd := exec.Command("bash", file, "engine", string(role), string(rune('0'+rank)))
	cmd.Env = append(os.Environ(), "RECORD="+record, "RUN="+dir, "PENSTOCK="+program, "HEAD_HOST=10.9.8.7", "HEAD_PORT=5", "TRANSFER_PORT=6", "ENGINE_PORT=7")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	s := (&script{d: d}).start(role, rank)
	s.Dir, s.Self = dir, program
	s.EventsEndpoint, s.EventsReplay = strings.Replace(s.EventsEndpoint, runDir, dir, 1), strings.Replace(s.EventsReplay, runDir, dir, 1)
	s.Socket = strings.Replace(s.Socket, runDir, dir, 1)
	if s.Nodes > 1 {
		s.HeadHost, s.HeadPort = "10.9.8.7", 5
	}
	if role != jobspecs.Mixed {
		s.TransferHost, s.TransferPort = "127.0.0.1", 6
	}
	if s.Port > 0 {
		s.Port = 7
	}
	want, err := engine.For(d.Engine.Kind).Command(s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Argv, records(t, record)); diff != "" {
		t.Errorf("argv (-want +got):\n%s", diff)
	}
	env := records(t, record+".env")
	for name, value := range want.Env {
		if !slices.Contains(env, name+"="+value) {
			t.Errorf("%s=%q is not in the environment", name, value)
		}
	}
	for name, content := range want.Files {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != content {
			t.Errorf("file %s: %q, %v", name, got, err)
		}
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	syscall.ForkLock.RLock() // a child forked meanwhile would hold a program open for writing: "text file busy"
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func records(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}
