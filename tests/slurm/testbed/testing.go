package testbed

import (
	"context"
	"os"
	"os/exec"
	"testing"
)

// ForTest builds a bed that ends with the test, and first removes beds whose tests have crashed. A test that isn't root, or
// has no Slurm, is skipped. The daemons' last words are printed when the test has failed.
func ForTest(ctx context.Context, t testing.TB, opts Options) *Bed {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a Slurm test bed needs root")
	}
	if _, err := exec.LookPath("slurmctld"); err != nil && opts.Version == "" {
		t.Skip("slurmctld is not installed: run tests/needs.sh as root")
	}
	if err := Sweep(false); err != nil {
		t.Log(err)
	}
	b, err := Up(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b.printLogs(t)
		}
		if err := b.Down(); err != nil {
			t.Error(err)
		}
	})
	return b
}

const logTail = 3000 // bytes of each log

func (b *Bed) printLogs(t testing.TB) {
	entries, _ := os.ReadDir(b.path("log"))
	for _, e := range entries {
		text, err := os.ReadFile(b.path("log", e.Name()))
		if err != nil {
			continue
		}
		t.Logf("--- %s\n%s", e.Name(), text[max(0, len(text)-logTail):])
	}
}
