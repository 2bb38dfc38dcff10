package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// suite is one `go test` call.
type suite struct {
	Name, About string
	Packages    []string
	Without     []string // packages under these prefixes are left out
	Args        []string
	Env         []string
	Timeout     time.Duration
}

// whole are the folders of tests that start the whole program; they are suites of their own.
var whole = []string{"tests/script", "tests/engine", "tests/openai", "tests/attack", "tests/faults", "tests/bench", "tests/slurm", "tests/s3", "tests/nomad"}

// slurm is tested on a bed of namespaces; its tests wait most of the time.
var (
	slurm       = []string{"./tests/slurm"}
	threeFaults = []string{"-parallel=6", "-run=^(TestRelease|TestConforms|TestInside|TestCancelled|TestPreempted|TestSubmitForgotten|TestRendered)$"}
	allFaults   = []string{"-parallel=6", "-faults=all"}
)

var nomad = []string{"./tests/nomad"}

var quickSuites = []suite{
	{
		Name: "packages", About: "every package, the layers, the wire",
		Packages: []string{"./..."}, Without: whole, Timeout: 8 * time.Minute,
	},
	{Name: "script", About: "every command of the real program", Packages: []string{"./tests/script"}, Timeout: 6 * time.Minute},
	{Name: "engine", About: "a real engine with real KV cache", Packages: []string{"./tests/engine"}, Args: []string{"-skip=^TestConversations$"}, Timeout: 6 * time.Minute},
	{Name: "s3", About: "the object tier on versitygw, with faults between", Packages: []string{"./tests/s3"}, Timeout: 10 * time.Minute},
	{Name: "openai", About: "the npm openai client", Packages: []string{"./tests/openai"}, Timeout: 5 * time.Minute},
	{Name: "attack", About: "a second user on the same machine", Packages: []string{"./tests/attack"}, Timeout: 5 * time.Minute},
	{Name: "nomad", About: "the fake Nomad, and a real one where NOMAD_ADDR or NOMAD_BIN names it", Packages: nomad, Args: []string{"-parallel=6"}, Timeout: 15 * time.Minute},
	{Name: "slurmbed", About: "the bed of namespaces for a real Slurm", Packages: []string{"./tests/slurm/testbed"}, Timeout: 5 * time.Minute},
	{Name: "slurm", About: "a real Slurm: conformance by commands and slurmrestd, three faults", Packages: slurm, Args: threeFaults, Timeout: 12 * time.Minute},
}

var slowSuites = []suite{
	{
		Name: "minio", About: "the object tier on MinIO, which is built at first",
		Packages: []string{"./tests/s3"}, Env: []string{"PENSTOCK_TEST_S3=minio"}, Timeout: 40 * time.Minute,
	},
	{
		Name: "engine-minio", About: "a real engine's conversation goes on from MinIO alone",
		Packages: []string{"./tests/engine"}, Args: []string{"-run=^TestWarmFromBucket$"}, Env: []string{"PENSTOCK_TEST_S3=minio"},
		Timeout: 20 * time.Minute,
	},
	{
		Name: "race", About: "every package under the race detector",
		Packages: []string{"./..."}, Without: whole, Args: []string{"-race"}, Timeout: 25 * time.Minute,
	},
	{
		Name: "leavers", About: "10,000 clients that leave in the middle of their streams", Packages: []string{"./scheduler/gateway"},
		Args: []string{"-run=^TestClientsThatLeave$", "-leavers=10000"}, Timeout: 10 * time.Minute,
	},
	{
		Name: "conversations", About: "30 conversations over four real engines that are killed, against round-robin", Packages: []string{"./tests/engine"},
		Args: []string{"-run=^TestConversations$", "-conversations=30"}, Timeout: 25 * time.Minute,
	},
	{Name: "faults", About: "faults under content-checked streams", Packages: []string{"./tests/faults"}, Timeout: 20 * time.Minute},
	{Name: "slurm", About: "a real Slurm: conformance and every fault", Packages: slurm, Args: allFaults, Timeout: 40 * time.Minute},
	{
		Name: "slurm-24.11", About: "Slurm 24.11: conformance and three faults", Packages: slurm,
		Args: append([]string{"-release=24.11"}, threeFaults...), Timeout: 20 * time.Minute,
	},
}

// slurmSuites are all faults on all releases.
var slurmSuites = []suite{
	{Name: "slurm", About: "Slurm of this machine", Packages: slurm, Args: allFaults, Timeout: 40 * time.Minute},
	{Name: "slurm-24.11", About: "Slurm 24.11", Packages: slurm, Args: append([]string{"-release=24.11"}, allFaults...), Timeout: 60 * time.Minute},
	{Name: "slurm-26.05", About: "Slurm 26.05", Packages: slurm, Args: append([]string{"-release=26.05"}, allFaults...), Timeout: 60 * time.Minute},
}

// nomadSuites are all that is about Nomad, with every test printed: what the live part ran on, or that it did not run.
var nomadSuites = []suite{
	{Name: "adapter", About: "the adapter and its fake", Packages: []string{"./nomad/..."}, Timeout: 10 * time.Minute},
	{Name: "nomad", About: "the fake Nomad, and a real one where NOMAD_ADDR or NOMAD_BIN names it", Packages: nomad, Args: []string{"-parallel=6"}, Timeout: 60 * time.Minute},
}

// packages resolves the patterns and leaves out what Without names.
func (s suite) packages() []string {
	if len(s.Without) == 0 {
		return s.Packages
	}
	out, err := exec.Command("go", append([]string{"list"}, s.Packages...)...).Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, "suites: go list:", err)
		return s.Packages
	}
	var keep []string
	for p := range strings.FieldsSeq(string(out)) {
		if !hasPrefix(p, s.Without) {
			keep = append(keep, p)
		}
	}
	return keep
}

func hasPrefix(pkg string, prefixes []string) bool {
	for _, p := range prefixes {
		full := "github.com/penstock/penstock/" + p
		if pkg == full || strings.HasPrefix(pkg, full+"/") {
			return true
		}
	}
	return false
}
