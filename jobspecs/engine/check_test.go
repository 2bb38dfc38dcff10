package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/jobspecs"
)

func parse(t *testing.T, body string) jobspecs.Deployment {
	t.Helper()
	d, err := jobspecs.Parse("test.yaml", []byte("apiVersion: penstock/v1\nname: test\n"+body))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body string
		want []string // parts, in order; none = fine
	}{
		"sim may do all": {
			"model: {id: m, adapters: [{name: a, path: /a}]}\nengine: {kind: sim}\nroles: {prefill: {}, decode: {nodes: 2}}", nil,
		},
		"adapters": {
			"model: {id: m, adapters: [{name: a, path: /a}]}\nengine: {kind: llamacpp}\nroles: {mixed: {}}",
			[]string{"model.adapters: llamacpp can't serve adapters under names of their own; use vllm"},
		},
		"nodes": {
			"model: {id: m}\nengine: {kind: llamacpp}\nroles: {mixed: {nodes: 2}}",
			[]string{"roles.mixed.nodes: llamacpp runs on one node only; use 1, and more replicas"},
		},
		"cards": {
			"model: {id: m}\nengine: {kind: vllm}\nroles: {prefill: {}, decode: {gpus: 1}}",
			[]string{"roles.prefill.gpus: vllm needs GPUs; say how many"},
		},
		"cards and own program": {
			"model: {id: m}\nengine: {kind: vllm, command: [/opt/vllm-cpu/bin/vllm, serve]}\nroles: {mixed: {}}", nil,
		},
		"no salt, and nobody says who shares": {
			"model: {path: /m}\nengine: {kind: sglang}\nroles: {mixed: {gpus: 1}}",
			[]string{"serving.tenant: sglang does not part its cache by tenants; name the one tenant that it serves, or write shared"},
		},
		"no salt, and one tenant": {"model: {path: /m}\nengine: {kind: sglang}\nroles: {mixed: {gpus: 1}}\nserving: {tenant: physics}", nil},
		"trtllm outside Slurm": {
			"model: {id: m}\nengine: {kind: trtllm}\nserving: {tenant: shared}\nroles: {mixed: {nodes: 2, gpus: 1}}",
			[]string{"roles.mixed.nodes: trtllm over several nodes is one MPI world, which Slurm starts; cluster local can't; use cluster: slurm"},
		},
		"trtllm in Slurm": {
			"model: {id: m}\nengine: {kind: trtllm}\nserving: {tenant: shared}\ncluster: slurm\nroles: {mixed: {nodes: 2, gpus: 1}}", nil,
		},
		"copies": {
			"model: {id: m}\nengine: {kind: trtllm}\nserving: {tenant: shared}\nroles: {mixed: {gpus: 2, parallel: {data: 2}}}",
			[]string{"roles.mixed.parallel.data: trtllm has no data parallel copies"},
		},
		"copies of llama.cpp": {
			"model: {id: m}\nengine: {kind: llamacpp}\nroles: {mixed: {gpus: 2, parallel: {data: 2}}}",
			[]string{"roles.mixed.parallel.data: llamacpp has no data parallel copies"},
		},
		"copies over nodes, sglang": {
			"model: {id: m}\nengine: {kind: sglang}\nserving: {tenant: shared}\nroles: {mixed: {nodes: 2, gpus: 2, parallel: {data: 2}}}",
			[]string{"roles.mixed.parallel.data: sglang has data parallel copies on one node only"},
		},
		"copies over nodes, vllm": {
			"model: {id: m}\nengine: {kind: vllm}\nroles: {mixed: {nodes: 3, gpus: 2, parallel: {data: 2}}}",
			[]string{"roles.mixed.parallel.data: vllm can't split a data parallel copy between nodes: 2 copies on 3 nodes"},
		},
		"whole copies over nodes, vllm": {
			"model: {id: m}\nengine: {kind: vllm}\nroles: {mixed: {nodes: 2, gpus: 4, parallel: {data: 4}}}", nil,
		},
		"our options": {
			"model: {id: m}\nengine: {kind: vllm, args: [--port, 80, --tensor_parallel_size=2, port, --max-num-seqs, 8]}\nroles: {mixed: {gpus: 1, args: [--uds, /x]}}",
			[]string{
				"engine.args[0]: --port is set by Penstock; leave it out",
				"engine.args[2]: --tensor_parallel_size is set by Penstock; use roles.ROLE.parallel",
				"roles.mixed.args[0]: --uds is set by Penstock; leave it out",
			},
		},
		"paths in containers": {
			"model: {path: '/a b', servedName: m, adapters: [{name: a, path: '/a:b'}]}\nengine: {kind: vllm, container: {runtime: podman, image: i}}\nroles: {mixed: {gpus: 1}}",
			[]string{"model.adapters[0].path: a container can't mount", "model.path: a container can't mount"},
		},
		"connector that the engine lacks": {
			"model: {path: /m}\nengine: {kind: sglang}\nserving: {tenant: shared}\nroles: {mixed: {gpus: 1}}\nkv: {host: 1GiB, connector: lmcache}",
			[]string{"kv.connector: lmcache is not there: sglang reaches LMCache through a server of LMCache's own"},
		},
		"connector to nowhere": {
			"model: {path: /m}\nengine: {kind: vllm}\nroles: {mixed: {gpus: 1}}\nkv: {connector: lmcache}",
			[]string{"kv.connector: there is no tier that it could reach; name kv.host"},
		},
		"weights by a hub's name": {
			"model: {id: m}\nengine: {kind: vllm}\nroles: {mixed: {gpus: 1}}\nkv: {disk: {path: /d, size: 1GiB}}",
			[]string{"kv.host: is missing: vllm stages KV there", "model.path: is missing: KV that outlives the job"},
		},
		"LMCache and adapters": {
			"model: {path: /m, adapters: [{name: a, path: /a}]}\nengine: {kind: vllm}\nroles: {mixed: {gpus: 1}}\nkv: {host: 1GiB, connector: lmcache}",
			[]string{"kv.connector: LMCache's names of KV leave out the adapter"},
		},
		"context shift": {
			"model: {path: /m, servedName: m}\nengine: {kind: llamacpp, args: [--context-shift]}\nroles: {mixed: {args: [--no-context-shift]}}\nkv: {host: 1GiB}",
			[]string{"engine.args[0]: --context-shift moves KV to where it was not computed"},
		},
		"context shift without tiers": {
			"model: {path: /m, servedName: m}\nengine: {kind: llamacpp, args: [--context-shift]}\nroles: {mixed: {}}", nil,
		},
		"files": {
			"model: {path: /m}\nengine: {kind: vllm}\nroles: {mixed: {gpus: 1}}\nkv: {host: 1GiB, object: {url: 's3://kv/x'}, keyFile: /k, connector: files}",
			[]string{"kv.disk: is missing: it is where the engine", "kv.keyFile: files that the engine itself reads"},
		},
		"the same paths without": {
			"model: {path: '/a b', servedName: m, adapters: [{name: a, path: '/a:b'}]}\nengine: {kind: vllm}\nroles: {mixed: {gpus: 1}}", nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := ""
			if err := Check(parse(t, c.body)); err != nil {
				got = err.Error()
			}
			lines := strings.FieldsFunc(got, func(u rune) bool { return u == '\n' })
			if len(lines) != len(c.want) {
				t.Fatalf("got %q, want %d problems", got, len(c.want))
			}
			for i, want := range c.want {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("got %q, want %q", lines[i], want)
				}
			}
		})
	}
}

