// Package slurm runs Penstock on a real Slurm cluster, as an ordinary user, and breaks parts of it while streams whose
// content is known run through the gateway. Each fault prints one row of a table: what became of the requests, for how long
// no replica was ready, and what was left behind on all nodes.
//
//	go test ./tests/slurm -v                        # what `make test` runs: conformance and three faults
//	go test ./tests/slurm -v -args -faults all      # the whole table
//	go test ./tests/slurm -args -faults all -update # RESULTS.md too
//
// It needs root and Slurm's packages (tests/needs.sh); see README.md.
package slurm

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/penstock/penstock/tests/installation"
)

var (
	update  = flag.Bool("update", false, "write RESULTS.md")
	faults  = flag.String("faults", "three", "three or all")
	release = flag.String("release", "", "Slurm release of the bed: 24.11 or 26.05; default: this machine's own")
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	installation.RemoveBuild()
	if code == 0 && *update {
		if err := os.WriteFile("RESULTS.md", []byte(results.markdown()), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// slow skips a test that is not among the three of `make test`.
func slow(t *testing.T) {
	t.Helper()
	if *faults != "all" {
		t.Skip("one of `make test-slow`: -args -faults all")
	}
}
