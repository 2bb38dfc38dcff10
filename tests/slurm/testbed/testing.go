package testbed

import (
	"context"
	"os"
	"os/exec"
	"testing"
)

// ForTest builds a bed that ends with the test, and first removes beds whose tests have crashed. A test that isn't root, or
// has no Slurm, is skipped. slurmctld's last words are printed when the test has failed.
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

const logTail = 3000 // bytes

func (b *Bed) printLogs(t testing.TB) {
	text, err := os.ReadFile(b.path("log", "slurmctld.log"))
	if err == nil {
		t.Logf("--- slurmctld.log\n%s", text[max(0, len(text)-logTail):])
	}
}
