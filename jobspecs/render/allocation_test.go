package render

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func allocationOf(t *testing.T, text string) SlurmAllocation {
	t.Helper()
	return SlurmAllocation{
		Deployment: parse(t, "x", text), Text: text, Penstock: "/home/ada/bin/penstock", Root: "/home/ada/.local/state/penstock/slurm/x",
		Nodes: 2, GPUs: 3, CPUs: 24, Memory: 200 << 30,
	}
}

// allocationCases are deployments in one allocation.
var allocationCases = map[string]string{
	"slurm-allocation-pair":  slurmHead + "roles: {prefill: {gpus: {count: 1, type: h100}}, decode: {replicas: 2, gpus: 1}}\nslurm: {time: 8h, partition: gpu}\n",
	"slurm-allocation-every": slurmCases["every-option"],
}

func TestAllocationGolden(t *testing.T) {
	t.Parallel()
	for name, text := range allocationCases {
		a := allocationOf(t, text)
		if name == "slurm-allocation-every" {
			a.Root, a.Penstock = "/home/it's \"me\" $HOME/x", "/home/it's \"me\"/penstock"
			a.Nodes, a.GPUs, a.CPUs, a.Memory = 1, 0, 0, 0
		}
		got, err := Allocation(a)
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name+".sh")
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

func TestAllocationRefuses(t *testing.T) {
	t.Parallel()
	a := allocationOf(t, allocationCases["slurm-allocation-pair"])
	a.Root = "/a\n#SBATCH --uid=0"
	if _, err := Allocation(a); err == nil || !strings.Contains(err.Error(), "one line") {
		t.Errorf("got %v", err)
	}
}

// The script carries the deployment as it is, whatever stands in it: bash reads back the very text.
func TestAllocationCarriesTheText(t *testing.T) {
	t.Parallel()
	text := allocationCases["slurm-allocation-pair"] + "# $HOME `id` 'x' \"y\" \\\nEND_OF_DEPLOYMENT\nEND_OF_DEPLOYMENT_\n"
	a := allocationOf(t, allocationCases["slurm-allocation-pair"])
	a.Text = text
	a.Root = t.TempDir()
	script, err := Allocation(a)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(script, "\nif [ -z")
	cmd := exec.Command("bash", "-c", head+"\ncat \"$job/deployment.yaml\"")
	cmd.Env = []string{"SLURM_JOB_ID=7", "PATH=/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != text {
		t.Errorf("%v\n%s", err, cmp.Diff(text, string(out)))
	}
}