func TestCheckUnknownKind(t *testing.T) {
	t.Parallel()
	if err := Check(jobspecs.Deployment{Engine: jobspecs.Engine{Kind: "ollama"}}); err == nil || For("ollama") != nil {
		t.Errorf("an unknown engine passed: %v", err)
	}
}

// TestExamples: what the examples teach works with the engines they name.
func TestExamples(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("../examples/*.yaml")
	if err != nil || len(names) < 8 {
		t.Fatalf("found %v, %v", names, err)
	}
	for _, name := range names {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jobspecs.ParseDocument(name, src)
		if err != nil {
			t.Fatal(err)
		}
		if err := doc.Locate(Check(doc.Deployment)); err != nil {
			t.Error(err)
		}
		for role, r := range doc.Deployment.Roles {
			for rank := range r.Nodes {
				if _, err := For(doc.Deployment.Engine.Kind).Command(start(doc.Deployment, role, rank)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

// TestKindsAreComplete: every engine that a file may name is known here, under its own name.
func TestKindsAreComplete(t *testing.T) {
	t.Parallel()
	for _, kind := range []jobspecs.EngineKind{jobspecs.VLLM, jobspecs.SGLang, jobspecs.TRTLLM, jobspecs.LlamaCpp, jobspecs.Sim} {
		e := For(kind)
		if e == nil || e.Kind() != kind {
			t.Fatalf("For(%s) = %v", kind, e)
		}
		tr := e.Traits()
		if tr.HealthPath == "" || tr.ModelsPath == "" || tr.StopGrace <= 0 || !slices.Contains(tr.Paths, "/v1/chat/completions") {
			t.Errorf("%s: traits lack what every engine has: %+v", kind, tr)
		}
		for _, p := range append([]string{tr.HealthPath, tr.ModelsPath}, tr.Paths...) {
			if !strings.HasPrefix(p, "/") {
				t.Errorf("%s: path %q", kind, p)
			}
		}
	}
}

func TestMissingWeights(t *testing.T) {
	t.Parallel()
	there := func(paths ...string) func(string) bool {
		return func(p string) bool { return slices.Contains(paths, p) }
	}
	vllm := parse(t, "model: {path: /m, servedName: m, adapters: [{name: a, path: /a}]}\nengine: {kind: vllm}\nroles: {mixed: {gpus: 1}}")
	if got := MissingWeights(vllm, there("/m", "/a")); got != nil {
		t.Errorf("got %v", got)
	}
	got := MissingWeights(vllm, there())
	if len(got) != 2 || got[0].Path != "model.path" || got[1].Path != "model.adapters[0].path" || !strings.Contains(got.Error(), "/a does not exist on this machine") {
		t.Errorf("got %v", got)
	}
	hub := parse(t, "model: {id: m}\nengine: {kind: vllm}\nroles: {mixed: {gpus: 1}}")
	if got := MissingWeights(hub, there()); got != nil {
		t.Errorf("weights from a hub are missing: %v", got)
	}
	sim := parse(t, "model: {id: m, adapters: [{name: a, path: /a}]}\nengine: {kind: sim}\nroles: {mixed: {}}")
	if got := MissingWeights(sim, there()); got != nil {
		t.Errorf("the simulated engine misses adapters: %v", got)
	}
}

func TestAdvice(t *testing.T) {
	t.Parallel()
	d := parse(t, "model: {id: m}\nengine: {kind: llamacpp}\nroles: {mixed: {}}\n"+
		"kv: {blockTokens: 64, disk: {path: /kv, size: 1GiB}, object: {url: 's3://kv/x'}}")
	var paths []string
	for _, p := range Advice(d) {
		paths = append(paths, p.Path)
	}
	if want := []string{"roles.mixed.cpus"}; !slices.Equal(paths, want) {
		t.Errorf("got %v, want %v", paths, want)
	}
	quiet := parse(t, "model: {id: m}\nengine: {kind: llamacpp, args: [-t, 8]}\nroles: {mixed: {}}\nkv: {host: 1GiB}")
	if got := Advice(quiet); got != nil {
		t.Errorf("got %v", got)
	}
	if got := Advice(parse(t, "model: {id: m}\nengine: {kind: trtllm}\nroles: {mixed: {gpus: 1}}\nkv: {disk: {path: /kv, size: 1GiB}}")); len(got) != 1 {
		t.Errorf("got %v", got)
	}
}
