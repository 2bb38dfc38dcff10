package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/agent/gpu"
	"github.com/penstock/penstock/scheduler/cluster"
)

func TestDependencies(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "", "singleton": "", "afterany:12": "12", "afterany:12:13,afterok:14+5": "12 13 14", "after:7?singleton": "7", "afterany:9_3": "9",
	} {
		if got := strings.Join(dependencies(text), " "); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// TestStateFolders: a job goes on with its own folder, then with that of a job that it has waited for, then with any; a new one is
// the last resort.
func TestStateFolders(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, job := range map[string]string{"state-1": "11", "state-2": "12", "state-10": "13", "state-3": ""} {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if job != "" {
			if err := writeJSON(filepath.Join(dir, stateJob), jobRecord{Job: job}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Mkdir(filepath.Join(root, "jobs"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ job, dependency, want string }{
		{"20", "", "state-1 state-2 state-3 state-10 state-11"},
		{"13", "", "state-10 state-1 state-2 state-3 state-11"},
		{"20", "afterany:12", "state-2 state-1 state-3 state-10 state-11"},
		{"11", "afterany:12", "state-1 state-2 state-3 state-10 state-11"},
	} {
		list, err := stateFolders(root, tt.job, tt.dependency)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range list {
			got = append(got, filepath.Base(f.path))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("job %s after %q: %s, want %s", tt.job, tt.dependency, got, tt.want)
		}
	}
}

func TestGPUsOfJob(t *testing.T) {
	t.Parallel()
	gib := uint64(1 << 30)
	card := func(i int, uuid string) gpu.GPU {
		return gpu.GPU{UUID: uuid, Name: "H100", Index: i, MemoryTotal: &gib}
	}
	all := []gpu.GPU{card(0, "GPU-a"), card(1, "GPU-b"), card(2, "GPU-c"), card(3, "")}
	numa := map[string]string{"GPU-a": "0", "GPU-c": "1"}
	real := func(uuid string) cluster.GPU {
		return cluster.GPU{ID: uuid, Type: "H100", Memory: gib, NUMA: numa[uuid]}
	}
	for name, tt := range map[string]struct {
		list string
		seen []gpu.GPU
		want []cluster.GPU
	}{
		"a node without cards":           {"", nil, nil},
		"no driver answers":              {"0,2-3", nil, []cluster.GPU{{ID: "n-gpu0"}, {ID: "n-gpu2"}, {ID: "n-gpu3"}}},
		"only the job's cards are shown": {"4,5,6", all[:3], []cluster.GPU{real("GPU-a"), real("GPU-b"), real("GPU-c")}},
		"the node's cards are all shown": {"0,2", all, []cluster.GPU{real("GPU-a"), real("GPU-c")}},
		"Slurm does not say which":       {"", all[:2], []cluster.GPU{real("GPU-a"), real("GPU-b")}},
	} {
		if d := cmp.Diff(tt.want, gpusOfJob("n", tt.list, slices.Clone(tt.seen), numa)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestNUMA(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, text := range map[string]string{
		"proc/driver/nvidia/gpus/0000:17:00.0/information": "Model: \t\t NVIDIA H100\nGPU UUID: \t GPU-a\nBus Location: \t 0000:17:00.0\n",
		"sys/bus/pci/devices/0000:17:00.0/numa_node":       "1\n",
		"proc/driver/nvidia/gpus/0000:18:00.0/information": "GPU UUID: \t GPU-b\n",
		"sys/bus/pci/devices/0000:18:00.0/numa_node":       "-1\n",
		"proc/driver/nvidia/gpus/0000:19:00.0/information": "GPU UUID: \t GPU-c\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(map[string]string{"GPU-a": "1"}, numaOf(root)); d != "" {
		t.Error(d)
	}
}

func TestFabric(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{"": "", "node1": "", "s0.s4.node1": "s0.s4"} {
		if got := fabricOf(address); got != want {
			t.Errorf("%q: got %q, want %q", address, got, want)
		}
	}
}

// TestSlurmJob: commands find the state folder of a job by its ID, of its latest run.
func TestSlurmJob(t *testing.T) {
	t.Parallel()
	tt := newTerminal(t, nil)
	if code, _, talk := tt.run("status", "--slurm-job", "x7"); code != ExitUsage || !strings.Contains(talk, "no job ID") {
		t.Errorf("exit %d, %s", code, talk)
	}
	if code, _, talk := tt.run("status", "--slurm-job", "7", "--state-dir", "s"); code != ExitNotFound || !strings.Contains(talk, "no job 7") {
		t.Errorf("exit %d, %s", code, talk)
	}
	for run, state := range map[string]string{"7-0": "/first", "7-10": "/second", "70-0": "/other", "7-9": "/before"} {
		dir := filepath.Join(tt.Dir, "s", allocationsFolder, "web", "jobs", run)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := writeJSON(filepath.Join(dir, jobState), jobPointer{State: state}); err != nil {
			t.Fatal(err)
		}
	}
	code, out, talk := tt.run("config", "view", "--slurm-job", "7", "--state-dir", filepath.Join(tt.Dir, "s"))
	if code != 0 || !strings.Contains(out, "/second") {
		t.Errorf("exit %d, %s\n%s", code, talk, out)
	}
}

func TestRenderAllocation(t *testing.T) {
	t.Parallel()
	tt := newTerminal(t, nil)
	tt.write(t, "pair.yaml", strings.Replace(demoFile, "{mixed: {replicas: 1}}", "{prefill: {gpus: 1}, decode: {replicas: 3, gpus: 2}}", 1))
	for args, want := range map[string]string{
		"":                            "#SBATCH --nodes=1\n#SBATCH --ntasks-per-node=1\n#SBATCH --gres=gpu:7\n",
		"--gpus-per-node 4":           "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=1\n#SBATCH --gres=gpu:4\n",
		"--gpus-per-node 4 --nodes 4": "#SBATCH --nodes=4\n#SBATCH --ntasks-per-node=1\n#SBATCH --gres=gpu:2\n",
	} {
		code, out, talk := tt.run(append([]string{"render", "pair.yaml", "--cluster", "slurm", "--slurm", "off"}, strings.Fields(args)...)...)
		if code != 0 || !strings.Contains(out, want) || !strings.Contains(out, "\ncluster: slurm\n") {
			t.Errorf("%s: exit %d, %s\n%s", args, code, talk, out)
		}
	}
	code, _, talk := tt.run("render", "pair.yaml", "--cluster", "slurm", "--slurm", "off", "--gpus-per-node", "1")
	if code != ExitError || !strings.Contains(talk, "asks for 2 GPUs on a node") {
		t.Errorf("exit %d, %s", code, talk)
	}
}
