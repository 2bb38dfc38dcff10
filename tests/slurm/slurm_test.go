// Package slurm runs Penstock on a real Slurm cluster, as an ordinary user, and breaks parts of it while streams whose
// content is known run through the gateway. Each fault prints one row of a table: what became of the requests, for how long
// no replica was ready, and what was left behind on all nodes.
//
//	go test ./tests/slurm -v                            # what `make test` runs: conformance and three faults
//	go test ./tests/slurm -v -args -faults all          # the whole table
//	go test ./tests/slurm ... -args -faults all -update # RESULTS.md too; the file says how it was made
//
// It needs root and Slurm's packages (tests/needs.sh); see README.md.
package slurm

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/slurm/testbed"
)

var (
	update  = flag.Bool("update", false, "write RESULTS.md")
	faults  = flag.String("faults", "three", "three or all")
	release = flag.String("release", "", "Slurm release of the bed: 24.11 or 26.05; default: this machine's own")
)

// noRelease is why the wanted release of Slurm cannot be had: then only TestRelease is run, which says so.
var noRelease error

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getuid() == 0 && *release != "" {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
		noRelease = testbed.Prepare(ctx, *release)
		cancel()
	}
	if noRelease != nil {
		_ = flag.Set("test.run", "^TestRelease$")
	}
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

// TestRelease: the bed has the release of Slurm that was asked for.
func TestRelease(t *testing.T) {
	if errors.Is(noRelease, testbed.ErrNoRelease) {
		t.Skip(noRelease)
	}
	if noRelease != nil {
		t.Fatal(noRelease)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b := testbed.ForTest(ctx, t, testbed.Options{Version: *release})
	if *release != "" && b.Release() != *release {
		t.Errorf("the bed has Slurm %s", b.Release())
	}
}

// slow skips a test that is not among the three of `make test`.
func slow(t *testing.T) {
	t.Helper()
	if *faults != "all" {
		t.Skip("one of `make test-slow`: -args -faults all")
	}
}
