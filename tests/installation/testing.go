package installation

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "ps-bin-")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "penstock")
	cmd := exec.Command("go", "build", "-o", binary, "github.com/penstock/penstock/cli/penstock")
	cmd.Stderr = os.Stderr
	return binary, cmd.Run()
})

// Build builds the program once for each test binary; TestMain calls RemoveBuild at its end.
func Build(t testing.TB) string {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatalf("build penstock: %v", err)
	}
	return binary
}

// RemoveBuild removes what Build made, if it did.
func RemoveBuild() {
	if binary, err := build(); err == nil {
		_ = os.RemoveAll(filepath.Dir(binary))
	}
}

// ForTest makes an installation of its own for a test. At the end everything in it is stopped the hard way; what a test
// wants to end cleanly, it ends itself. Logs are printed when the test has failed.
func ForTest(t testing.TB) *Installation {
	t.Helper()
	dir, err := os.MkdirTemp("", "ps-") // short, for the sake of unix sockets
	if err != nil {
		t.Fatal(err)
	}
	in := &Installation{Dir: dir, Binary: Build(t)}
	t.Cleanup(func() {
		if t.Failed() {
			in.printLogs(t)
		}
		if _, err := in.Clear(); err != nil {
			t.Error(err)
		}
	})
	return in
}

// MustRun runs a command that must end with 0, and returns what it prints.
func (s *Installation) MustRun(ctx context.Context, t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.Run(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const logTail = 6000 // bytes of each log

func (s *Installation) printLogs(t testing.TB) {
	_ = filepath.WalkDir(s.State(), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".log" {
			return nil
		}
		text, _ := os.ReadFile(path)
		if len(text) > logTail {
			text = text[len(text)-logTail:]
		}
		t.Logf("--- %s\n%s", path, text)
		return nil
	})
}

// Idle is true when no engine has a request, as far as agents have said.
func Idle(st Status) bool {
	for _, d := range st.Deployments {
		for _, r := range d.Replicas {
			if r.Load == nil || r.Load.Running == nil || *r.Load.Running > 0 || r.Load.OpenRequests > 0 {
				return false
			}
		}
	}
	return true
}
